"""One event loop in a background thread, on which all database work runs."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from .errors import DatabaseClosed, DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_CONNECTION_LOST = ("08", "57P")
"""SQLSTATE prefixes of a connection that is gone (PostgreSQL manual, appendix A)."""


class Bridge:
    """Runs coroutine functions on its own loop, for sync and for async callers alike.

    The database's loop is not the caller's: a caller that blocks its own loop stalls nobody, one
    `Database` serves many loops (a notebook's, a server's, a test's), and on Windows psycopg gets
    the selector loop that it needs whatever loop the program runs. Not anyio's blocking portal:
    a portal that nobody closed keeps the interpreter from exiting, and hangs a forked child.
    """

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast-database", daemon=True)
        self._pid = os.getpid()
        self._under_way: set[Future[Any]] = set()
        self._closed = False
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether the loop runs, in this process."""
        return not self._closed and os.getpid() == self._pid

    @property
    def is_here(self) -> bool:
        """Whether the caller's thread is the loop's own."""
        return threading.current_thread() is self._thread

    def call(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `func` on the database's loop and wait for its result.

        Raises:
            DatabaseUnavailable: the connection is lost, or none was free in time.
            DatabaseClosed: the database was closed, or opened by the process that forked this one.
        """
        with connection_errors():
            return self._submit(func, *args, **kwargs).result()

    async def acall(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` for a coroutine on any asyncio loop; cancelling it cancels the work."""
        with connection_errors():
            return await asyncio.wrap_future(self._submit(func, *args, **kwargs))

    async def acall_to_end(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """`acall` for writes: cancelling it, or the end of the caller's loop, does not cut the work short."""
        with connection_errors():
            return await asyncio.shield(asyncio.wrap_future(self._submit(func, *args, **kwargs)))

    def begin(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> None:
        """`call` that waits for nothing, and so may come from the loop itself."""
        self._started(func, *args, **kwargs)

    def check(self) -> None:
        """Raise `DatabaseClosed` unless the loop runs, in this process."""
        if not self.usable:
            why = "it was closed" if self._closed else "it was opened before this process was forked"
            raise DatabaseClosed(f"this Database cannot be used any more: {why}; open another")

    def _submit(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self.is_here:
            raise RuntimeError("a sync call from the database's own loop would wait for itself")
        return self._started(func, *args, **kwargs)

    def _started(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.check()

        async def run() -> T:
            return await func(*args, **kwargs)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def close(self) -> None:
        """Finish what is under way, stop the loop and join its thread; harmless twice, and after a fork."""
        if not self.usable:
            return
        self._closed = True
        wait(list(self._under_way))
        asyncio.run_coroutine_threadsafe(_cancel_the_rest(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_the_rest() -> None:
    # The official store keeps a task of its own running for as long as its loop does.
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


@contextmanager
def connection_errors() -> Generator[None]:
    """Turn psycopg's many ways of saying 'no connection' into `DatabaseUnavailable`."""
    try:
        yield
    except PoolClosed:
        raise DatabaseClosed("this Database cannot be used any more: it was closed; open another") from None
    except PoolTimeout as error:
        raise DatabaseUnavailable(f"no database connection could be had: {one_line(error)}") from error
    except psycopg.OperationalError as error:
        if error.sqlstate is not None and not error.sqlstate.startswith(_CONNECTION_LOST):
            raise
        raise DatabaseUnavailable(
            f"the database went away: {one_line(error)}; what was committed is kept, resume when it is back"
        ) from error


def one_line(error: BaseException) -> str:
    """The error's text on one line, without a password that a connection string may carry."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r":[^:@/\s]+@", ":***@", re.sub(r"password=\S+", "password=***", text))
