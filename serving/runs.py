"""Running the outreach graph one segment at a time: start, resume, decide."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Command, TasksStreamPart
from pydantic import ValidationError

from holdfast.checkpointing import Database, ThreadBusy
from holdfast.graphs.outreach import OutreachInput, build
from holdfast.nodes import OfflineExtractiveModel, Review, SmtpServer, check_brief, load_model

from .delivery import smtp_from_environment
from .errors import (
    ApprovalPending,
    DeliveryNotConfigured,
    InvalidDecision,
    NotWaiting,
    ThreadExists,
    ThreadFinished,
)
from .paying import guardrails
from .segments import answer_of, run
from .state import GRAPH, Compiled, Settings, ThreadState, checked_name, command, read

_POLL: Final = 0.1


class Observer(Protocol):
    """Is told what happens while a graph runs."""

    def event(self, part: TasksStreamPart, tokens: int) -> None:
        """One part of the stream (`tasks`, version 2), and the tokens spent so far."""
        ...


class Runner:
    """One thread under one set of settings; `actor` is who answers what it waits for, if anybody does."""

    def __init__(
        self, database: Database, thread_id: str, settings: Settings, *, model: BaseChatModel, actor: str | None
    ) -> None:
        self.database = database
        self.thread_id = thread_id
        self.settings = settings
        self.control = RunControl()
        self._usage = UsageMetadataCallbackHandler()
        who = {} if actor is None else {"actor": actor}
        self.config: RunnableConfig = {
            "configurable": {"thread_id": thread_id, "graph_id": GRAPH, **who},
            "metadata": {name: value for name, value in _attribution(settings).items() if value},
            "callbacks": [self._usage],
        }
        self.graph = _compiled(database, settings, model)

    async def advance(self, given: OutreachInput | Command[Any] | None, observer: Observer) -> ThreadState:
        """Run until the graph ends, pauses or is asked to stop.

        A thread whose process was killed is free when that one's lease has run out: as long as that, it waits.

        Raises:
            ThreadBusy: somebody runs the thread, and lives.
            RunFailed: a node failed, with the node's name and its error.
            DatabaseUnavailable: the database went away.
        """
        patience = time.monotonic() + self.database.saver.leases.ttl.total_seconds() + _POLL
        while True:
            try:
                return await self._advance(given, observer)
            except ThreadBusy:
                if time.monotonic() > patience:
                    raise
                await asyncio.sleep(_POLL)

    async def _advance(self, given: OutreachInput | Command[Any] | None, observer: Observer) -> ThreadState:
        onward = f"; nothing is lost, go on with: {command('resume', self.thread_id)}"
        with suppress(GraphDrained):
            await run(
                self.graph,
                given,
                self.config,
                self.control,
                lambda part: observer.event(part, self.tokens),
                onward=onward,
            )
        return await read(self.database, self.thread_id)

    @property
    def tokens(self) -> int:
        """What the models have reported in this segment, input and output."""
        return sum(usage["total_tokens"] for usage in self._usage.usage_metadata.values())


def _compiled(database: Database, settings: Settings, model: BaseChatModel) -> Compiled:
    builder = build(
        model,
        database=lambda: database,
        outbox=Path(settings.outbox),
        smtp=_smtp(settings),
        dossiers=Path(settings.dossiers) if settings.dossiers else None,
        guardrails=guardrails(model, budget=settings.budget, tenant=settings.tenant, price=settings.price),
        stage_timeout=settings.timeout,
    )
    return builder.compile(checkpointer=database.saver, name=GRAPH)


def _attribution(settings: Settings) -> dict[str, str | None]:
    """For whom, and in which decision, a thread's calls are made and paid."""
    return {"correlation_id": settings.correlation_id, "tenant": settings.tenant}


def _smtp(settings: Settings) -> SmtpServer | None:
    """The SMTP server of a thread that was started for one, whoever goes on with it."""
    server = smtp_from_environment()
    if settings.smtp and server is None:
        raise DeliveryNotConfigured("this thread delivers by SMTP: set HOLDFAST_SMTP_URL, as when it was started")
    return server if settings.smtp else None


