"""Running the outreach graph one segment at a time: start, resume, decide."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command, StateSnapshot, TasksStreamPart
from pydantic import ValidationError

from holdfast.checkpointing import Database, DatabaseUnavailable
from holdfast.graphs.outreach import OutreachInput, build
from holdfast.nodes import OfflineExtractiveModel, Review, SmtpServer, check_brief, load_model

from .errors import (
    ApprovalPending,
    InvalidDecision,
    InvalidThread,
    NotWaiting,
    RunFailed,
    ThreadExists,
    ThreadFinished,
    UnknownGraph,
    UnknownThread,
)

GRAPH: Final = "outreach"
Status = Literal["waiting", "finished", "rejected", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a thread is run; kept in the database, so that a resume runs it the same way.

    `timeout` is seconds for one stage. The defaults are for threads that a server began.
    """

    model: str = field(default_factory=lambda: os.environ.get("HOLDFAST_MODEL") or "offline")
    outbox: str = field(default_factory=lambda: os.environ.get("HOLDFAST_OUTBOX") or "outbox")
    timeout: float = 600.0
    correlation_id: str = field(default_factory=lambda: uuid.uuid4().hex)


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
    tokens: int = 0

    @property
    def next_command(self) -> str | None:
        """What a person would type now."""
        if self.status == "waiting":
            return f"holdfast approve {self.thread_id}"
        return f"holdfast resume {self.thread_id}" if self.status in {"failed", "stopped"} else None


class Observer(Protocol):
    """Is told what happens while a graph runs."""

    def event(self, part: TasksStreamPart, tokens: int) -> None:
        """One part of the stream (`tasks`, version 2), and the tokens spent so far."""
        ...


class Runner:
    """One thread under one set of settings."""

    def __init__(
        self, database: Database, thread_id: str, settings: Settings, *, model: BaseChatModel, actor: str
    ) -> None:
        self.database = database
        self.thread_id = thread_id
        self.settings = settings
        self.control = RunControl()
        self._usage = UsageMetadataCallbackHandler()
        self._config: RunnableConfig = {
            "configurable": {"thread_id": thread_id, "graph_id": GRAPH, "actor": actor},
            "metadata": {"correlation_id": settings.correlation_id},
            "callbacks": [self._usage],
        }
        self._graph = _compiled(database, settings, model)

    async def state(self) -> ThreadState:
        """Where the thread stands now.

        Raises:
            UnknownThread: it has no checkpoint.
        """
        snapshot = await self._graph.aget_state({"configurable": {"thread_id": self.thread_id}})
        if snapshot.created_at is None:
            raise UnknownThread(self.thread_id)
        return _state(self.thread_id, snapshot, self.settings, self._tokens())

    async def advance(self, given: OutreachInput | Command[Any] | None, observer: Observer) -> ThreadState:
        """Run until the graph ends, pauses or is asked to stop.

        Raises:
            RunFailed: a node failed, with the node's name and its error.
            DatabaseUnavailable: the database went away.
        """
        failing: str | None = None
        try:
            async for part in self._graph.astream(
                given,
                self._config,
                stream_mode="tasks",
                durability="sync",
                subgraphs=True,
                control=self.control,
                version="v2",
            ):
                if part["type"] == "tasks":
                    failing = failing if part["ns"] else part["data"]["name"]
                    observer.event(part, self._tokens())
        except GraphDrained:
            pass
        except DatabaseUnavailable:
            raise
        except Exception as error:
            where = f"{failing} failed" if failing else "the run failed"
            raise RunFailed(
                f"{where}: {type(error).__name__}: {error}; "
                f"nothing is lost, go on with: holdfast resume {self.thread_id}"
            ) from error
        return await self.state()

    def _tokens(self) -> int:
        return sum(usage["total_tokens"] for usage in self._usage.usage_metadata.values())


def _compiled(database: Database, settings: Settings, model: BaseChatModel) -> CompiledStateGraph[Any, Any, Any, Any]:
    builder = build(
        model,
        database=lambda: database,
        outbox=Path(settings.outbox),
        smtp=_smtp(),
        stage_timeout=settings.timeout,
    )
    return builder.compile(checkpointer=database.saver, store=database.store, name=GRAPH)


def _smtp() -> SmtpServer | None:
    url = os.environ.get("HOLDFAST_SMTP_URL")
    return SmtpServer.from_url(url) if url else None


def _state(thread_id: str, snapshot: StateSnapshot, settings: Settings, tokens: int) -> ThreadState:
    status: Status = "stopped"
    errors = (str(task.error) for task in snapshot.tasks if task.error)
    # A second Ctrl-C cancels the node that runs; LangGraph records that as its error, but nothing failed.
    error = next((text for text in errors if not text.startswith("CancelledError(")), None)
    if snapshot.interrupts:
        status, error = "waiting", None
    elif not snapshot.next:
        rejected = snapshot.values.get("approval", {}).get("decision") == "rejected"
        status = "rejected" if rejected else "finished"
    elif error:
        status = "failed"
    return ThreadState(
        thread_id=thread_id,
        status=status,
        node=snapshot.next[0] if snapshot.next else None,
        values=snapshot.values,
        settings=settings,
        updated_at=datetime.fromisoformat(snapshot.created_at) if snapshot.created_at else None,
        error=error,
        tokens=tokens,
    )


