"""Statements written once, run on whichever connections there are: our own pool, or one that is handed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.errors import DeadlockDetected, SerializationFailure
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .arrays import adapt

T = TypeVar("T")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Within:
    """A step that is no statement: a function of the connection on which the steps are, in their transaction.

    What it does is done as a whole: an error that it did not let out, and that the server has not forgotten, is one.
    """

    soon: Callable[[AsyncConnection[Any]], Awaitable[None]]
    now: Callable[[Connection[Any]], None]
    """Where the connection is one of those that block."""


Steps = Generator[tuple[bytes, Mapping[str, Any]] | Within, Rows, T]
"""A piece of database work: yields statements with their parameters, is sent the rows, returns its result."""

_PAUSES: Final = (0.05, 0.5, 2.0)
"""Seconds between attempts: a server that restarts is back within them."""
_SCANS: Final = ("seqscan", "hashjoin", "mergejoin")


class Connections(Protocol):
    """Where statements are run, on the loop where we run."""

    async def run(self, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
        """Run the steps on one connection; in one transaction, if asked."""
        ...


class BlockingConnections(Protocol):
    """Where statements are run by a thread that waits for them."""

    def run(self, steps: Callable[[], Steps[T]]) -> T:
        """Run the steps on one connection."""
        ...

    def close(self) -> None:
        """Close what is our own."""
        ...


async def run_again(connections: Connections, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
    """Run the steps; on a lost connection or a deadlock again. They must be harmless to repeat.

    Raises:
        psycopg.OperationalError: the connection was lost at every attempt.
    """
    for pause in _PAUSES:
        try:
            return await connections.run(steps, transaction=transaction)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not _again(error):
                raise
            await asyncio.sleep(pause)
    return await connections.run(steps, transaction=transaction)


def run_again_blocking(connections: BlockingConnections, steps: Callable[[], Steps[T]]) -> T:
    """`run_again` for a thread that waits."""
    for pause in _PAUSES:
        try:
            return connections.run(steps)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not _again(error):
                raise
            time.sleep(pause)
    return connections.run(steps)


def _again(error: psycopg.Error) -> bool:
    # Two that waited for each other, or changed what the other stood on: the server took one of them back.
    return isinstance(error, DeadlockDetected | SerializationFailure) or is_lost(error)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and not the statement wrong."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # SQLSTATE classes of a connection that is gone (PostgreSQL manual, appendix A); none: libpq's own.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


class OwnConnections:
    """The database's pool, on the loop where we run."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def run(self, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
        async with self._pool.connection() as connection:
            return await _drive(connection, steps(), transaction=transaction)


class KeptConnection:
    """One connection for commits, opened at first use, and again when it was lost."""

    def __init__(self, connect: Callable[[], Connection[Any]]) -> None:
        self._connect = connect
        self._connection: Connection[Any] | None = None

    def run(self, steps: Callable[[], Steps[T]]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            # The commit statement is large and its rows are few: planning it anew each time would take longer
            # than running it. It looks rows up by primary key, whatever the statistics say of a table.
            for setting in ("plan_cache_mode = force_generic_plan", *(f"enable_{way} = off" for way in _SCANS)):
                self._connection.execute(f"SET {setting}".encode(), prepare=False)
        try:
            return _drive_blocking(self._connection, steps())
        except psycopg.Error as error:
            if self._connection.closed or is_lost(error):
                self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class LoopConnections:
    """A pool that lives on somebody else's loop."""

    def __init__(self, pool: AsyncConnectionPool[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._own = OwnConnections(pool)
        self._loop = loop

    async def run(self, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
        return await asyncio.wrap_future(self._there(steps, transaction))

    def blocking(self) -> Waiting:
        """The same, for a thread that waits."""
        return Waiting(lambda steps: self._there(steps, False).result())

    def _there(self, steps: Callable[[], Steps[T]], transaction: bool) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(self._own.run(steps, transaction=transaction), self._loop)


class ThreadConnections:
    """A pool of blocking connections, used in threads."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    async def run(self, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
        return await asyncio.to_thread(self._run, steps, transaction)

    def blocking(self) -> Waiting:
        """The same, for a thread that waits."""
        return Waiting(lambda steps: self._run(steps, False))

    def _run(self, steps: Callable[[], Steps[T]], transaction: bool) -> T:
        with self._pool.connection() as connection:
            if transaction:
                with connection.transaction():
                    return _drive_blocking(connection, steps())
            return _drive_blocking(connection, steps())


class Waiting:
    """`BlockingConnections` by a function; what it uses is not ours to close."""

    def __init__(self, run: Callable[[Callable[[], Steps[Any]]], Any]) -> None:
        self._run = run

    def run(self, steps: Callable[[], Steps[T]]) -> T:
        done: T = self._run(steps)
        return done

    def close(self) -> None:
        """Nothing is ours."""


async def _drive(connection: AsyncConnection[Any], steps: Steps[T], *, transaction: bool) -> T:
    if transaction:
        async with connection.transaction():
            return await _drive(connection, steps, transaction=False)
    adapt(connection)
    async with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Within):
                    async with connection.transaction():
                        await step.soon(connection)
                    step = steps.send([])
                else:
                    await cursor.execute(*step)
                    step = steps.send(await cursor.fetchall() if cursor.description else [])
        except StopIteration as end:
            result: T = end.value
            return result


def _drive_blocking(connection: Connection[Any], steps: Steps[T]) -> T:
    adapt(connection)
    with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Within):
                    with connection.transaction():
                        step.now(connection)
                    step = steps.send([])
                else:
                    cursor.execute(*step)
                    step = steps.send(cursor.fetchall() if cursor.description else [])
        except StopIteration as end:
            result: T = end.value
            return result
