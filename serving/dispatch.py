"""`Dispatcher`: what makes a thread go on is put into the queue in the transaction of what causes it.

The queue is procrastinate's, in the same database (schema `holdfast_jobs`); `holdfast worker` works it off.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from holdfast.checkpointing import Also, ApprovalRequest, Database, MissingExtra
from holdfast.checkpointing.sql import queries

from .errors import AlreadyQueued, InvalidThread, ThreadExists, UnknownThread
from .jobs import LONGEST, Job, Segment, timed
from .state import checked_name

SQL: Final = queries("jobs")
THREADS: Final = queries("threads")
_LISTED: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A thread that waits for a worker, is run by one, or could not go on."""

    thread_id: str
    graph: str
    state: str
    """`queued`, `running` or `failed`."""
    error: str | None
    """What its last attempt ended in, if it did not go on."""
    attempts: int
    since: datetime | None


class Dispatcher:
    """Puts segments of threads into the queue; methods have an async twin `a…`.

    While it is attached to a database, each decision that settles the last open request of a task enqueues what
    lets the thread go on, and each request that can expire what ends it: with the change, or not at all.
    """

    def __init__(self, database: Database) -> None:
        """`attach` is what you want.

        Raises:
            MissingExtra: procrastinate is not installed.
        """
        require_engine()
        self._database = database
        self._before: Also | None = None

    @classmethod
    def attach(cls, database: Database) -> Dispatcher:
        """A dispatcher that hears of all that this `Database` records; the queue's tables are made if need be.

        What else was told of changes (`Approvals.also`) still is, and first.

        Raises:
            MissingExtra: procrastinate is not installed.
            SetupRefused: the database role may not create the queue's schema.
        """
        dispatcher = cls(database)
        from .engine import set_up

        database.transact(set_up)
        return dispatcher._listen()

    @classmethod
    async def aattach(cls, database: Database) -> Dispatcher:
        dispatcher = cls(database)
        from .engine import set_up

        await database.atransact(set_up)
        return dispatcher._listen()

    def detach(self) -> None:
        """Hear no more."""
        if self._database.approvals.also == self.changed:
            self._database.approvals.also = self._before

    def submit(
        self,
        graph: str,
        given: Mapping[str, Any],
        thread_id: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Have a worker run a graph on a new thread; the input is JSON, `settings` are kept with the thread.

        Raises:
            ThreadExists: the thread is there, or waits for its first segment.
            InvalidThread: the thread or the graph cannot be called so.
        """
        self._database.transact(lambda connection: self.submitting(connection, graph, given, thread_id, settings))

    async def asubmit(
        self,
        graph: str,
        given: Mapping[str, Any],
        thread_id: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        await self._database.atransact(
            lambda connection: self.submitting(connection, graph, given, thread_id, settings)
        )

    async def submitting(
        self,
        connection: AsyncConnection[Any],
        graph: str,
        given: Mapping[str, Any],
        thread_id: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`submit` in a transaction of yours, on a connection to the same database: with it, or not at all."""
        segment = Segment(thread_id=checked_name(thread_id), graph=_checked(graph), cause="submitted", given=given)
        saved, queued = await _begun(connection, thread_id)
        if saved or queued:
            raise ThreadExists(f"thread {thread_id!r} exists already; choose another name")
        if settings is not None:
            parameters = {"thread_id": thread_id, "settings": Jsonb(dict(settings))}
            await connection.execute(THREADS["remember_thread"], parameters)
        await self.enqueue(connection, segment.job())

    def resume(self, graph: str, thread_id: str) -> None:
        """Have a worker go on with a thread that has failed or was stopped.

        Raises:
            UnknownThread: there is no such thread.
            AlreadyQueued: it waits for a worker already, or is run by one.
        """
        self._database.transact(lambda connection: self._resume(connection, graph, thread_id))

    async def aresume(self, graph: str, thread_id: str) -> None:
        await self._database.atransact(lambda connection: self._resume(connection, graph, thread_id))

    async def _resume(self, connection: AsyncConnection[DictRow], graph: str, thread_id: str) -> None:
        segment = Segment(thread_id=checked_name(thread_id), graph=_checked(graph), cause="resumed")
        saved, queued = await _begun(connection, thread_id)
        if queued:
            raise AlreadyQueued(thread_id)
        if not saved:
            raise UnknownThread(thread_id)
        await self.enqueue(connection, segment.job())

    async def enqueue(self, connection: AsyncConnection[Any], job: Job) -> bool:
        """Enqueue a job in the connection's transaction; false if one with its cause waits already."""
        from .engine import defer

        return await defer(connection, job)

    async def changed(self, connection: AsyncConnection[Any], request: ApprovalRequest, change: str) -> None:
        """What a change of a request is followed by; called in its transaction."""
        if self._before is not None:
            await self._before(connection, request, change)
        for job in timed(request, change):
            await self.enqueue(connection, job)
        if request.settled and change != "waived" and request.graph_id and await _last(connection, request):
            segment = Segment(thread_id=request.thread_id, graph=request.graph_id, cause="decided", why=request.task_id)
            await self.enqueue(connection, segment.job())

    def _listen(self) -> Dispatcher:
        self._before, self._database.approvals.also = self._database.approvals.also, self.changed
        return self


async def queued(database: Database, thread_id: str | None = None, *, limit: int = _LISTED) -> list[Queued]:
    """Threads that wait for a worker, are run by one, or could not go on; none where there is no queue."""

    async def found(connection: AsyncConnection[Any]) -> list[Queued]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SQL["jobs_there"])
            there = await cursor.fetchone()
            if there is None or not next(iter(there.values())):
                return []
            await cursor.execute(SQL["queued"], {"thread_id": thread_id, "limit": limit})
            rows = [Queued(**row) for row in await cursor.fetchall()]
        # A thread that is run may have more to do already: that it is run says more.
        by_thread = {one.thread_id: one for one in sorted(rows, key=lambda one: one.state == "running")}
        return [one for one in rows if by_thread[one.thread_id] is one]

    return await database.atransact(found)


async def _begun(connection: AsyncConnection[Any], thread_id: str) -> tuple[bool, bool]:
    """Whether a thread has anything saved, and whether it waits for a worker or has one."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(SQL["lock_thread"], {"thread_id": thread_id})
        # A statement of its own: it sees what was committed by whoever held the lock before.
        await cursor.execute(SQL["begun"], {"thread_id": thread_id})
        row = await cursor.fetchone()
    assert row is not None
    return bool(row["saved"]), bool(row["queued"])


async def _last(connection: AsyncConnection[Any], request: ApprovalRequest) -> bool:
    """Whether no request of its task is open any more."""
    task = {"thread_id": request.thread_id, "task_id": request.task_id}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(SQL["lock_task"], task)
        await cursor.execute(SQL["task_open"], task)
        row = await cursor.fetchone()
    assert row is not None
    return not row["open"]


def _checked(graph: str) -> str:
    if not graph.strip() or len(graph) > LONGEST or not graph.isprintable():
        raise InvalidThread(f"{graph[:60]!r} cannot name a graph: 1 to {LONGEST} printable characters")
    return graph


def require_engine() -> None:
    """Raises `MissingExtra`: procrastinate is not installed."""
    try:
        importlib.import_module(f"{__package__}.engine")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("procrastinate"):
            raise
        raise MissingExtra("worker", "the queue of runs", instead="run threads here (holdfast run)") from None
