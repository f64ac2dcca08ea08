"""The record of approvals: opened once, decided once, by whoever comes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection, Connection

from .bridge import Bridge
from .connections import Connections
from .leases import Lease
from .requests import ApprovalRequest, Change, Decided, NewRequest, RequestState
from .statements import Clock

CHANNEL: Final = "holdfast_approvals"
"""Where the id of each request is notified that changes."""
WAITING: Final[tuple[RequestState, ...]] = ("waiting",)
Also = Callable[[AsyncConnection[Any], ApprovalRequest, str], Awaitable[None]]
AlsoBlocking = Callable[[Connection[Any], ApprovalRequest, str], None]


class Approvals:
    """Got from `Database.approvals`; methods have an async twin `a…`."""

    def __init__(self, bridge: Bridge, connections: Connections, worker: str) -> None:
        self._bridge = bridge
        self._connections = connections
        self._worker = worker
        self.clock: Clock = lambda: None
        """The time by which requests are made, decided and expire; None: the database's own."""
        self.also: Also | None = None
        """Done in the transaction of every change, on its connection: `requested`, `waived`, `voted`, `decided`,
        `reminded`, `escalated`, `expired`, `approved` (for its time was over), `withdrawn`; given the request as it
        is now. It may be called again if the transaction has to be begun again. If it raises, nothing is changed.
        It runs on the database's own loop: it must not call sync methods of the `Database`."""
        self.also_blocking: AlsoBlocking | None = None
        """`also` for a saver on a blocking `ConnectionPool`, in whose transactions nothing can be awaited."""

    def open(self, requests: Sequence[NewRequest], *, lease: Lease | None = None) -> list[ApprovalRequest]:
        """Record requests, all of them or none; one that is there stays as it is. In the order given.

        Raises:
            InvalidRequest: one cannot be recorded.
            LeaseLost: another worker runs the thread now.
        """
        return self._bridge.call(self._open, requests, lease)

    async def aopen(self, requests: Sequence[NewRequest], *, lease: Lease | None = None) -> list[ApprovalRequest]:
        return await self._bridge.acall_to_end(self._open, requests, lease)

    def of_task(self, thread_id: str, task_id: str) -> list[ApprovalRequest]:
        """The requests of a task, in the order in which they were made."""
        return self._bridge.call(self._of_task, thread_id, task_id)

    async def aof_task(self, thread_id: str, task_id: str) -> list[ApprovalRequest]:
        return await self._bridge.acall(self._of_task, thread_id, task_id)

    def get(self, request_id: str) -> ApprovalRequest:
        """A request as it stands.

        Raises:
            UnknownRequest: there is none.
        """
        return self._bridge.call(self._get, request_id)

    async def aget(self, request_id: str) -> ApprovalRequest:
        return await self._bridge.acall(self._get, request_id)

    def find(
        self,
        *,
        thread_id: str | None = None,
        correlation_id: str | None = None,
        states: Sequence[RequestState] = WAITING,
        for_decider: str | None = None,
        limit: int = 200,
    ) -> list[ApprovalRequest]:
        """Requests, oldest deadline first, those without one last; `for_decider`: that this person may decide."""
        return self._bridge.call(self._find, thread_id, correlation_id, states, for_decider, limit)

    async def afind(
        self,
        *,
        thread_id: str | None = None,
        correlation_id: str | None = None,
        states: Sequence[RequestState] = WAITING,
        for_decider: str | None = None,
        limit: int = 200,
    ) -> list[ApprovalRequest]:
        return await self._bridge.acall(self._find, thread_id, correlation_id, states, for_decider, limit)

    def decide(self, request_id: str, decided: Decided) -> ApprovalRequest:
        """Decide, if nobody has and it is not too late; returns the request as it is then.

        An approval below the quorum is a vote: the request still waits. Each decision that comes too late or is not
        allowed is in the audit trail, once for each person, request and reason.

        Raises:
            UnknownRequest, AlreadyDecided, RequestExpired, NotADecider, DecisionNotAllowed, ArgumentsChanged,
            AlreadyVoted, InvalidDecision: all of them `DecisionRefused`; nothing was changed by it.
        """
        return self._bridge.call(self._decide, request_id, decided)

    async def adecide(self, request_id: str, decided: Decided) -> ApprovalRequest:
        return await self._bridge.acall_to_end(self._decide, request_id, decided)

    def withdraw(self, request_id: str, by: str, why: str) -> ApprovalRequest:
        """Take a request back that waits: nobody need decide any more.

        Raises:
            UnknownRequest, AlreadyDecided, RequestExpired, InvalidDecision: as `decide`.
        """
        return self._bridge.call(self._withdraw, request_id, by, why)

    async def awithdraw(self, request_id: str, by: str, why: str) -> ApprovalRequest:
        return await self._bridge.acall_to_end(self._withdraw, request_id, by, why)

    def tend(self, now: datetime | None = None, limit: int = 100) -> list[Change]:
        """Do what is due: requests whose time is over, and reminders; each in a transaction of its own.

        Whoever calls it, and however many do at once, each change is made once, and told to who made it.
        """
        return self._bridge.call(self._tend, now, limit)

    async def atend(self, now: datetime | None = None, limit: int = 100) -> list[Change]:
        return await self._bridge.acall_to_end(self._tend, now, limit)

    async def _open(self, requests: Sequence[NewRequest], lease: Lease | None) -> list[ApprovalRequest]:
        raise NotImplementedError

    async def _of_task(self, thread_id: str, task_id: str) -> list[ApprovalRequest]:
        raise NotImplementedError

    async def _get(self, request_id: str) -> ApprovalRequest:
        raise NotImplementedError

    async def _find(
        self,
        thread_id: str | None,
        correlation_id: str | None,
        states: Sequence[RequestState],
        for_decider: str | None,
        limit: int,
    ) -> list[ApprovalRequest]:
        raise NotImplementedError

    async def _decide(self, request_id: str, decided: Decided) -> ApprovalRequest:
        raise NotImplementedError

    async def _withdraw(self, request_id: str, by: str, why: str) -> ApprovalRequest:
        raise NotImplementedError

    async def _tend(self, now: datetime | None, limit: int) -> list[Change]:
        raise NotImplementedError
