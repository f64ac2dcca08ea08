"""What `langgraph.json` names: the checkpointer and the store of a LangGraph server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from holdfast.checkpointing import Database, HoldfastSaver, HoldfastStore

_lock = threading.Lock()
_users = 0


@asynccontextmanager
async def checkpointer() -> AsyncGenerator[HoldfastSaver]:
    """The process's shared database as the server's checkpointer."""
    async with _shared() as database:
        yield database.saver


@asynccontextmanager
async def store() -> AsyncGenerator[HoldfastStore]:
    """The process's shared database as the server's store."""
    async with _shared() as database:
        yield database.store


@asynccontextmanager
async def _shared() -> AsyncGenerator[Database]:
    """The shared database until the last user leaves: a server that gets SIGTERM runs no exit handlers."""
    _count(1)
    try:
        yield await asyncio.to_thread(Database.shared)
    finally:
        if _count(-1) == 0:
            await asyncio.to_thread(Database.close_shared)


def _count(change: int) -> int:
    global _users  # noqa: PLW0603 - the server enters these from several threads, each with contexts of its own
    with _lock:
        _users += change
        return _users
