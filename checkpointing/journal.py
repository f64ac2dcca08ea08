"""The effect journal: every call is written down before it is tried, and answered from the record after."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, cast

from .arrays import BytesArray, IntArray, TextArray
from .audit import storable
from .bridge import Bridge
from .connections import BlockingConnections, Connections, Steps, run_again
from .durable import Durable
from .errors import HoldfastError, LeaseLost
from .grouping import Grouped
from .leases import Lease, Leases
from .sql import queries

SQL: Final = queries("journal")
Kind = Literal["model", "tool", "effect"]
State = Literal["completed", "failed", "raised", "suspended"]
OnDoubt = Literal["ask", "retry", "idempotent", "reconcile"]
Verdict = Literal["happened", "did not happen", "abandoned"]
_EVENTS: Final = {"completed": "completed", "failed": "failed", "raised": "failed", "suspended": "suspended"}
_STATES: Final[dict[Verdict, str]] = {
    "happened": "completed",
    "did not happen": "failed",
    "abandoned": "abandoned",
}


class JournalMismatch(HoldfastError):
    """A call is not the one that was written down under its id: the graph was changed under a running thread."""

    def __init__(self, effect: Effect) -> None:
        self.effect_id: Final = effect.effect_id
        super().__init__(
            f"{effect.kind} {effect.name!r} of thread {effect.thread_id!r} was recorded with other arguments under the "
            f"id {effect.effect_id}: the graph was changed while the thread ran; run the thread to its end with the "
            "graph it was begun with, or go on from an earlier checkpoint"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A call that is about to be made, and where."""

    thread_id: str
    effect_id: str
    """The same on every re-execution; what a tool is given as its idempotency key."""
    kind: Kind
    name: str
    request: bytes
    """Digest of what is asked."""
    asked: Mapping[str, Any]
    """What is asked, as JSON, for people."""
    on_doubt: OnDoubt = "ask"
    """Who says what became of it, if its worker goes away."""
    task_id: str
    checkpoint_ns: str = ""
    node: str | None = None
    step: int | None = None
    correlation_id: str | None = None
    run_id: str | None = None
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What may be done about a call.

    `claimed`: make it, then settle it. `completed`: `result` is its record. `abandoned`: a person gave it up.
    `in_doubt`: it was begun by somebody who is gone; nobody knows what became of it.
    """

    effect: Effect
    outcome: Literal["claimed", "completed", "abandoned", "in_doubt"]
    attempt: int
    token: str
    result: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of a call."""

    claim: Claim
    state: State
    result: tuple[str, bytes] | None = None
    event: str | None = None
    """The audit event's second word, if it is another than the state's."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None
    """US dollars."""
    duration: float | None = None
    """Seconds."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For the audit trail, as JSON."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call whose outcome is unknown."""

    thread_id: str
    effect_id: str
    kind: str
    name: str
    asked: Mapping[str, Any]
    on_doubt: OnDoubt
    """As its last claim said; a person is asked about "ask" only."""
    state: str
    """`claimed`: its worker went away; `raised`: it ended in an error that does not say whether it happened."""
    worker: str
    claimed_at: datetime
    task_id: str
    attempt: int
    answers: Sequence[str]
    """Digests of what persons said of its earlier claims."""


@dataclass(frozen=True, slots=True)
class Said:
    """What became of a call whose outcome was unknown."""

    verdict: Verdict
    by: str
    result: tuple[str, bytes] | None = None
    """What it returned, if it happened; a person's words are `spoken`."""
    answer: str | None = None
    """The digest of a person's answer, by which it is known if it comes again."""
    lease: Lease | None = None
    """Of the run that asked, which may judge its own calls."""
    attempt: int | None = None
    """The one that is meant, so that nothing is said of one that was begun since."""


SPOKEN: Final = "spoken"
"""The type of a result that a person gave, as JSON."""


