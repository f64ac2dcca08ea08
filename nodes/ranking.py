"""Sentences of plain text or Markdown, and their BM25 rank for a query (pure)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n")
_END: Final = re.compile(r"[.!?](?=\s+[A-Z\"(\[]|\s*$)")
_FENCE: Final = re.compile(r"^(```|~~~|:::).*?^\1", re.MULTILINE | re.DOTALL)
_NOT_PROSE: Final = re.compile(r"[|<>{}\[\]\"“”]|https?:|--|\\|^\d+\.\s")
_STOP: Final = frozenset(
    word
    for line in (
        "about after all also and any are because been but can could did does each for from had has have how into its",
        "just may more most must not now one only other our out over she should some such than that the their them",
        "then there these they this those through under until very was were what when where which while who whom why",
        "will with would you your",
    )
    for word in line.split()
)
_K1: Final = 1.5
_B: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence of a document; `text` is verbatim."""

    document: str
    text: str


def words(text: str) -> list[str]:
    """The words that count, in lower case and without a plural's s.

    >>> words("The pumps are failing, and the pump has failed.")
    ['pump', 'failing', 'pump', 'failed']
    """
    found = (word.lower() for word in _WORD.findall(text))
    return [
        word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word  # noqa: PLR2004 - "gas" stays
        for word in found
        if word not in _STOP
    ]


def sentences(document: str, text: str) -> Iterator[Sentence]:
    """The sentences of running prose in a text: no headings, lists of links, tables or code.

    >>> [s.text for s in sentences("a.md", "# Title\\n\\nThe pump on the old pier failed again at night. Why?\\n")]
    ['The pump on the old pier failed again at night.']
    """
    for paragraph in _PARAGRAPH.split(_FENCE.sub("\n\n", text)):
        start = 0
        for end in _END.finditer(paragraph):
            sentence = paragraph[start : end.end()].strip()
            start = end.end()
            if _is_prose(sentence):
                yield Sentence(document=document, text=sentence)


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    return (
        40 <= len(sentence) <= 320  # noqa: PLR2004 - shorter says little, longer is no quotation
        and letters >= 0.88 * len(sentence)
        and sentence.count("`") <= 2  # noqa: PLR2004 - one name of code may be quoted, a list of them says little
        and not _NOT_PROSE.search(sentence)
        and sentence[:1].isupper()
    )


class Ranking:
    """BM25 over a fixed set of sentences.

    Score of a sentence: the sum over query words of idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean)),
    with idf = ln(1 + (N - n + 0.5) / (n + 0.5)); Robertson and Zaragoza, The Probabilistic Relevance
    Framework: BM25 and Beyond (2009), with k1 = 1.5 and b = 0.75.
    """

    def __init__(self, pool: Iterable[Sentence]) -> None:
        self.pool: Sequence[Sentence] = list(dict.fromkeys(pool))
        self._counts = [Counter(words(sentence.text)) for sentence in self.pool]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0
        self._documents = Counter(word for counts in self._counts for word in counts)

    def idf(self, word: str) -> float:
        """How telling a word is in this set; 0 or more."""
        n = self._documents[word]
        return math.log(1 + (len(self.pool) - n + 0.5) / (n + 0.5))

    def best(self, query: str) -> list[Sentence]:
        """All sentences, best first; ties keep their order in the set."""
        wanted = set(words(query))
        scores = [self._score(index, wanted) for index in range(len(self.pool))]
        return [self.pool[index] for index in sorted(range(len(self.pool)), key=lambda i: (-scores[i], i))]

    def keywords(self, text: str, limit: int = 4) -> list[str]:
        """The most telling words of a text, in the order in which they stand there."""
        ranked = sorted(set(words(text)), key=lambda word: (-self.idf(word), word))[:limit]
        return sorted(ranked, key=words(text).index)

    def _score(self, index: int, wanted: set[str]) -> float:
        counts, length = self._counts[index], self._lengths[index]
        return sum(
            self.idf(word)
            * counts[word]
            * (_K1 + 1)
            / (counts[word] + _K1 * (1 - _B + _B * length / (self._mean or 1.0)))
            for word in wanted & counts.keys()
        )
