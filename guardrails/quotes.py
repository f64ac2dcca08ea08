"""A quotation is verbatim or it is dropped: the pure check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MIN_CHARACTERS: Final = 12
"""A shorter 'quotation' is found in almost any text, and so proves nothing."""

_MARKS: Final = "\"'\u201c\u201d\u2018\u2019 \t\r\n"
_SPAN: Final = re.compile(r"\u201c([^\u201c\u201d]+)\u201d|\"([^\"]+)\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a quotation stands: `text` is the document's own characters from `start`."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """One past the last character."""
        return self.start + len(self.text)


def locate(quote: str, document: str) -> Located | None:
    """Find a quotation in a document; None when it is not there or too short to prove anything.

    White space may differ (a model re-flows lines), nothing else may; what is returned is always
    the document's own text. Quotation marks around the whole are ignored.

    >>> locate("the pump\\nfailed twice", "On Monday the pump failed twice.")
    Located(start=10, text='the pump failed twice')
    >>> locate("the pump failed thrice", "On Monday the pump failed twice.") is None
    True
    """
    wanted = quote.strip(_MARKS)
    if len(wanted) < MIN_CHARACTERS:
        return None
    start = document.find(wanted)
    if start >= 0:
        return Located(start=start, text=wanted)
    found = re.search(r"\s+".join(map(re.escape, wanted.split())), document)
    return Located(start=found.start(), text=found.group()) if found else None


def quoted_spans(text: str, min_words: int = 4) -> Iterator[str]:
    """What stands between double quotation marks in a text, if it is long enough to be a quotation.

    >>> list(quoted_spans('They say \u201cwe ship every single day\u201d and call it "done".'))
    ['we ship every single day']
    """
    for match in _SPAN.finditer(text):
        span = match[1] or match[2]
        if len(span.split()) >= min_words:
            yield span
