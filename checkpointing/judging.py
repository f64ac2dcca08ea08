"""Statements of trust: reading evidence, writing down what people say, and the ring that follows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeVar

from .audit import storable
from .connections import Rows, Steps
from .evidence import Case, Evidence, InvalidEvidence, NotReviewable, Pin, Ring, named
from .refusals import UnknownRequest
from .requests import GRANTED, name_problem
from .sql import queries

SQL: Final = queries("trust")
AUDITED: Final = "holdfast:trust"
"""The thread in whose audit trail rings, pins and incidents without a call are told of."""
Saying = Literal["fine", "incident", "passed", "failed"]
NOBODY: Final = "unknown"
"""Who acts where nobody is authenticated; the database's `trust_judged` says it again."""
_WHY: Final = 2000
"""Characters of a reason."""
_EVENTS: Final[Mapping[Saying, str]] = {
    "fine": "trust.reviewed", "incident": "trust.incident", "passed": "trust.verified", "failed": "trust.verified",
}  # fmt: skip


class Judged(Protocol):
    """What a rule makes of evidence."""

    @property
    def ring(self) -> Ring: ...

    def numbers(self) -> dict[str, Any]:
        """From which the ring follows, for the record."""
        ...


J_co = TypeVar("J_co", bound=Judged, covariant=True)
J = TypeVar("J", bound=Judged)


class Rule(Protocol[J_co]):
    """Finds a ring: `guardrails.TrustRule`."""

    @property
    def window(self) -> int:
        """How many cases it looks at."""
        ...

    def judge(self, evidence: Evidence, /) -> J_co: ...

    def written(self) -> dict[str, str]:
        """As text, for the record."""
        ...


def found(key: Mapping[str, str], window: int, *, tally: bool = False) -> Steps[Evidence]:
    """What counts, the newest `window` cases of it."""
    rows = yield SQL["cases"], {**key, "most": window}
    cases = [
        Case(outcome=kind, at=at.astimezone(UTC), by=who, request_id=request_id, why=why)
        for kind, at, who, request_id, why in rows
    ]
    pins = yield SQL["pin"], key
    unreviewed = (yield SQL["unreviewed"], key)[0][0]
    counts: Sequence[int | None] = (yield SQL["tally"], key)[0] if tally else (None, None, None)
    return Evidence(
        **key, cases=cases, pin=_pin(*pins[0]) if pins else None, unreviewed=unreviewed, automatic=counts[0],
        checks_passed=counts[1], checks_failed=counts[2],
    )  # fmt: skip


def judged(key: Mapping[str, str], rule: Rule[J], by: str, at: datetime | None) -> Steps[J]:
    """The ring, written down if it is another than before."""
    judgement = rule.judge((yield from found(key, rule.window)))
    rows = yield SQL["ring"], key
    if rows and rows[0][0] == judgement.ring and loaded(rows[0][1]) == rule.written():
        return judgement
    yield from _held(key)
    return (yield from _settled(key, rule, by, at))


def pinned(given: Mapping[str, Any], rule: Rule[Any] | None) -> Steps[None]:
    """Set a pin."""
    key = {"tool": given["tool"], "pattern": given["pattern"]}
    yield from _held(key)
    yield SQL["set_pin"], given
    said = {name: given[name] for name in ("tool", "pattern", "ring", "exact", "why")}
    yield SQL["tell"], _event(given["who"], "trust.pinned", said)
    yield from _followed(key, rule, given["who"], given["at"])


def unpinned(key: Mapping[str, str], by: str, at: datetime | None, rule: Rule[Any] | None) -> Steps[bool]:
    """Take a pin away; false if there is none."""
    yield from _held(key)
    rows = yield SQL["remove_pin"], key
    if not rows:
        return False
    ring, exact, who = rows[0]
    yield SQL["tell"], _event(by, "trust.unpinned", {**key, "ring": ring, "exact": exact, "pinned_by": who})
    yield from _followed(key, rule, by, at)
    return True


def reported(given: Mapping[str, Any], rule: Rule[Any] | None) -> Steps[None]:
    """Write down an incident of which no call is known."""
    key = {"tool": given["tool"], "pattern": given["pattern"]}
    yield from _held(key)
    yield SQL["add_fact"], {**given, "kind": "incident", "request": None}
    yield SQL["tell"], _event(given["who"], "trust.incident", {**key, "why": given["why"]})
    yield from _followed(key, rule, given["who"], given["at"])