def new_thread_id(company: str) -> str:
    """A name for a new thread: the company's, and eight digits of chance.

    >>> new_thread_id("Tidewater Instruments, Ltd")[:-8]
    'tidewater-instruments-ltd-'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", company.lower()).strip("-")[:40]
    return f"{slug or GRAPH}-{secrets.token_hex(4)}"


@asynccontextmanager
async def new_run(
    database: Database, brief: OutreachInput, thread_id: str | None, settings: Settings, actor: str
) -> AsyncGenerator[Runner]:
    """A runner for a thread that does not exist yet, held for the length of the block.

    Raises:
        ThreadExists, InvalidThread: the name is taken, or is none.
        ThreadBusy: somebody else is starting it at this moment.
        InvalidBrief, DossierNotFound, UnknownModel: the run could not get anywhere.
    """
    check_brief(brief, needs_recipient=_smtp() is not None)
    name = _checked_name(thread_id if thread_id is not None else new_thread_id(brief["company"]))
    runner = Runner(database, name, settings, model=await _load(settings), actor=actor)
    async with database.threads.hold(name):
        if await database.saver.aget_tuple({"configurable": {"thread_id": name}}) is not None:
            raise ThreadExists(
                f"thread {name!r} exists already; resume it with `holdfast resume {name}` or choose another name"
            )
        await database.threads.aremember(name, asdict(settings))
        yield runner


async def existing(database: Database, thread_id: str, *, actor: str = "unknown", with_model: bool = False) -> Runner:
    """A runner for a thread that exists, with the settings that it was started with.

    Without its model it can tell where the thread stands and take a decision: whoever approves
    needs no provider's key.

    Raises:
        UnknownThread, UnknownGraph: there is no such thread, or it is not an outreach run.
        UnknownModel, MissingExtra: with_model, and the model cannot be had.
    """
    found = await database.saver.aget_tuple({"configurable": {"thread_id": _checked_name(thread_id)}})
    if found is None:
        raise UnknownThread(thread_id)
    graph = found.metadata.get("graph_id", "another program's")
    if graph != GRAPH:
        raise UnknownGraph(f"thread {thread_id!r} belongs to the graph {graph!r}, not to {GRAPH!r}")
    settings = Settings(**await database.threads.arecall(thread_id))
    model = await _load(settings) if with_model else OfflineExtractiveModel()
    return Runner(database, thread_id, settings, model=model, actor=actor)


async def _load(settings: Settings) -> BaseChatModel:
    # Importing a provider's package takes a second or two.
    return await asyncio.to_thread(load_model, settings.model, timeout=min(60.0, settings.timeout))


async def resumable(runner: Runner) -> None:
    """Refuse to resume what cannot go on by itself.

    Raises:
        ThreadFinished, ApprovalPending: see their names.
    """
    state = await runner.state()
    if state.status in {"finished", "rejected"}:
        raise ThreadFinished(f"thread {state.thread_id!r} is {_outcome(state)}; there is nothing to resume")
    if state.status == "waiting":
        raise ApprovalPending(
            f"thread {state.thread_id!r} waits for a decision: holdfast approve {state.thread_id}, "
            f"or holdfast reject {state.thread_id} --reason …"
        )


async def decidable(runner: Runner) -> ThreadState:
    """The state of a thread that waits for a decision.

    Raises:
        NotWaiting: it does not; the error says who decided, or where it stands.
    """
    state = await runner.state()
    if state.status != "waiting":
        raise NotWaiting(f"thread {state.thread_id!r} does not wait for a decision: it is {_outcome(state)}")
    return state


def checked_review(decision: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to an approval's interrupt.

    Raises:
        InvalidDecision: something in it cannot be used; the request stays open.
    """
    answer = {"decisions": [dict(decision)]}
    try:
        Review.model_validate(answer)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidDecision(f"{problem['loc'][-1]}: {problem['msg']}; the thread still waits") from error
    return answer


def _outcome(state: ThreadState) -> str:
    approval = state.values.get("approval")
    if approval:
        return f"{state.status} ({approval['decision']} by {approval['by']} at {approval['at']})"
    return f"{state.status} at {state.node}" if state.node else state.status


def _checked_name(name: str, limit: int = 200) -> str:
    if not name.strip() or len(name) > limit or not name.isprintable():
        raise InvalidThread(f"{name[:60]!r} cannot name a thread: 1 to {limit} printable characters")
    return name


async def survey(database: Database, limit: int) -> list[ThreadState]:
    """Where the most recent outreach threads stand, newest first."""
    records = await database.threads.arecent(limit)
    ours = [record.thread_id for record in records if record.metadata.get("graph_id") == GRAPH]
    return [await (await existing(database, thread_id)).state() for thread_id in ours]


def utc(moment: datetime | None) -> str:
    """A moment as people read it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""
