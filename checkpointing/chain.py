"""Whether a thread's events are all there and as they were written: judged from their digests (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_SEARCHED = 64
"""Events out of place among which it is looked for where each of them belongs; beyond, only that it is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """A thread's newest event at some moment. Kept elsewhere, it shows whether what led to it was rewritten."""

    thread_id: str
    number: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFinding:
    """Something about a thread's events that is not as it was written."""

    thread_id: str
    number: int | None
    """The event, or the first of several; None where it is about the chain itself."""
    what: str

    def __str__(self) -> str:
        where = "" if self.number is None else f" event {self.number}"
        return f"thread {self.thread_id}{where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Link:
    """An event, as far as its chain is concerned."""

    number: int
    digest: bytes
    body: bytes
    """SHA-256 of the other columns."""

    def seal(self, before: bytes, number: int | None = None) -> bytes:
        """The digest that it must have behind an event with the digest `before`; as `number`, if it was renumbered."""
        place = self.number if number is None else number
        return hashlib.sha256(before + place.to_bytes(8, "big", signed=True) + self.body).digest()


def judge(
    thread_id: str, links: Sequence[Link], end: ChainHead | None, exported: ChainHead | None = None
) -> list[ChainFinding]:
    """All that is wrong with a thread's events.

    Args:
        thread_id: whose they are.
        links: all that are there, by number.
        end: what the database says is the newest.
        exported: what was the newest when heads were last exported.
    """
    return list(_Judgement(thread_id, links, end, exported).findings())


@dataclass(slots=True)
class _Judgement:
    thread_id: str
    links: Sequence[Link]
    end: ChainHead | None
    exported: ChainHead | None
    _at: dict[int, Link] = field(init=False)
    _odd: dict[int, Link] = field(init=False)
    """Those that do not stand on the event before them."""
    _newest: int = field(init=False)
    """The number up to which events are expected."""
    _gaps: list[range] = field(init=False)
    _first: dict[bytes, int] = field(init=False)
    """The first event with each digest: another with it is its copy."""

    def __post_init__(self) -> None:
        self._at = {link.number: link for link in self.links}
        self._odd = {link.number: link for link in self.links if not self._fits(link)}
        self._first = {link.digest: link.number for link in reversed(self.links)}
        last = self.links[-1].number if self.links else 0
        self._newest = last if self.end is None or self._renumbered_end() else self.end.number
        self._gaps = list(_gaps(list(self._at), self._newest))

    def _renumbered_end(self) -> bool:
        if self.end is None or not self.links:
            return False
        last = self.links[-1]
        return last.number != self.end.number and last.digest == self.end.digest and last.number not in self._odd

    def findings(self) -> Iterator[ChainFinding]:
        for gap in self._gaps:
            yield self._missing(gap)
        for link in self.links:
            if what := self._wrong(link):
                yield self._found(link.number, what)
        if what := self._wrong_end():
            yield self._found(None, what)
        if what := self._wrong_export():
            yield self._found(self.exported.number if self.exported else None, what)

    def _found(self, number: int | None, what: str) -> ChainFinding:
        return ChainFinding(thread_id=self.thread_id, number=number, what=what)

    def _missing(self, gap: range) -> ChainFinding:
        what = "is missing" if len(gap) == 1 else f"is missing, and so are all up to event {gap[-1]}"
        return self._found(gap[0], f"{what} (the newest ones)" if gap[-1] == self._newest else what)

    def _digest_before(self, link: Link) -> bytes | None:
        if link.number == 1:
            return b""
        before = self._at.get(link.number - 1)
        return before.digest if before else None

    def _fits(self, link: Link) -> bool:
        before = self._digest_before(link)
        return before is not None and link.seal(before) == link.digest

    def _wrong(self, link: Link) -> str | None:
        if self._at[link.number] is not link:
            return "is there twice"
        beyond = link.number > self._newest
        if link.number in self._odd and (meant := self._meant(link)) != link.number:
            if meant is not None:
                return f"is out of place: it was written as event {meant}"
            if self._resealed(link):
                return "has another digest than it was written with"
            if self._digest_before(link) is not None:
                return "was changed or replaced, or what was before it"
        return f"is behind the end of its chain, event {self._newest}" if beyond else None

    def _meant(self, link: Link) -> int | None:
        """The number under which an event was written; None if nothing there says so."""
        if len(self._odd) > _SEARCHED:
            return None
        stray = {odd.digest for odd in self._odd.values() if odd is not link}
        free = [number for gap in self._gaps for number in gap[:_SEARCHED]][:_SEARCHED]
        for number in (link.number, self._first[link.digest], *self._odd, *free):
            before = self._at.get(number - 1)
            known = {b""} if number == 1 else {before.digest} if before else set[bytes]()
            if before and (own := self._digest_before(before)) is not None:
                known.add(before.seal(own))  # if that one's digest was changed
            if any(link.seal(digest, number) == link.digest for digest in known | stray):
                return number
        return None

    def _resealed(self, link: Link) -> bool:
        """Whether an event's digest is wrong and the rest of it right: what comes behind it says so."""
        before, behind = self._digest_before(link), self._at.get(link.number + 1)
        if before is None:
            return False
        right = link.seal(before)
        if behind is not None:
            return behind.seal(right) == behind.digest
        return self.end is not None and self.end.digest == right

    def _wrong_end(self) -> str | None:
        if self.end is None:
            return "the end of its chain is missing (holdfast.chains)" if self.links else None
        if self._renumbered_end():
            return f"the end of its chain was changed: it is event {self._newest}, not {self.end.number}"
        last, odd = self._at.get(self.end.number), self._odd.values()
        moved = {each.digest for each in odd} | {each.seal(self._digest_before(each) or b"") for each in odd}
        if last is None or self.end.digest in {last.digest} | moved:
            return None
        return f"the end of its chain does not fit event {self.end.number}: one of the two was changed"

    def _wrong_export(self) -> str | None:
        if self.exported is None:
            return None
        known = self._at.get(self.exported.number)
        if known is None:
            return "is missing, and was there when heads were exported"
        if known.digest != self.exported.digest:
            return "is not the one that was there when heads were exported: it or what was before it was rewritten"
        return None


def _gaps(numbers: Sequence[int], newest: int) -> Iterator[range]:
    """The numbers from 1 to the newest that are not there, in runs."""
    expected = 1
    for number in [*(number for number in numbers if 0 < number <= newest), newest + 1]:
        if number > expected:
            yield range(expected, number)
        expected = number + 1
