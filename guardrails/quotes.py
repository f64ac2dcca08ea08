"""A quotation is verbatim or it is dropped: the pure check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MIN_CHARACTERS: Final = 12
"""A shorter 'quotation' is found in almost any text, and so proves nothing."""

_OPENING: Final = "\u201c\u201e\u201f\u00ab"
_CLOSING: Final = "\u201d\u201c\u00bb"
_MARK: Final = re.compile('["\u201c\u201d\u201e\u201f\u00ab\u00bb]')
_EDGES: Final = re.compile("^[\\s\"'\u201c\u201d\u2018\u2019]+|[\\s\"'\u201c\u201d\u2018\u2019]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a quotation stands: `text` is the document's own characters from `start`."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """One past the last character."""
        return self.start + len(self.text)


def locate(quote: str, document: str, *, min_characters: int = MIN_CHARACTERS) -> Located | None:
    """Find a quotation in a document; None when it is not there or too short to prove anything.

    White space may differ (a model re-flows lines), nothing else may; what is returned is always
    the document's own text. Quotation marks around the whole are ignored.

    >>> locate("the pump\\nfailed twice", "On Monday the pump failed twice.")
    Located(start=10, text='the pump failed twice')
    >>> locate("the pump failed thrice", "On Monday the pump failed twice.") is None
    True
    """
    wanted = _EDGES.sub("", quote)
    words = wanted.split()
    if len(" ".join(words)) < max(min_characters, 1):
        return None
    start = document.find(wanted)
    if start >= 0:
        return Located(start=start, text=wanted)
    found = re.search(r"\s+".join(map(re.escape, words)), document)
    return Located(start=found.start(), text=found.group()) if found else None


def quotation_ranges(text: str, min_words: int = 4) -> list[tuple[int, int]]:
    """Where quotations may stand in a text, as (start, end) between double quotation marks of any kind.

    Marks go in pairs. Where they do not add up (an inch sign, a forgotten mark), every stretch between two
    marks that may be a quotation counts as one: a false one is better found too often than missed.
    """
    marks = [match.start() for match in _MARK.finditer(text)]
    paired = len(marks) % 2 == 0
    ranges = [
        (first + 1, second)
        for number, (first, second) in enumerate(pairwise(marks))
        if not paired or number % 2 == 0 or (_opens(text, first) and _closes(text, second))
    ]
    return [(start, end) for start, end in ranges if len(text[start:end].split()) >= min_words]


def quoted_spans(text: str, min_words: int = 4) -> Iterator[str]:
    """The texts of `quotation_ranges`.

    >>> list(quoted_spans('They say \u201cwe ship every single day\u201d and call it "done".'))
    ['we ship every single day']
    """
    for start, end in quotation_ranges(text, min_words):
        yield text[start:end]


def _opens(text: str, at: int) -> bool:
    alone = at == 0 or text[at - 1].isspace() or text[at - 1] in "([{-\u2014"
    return text[at] in _OPENING or (text[at] == '"' and alone and not text[at + 1 : at + 2].isspace())


def _closes(text: str, at: int) -> bool:
    return text[at] in _CLOSING or (text[at] == '"' and not text[at - 1].isspace())