def spoken(result: Any) -> tuple[str, bytes]:
    """A result in a person's words.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return SPOKEN, json.dumps(result, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(str(error)) from error


class Journal:
    """Claims and settles calls, each in a durable commit of its own, those of many threads together."""

    def __init__(
        self,
        bridge: Bridge,
        connections: Connections,
        writes: BlockingConnections,
        durable: Durable,
        leases: Leases,
    ) -> None:
        self.durable: Final = durable
        self.leases: Final = leases
        # Of this very journal: processes that are forked from one have what it drew before in common.
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._bridge = bridge
        self._connections = connections
        # Ends first: a call that was cancelled while its end was on the way may be claimed again beside it.
        self._grouped = Grouped(
            writes, bridge.check, {"settle": (SQL["settle"], _settlements), "claim": (SQL["claim"], _claims)}
        )

    def claim(self, effect: Effect, *, again: bool = False) -> Claim:
        """Write down that a call is about to be made; `again` takes one whose outcome is unknown.

        Raises:
            JournalMismatch: another call was recorded under its id.
            LeaseLost: another worker runs the thread now.
            DatabaseUnavailable: the database is lost; the call must not be made.
        """
        asked = self._asked(effect, again)
        return _claimed(asked, self._grouped.ask("claim", asked))

    async def aclaim(self, effect: Effect, *, again: bool = False) -> Claim:
        """`claim` on any asyncio loop."""
        asked = self._asked(effect, again)
        return _claimed(asked, await self._grouped.aask("claim", asked))

    def _asked(self, effect: Effect, again: bool) -> _Asked:
        return _Asked(effect, again, f"{self._name}-{next(self._numbers)}")

    def settle(self, settlement: Settlement) -> None:
        """Write down what became of a call; if this fails, its outcome is unknown.

        Raises:
            LeaseLost: it is not ours to say any more.
            DatabaseUnavailable: the database is lost.
        """
        _settled(settlement, self._grouped.ask("settle", settlement))

    async def asettle(self, settlement: Settlement) -> None:
        """`settle` on any asyncio loop; cancelling it does not keep it from being written."""
        _settled(settlement, await self._grouped.aask("settle", settlement))

    def begun(self, thread_id: str, task_id: str) -> list[Doubt]:
        """The calls of a task that were begun and of which no end is known, those that are being made too."""
        return self._bridge.call(self._list, "begun", thread_id, task_id)

    async def abegun(self, thread_id: str, task_id: str) -> list[Doubt]:
        return await self._bridge.acall(self._list, "begun", thread_id, task_id)

    def doubts(self, thread_id: str | None = None) -> list[Doubt]:
        """The calls of a thread, or of all, whose outcome is unknown, oldest first; not those that are being made."""
        return self._bridge.call(self._list, "doubts", thread_id)

    async def adoubts(self, thread_id: str | None = None) -> list[Doubt]:
        return await self._bridge.acall(self._list, "doubts", thread_id)

    def resolve(self, thread_id: str, effect_id: str, said: Said) -> bool:
        """Say what became of a call whose outcome is unknown; false if it is known, or is being made."""
        return self._bridge.call(self._resolve, thread_id, effect_id, said)

    async def aresolve(self, thread_id: str, effect_id: str, said: Said) -> bool:
        return await self._bridge.acall_to_end(self._resolve, thread_id, effect_id, said)

    def refuse(self, effect: Effect, why: str) -> bool:
        """Have a completed call made again on the next execution, as its result was of no use; false if it is not."""
        return self._bridge.call(self._refuse, effect, why)

    async def arefuse(self, effect: Effect, why: str) -> bool:
        return await self._bridge.acall_to_end(self._refuse, effect, why)

    def close(self) -> None:
        """Write what is waiting, and end the journal's thread."""
        self._grouped.close()

    async def _list(self, query: str, thread_id: str | None, task_id: str | None = None) -> list[Doubt]:
        def steps() -> Steps[list[Doubt]]:
            rows = yield SQL[query], {"thread": thread_id, "task": task_id}
            return [
                Doubt(
                    thread,
                    effect_id,
                    kind,
                    name,
                    json.loads(asked),
                    on_doubt,
                    state,
                    worker,
                    since,
                    task,
                    attempt,
                    said,
                )
                for thread, effect_id, kind, name, asked, on_doubt, state, worker, since, task, attempt, said in rows
            ]

        return await run_again(self._connections, steps)

    async def _resolve(self, thread_id: str, effect_id: str, said: Said) -> bool:
        kind, data = said.result or (None, None)
        parameters = {
            "thread": thread_id,
            "effect": effect_id,
            "state": _STATES[said.verdict],
            "type": kind,
            "result": data,
            "actor": said.by,
            "details": storable({"verdict": said.verdict, "by": said.by}),
            "said": said.answer,
            "epoch": said.lease.epoch if said.lease is not None else None,
            "attempt": said.attempt,
        }

        def steps() -> Steps[bool]:
            ((done,),) = yield SQL["resolve"], parameters
            return cast("bool", done)

        return await run_again(self._connections, steps)

    async def _refuse(self, effect: Effect, why: str) -> bool:
        parameters = {
            "thread": effect.thread_id,
            "effect": effect.effect_id,
            "epoch": effect.lease.epoch if effect.lease is not None else None,
            "details": storable({"why": why}),
        }

        def steps() -> Steps[bool]:
            ((done,),) = yield SQL["refuse"], parameters
            return cast("bool", done)

        return await run_again(self._connections, steps)


