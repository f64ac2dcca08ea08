"""What `langgraph.json` names: the checkpointer and the store of a LangGraph server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from holdfast.checkpointing import Database, HoldfastSaver, HoldfastStore


@asynccontextmanager
async def checkpointer() -> AsyncGenerator[HoldfastSaver]:
    """The process's shared database as the server's checkpointer; closed at exit."""
    yield (await asyncio.to_thread(Database.shared)).saver


@asynccontextmanager
async def store() -> AsyncGenerator[HoldfastStore]:
    """The process's shared database as the server's store."""
    yield (await asyncio.to_thread(Database.shared)).store
