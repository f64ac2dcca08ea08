"""The record of approvals: opened once, decided once, by whoever comes first."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from psycopg import AsyncConnection, Connection

from .arrays import TextArray
from .bridge import Bridge, one_line
from .connections import Connections, Steps, Within, is_lost, run_again
from .errors import LeaseLost
from .forms import findable
from .leases import Lease
from .refusals import UnknownRequest
from .requests import ApprovalRequest, Change, Decided, NewRequest, RequestState
from .sql import queries
from .statements import Clock
from .verdicts import check_id, fits, formed, refused, request_of, row_of, verdict_of, withdrawal

SQL: Final = queries("approvals")
CHANNEL: Final = "holdfast_approvals"
"""Where the id of each request is notified that changes."""
WAITING: Final[tuple[RequestState, ...]] = ("waiting",)
_log: Final = logging.getLogger("holdfast.approvals")
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

    def of_call(self, thread_id: str, call_id: str) -> list[ApprovalRequest]:
        """The requests about a call of that id, whichever task asked, the newest first.

        Some models number their calls, so that agents of one thread, or one agent's turns, use an id again.
        """
        return self._bridge.call(self._of_call, thread_id, call_id)

    async def aof_call(self, thread_id: str, call_id: str) -> list[ApprovalRequest]:
        return await self._bridge.acall(self._of_call, thread_id, call_id)

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

    def take(self, request_id: str, task_id: str) -> bool:
        """Say which task carries an approved action out: it, however often it is executed, and no other.

        False if another has: in a state that was gone back to, a fork, or beside it; or if nobody has approved it.
        """
        return self._bridge.call(self._take, request_id, task_id)

    async def atake(self, request_id: str, task_id: str) -> bool:
        return await self._bridge.acall_to_end(self._take, request_id, task_id)

    def tend(self, now: datetime | None = None, limit: int = 100, *, only: Sequence[str] | None = None) -> list[Change]:
        """Do what is due: requests whose time is over, and reminders; each in a transaction of its own.

        Whoever calls it, and however many do at once, each change is made once, and told to who made it; `only`: of
        these requests, by their ids.
        """
        return self._bridge.call(self._tend, now, limit, only)

    async def atend(
        self, now: datetime | None = None, limit: int = 100, *, only: Sequence[str] | None = None
    ) -> list[Change]:
        return await self._bridge.acall_to_end(self._tend, now, limit, only)

    async def _open(self, requests: Sequence[NewRequest], lease: Lease | None) -> list[ApprovalRequest]:
        rows = [row_of(request) for request in requests]
        common = {"at": self.clock(), "worker": self._worker}

        def steps() -> Steps[list[ApprovalRequest]]:
            if lease is not None:
                yield from _fence(lease, sorted({request.thread_id for request in requests}))
            done: dict[str, str] = {}
            for row in rows:
                for fresh in (yield SQL["open"], {**row, **common}):
                    done[row["id"]] = fresh[0]
            opened = yield from _requests([row["id"] for row in rows])
            for request in opened:
                if request.request_id in done:
                    yield from self._besides(request, done.pop(request.request_id))
            return opened

        return await run_again(self._connections, steps, transaction=True)

    async def _of_task(self, thread_id: str, task_id: str) -> list[ApprovalRequest]:
        return await self._listed("of_task", {"thread": thread_id, "task": task_id})

    async def _of_call(self, thread_id: str, call_id: str) -> list[ApprovalRequest]:
        if not findable(thread_id, call_id):
            return []
        return await self._listed("of_call", {"thread": thread_id, "call": call_id})

    async def _get(self, request_id: str) -> ApprovalRequest:
        check_id(request_id)
        for request in await run_again(self._connections, lambda: _requests([request_id])):
            return request
        raise UnknownRequest(request_id)

    async def _find(
        self,
        thread_id: str | None,
        correlation_id: str | None,
        states: Sequence[RequestState],
        for_decider: str | None,
        limit: int,
    ) -> list[ApprovalRequest]:
        if not findable(thread_id, correlation_id, for_decider):
            return []
        wanted = {
            "thread": thread_id,
            "correlation": correlation_id,
            "states": TextArray(states),
            "person": for_decider,
            "limit": limit,
        }
        return [request for request in await self._listed("find", wanted) if request.state in states]

    async def _listed(self, query: str, parameters: Mapping[str, Any]) -> list[ApprovalRequest]:
        def steps() -> Steps[list[ApprovalRequest]]:
            rows = yield SQL[query], parameters
            return (yield from _requests([row[0] for row in rows]))

        return await run_again(self._connections, steps)

    async def _decide(self, request_id: str, decided: Decided) -> ApprovalRequest:
        check_id(request_id)
        edited = formed(request_id, decided)
        if edited is not None:
            fits(await self._get(request_id), edited)
        return await self._settle(request_id, verdict_of(decided, edited))

    async def _withdraw(self, request_id: str, by: str, why: str) -> ApprovalRequest:
        check_id(request_id)
        return await self._settle(request_id, withdrawal(request_id, by, why))

    async def _take(self, request_id: str, task_id: str) -> bool:
        def steps() -> Steps[bool]:
            return bool((yield SQL["take"], {"id": request_id, "task": task_id}))

        return await run_again(self._connections, steps)

    async def _settle(self, request_id: str, verdict: Mapping[str, Any]) -> ApprovalRequest:
        # The token tells the server that it is this very verdict, should a lost connection hide that it was taken.
        mine = {"id": request_id, "token": uuid.uuid4().hex, "worker": self._worker, "at": self.clock()}

        def steps() -> Steps[tuple[str | None, ApprovalRequest | None]]:
            ((done, refusal),) = yield SQL["decide"], {**verdict, **mine}
            found = yield from _requests([request_id])
            request = found[0] if found else None
            if done is not None and request is not None:
                yield from self._besides(request, done)
            return refusal, request

        refusal, request = await run_again(self._connections, steps, transaction=True)
        if request is None:
            raise UnknownRequest(request_id)
        if refusal is not None:
            raise refused(refusal, request, verdict)
        return request

    async def _tend(self, now: datetime | None, limit: int, only: Sequence[str] | None) -> list[Change]:
        at = now or self.clock()

        def due() -> Steps[list[str]]:
            return [row[0] for row in (yield SQL["due"], {"at": at, "limit": limit})]

        changes: list[Change] = []
        failed: Exception | None = None
        for request_id in await run_again(self._connections, due) if only is None else only:
            try:
                changes += await self._tend_one(request_id, at)
            except Exception as error:
                # What is done besides may fail for one of them: the others are not to wait for that.
                if is_lost(error):
                    raise
                _log.warning("request %s is due, and what is to be done failed: %s", request_id, one_line(error))
                failed = failed or error
        if failed is not None:
            raise failed
        return changes

    async def _tend_one(self, request_id: str, at: datetime | None) -> list[Change]:
        def steps() -> Steps[list[Change]]:
            ((done,),) = yield SQL["tend"], {"at": at, "id": request_id, "worker": self._worker}
            if done is None:
                return []
            (request,) = yield from _requests([request_id])
            yield from self._besides(request, done)
            return [Change(request, done)]

        return await run_again(self._connections, steps, transaction=True)

    def _besides(self, request: ApprovalRequest, done: str) -> Steps[None]:
        """What is to be done in the same transaction."""
        if self.also is not None or self.also_blocking is not None:
            yield Within(partial(self._soon, request, done), partial(self._now, request, done))

    async def _soon(self, request: ApprovalRequest, done: str, connection: AsyncConnection[Any]) -> None:
        if self.also is None:
            raise TypeError("also_blocking is for a saver on a ConnectionPool; here, set also")
        await self.also(connection, request, done)

    def _now(self, request: ApprovalRequest, done: str, connection: Connection[Any]) -> None:
        if self.also_blocking is None:
            raise TypeError("nothing can be awaited on the connections of a ConnectionPool; set also_blocking")
        self.also_blocking(connection, request, done)


def _requests(ids: Sequence[str]) -> Steps[list[ApprovalRequest]]:
    rows = yield SQL["get"], {"ids": TextArray(ids)}
    return [request_of(*row) for row in rows]


def _fence(lease: Lease, threads: Sequence[str]) -> Steps[None]:
    for thread_id in threads:
        ((holds,),) = yield SQL["holds"], {"thread": thread_id, "epoch": lease.epoch}
        if not holds:
            raise LeaseLost(thread_id)
