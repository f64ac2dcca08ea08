"""What `langgraph.json` names: the graph, the checkpointer and the store of a LangGraph server."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from holdfast.checkpointing import Database, HoldfastSaver, HoldfastStore
from holdfast.graphs.outreach import build
from holdfast.nodes import load_model

from .delivery import smtp_from_environment
from .paying import guardrails

_model = load_model(os.environ.get("HOLDFAST_MODEL") or "offline")
outreach = build(
    _model,
    # A server's callers are not its owner: they may name folders below this one only.
    dossiers=Path(os.environ.get("HOLDFAST_DOSSIERS") or "."),
    outbox=Path(os.environ.get("HOLDFAST_OUTBOX") or "outbox"),
    smtp=smtp_from_environment(),
    guardrails=guardrails(_model, budget=os.environ.get("HOLDFAST_BUDGET"), price=os.environ.get("HOLDFAST_PRICE")),
    stage_timeout=timedelta(minutes=10),
).compile(name="outreach")
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
