"""What a worker looks at every few seconds, so that nothing depends on somebody having been there at the time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from psycopg.rows import dict_row

from holdfast.checkpointing import Database
from holdfast.checkpointing.sql import queries

from .engine import defer, give_back
from .jobs import Segment

SQL: Final = queries("jobs")
_TAKEOVER: Final = 0x74616B65
"""The advisory lock of whoever takes over: 'take' in ASCII."""
RECENT: Final = timedelta(minutes=15)
"""Decisions that every sweep looks at; older ones are looked at now and then."""
_ALL: Final = 600.0
"""Seconds between looks at all of them."""
_KEPT: Final = 10_000


@dataclass(slots=True, eq=False)
class Sweeps:
    """The looks of one worker."""

    database: Database
    app: App
    silent: float
    _told: set[tuple[str, str, str]] = field(init=False, default_factory=set[tuple[str, str, str]])
    """What it has enqueued of what was overlooked: thread, task, and the checkpoint at which the thread stood."""
    _next_full: float = field(init=False, default=0.0)
    _lost: set[int] = field(init=False, default_factory=set[int])

    async def sweep(self, worker_id: int | None, running: set[int]) -> None:
        """Do what is due; take over what dead workers did; go on with what was decided where nobody was told."""
        await self.database.approvals.atend()
        await self._overlooked()
        await self._take_over()
        await self._own(worker_id, running)

    async def _overlooked(self) -> None:
        """Threads whose requests were decided by a process without a dispatcher.

        Whether such a thread still waits is read from the thread itself: its newest checkpoint holds the pause of the
        task that asked, and is followed by another as soon as it goes on. A mark on the request would have to be
        written by whoever resumes, which may be any program.
        """
        now = self.database.approvals.clock() or datetime.now(UTC)
        full = time.monotonic() >= self._next_full
        since = None if full else now - RECENT
        await self.database.atransact(lambda connection: self._enqueue(connection, since))
        if full:
            self._next_full = time.monotonic() + _ALL

    async def _enqueue(self, connection: Any, since: datetime | None) -> None:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SQL["overlooked"], {"since": since})
            found = await cursor.fetchall()
        if len(self._told) > _KEPT:
            self._told.clear()
        for row in found:
            # One more question of the same task, inside of a nested graph, looks the same from here: told once only.
            key = (row["thread_id"], row["task_id"], row["checkpoint_id"])
            if key not in self._told:
                self._told.add(key)
                segment = Segment(
                    thread_id=row["thread_id"], graph=row["graph_id"], cause="decided", why=row["task_id"]
                )
                await defer(connection, segment.job())

    async def _take_over(self) -> None:
        """Jobs of workers that have been silent for too long wait again."""
        pool = cast("PsycopgConnector", self.app.connector).pool
        async with pool.connection() as connection, connection.transaction():
            held = await (await connection.execute(SQL["try_lock_takeover"], {"key": _TAKEOVER})).fetchone()
            # One at a time: a job that another has just given back may have a new worker by now.
            if held is not None and held[0]:
                stalled = await self.app.job_manager.get_stalled_jobs(seconds_since_heartbeat=self.silent)
                for job in stalled:
                    assert job.id is not None
                    await give_back(self.app, job.id)

    async def _own(self, worker_id: int | None, running: set[int]) -> None:
        """Jobs that the queue holds to be ours and that we do not run: its answer was lost on the way."""
        if worker_id is None:
            return
        jobs = await self.app.job_manager.list_jobs_async(status=Status.DOING.value, worker_id=worker_id)
        lost = {job.id for job in jobs if job.id is not None} - running
        for job_id in lost & self._lost:  # seen twice: those between were just beginning or ending
            await give_back(self.app, job_id)
        self._lost = lost