def new_thread_id(company: str) -> str:
    """A name for a new thread: the company's, and eight digits of chance.

    >>> new_thread_id("Tidewater Instruments, Ltd")[:-8]
    'tidewater-instruments-ltd-'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", company.lower()).strip("-")[:40]
    return f"{slug or GRAPH}-{secrets.token_hex(4)}"


def checked_order(brief: OutreachInput, thread_id: str | None, settings: Settings) -> str:
    """The name of a new thread, if its brief can be worked on.

    Raises:
        InvalidThread, InvalidBrief, DossierNotFound: see `new_run`.
    """
    check_brief(brief, needs_recipient=_smtp(settings) is not None)
    return checked_name(thread_id if thread_id is not None else new_thread_id(brief["company"]))


@asynccontextmanager
async def new_run(
    database: Database, brief: OutreachInput, thread_id: str | None, settings: Settings, actor: str
) -> AsyncGenerator[Runner]:
    """A runner for a thread that does not exist yet, held for the length of the block.

    Raises:
        ThreadExists, InvalidThread: the name is taken, or is none.
        ThreadBusy: somebody else is starting it at this moment.
        InvalidBrief, DossierNotFound, UnknownModel, UnpricedModel: the run could not get anywhere.
    """
    name = checked_order(brief, thread_id, settings)
    runner = Runner(database, name, settings, model=await _load(settings), actor=actor)
    async with database.threads.hold(name):
        if await database.saver.aget_tuple({"configurable": {"thread_id": name}}) is not None:
            raise ThreadExists(
                f"thread {name!r} exists already; resume it with `{command('resume', name)}` or choose another name"
            )
        await database.threads.aremember(name, asdict(settings))
        yield runner


async def resumed(database: Database, thread_id: str, *, actor: str) -> tuple[Runner, Command[Any] | None]:
    """A runner for a thread that can go on by itself, run as it was started, and what it is to be given.

    Raises:
        UnknownThread, UnknownGraph: there is no such thread, or it is not an outreach run.
        ThreadFinished, ApprovalPending: there is nothing to resume.
        UnknownModel, UnpricedModel, MissingExtra, DeliveryNotConfigured: it cannot be run here as it was started.
    """
    state = await read(database, thread_id)
    if state.status in {"finished", "rejected"}:
        raise ThreadFinished(f"thread {thread_id!r} is {_outcome(state)}; there is nothing to resume")
    runner = Runner(database, thread_id, state.settings, model=await _load(state.settings), actor=actor)
    answer = await answer_of(database, runner.graph, runner.config) if state.status == "waiting" else None
    if state.status == "waiting" and answer is None:
        raise ApprovalPending(
            f"thread {thread_id!r} waits for a decision: {command('approve', thread_id)}, "
            f"or {command('reject', thread_id, '--reason')} …"
        )
    return runner, answer


async def outreach_runner(database: Database, thread_id: str, *, actor: str | None) -> Runner:
    """A runner for an outreach thread, wherever it stands: begun, or only submitted.

    Raises:
        UnknownModel, UnpricedModel, MissingExtra, DeliveryNotConfigured: it cannot be run here as it was started.
    """
    settings = Settings(**await database.threads.arecall(thread_id))
    return Runner(database, thread_id, settings, model=await _load(settings), actor=actor)


async def decidable(database: Database, thread_id: str, *, actor: str) -> tuple[Runner, ThreadState]:
    """A runner for a thread that waits for a decision. Whoever decides needs no model's key.

    Raises:
        NotWaiting: it does not wait; the error says who decided, or where it stands.
        UnknownThread, UnknownGraph, DeliveryNotConfigured: see `resumed`.
    """
    state = await read(database, thread_id)
    if state.status != "waiting":
        raise NotWaiting(f"thread {thread_id!r} does not wait for a decision: it is {_outcome(state)}")
    return Runner(database, thread_id, state.settings, model=OfflineExtractiveModel(), actor=actor), state


def checked_review(decision: Mapping[str, Any], state: ThreadState) -> dict[str, Any]:
    """The answer to an approval's interrupt.

    Raises:
        InvalidDecision: something in it cannot be used, or what it approves could not be delivered; the
            request stays open.
    """
    answer = {"decisions": [dict(decision)]}
    try:
        Review.model_validate(answer)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidDecision(f"{problem['loc'][-1]}: {problem['msg']}; the thread still waits") from error
    edited = decision.get("edited_action", {}).get("args", {})
    if state.settings.smtp and decision["type"] != "reject" and not {**state.values["email"], **edited}.get("to"):
        raise InvalidDecision("this thread delivers by SMTP and has no recipient: give one with --to; it still waits")
    return answer


async def _load(settings: Settings) -> BaseChatModel:
    # Importing a provider's package takes a second or two.
    return await asyncio.to_thread(load_model, settings.model, timeout=min(60.0, settings.timeout))


def _outcome(state: ThreadState) -> str:
    if approval := state.values.get("approval"):
        return f"{state.status} ({approval['decision']} by {approval['by']} at {approval['at']})"
    return f"{state.status} at {state.node}" if state.node else state.status
