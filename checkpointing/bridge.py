"""One event loop in a background thread, on which all database work runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import psycopg
from anyio.from_thread import start_blocking_portal
from psycopg_pool import PoolClosed, PoolTimeout

from .errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_CONNECTION_LOST = ("08", "57P")
"""SQLSTATE prefixes of a connection that is gone (PostgreSQL manual, appendix A)."""


class Bridge:
    """Runs coroutine functions on its own loop, for sync and for async callers alike.

    The database's loop is not the caller's: a caller that blocks its own loop stalls nobody, one
    `Database` serves many loops (a notebook's, a server's, a test's), and on Windows psycopg gets
    the selector loop that it needs whatever loop the program runs.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(
            start_blocking_portal("asyncio", {"loop_factory": asyncio.SelectorEventLoop}, name="holdfast-database")
        )

    def call(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `func` on the database's loop and wait for its result.

        Raises:
            DatabaseUnavailable: the connection is lost, or none was free in time.
        """
        with connection_errors():
            return self._portal.start_task_soon(lambda: func(*args, **kwargs)).result()

    async def acall(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` for a coroutine on any asyncio loop; cancelling it cancels the work."""
        with connection_errors():
            return await asyncio.wrap_future(self._portal.start_task_soon(lambda: func(*args, **kwargs)))

    async def acall_to_end(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """`acall` for writes: cancelling it, or the end of the caller's loop, does not cut the work short."""
        with connection_errors():
            return await asyncio.shield(
                asyncio.wrap_future(self._portal.start_task_soon(lambda: func(*args, **kwargs)))
            )

    def close(self) -> None:
        """Stop the loop and join its thread."""
        self._stack.close()


@contextmanager
def connection_errors() -> Generator[None]:
    """Turn psycopg's many ways of saying 'no connection' into `DatabaseUnavailable`."""
    try:
        yield
    except (PoolTimeout, PoolClosed) as error:
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
