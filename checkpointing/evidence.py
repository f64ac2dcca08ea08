"""What is known of how a tool's calls turned out: the evidence on which autonomy is given or taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from .errors import HoldfastError

Ring = Literal[0, 1, 2]
"""How far a kind of action may go without being asked about: 0, every call is approved first; 1, a call whose declared
checks pass is made, and reviewed by a person after; 2, it is made."""
RINGS: Final[tuple[Ring, ...]] = (0, 1, 2)
Outcome = Literal["approved", "fine", "edited", "responded", "failed", "rejected", "incident"]
"""How a case turned out. A person approved the call as it stood, found it fine after it was made, approved it with
other arguments, answered in its place; a check of it failed; a person rejected it, or reported that it did harm."""
SEVERITY: Final[Mapping[Outcome, int]] = MappingProxyType(
    {"approved": 0, "fine": 0, "edited": 1, "responded": 1, "failed": 1, "rejected": 2, "incident": 2}
)
"""0: good. 1: not good as it stood. 2: a setback, after which autonomy has to be earned anew."""
NAME: Final = 200
"""Characters of a tool's name, of a pattern and of who acts."""


class InvalidEvidence(HoldfastError, ValueError):
    """Something was to be written down about a tool that cannot be."""


class NotReviewable(HoldfastError):
    """A review was given of a call that is no automatic run, or of which something else was said before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call that a person, or a check, judged; of several judgements the worst, at the time of the newest."""

    outcome: Outcome
    at: datetime
    by: str
    """Who judged."""
    request_id: str | None = None
    """Of the call's approval record; None for an incident of which no call is known."""
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether the call was right as it stood."""
        return SEVERITY[self.outcome] == 0

    @property
    def setback(self) -> bool:
        """Whether it takes autonomy away at once."""
        return SEVERITY[self.outcome] == 2  # noqa: PLR2004  # as SEVERITY says


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A person's word on a ring, in place of the evidence's."""

    ring: Ring
    exact: bool
    """This very ring; else this one at the most. A setback after `at` leaves only the limit: what is earned still
    goes below it."""
    by: str
    why: str
    at: datetime
    broken: bool = False
    """Whether there was a setback since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that counts for a tool's calls of one kind."""

    tool: str
    pattern: str
    cases: Sequence[Case]
    """Newest first, as many as were asked for."""
    pin: Pin | None = None
    unreviewed: int = 0
    """Automatic runs that were put up for review, of which nobody has said anything yet."""
    automatic: int | None = None
    """Calls that were made without being asked about. They are no evidence. None: not counted, as the next two."""
    checks_passed: int | None = None
    checks_failed: int | None = None
    """Of declared checks and of verifications after; those that failed are cases, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tool's calls of one kind, and the ring that was written down for them last."""

    tool: str
    pattern: str
    ring: Ring = 0
    rule: Mapping[str, str] | None = None
    """By which it was found, as its program declares it; None: no program has asked yet."""
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticRun:
    """A call that was made without a person, put up for review."""

    request_id: str
    thread_id: str
    tool: str
    pattern: str
    ring: Ring
    why: str
    at: datetime


def named(what: str, value: str) -> str:
    """A name of a tool, of a pattern or of somebody, if it is one.

    >>> named("tool", "")
    Traceback (most recent call last):
    holdfast.checkpointing.evidence.InvalidEvidence: the tool must be a name of 1 to 200 printable characters, not ''
    """
    if not value.strip() or len(value) > NAME or not value.isprintable():
        raise InvalidEvidence(f"the {what} must be a name of 1 to {NAME} printable characters, not {value[:40]!r}")
    return value