@dataclass(frozen=True, slots=True)
class _Asked:
    effect: Effect
    again: bool
    token: str


def _claims(asked: Sequence[_Asked]) -> Mapping[str, Any]:
    effects = [one.effect for one in asked]
    leases = [effect.lease for effect in effects]
    return {
        "thread": TextArray(effect.thread_id for effect in effects),
        "effect": TextArray(effect.effect_id for effect in effects),
        "kind": TextArray(effect.kind for effect in effects),
        "name": TextArray(effect.name for effect in effects),
        "request": BytesArray(effect.request for effect in effects),
        "asked": TextArray(storable(effect.asked) for effect in effects),
        "token": TextArray(one.token for one in asked),
        "worker": TextArray(lease.worker if lease else "" for lease in leases),
        "epoch": IntArray(lease.epoch if lease else None for lease in leases),
        "again": IntArray(int(one.again) for one in asked),
        "ns": TextArray(effect.checkpoint_ns for effect in effects),
        "task": TextArray(effect.task_id for effect in effects),
        "node": TextArray(effect.node for effect in effects),
        "step": IntArray(effect.step for effect in effects),
        "correlation": TextArray(effect.correlation_id for effect in effects),
        "run": TextArray(effect.run_id for effect in effects),
        "on_doubt": TextArray(effect.on_doubt for effect in effects),
    }


def _claimed(asked: _Asked, row: tuple[Any, ...]) -> Claim:
    outcome, attempt, kind, data = row
    if outcome == "lost":
        raise LeaseLost(asked.effect.thread_id)
    if outcome == "mismatch":
        raise JournalMismatch(asked.effect)
    return Claim(asked.effect, outcome, attempt, asked.token, (kind, bytes(data)) if data is not None else None)


def _settlements(asked: Sequence[Settlement]) -> Mapping[str, Any]:
    effects = [one.claim.effect for one in asked]
    results = [one.result or (None, None) for one in asked]
    return {
        "thread": TextArray(effect.thread_id for effect in effects),
        "effect": TextArray(effect.effect_id for effect in effects),
        "token": TextArray(one.claim.token for one in asked),
        "epoch": IntArray(effect.lease.epoch if effect.lease else None for effect in effects),
        "state": TextArray(one.state for one in asked),
        "event": TextArray(one.event or _EVENTS[one.state] for one in asked),
        "type": TextArray(kind for kind, _ in results),
        "result": BytesArray(data for _, data in results),
        "tokens_in": IntArray(one.input_tokens for one in asked),
        "tokens_out": IntArray(one.output_tokens for one in asked),
        "price": TextArray(None if one.cost is None else str(one.cost) for one in asked),
        "ms": TextArray(None if one.duration is None else f"{one.duration * 1000:.3f}" for one in asked),
        "details": TextArray(storable(one.details) for one in asked),
    }


def _settled(settlement: Settlement, row: tuple[Any, ...]) -> None:
    if not row[0]:
        raise LeaseLost(settlement.claim.effect.thread_id)
