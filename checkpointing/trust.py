"""Trust: what is known of a tool's calls, read from the approval records, and what people say of them after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeVar

from .audit import storable
from .bridge import Bridge
from .connections import Connections, Rows, Steps, run_again
from .evidence import RINGS, AutomaticRun, Case, Evidence, InvalidEvidence, NotReviewable, Pin, Place, Ring, named
from .refusals import UnknownRequest
from .requests import GRANTED, name_problem
from .sql import queries
from .statements import Clock

SQL: Final = queries("trust")
AUDITED: Final = "holdfast:trust"
"""The thread in whose audit trail rings, pins and incidents without a call are told of."""
_WHY: Final = 2000
"""Characters of a reason."""


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


class Trust:
    """Got from `Database.trust`; methods have an async twin `a…`.

    Cases are read from the approval records themselves; of a thread that is removed their outcome is kept, and no
    argument. Where a `rule` is given, a change of ring that follows is written down in the same transaction.
    """

    def __init__(self, bridge: Bridge, connections: Connections, worker: str, clock: Clock) -> None:
        self._bridge = bridge
        self._connections = connections
        self._worker = worker
        self._clock = clock

    def evidence(self, tool: str, *, pattern: str | None = None, window: int = 100, tally: bool = False) -> Evidence:
        """What counts for a tool's calls of one kind, by default those that are named as the tool.

        Args:
            tool: its name.
            pattern: the kind of action.
            window: how many cases, the newest.
            tally: count automatic runs and checks, too, which may be many.
        """
        return self._bridge.call(self._evidence, tool, pattern, window, tally)

    async def aevidence(
        self, tool: str, *, pattern: str | None = None, window: int = 100, tally: bool = False
    ) -> Evidence:
        return await self._bridge.acall(self._evidence, tool, pattern, window, tally)

    def judge(self, tool: str, rule: Rule[J], *, pattern: str | None = None, by: str | None = None) -> J:
        """Where a tool's calls of one kind stand. If the ring is another than was found last, that is audited."""
        return self._bridge.call(self._judge, tool, rule, pattern, by)

    async def ajudge(self, tool: str, rule: Rule[J], *, pattern: str | None = None, by: str | None = None) -> J:
        return await self._bridge.acall_to_end(self._judge, tool, rule, pattern, by)

    def pin(
        self,
        tool: str,
        ring: Ring,
        *,
        by: str,
        why: str = "",
        pattern: str | None = None,
        exact: bool = False,
        rule: Rule[Any] | None = None,
    ) -> None:
        """Say which ring is the highest for a tool, or, `exact`, which it is until the next setback.

        Raises:
            InvalidEvidence: there is no such ring, or a name is none.
        """
        self._bridge.call(self._pin, tool, pattern, ring, exact, by, why, rule)

    async def apin(
        self,
        tool: str,
        ring: Ring,
        *,
        by: str,
        why: str = "",
        pattern: str | None = None,
        exact: bool = False,
        rule: Rule[Any] | None = None,
    ) -> None:
        await self._bridge.acall_to_end(self._pin, tool, pattern, ring, exact, by, why, rule)

    def unpin(self, tool: str, *, by: str, pattern: str | None = None, rule: Rule[Any] | None = None) -> bool:
        """Let the evidence decide again; false if nothing was pinned."""
        return self._bridge.call(self._unpin, tool, pattern, by, rule)

    async def aunpin(self, tool: str, *, by: str, pattern: str | None = None, rule: Rule[Any] | None = None) -> bool:
        return await self._bridge.acall_to_end(self._unpin, tool, pattern, by, rule)

    def incident(
        self,
        tool: str | None = None,
        *,
        by: str,
        why: str,
        pattern: str | None = None,
        request_id: str | None = None,
        rule: Rule[Any] | None = None,
    ) -> None:
        """Report that a call did harm: by its request, or by its tool where the call is not known.

        Raises:
            UnknownRequest: there is none.
            NotReviewable: the request's action was not carried out, or an incident of it was reported before.
            InvalidEvidence: neither is named, or both; or there is no reason.
        """
        self._bridge.call(self._incident, tool, pattern, request_id, by, why, rule)

    async def aincident(
        self,
        tool: str | None = None,
        *,
        by: str,
        why: str,
        pattern: str | None = None,
        request_id: str | None = None,
        rule: Rule[Any] | None = None,
    ) -> None:
        await self._bridge.acall_to_end(self._incident, tool, pattern, request_id, by, why, rule)

    def review(self, request_id: str, *, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        """Say that an automatic run was fine, which makes it a good case; `incident` says that it was not.

        Raises:
            UnknownRequest: there is none.
            NotReviewable: the call was not automatic, or somebody has reviewed it.
            InvalidEvidence: the reviewer's name is none.
        """
        self._bridge.call(self._say, request_id, "fine", by, why, rule)

    async def areview(self, request_id: str, *, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        await self._bridge.acall_to_end(self._say, request_id, "fine", by, why, rule)

    def verified(self, request_id: str, *, passed: bool, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        """Say what a check of a call's result found. One that failed counts as a case; one that passed is counted only.

        Raises:
            UnknownRequest, NotReviewable, InvalidEvidence: as `incident`; of a call it is said once.
        """
        self._bridge.call(self._say, request_id, "passed" if passed else "failed", by, why, rule)

    async def averified(
        self, request_id: str, *, passed: bool, by: str, why: str = "", rule: Rule[Any] | None = None
    ) -> None:
        await self._bridge.acall_to_end(self._say, request_id, "passed" if passed else "failed", by, why, rule)

    def to_review(self, tool: str | None = None, *, pattern: str | None = None, limit: int = 200) -> list[AutomaticRun]:
        """Automatic runs that are put up for review and have none, oldest first."""
        return self._bridge.call(self._to_review, tool, pattern, limit)

    async def ato_review(
        self, tool: str | None = None, *, pattern: str | None = None, limit: int = 200
    ) -> list[AutomaticRun]:
        return await self._bridge.acall(self._to_review, tool, pattern, limit)

    def place_of(self, request_id: str) -> Place:
        """Of which tool and kind of action a request is.

        Raises:
            UnknownRequest: there is none.
        """
        return self._bridge.call(self._place_of, request_id)

    async def aplace_of(self, request_id: str) -> Place:
        return await self._bridge.acall(self._place_of, request_id)

    def places(self, tool: str | None = None) -> list[Place]:
        """Every kind of action of which something is known, of one tool or of all."""
        return self._bridge.call(self._places, tool)

    async def aplaces(self, tool: str | None = None) -> list[Place]:
        return await self._bridge.acall(self._places, tool)

    async def _evidence(self, tool: str, pattern: str | None, window: int, tally: bool) -> Evidence:
        # Whatever name a model has made up may be on record.
        key = {"tool": tool, "pattern": tool if pattern is None else pattern}
        return await run_again(self._connections, lambda: _found(key, window, tally=tally))

    async def _judge(self, tool: str, rule: Rule[J], pattern: str | None, by: str | None) -> J:
        key = _key(tool, pattern)

        def steps() -> Steps[J]:
            judged = rule.judge((yield from _found(key, rule.window)))
            rows = yield SQL["ring"], key
            if rows and rows[0][0] == judged.ring and _loaded(rows[0][1]) == rule.written():
                return judged
            yield from _held(key)
            found: J = yield from self._settled(key, rule, by or self._worker)
            return found

        return await run_again(self._connections, steps, transaction=True)

    def _settled(self, key: Mapping[str, str], rule: Rule[J], by: str) -> Steps[J]:
        """Find the ring and write it down; who calls has locked it, so that nobody finds it from older evidence."""
        judged = rule.judge((yield from _found(key, rule.window)))
        ring, written = (yield SQL["lock_ring"], key)[0]
        if ring == judged.ring and _loaded(written) == rule.written():
            return judged
        yield SQL["set_ring"], {**key, "ring": judged.ring, "rule": json.dumps(rule.written()), "at": self._clock()}
        if ring != judged.ring:
            details = {**key, "from": ring, "to": judged.ring, "numbers": judged.numbers(), "rule": rule.written()}
            yield SQL["tell"], _event(by, "trust.ring", details)
        return judged

    def _followed(self, key: Mapping[str, str], rule: Rule[Any] | None, by: str) -> Steps[None]:
        if rule is not None:
            yield from self._settled(key, rule, by)

    async def _pin(
        self, tool: str, pattern: str | None, ring: Ring, exact: bool, by: str, why: str, rule: Rule[Any] | None
    ) -> None:
        if ring not in RINGS or isinstance(ring, bool):
            raise InvalidEvidence(f"a ring is one of {', '.join(map(str, RINGS))}, not {ring!r}")
        key = _key(tool, pattern)
        given = {**key, "ring": ring, "exact": exact, "who": _person(by), "why": _reason(why)}

        def steps() -> Steps[None]:
            yield from _held(key)
            yield SQL["set_pin"], {**given, "at": self._clock()}
            said = {**key, "ring": ring, "exact": exact, "why": given["why"]}
            yield SQL["tell"], _event(by, "trust.pinned", said)
            yield from self._followed(key, rule, by)

        await run_again(self._connections, steps, transaction=True)

    async def _unpin(self, tool: str, pattern: str | None, by: str, rule: Rule[Any] | None) -> bool:
        key = _key(tool, pattern)
        _person(by)

        def steps() -> Steps[bool]:
            yield from _held(key)
            rows = yield SQL["remove_pin"], key
            if not rows:
                return False
            ring, exact, who = rows[0]
            said = {**key, "ring": ring, "exact": exact, "pinned_by": who}
            yield SQL["tell"], _event(by, "trust.unpinned", said)
            yield from self._followed(key, rule, by)
            return True

        return await run_again(self._connections, steps, transaction=True)

    async def _incident(
        self,
        tool: str | None,
        pattern: str | None,
        request_id: str | None,
        by: str,
        why: str,
        rule: Rule[Any] | None,
    ) -> None:
        if (tool is None) == (request_id is None) or (request_id is not None and pattern is not None):
            raise InvalidEvidence("an incident is of a request, or of a tool and perhaps its pattern: name one of them")
        if not why.strip():
            raise InvalidEvidence("an incident needs a reason: what harm was done")
        if request_id is not None:
            await self._say(request_id, "incident", by, why, rule)
            return
        key = _key(tool or "", pattern)
        fact = {**key, "kind": "incident", "request": None, "who": _person(by), "why": _reason(why)}

        def steps() -> Steps[None]:
            yield from _held(key)
            yield SQL["add_fact"], {**fact, "at": self._clock()}
            yield SQL["tell"], _event(by, "trust.incident", {**key, "why": fact["why"]})
            yield from self._followed(key, rule, by)

        # Once: after a lost connection nobody knows whether it was added.
        await self._connections.run(steps, transaction=True)

    async def _say(
        self,
        request_id: str,
        kind: Literal["fine", "incident", "passed", "failed"],
        by: str,
        why: str,
        rule: Rule[Any] | None,
    ) -> None:
        """Say something of a call, once."""
        said = {"who": _person(by), "why": _reason(why), "kind": kind, "request": request_id}

        def steps() -> Steps[None]:
            rows = yield SQL["call"], said
            if not rows:
                raise UnknownRequest(request_id)
            tool, pattern, state, *place = rows[0]
            key = {"tool": str(tool), "pattern": str(pattern)}
            yield from _held(key)
            if kind == "fine" and state != "waived":
                raise NotReviewable(f"request {request_id!r} ({tool}) was {state}: only automatic runs are reviewed")
            if state not in GRANTED:
                raise NotReviewable(f"the action of request {request_id!r} ({tool}) was not carried out: it is {state}")
            before = (yield SQL["was_reviewed"], said) if kind == "fine" else []
            if before or not (yield SQL["add_fact"], {**said, **key, "at": self._clock()}):
                found = before[0][0] if before else kind
                what = "reviewed" if found == "fine" else f"said to be {found}"
                raise NotReviewable(f"request {request_id!r} ({tool}) was {what} before; nothing was changed")
            if kind in ("fine", "incident"):
                yield SQL["mark_reviewed"], {**said, "at": self._clock()}
            details: dict[str, Any] = {**key, "request": request_id, "why": said["why"]}
            if kind in ("passed", "failed"):
                details["passed"] = kind == "passed"
            event = {"fine": "trust.reviewed", "incident": "trust.incident"}.get(kind, "trust.verified")
            yield SQL["tell"], _event(by, event, details, *place)
            yield from self._followed(key, rule, by)

        await self._connections.run(steps, transaction=True)

    async def _to_review(self, tool: str | None, pattern: str | None, limit: int) -> list[AutomaticRun]:
        given = {"tool": tool, "pattern": pattern, "most": limit}
        rows = await run_again(self._connections, lambda: _all("to_review", given))
        return [
            AutomaticRun(
                request_id=row[0], thread_id=row[1], tool=row[2], pattern=row[3], ring=row[4] or 0, why=row[5] or "",
                at=row[6].astimezone(UTC),
            )
            for row in rows
        ]  # fmt: skip

    async def _place_of(self, request_id: str) -> Place:
        rows = await run_again(self._connections, lambda: _all("call", {"request": request_id}))
        if not rows:
            raise UnknownRequest(request_id)
        return Place(tool=rows[0][0], pattern=rows[0][1])

    async def _places(self, tool: str | None) -> list[Place]:
        rows = await run_again(self._connections, lambda: _all("known", {"tool": tool}))
        return [
            Place(
                tool=row[0], pattern=row[1], ring=row[2], rule=_loaded(row[3]),
                since=None if row[4] is None else row[4].astimezone(UTC),
            )
            for row in rows
        ]  # fmt: skip


def _held(key: Mapping[str, str]) -> Steps[None]:
    """Lock a ring, before all else that a transaction here locks."""
    yield SQL["begin_ring"], key
    yield SQL["lock_ring"], key


def _found(key: Mapping[str, str], window: int, *, tally: bool = False) -> Steps[Evidence]:
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


def _key(tool: str, pattern: str | None) -> dict[str, str]:
    return {"tool": named("tool", tool), "pattern": named("pattern", tool if pattern is None else pattern)}


def _person(name: str) -> str:
    if problem := name_problem(name):
        raise InvalidEvidence(f"the name of who says it {problem}: {str(name)[:40]!r}")
    return name


def _reason(why: str) -> str:
    return why.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:_WHY]


def _loaded(written: Any) -> Mapping[str, str] | None:
    found: Mapping[str, str] | None = json.loads(written) if isinstance(written, str) else written
    return found


def _all(name: str, parameters: Mapping[str, Any]) -> Steps[Rows]:
    return (yield SQL[name], parameters)
