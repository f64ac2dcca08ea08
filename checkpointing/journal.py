"""The effect journal: every call is written down before it is tried, and answered from the record after."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast

from .audit import storable
from .bridge import Bridge
from .connections import Connections, Steps, run_again
from .durable import Durable
from .grouping import Grouped
from .leases import Lease, Leases
from .records import Claim, Effect, OnDoubt, Settlement
from .sql import queries
from .statements import Asked, claimed, leaving, settled

SQL: Final = queries("journal")
Verdict = Literal["happened", "did not happen", "abandoned"]
_STATES: Final[dict[Verdict, str]] = {
    "happened": "completed",
    "did not happen": "failed",
    "abandoned": "abandoned",
}


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
        grouped: Grouped,
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
        self._grouped = grouped

    def claim(self, effect: Effect, *, again: bool = False) -> Claim:
        """Write down that a call is about to be made; `again` takes one whose outcome is unknown.

        Raises:
            JournalMismatch: another call was recorded under its id.
            BudgetExceeded: what it may cost is more than what is left; nothing is written down.
            LeaseLost: another worker runs the thread now.
            DatabaseUnavailable: the database is lost; the call must not be made.
        """
        asked = self._asked(effect, again)
        return claimed(asked, self._grouped.ask(asked.kind, asked))

    async def aclaim(self, effect: Effect, *, again: bool = False) -> Claim:
        """`claim` on any asyncio loop."""
        asked = self._asked(effect, again)
        return claimed(asked, await self._grouped.aask(asked.kind, asked))

    def _asked(self, effect: Effect, again: bool) -> Asked:
        return Asked(effect, again, f"{self._name}-{next(self._numbers)}", self.leases.worker)

    def settle(self, settlement: Settlement) -> None:
        """Write down what became of a call; if this fails, its outcome is unknown.

        Raises:
            LeaseLost: it is not ours to say any more.
            DatabaseUnavailable: the database is lost.
        """
        settled(settlement, self._grouped.ask(leaving(settlement), settlement))

    async def asettle(self, settlement: Settlement) -> None:
        """`settle` on any asyncio loop; cancelling it does not keep it from being written."""
        settled(settlement, await self._grouped.aask(leaving(settlement), settlement))

    def peek(self, effect: Effect) -> tuple[str, bytes] | None:
        """The record of a completed call, without claiming it; None, if it has none."""
        return self._bridge.call(self._peek, effect)

    async def apeek(self, effect: Effect) -> tuple[str, bytes] | None:
        return await self._bridge.acall(self._peek, effect)

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

    async def _peek(self, effect: Effect) -> tuple[str, bytes] | None:
        def steps() -> Steps[tuple[str, bytes] | None]:
            rows = yield SQL["peek"], {"thread": effect.thread_id, "effect": effect.effect_id}
            return (rows[0][0], bytes(rows[0][1])) if rows else None

        return await run_again(self._connections, steps)

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
