"""Threads: which there are, how each is run, and who runs it at this moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from .bridge import Bridge
from .errors import ThreadBusy
from .sql import queries

SQL: Final = queries("threads")
_LOCK_SEED: Final = 0x74687265
"""Keeps our thread locks apart from other users of hashtextextended: 'thre' in ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRecord:
    """A thread's newest checkpoint; `metadata` is what the run was configured with, by whoever started it."""

    thread_id: str
    updated_at: datetime
    metadata: dict[str, Any]


class Threads:
    """Got from `Database.threads`; methods have an async twin `a…`, except `hold`, which is async only."""

    def __init__(
        self,
        bridge: Bridge,
        pool: AsyncConnectionPool[AsyncConnection[DictRow]],
        connect: Callable[[], Awaitable[AsyncConnection[DictRow]]],
    ) -> None:
        self._bridge = bridge
        self._pool = pool
        self._connect = connect

    @asynccontextmanager
    async def hold(self, thread_id: str) -> AsyncGenerator[None]:
        """Keep others from running this thread, for the length of the block.

        The lock lives in one database session and goes with it, so a killed process leaves none. It is a
        lock, not a fence: where the server ends that session, another may take the thread meanwhile.

        Raises:
            ThreadBusy: another process holds the thread.
        """
        connection = await self._bridge.acall(self._lock, thread_id)
        try:
            yield
        finally:
            await self._bridge.acall_to_end(self._unlock, connection, thread_id)

    async def _unlock(self, connection: AsyncConnection[DictRow], thread_id: str) -> None:
        # The server lets go of a session's locks when it comes to see that the session is gone: not at once.
        with suppress(psycopg.Error):  # if it is gone by now, its lock is too
            await connection.execute(SQL["unlock_thread"], {"thread_id": thread_id, "seed": _LOCK_SEED})
        await connection.close()

    async def _lock(self, thread_id: str) -> AsyncConnection[DictRow]:
        connection = await self._connect()
        try:
            parameters = {"thread_id": thread_id, "seed": _LOCK_SEED}
            row = await (await connection.execute(SQL["try_lock_thread"], parameters)).fetchone()
            if row is None or not row["held"]:
                raise ThreadBusy(thread_id)
        except BaseException:
            await connection.close()
            raise
        return connection

    def recent(self, limit: int = 50, *, graph_id: str | None = None) -> list[ThreadRecord]:
        """The threads that were active last, newest first; of one graph, if one is named."""
        return self._bridge.call(self._recent, limit, graph_id)

    async def arecent(self, limit: int = 50, *, graph_id: str | None = None) -> list[ThreadRecord]:
        return await self._bridge.acall(self._recent, limit, graph_id)

    async def _recent(self, limit: int, graph_id: str | None) -> list[ThreadRecord]:
        parameters = {"limit": limit, "graph_id": graph_id}
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["list_threads"], parameters)).fetchall()
        return [
            ThreadRecord(thread_id=row["thread_id"], updated_at=row["updated_at"], metadata=row["metadata"])
            for row in rows
        ]

    def remember(self, thread_id: str, settings: Mapping[str, Any]) -> None:
        """Keep how a thread is run; what was kept before is replaced."""
        self._bridge.call(self._remember, thread_id, settings)

    async def aremember(self, thread_id: str, settings: Mapping[str, Any]) -> None:
        await self._bridge.acall_to_end(self._remember, thread_id, settings)

    async def _remember(self, thread_id: str, settings: Mapping[str, Any]) -> None:
        async with self._pool.connection() as connection:
            parameters = {"thread_id": thread_id, "settings": Jsonb(dict(settings))}
            await connection.execute(SQL["remember_thread"], parameters)

    def recall(self, thread_id: str) -> dict[str, Any]:
        """How the thread is run; empty for one that was not started through `remember`."""
        return self._bridge.call(self._recall, thread_id)

    async def arecall(self, thread_id: str) -> dict[str, Any]:
        return await self._bridge.acall(self._recall, thread_id)

    async def _recall(self, thread_id: str) -> dict[str, Any]:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(SQL["recall_thread"], {"thread_id": thread_id})).fetchone()
        return dict(row["settings"]) if row else {}
