"""What is still to be told of requests for approval: written with each change, and told by whoever claims it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args

from .bridge import Bridge
from .connections import Connections, Rows, Steps, run_again
from .evidence import named
from .sql import queries

SQL: Final = queries("notices")
NoticeKind = Literal["requested", "reminded", "escalated", "decided", "expired", "withdrawn"]
KINDS: Final[tuple[NoticeKind, ...]] = get_args(NoticeKind)
LEASE: Final = timedelta(minutes=5)
"""How long who has claimed a notice may take to tell it; then others may."""
_WHY: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something of a request that a receiver is to be told."""

    notice_id: int
    receiver: str
    request_id: str
    kind: NoticeKind
    number: int
    """The how-manyth reminder or escalation; 0 for others."""
    at: datetime
    """When it happened, in UTC."""
    tries: int
    """This one included."""


class Notices:
    """Got from `Database.notices`; methods have an async twin `a…`.

    From the first `claim` for a receiver on, every change of a request is noted for it, in the change's transaction.
    """

    def __init__(self, bridge: Bridge, connections: Connections, worker: str) -> None:
        self._bridge = bridge
        self._connections = connections
        self._worker = worker

    def claim(
        self,
        receivers: Sequence[str],
        *,
        kinds: Sequence[NoticeKind] = KINDS,
        limit: int = 50,
        lease: timedelta = LEASE,
    ) -> list[Due]:
        """What these receivers are to be told now; of several who ask at once, each notice is one's alone.

        Raises:
            InvalidEvidence: a receiver's name is none.
        """
        return self._bridge.call(self._claim, receivers, kinds, limit, lease)

    async def aclaim(
        self,
        receivers: Sequence[str],
        *,
        kinds: Sequence[NoticeKind] = KINDS,
        limit: int = 50,
        lease: timedelta = LEASE,
    ) -> list[Due]:
        return await self._bridge.acall_to_end(self._claim, receivers, kinds, limit, lease)

    def begin(self, due: Due, *, lease: timedelta = LEASE) -> bool:
        """It is being told now; false if that took so long that somebody else has claimed it, or if it was told."""
        return self._bridge.call(self._begin, due, lease)

    async def abegin(self, due: Due, *, lease: timedelta = LEASE) -> bool:
        return await self._bridge.acall_to_end(self._begin, due, lease)

    def told(self, due: Due) -> None:
        """It was taken."""
        self._bridge.call(self._change, "told", {"notice": due.notice_id})

    async def atold(self, due: Due) -> None:
        await self._bridge.acall_to_end(self._change, "told", {"notice": due.notice_id})

    def later(self, due: Due, pause: timedelta) -> None:
        """It was not taken: somebody may try again after a while."""
        self._bridge.call(self._change, "later", self._pause(due, pause))

    async def alater(self, due: Due, pause: timedelta) -> None:
        await self._bridge.acall_to_end(self._change, "later", self._pause(due, pause))

    def give_up(self, due: Due, why: str) -> None:
        """It was not taken, and is not tried again; the thread's audit trail says so."""
        self._bridge.call(self._change, "given_up", self._end(due, why))

    async def agive_up(self, due: Due, why: str) -> None:
        await self._bridge.acall_to_end(self._change, "given_up", self._end(due, why))

    def outstanding(self) -> list[Due]:
        """All that is to be told still, or is being told."""
        return self._bridge.call(self._outstanding)

    async def aoutstanding(self) -> list[Due]:
        return await self._bridge.acall(self._outstanding)

    def forget(self, receiver: str) -> None:
        """Note nothing for a receiver any more; it is forgotten of itself when nobody has asked for it for a week."""
        self._bridge.call(self._forget, receiver)

    async def aforget(self, receiver: str) -> None:
        await self._bridge.acall_to_end(self._forget, receiver)

    async def _claim(
        self, receivers: Sequence[str], kinds: Sequence[NoticeKind], limit: int, lease: timedelta
    ) -> list[Due]:
        names = sorted({named("receiver", name) for name in receivers})
        given = {"receivers": names, "kinds": list(kinds), "most": limit, "lease": lease.total_seconds()}

        def steps() -> Steps[Rows]:
            yield SQL["seen"], given
            yield SQL["stale"], given
            return (yield SQL["claim"], given)

        # Not in one transaction: one that waits for another's would hold up changes.
        rows = await run_again(self._connections, steps)
        return sorted((_due(*row) for row in rows), key=lambda due: due.notice_id)

    async def _begin(self, due: Due, lease: timedelta) -> bool:
        given = {"notice": due.notice_id, "tries": due.tries, "lease": lease.total_seconds()}

        def steps() -> Steps[bool]:
            return bool((yield SQL["begin"], given))

        return await run_again(self._connections, steps)

    async def _outstanding(self) -> list[Due]:
        def steps() -> Steps[Rows]:
            return (yield SQL["outstanding"], {})

        return [_due(*row[:7]) for row in await run_again(self._connections, steps)]

    async def _forget(self, receiver: str) -> None:
        def steps() -> Steps[None]:
            yield SQL["forget"], {"receiver": receiver}
            yield SQL["forget_notices"], {"receiver": receiver}

        await run_again(self._connections, steps, transaction=True)

    async def _change(self, query: str, given: Mapping[str, Any]) -> None:
        def steps() -> Steps[None]:
            yield SQL[query], given

        await run_again(self._connections, steps)

    def _pause(self, due: Due, pause: timedelta) -> dict[str, Any]:
        return {"notice": due.notice_id, "tries": due.tries, "pause": pause.total_seconds()}

    def _end(self, due: Due, why: str) -> dict[str, Any]:
        text = why.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:_WHY]
        return {"notice": due.notice_id, "actor": self._worker, "why": text}


def _due(
    notice_id: int, receiver: str, request_id: str, kind: NoticeKind, number: int, at: datetime, tries: int
) -> Due:
    return Due(
        notice_id=notice_id, receiver=receiver, request_id=request_id, kind=kind, number=number,
        at=at.astimezone(UTC), tries=tries,
    )  # fmt: skip
