"""HTML as the text a reader sees."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from contextlib import suppress
from html.parser import HTMLParser
from typing import Final


def _names(line: str) -> frozenset[str]:
    return frozenset(line.split())


_BLOCKS: Final = _names(
    "address article aside blockquote br dd div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li "
    "main nav ol p pre section table td th tr ul"
)
_LEFT_OUT: Final = _names("head nav noscript script style template")
_VOID: Final = _names("area base br col embed hr img input link meta param source track wbr")
_IN_HEAD: Final = _names("base basefont bgsound link meta noscript script style template title")
"""Any other tag right below <head> ends it: https://html.spec.whatwg.org/#parsing-main-inhead"""

_CHARSET: Final = re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_CODECS: Final = re.compile(r"big5|cp\d|euc_|gb|iso8859|koi8|mac-|shift_jis|tis-620")
"""What a page may declare; Python's own list also has `unicode_escape`, `punycode` and the like."""


def decoded(data: bytes) -> str:
    r"""The characters of a page: by its byte order mark, else as UTF-8, else as it declares in its first 2 KiB.

    >>> decoded(b"<meta charset=latin1>caf\xe9")
    '<meta charset=latin1>café'

    Raises:
        UnicodeDecodeError: they are none of these.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        declared = None if data.startswith(codecs.BOM_UTF8) else _declared(data[:2048])
        if declared is not None:
            with suppress(UnicodeDecodeError):
                return data.decode(declared)
        raise


def _declared(start: bytes) -> str | None:
    match = _CHARSET.search(start)
    try:
        name = codecs.lookup(match[1].decode()).name if match else ""
    except LookupError:
        return None
    if name in ("ascii", "iso8859-1"):
        return "cp1252"  # as browsers read it: https://encoding.spec.whatwg.org/#names-and-labels
    return name if _CODECS.match(name) else None


def visible_text(page: str) -> str:
    """The page's paragraphs, with a blank line between them.

    >>> visible_text("<p>Caf&eacute;<br>and <b>b</b>ar</p><script>x()</script>")
    'Café\\n\\nand bar'
    """
    reader = _Reader()
    reader.feed(_closed(page.replace("\x00", "")))
    reader.close()
    reader.end_paragraph()
    return "\n\n".join(reader.paragraphs)


def _closed(page: str) -> str:
    """The page without openings that nothing closes.

    For each of these HTMLParser looks through all the rest of the page, or did until 2025: a megabyte of "<!--" took
    minutes. A space after the "<!" makes a comment or a section end at the next ">", whatever else it holds; after
    the last ">" there can be no more tag, and browsers drop what begins like one.
    """
    comments, end, rest = page.rpartition("-->")
    page = (comments + end + rest.replace("<!--", "<! --")).replace("<![", "<! [")
    text, end, rest = page.rpartition(">")
    return text + end + re.split("<[A-Za-z/!?]", rest, maxsplit=1)[0]


class _Reader(HTMLParser):
    """Collects the paragraphs of the page that is fed to it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._pieces: list[str] = []
        self._open: list[str] = []
        self._count = Counter[str]()
        """How often each name is in `_open`: to look for it there would take as long as the page is deep."""
        self._left_out = 0
        """How many of the open elements are left out."""

    def end_paragraph(self) -> None:
        text = " ".join("".join(self._pieces).split())
        self._pieces.clear()
        if text:
            self.paragraphs.append(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" or (self._open and self._open[-1] == "head" and tag not in _IN_HEAD):
            self._close("head")
        self._boundary(tag)
        if tag not in _VOID:
            self._open.append(tag)
            self._count[tag] += 1
            self._left_out += tag in _LEFT_OUT

    def handle_endtag(self, tag: str) -> None:
        self._close(tag)
        self._boundary(tag)

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self._pieces.append(data)

    def _boundary(self, tag: str) -> None:
        if tag in _BLOCKS and not self._left_out:
            self.end_paragraph()

    def _close(self, tag: str) -> None:
        """Close the innermost element of this name, and with it what was left open inside."""
        while self._count[tag]:
            name = self._open.pop()
            self._count[name] -= 1
            self._left_out -= name in _LEFT_OUT
            if name == tag:
                return
