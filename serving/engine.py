"""procrastinate, a task queue in Postgres, in a schema of its own. The only module that imports it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.connector import Notify
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job as QueuedJob
from procrastinate.jobs import Status
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from holdfast.checkpointing import DatabaseUnavailable
from holdfast.checkpointing.connections import is_lost
from holdfast.checkpointing.migrate import SetupRefused
from holdfast.checkpointing.sql import queries

from .jobs import SCHEMA, Job

SQL: Final = queries("jobs")
T = TypeVar("T")
_SETUP: Final = 0x6A6F6273
"""The advisory lock that set-up takes: 'jobs' in ASCII."""
_PAUSES: Final = (0.05, 0.5, 2.0, 5.0, 10.0)
"""Seconds between attempts: a server that restarts is back within them."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
Version = tuple[int, int, int]


class Later(Exception):
    """The job is to be done later, by whoever comes by it; that is no failure."""

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        super().__init__(f"to be done in {seconds:g} s")


class _GiveBack(BaseRetryStrategy):
    """Back to the queue where a job says so; all else has ended."""

    def get_retry_decision(self, *, exception: BaseException, job: QueuedJob) -> RetryDecision | None:
        if isinstance(exception, Later):
            return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=exception.seconds))
        return None


GIVE_BACK: Final = _GiveBack()


class PatientConnector(PsycopgConnector):
    """Tries again where the connection is lost: a worker outlives a restart of the server."""

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        await self._patiently(lambda: super(PatientConnector, self).execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        return await self._patiently(lambda: super(PatientConnector, self).execute_query_one_async(query, **arguments))

    async def execute_query_all_async(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        return await self._patiently(lambda: super(PatientConnector, self).execute_query_all_async(query, **arguments))

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        while True:
            try:
                await super().listen_notify(on_notification, channels)
            except ConnectorException as error:
                if error.__cause__ is None or not is_lost(error.__cause__):
                    raise
                await asyncio.sleep(_PAUSES[1])

    async def _patiently(self, query: Callable[[], Awaitable[T]]) -> T:
        for pause in _PAUSES:
            try:
                return await query()
            except ConnectorException as error:
                if error.__cause__ is None or not is_lost(error.__cause__):
                    raise
                await asyncio.sleep(pause)
        return await query()


class OwnJobs(JobManager):
    """A worker ends and gives back only jobs that are still its own.

    procrastinate looks at a job's id only: a worker that was thought dead, and is merely slow, would end a job that
    another has taken over, whose work nobody would do if that one died.
    """

    async def finish_job(self, job: QueuedJob, status: Status, delete_job: bool) -> None:
        await self._own(SQL["finish_own_job"], job)

    async def retry_job(
        self,
        job: QueuedJob,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        await self._own(SQL["retry_own_job"], job, retry_at=retry_at or datetime.now(UTC))

    async def _own(self, query: bytes, job: QueuedJob, **more: Any) -> None:
        statement: Any = query.decode()  # it takes literals only, and this one is of a file of ours
        await self.connector.execute_query_async(statement, job_id=job.id, worker_id=job.worker_id, **more)


def app_on(conninfo: str) -> App:
    """An app that works on the queue; it is opened by whoever runs it."""
    given = str(conninfo_to_dict(conninfo).get("options") or "")
    connector = PatientConnector(
        conninfo=make_conninfo(conninfo, options=f"{given} -c search_path={SCHEMA}".strip()),
        min_size=1,
        max_size=4,
        # Nothing of a statement stays in a session, so that a pooler may lend sessions out for a transaction each.
        kwargs={"prepare_threshold": None, "connect_timeout": 10, "application_name": "holdfast-worker"},
    )
    app = App(connector=connector)
    app.job_manager = OwnJobs(connector)
    return app


_ENQUEUING: Final = App(connector=PsycopgConnector())
"""Never opened: jobs are enqueued on the connections of those who have a reason for them."""


async def defer(connection: AsyncConnection[Any], job: Job) -> bool:
    """Enqueue a job in the connection's transaction; whether none with its cause waits already."""
    try:
        # In a savepoint: a duplicate is refused by an error.
        async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(SQL["to_jobs"], {"schema": SCHEMA})
            before = await cursor.fetchone()
            deferrer = _ENQUEUING.configure_task(
                job.task,
                queue=job.queue,
                lock=job.lock,
                queueing_lock=job.cause,
                schedule_at=job.at,
                priority=job.priority,
                connection=connection,
            )
            await deferrer.defer_async(**job.arguments)
            assert before is not None
            await cursor.execute(SQL["back_from_jobs"], {"path": before[0]})
    except AlreadyEnqueued:
        return False
    return True


async def set_up(connection: AsyncConnection[Any]) -> None:
    """Create or upgrade the queue's tables in the connection's transaction, however many do so at once.

    Raises:
        SetupRefused: the role may not; the text says which statement to run.
    """
    try:
        await _set_up(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupRefused(
            f"this database role may not set the queue up ({error.diag.message_primary}); have the database's owner "
            f"run: CREATE SCHEMA {SCHEMA} AUTHORIZATION <role>"
        ) from error


async def _set_up(connection: AsyncConnection[Any]) -> None:
    installed = version("procrastinate")
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(SQL["lock_jobs_setup"], {"key": _SETUP})
        await cursor.execute(SQL["jobs_version"], {"schema": SCHEMA})
        row = await cursor.fetchone()
        if row is None:
            await cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        found: str | None = row[0] if row is not None else None
        if found is not None and _numbers(found) >= _numbers(installed):
            return
        await cursor.execute(SQL["to_jobs"], {"schema": SCHEMA})
        before = await cursor.fetchone()
        assert before is not None
        for statements in [SchemaManager.get_schema()] if found is None else _migrations(_numbers(found)):
            await connection.execute(statements.encode(), prepare=False)  # several statements in one
        await cursor.execute(SQL["create_failures"])
        comment = sql.SQL("COMMENT ON SCHEMA {} IS {}")
        await cursor.execute(comment.format(sql.Identifier(SCHEMA), sql.Literal(f"procrastinate {installed}")))
        await cursor.execute(SQL["back_from_jobs"], {"path": before[0]})


def _migrations(after: Version) -> list[str]:
    """procrastinate's own steps from one version to this one: what goes before the new code, and what after."""
    folder = files("procrastinate") / "sql" / "migrations"
    steps = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in steps if _numbers(name) > after]


def _numbers(text: str) -> Version:
    found = _VERSION.search(text)
    assert found is not None
    return int(found[1]), int(found[2]), int(found[3])


async def give_back(app: App, job_id: int) -> None:
    """A job whose worker is gone waits again; where another with its cause does, that one is enough."""
    try:
        await app.job_manager.retry_job_by_id_async(job_id, retry_at=datetime.now(UTC))
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            await app.job_manager.finish_job_by_id_async(job_id, status=Status.FAILED, delete_job=True)
        elif not isinstance(error.__cause__, psycopg.errors.RaiseException):  # it has ended meanwhile
            raise unavailable(error) from error


def unavailable(error: ConnectorException) -> Exception:
    """The queue's error as one of ours, if the database is away."""
    cause = error.__cause__
    if cause is not None and is_lost(cause):
        return DatabaseUnavailable("the database of the queue went away; the worker tries again")
    return error