def said(request_id: str, kind: Saying, given: Mapping[str, Any], rule: Rule[Any] | None) -> Steps[None]:
    """Say something of a call, once.

    Raises:
        UnknownRequest: there is none.
        NotReviewable: it cannot be said of this call, or was said before.
        InvalidEvidence: nobody knows who finds it fine.
    """
    if kind == "fine" and given["who"] == NOBODY:
        raise InvalidEvidence(f"nobody knows who {NOBODY!r} is, whose word counts against only")
    fact = {**given, "request": request_id, "kind": kind}
    rows = yield SQL["call"], fact
    if not rows:
        raise UnknownRequest(request_id)
    tool, pattern, state, *place = rows[0]
    key = {"tool": str(tool), "pattern": str(pattern)}
    yield from _held(key)
    if kind == "fine" and state != "waived":
        raise NotReviewable(f"request {request_id!r} ({tool}) was {state}: only automatic runs are reviewed")
    if state not in GRANTED:
        raise NotReviewable(f"the action of request {request_id!r} ({tool}) was not carried out: it is {state}")
    before = (yield SQL["was_reviewed"], fact) if kind == "fine" else []
    if before or not (yield SQL["add_fact"], {**fact, **key}):
        known = before[0][0] if before else kind
        what = "reviewed" if known == "fine" else f"said to be {known}"
        raise NotReviewable(f"request {request_id!r} ({tool}) was {what} before; nothing was changed")
    if kind in ("fine", "incident"):
        yield SQL["mark_reviewed"], fact
    details: dict[str, Any] = {**key, "request": request_id, "why": given["why"]}
    if _EVENTS[kind] == "trust.verified":
        details["passed"] = kind == "passed"
    yield SQL["tell"], _event(given["who"], _EVENTS[kind], details, *place)
    yield from _followed(key, rule, given["who"], given["at"])


def rows_of(name: str, parameters: Mapping[str, Any]) -> Steps[Rows]:
    """What a query gives."""
    return (yield SQL[name], parameters)


def key_of(tool: str, pattern: str | None) -> dict[str, str]:
    """Of which calls.

    Raises:
        InvalidEvidence: a name is none.
    """
    return {"tool": named("tool", tool), "pattern": named("pattern", tool if pattern is None else pattern)}


def saying(by: str, why: str, at: datetime | None) -> dict[str, Any]:
    """Who says something, and why.

    Raises:
        InvalidEvidence: it is nobody's name.
    """
    if problem := name_problem(by):
        raise InvalidEvidence(f"the name of who says it {problem}: {str(by)[:40]!r}")
    reason = why.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:_WHY]
    return {"who": by, "why": reason, "at": at}


def loaded(written: Any) -> Mapping[str, str] | None:
    """A rule as it was written down."""
    rule: Mapping[str, str] | None = json.loads(written) if isinstance(written, str) else written
    return rule


def _held(key: Mapping[str, str]) -> Steps[None]:
    """Lock a ring, before all else that a transaction here locks."""
    yield SQL["begin_ring"], key
    yield SQL["lock_ring"], key


def _settled(key: Mapping[str, str], rule: Rule[J], by: str, at: datetime | None) -> Steps[J]:
    """Find the ring and write it down; who calls has locked it, so that nobody finds it from older evidence."""
    judgement = rule.judge((yield from found(key, rule.window)))
    ring, written = (yield SQL["lock_ring"], key)[0]
    if ring == judgement.ring and loaded(written) == rule.written():
        return judgement
    yield SQL["set_ring"], {**key, "ring": judgement.ring, "rule": json.dumps(rule.written()), "at": at}
    if ring != judgement.ring:
        numbers = {"numbers": judgement.numbers(), "rule": rule.written()}
        yield SQL["tell"], _event(by, "trust.ring", {**key, "from": ring, "to": judgement.ring, **numbers})
    return judgement


def _followed(key: Mapping[str, str], rule: Rule[Any] | None, by: str, at: datetime | None) -> Steps[None]:
    if rule is not None:
        yield from _settled(key, rule, by, at)


def _pin(ring: Ring, exact: bool, who: str, why: str, at: datetime, broken: bool) -> Pin:
    return Pin(ring=ring, exact=exact, by=who, why=why, at=at.astimezone(UTC), broken=broken)


def _event(
    actor: str,
    kind: str,
    details: Mapping[str, Any],
    thread_id: str = AUDITED,
    correlation_id: str | None = None,
    run_id: str | None = None,
    checkpoint_ns: str = "",
    node: str | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    return {
        "thread": thread_id, "correlation": correlation_id, "run": run_id, "ns": checkpoint_ns, "node": node,
        "step": step, "actor": actor, "kind": kind, "details": storable(details),
    }  # fmt: skip
