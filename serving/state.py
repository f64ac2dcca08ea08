"""Where an outreach thread stands, and how it is run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from holdfast.checkpointing import Database
from holdfast.graphs.outreach import build
from holdfast.nodes import OfflineExtractiveModel

from .errors import InvalidThread, UnknownGraph, UnknownThread

GRAPH: Final = "outreach"
Status = Literal["waiting", "finished", "rejected", "failed", "stopped"]
Compiled = CompiledStateGraph[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a thread is run; kept in the database, so that a resume runs it the same way.

    `timeout` is seconds for one stage; `smtp` says whether it delivers by SMTP (the password stays in the
    environment); `dossiers` is the folder that dossiers must lie in, if any. `budget` is what the run may spend in US
    dollars, `price` the model's as `IN,OUT` for a million tokens, `tenant` who pays beside the agent. The defaults are
    for threads that a server began: they take the server's environment.
    """

    model: str = field(default_factory=lambda: os.environ.get("HOLDFAST_MODEL") or "offline")
    outbox: str = field(default_factory=lambda: os.environ.get("HOLDFAST_OUTBOX") or "outbox")
    timeout: float = 600.0
    smtp: bool = field(default_factory=lambda: bool(os.environ.get("HOLDFAST_SMTP_URL")))
    dossiers: str | None = field(default_factory=lambda: os.environ.get("HOLDFAST_DOSSIERS") or ".")
    correlation_id: str | None = None
    budget: str | None = field(default_factory=lambda: os.environ.get("HOLDFAST_BUDGET") or None)
    price: str | None = field(default_factory=lambda: os.environ.get("HOLDFAST_PRICE") or None)
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """Where a thread stands; `node` is the one that runs next, waits or failed."""

    thread_id: str
    status: Status
    node: str | None
    values: Mapping[str, Any]
    settings: Settings
    updated_at: datetime | None = None
    error: str | None = None

    @property
    def next_command(self) -> str | None:
        """What a person would type now."""
        if self.status == "waiting":
            return command("approve", self.thread_id)
        return command("resume", self.thread_id) if self.status in {"failed", "stopped"} else None


def command(*words: str) -> str:
    """A holdfast command that can be pasted into a shell, whatever the thread is called.

    >>> command("resume", "my thread; echo hi")
    "holdfast resume 'my thread; echo hi'"
    """
    return shlex.join(["holdfast", *words])


def checked_name(name: str, limit: int = 200) -> str:
    """A thread's name.

    Raises:
        InvalidThread: it is empty, too long, begins like an option, or holds control characters.
    """
    if not name.strip() or len(name) > limit or not name.isprintable() or name.startswith("-"):
        raise InvalidThread(f"{name[:60]!r} cannot name a thread: 1 to {limit} printable characters, not a - first")
    return name


async def read(database: Database, thread_id: str) -> ThreadState:
    """Where a thread stands; neither its model nor its mail server is needed.

    Raises:
        UnknownThread, UnknownGraph: there is no such thread, or it is not an outreach run.
    """
    found = await database.saver.aget_tuple({"configurable": {"thread_id": checked_name(thread_id)}})
    if found is None:
        raise UnknownThread(thread_id)
    if found.metadata.get("graph_id") != GRAPH:
        raise UnknownGraph(
            f"thread {thread_id!r} is not an outreach run of this command or of a LangGraph server; a graph of your "
            f"own is resumed by your own program (or give it configurable graph_id={GRAPH!r})"
        )
    return await _read(_reader(database), database, thread_id)


async def survey(database: Database, limit: int) -> list[ThreadState]:
    """Where the most recent outreach threads stand, newest first."""
    graph = _reader(database)
    return [
        await _read(graph, database, record.thread_id)
        for record in await database.threads.arecent(limit, graph_id=GRAPH)
    ]


def _reader(database: Database) -> Compiled:
    builder = build(OfflineExtractiveModel(), database=lambda: database)
    return builder.compile(checkpointer=database.saver, name=GRAPH)


async def _read(graph: Compiled, database: Database, thread_id: str) -> ThreadState:
    snapshot = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    settings = Settings(**await database.threads.arecall(thread_id))
    status, error = status_of(snapshot)
    return ThreadState(
        thread_id=thread_id,
        status=status,
        node=snapshot.next[0] if snapshot.next else None,
        values=snapshot.values,
        settings=settings,
        updated_at=datetime.fromisoformat(snapshot.created_at) if snapshot.created_at else None,
        error=error,
    )


def status_of(snapshot: StateSnapshot) -> tuple[Status, str | None]:
    """A snapshot's status, and its error if it failed."""
    if snapshot.interrupts:
        return "waiting", None
    if not snapshot.tasks:
        approval: Mapping[str, Any] | None = snapshot.values.get("approval")
        return ("rejected" if approval and approval["decision"] == "rejected" else "finished"), None
    # A second Ctrl-C cancels the node that runs; LangGraph records that as its error, but nothing failed.
    errors = (str(task.error) for task in snapshot.tasks if task.error)
    error = next((text for text in errors if not text.startswith("CancelledError(")), None)
    return ("failed" if error else "stopped"), error


def utc(moment: datetime | None) -> str:
    """A moment as people read it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""
