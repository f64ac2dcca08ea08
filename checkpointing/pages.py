"""Lists of messages as a thread remembers them, in pages that successive lists share (pure).

A list that grows by one message costs one new page, not a copy of all that came before: a copy of ten thousand
references touches ten thousand objects all over memory, and takes as long as the rest of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, is_
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage

from .packing import ListEdit, Source

PAGE: Final = 256
_PATH: Final = 64
"""How many edits may lie between a list and one in full, before it is stored in full again."""
_STRIDE: Final = 8
"""Every 8th version of a list stands on the one 8 before, every 64th on the one 64 before, and so on (as the
ranges of a Fenwick tree): a list is put together from some logarithm of its versions."""

_content: Final = attrgetter("content")


class Page(NamedTuple):
    """A part of a list: messages, their digests, and their contents as they were."""

    messages: list[BaseMessage]
    refs: list[bytes]
    contents: list[Any]


@dataclass(slots=True)
class Listed:
    """A list of messages; every page but the last is full, and a full one may be another list's too."""

    pages: list[Page] = field(default_factory=list[Page])

    def __len__(self) -> int:
        return (len(self.pages) - 1) * PAGE + len(self.pages[-1].refs) if self.pages else 0

    @property
    def refs(self) -> list[bytes]:
        """The digests of all."""
        return list(chain.from_iterable(page.refs for page in self.pages))

    def start(self, length: int) -> Listed:
        """The list of its first messages."""
        full, rest = divmod(length, PAGE)
        pages = self.pages[:full]
        if rest:
            page = self.pages[full]
            pages.append(Page(page.messages[:rest], page.refs[:rest], page.contents[:rest]))
        return Listed(pages)

    def extend(self, messages: Sequence[BaseMessage], refs: Sequence[bytes]) -> Listed:
        """Add messages and their digests at its end."""
        at = 0
        while at < len(messages):
            if not self.pages or len(self.pages[-1].refs) == PAGE:
                self.pages.append(Page([], [], []))
            page = self.pages[-1]
            some = slice(at, at + PAGE - len(page.refs))
            page.messages.extend(messages[some])
            page.refs.extend(refs[some])
            page.contents.extend(map(_content, messages[some]))
            at = some.stop
        return self

    def replace(self, index: int, ref: bytes, content: Any) -> bool:
        """Have another digest and content of the message there; whether the digest is another."""
        number, at = divmod(index, PAGE)
        page = self.pages[number]
        differs = page.refs[at] != ref
        if differs or page.contents[at] is not content:
            page = self.pages[number] = Page(page.messages, list(page.refs), list(page.contents))
            page.refs[at], page.contents[at] = ref, content
        return differs

    def shared(self, messages: list[Any]) -> int:
        """How many objects at the start are the same."""
        if not messages or not self.pages or messages[0] is not self.pages[0].messages[0]:
            return 0
        at = 0
        for page in self.pages:
            some = messages[at : at + PAGE]
            if len(some) < len(page.messages) or not all(map(is_, page.messages, some)):
                pairs = zip(page.messages, some, strict=False)
                return at + next((i for i, (kept, now) in enumerate(pairs) if kept is not now), len(some))
            at += len(page.messages)
        return at

    def reassigned(self, messages: list[BaseMessage], low: int, high: int) -> Iterator[int]:
        """Positions from `low` on and before `high` whose message, the same object, has another content."""
        while low < high:
            number, first = divmod(low, PAGE)
            some = slice(first, min(PAGE, first + high - low))
            now, kept = map(_content, messages[low : low + some.stop - first]), self.pages[number].contents[some]
            same = list(map(is_, now, kept))
            if not all(same):
                yield from (low + i for i, unchanged in enumerate(same) if not unchanged)
            low += len(kept)


class Rung(NamedTuple):
    """A list that another stands on."""

    depth: int
    source: Source
    common: int
    """How many messages at the start both have."""


@dataclass(slots=True, kw_only=True)
class KnownList(Listed):
    """A stored list of messages, with the objects that it was made of."""

    path: list[Rung]
    """What it stands on, from a list in full to itself."""

    @property
    def source(self) -> Source:
        return self.path[-1].source


def edited(listed: Listed, known: KnownList, prefix: int) -> tuple[ListEdit, list[Rung]]:
    """A list as an edit of a known one, of which it has the first `prefix` digests at the least; what it stands on."""
    length, shortest = len(listed), min(len(listed), len(known))
    refs: list[bytes] = []
    suffix = 0
    if prefix < shortest:
        refs, others = listed.refs, known.refs
        while prefix < shortest and refs[prefix] == others[prefix]:
            prefix += 1
        while suffix < shortest - prefix and refs[-1 - suffix] == others[-1 - suffix]:
            suffix += 1
    # Naming another list takes as much room as three references.
    if prefix + suffix <= 3 or len(known.path) >= _PATH:  # noqa: PLR2004
        return ListEdit(refs=tuple(refs or listed.refs)), []
    path = [rung._replace(common=min(rung.common, prefix)) for rung in known.path]
    depth = path[-1].depth + 1
    stride = 1
    while depth % (stride * _STRIDE) == 0:
        stride *= _STRIDE
    for count, rung in enumerate(path, 1):
        if stride > 1 and rung.depth == depth - stride and length - rung.common <= 2 * stride + _STRIDE:
            tail = _between(listed, rung.common, length)
            return ListEdit(refs=tail, source=rung.source, prefix=rung.common, depth=depth), path[:count]
    middle = _between(listed, prefix, length - suffix)
    return ListEdit(refs=middle, source=known.source, prefix=prefix, suffix=suffix, depth=depth), path


def _between(listed: Listed, low: int, high: int) -> tuple[bytes, ...]:
    first = low // PAGE
    pages = listed.pages[first : high // PAGE + 1]
    found = tuple(chain.from_iterable(page.refs for page in pages))
    return found[low - first * PAGE : high - first * PAGE]
