"""Where a task stands that asks a person, who answers it, and what was answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.config import get_config

from ..checkpointing.approvals import Approvals
from ..checkpointing.errors import HoldfastError, LeaseLost
from ..checkpointing.leases import Lease, correlation_of, owner_of, run_control
from ..checkpointing.saver import HoldfastSaver
from .actions import Action

UNKNOWN: Final = "unknown"
"""Who decides where nobody is authenticated."""
_ON_SERVER: Final = ("langgraph_auth_user_id", "langgraph_request_id")
"""Settings that a LangGraph server sets, and that its callers cannot."""


class ApprovalNeedsSaver(HoldfastError):
    """An approval was to be asked for in a graph that Holdfast does not save."""

    def __init__(self) -> None:
        super().__init__(
            "approvals are recorded in graphs that Holdfast saves: compile the graph with checkpointer=db.saver, and "
            "run it with a thread_id"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A task of a run, and the record that its requests go to."""

    saver: HoldfastSaver
    config: RunnableConfig
    thread_id: str
    task_id: str
    checkpoint_ns: str
    lease: Lease | None

    @property
    def approvals(self) -> Approvals:
        return self.saver.approvals

    @property
    def facts(self) -> dict[str, Any]:
        """What a request says of where it comes from."""
        metadata: Mapping[str, Any] = self.config.get("metadata") or {}
        settings = self.config.get("configurable", {})
        graph = settings.get("graph_id", metadata.get("graph_id"))
        return {
            "thread_id": self.thread_id,
            "task_id": self.task_id,
            "checkpoint_ns": self.checkpoint_ns,
            "node": metadata.get("langgraph_node"),
            "step": metadata.get("langgraph_step"),
            "correlation_id": correlation_of(self.config) or (self.lease.correlation_id if self.lease else None),
            "run_id": self.lease.run_id if self.lease is not None else None,
            "graph_id": None if graph is None else str(graph),
        }

    @property
    def decider(self) -> str | None:
        """Who resumed the run, as the authenticated channel says it; None: nobody knows.

        On a LangGraph server that is who it has authenticated, and nothing that its caller says. Elsewhere it is
        `configurable["actor"]`, set by the program that runs the graph.
        """
        return decider_of(self.config)

    def durable(self) -> Action:
        """Wait until a crash would not change the task's id."""
        journal, loop = self.saver.journal, self.lease.loop if self.lease is not None else None
        return Action(lambda: journal.durable.wait(self.config, loop), lambda: journal.durable.await_(self.config))

    def heard(self) -> list[Any]:
        """What this run's caller has answered the task, taken from LangGraph, which keeps nothing of it.

        LangGraph gives a task its old answers again: those of earlier runs, whose callers were others. Whoever runs
        the graph now would decide what they said, so that these are dropped.
        """
        settings = self.config.get("configurable", {})
        pad = settings.get("__pregel_scratchpad")
        if pad is None:
            return []
        named: Mapping[str, Any] | None = settings.get("__pregel_resume_map")
        kept = [*pad.resume]
        pad.resume.clear()
        unnamed = pad.get_null_resume(True)
        if named is not None:  # then what has no name is of an earlier run
            return [kept[-1]] if kept and any(kept[-1] is one for one in named.values()) else []
        return [unnamed] if unnamed is not None and (self.lease is None or self.lease.answers) else []

    def interrupts(self) -> list[Any]:
        """The values with which the task was interrupted before."""
        return self._interrupts(self.saver.list(self._checkpoint, limit=1))

    async def ainterrupts(self) -> list[Any]:
        return self._interrupts([found async for found in self.saver.alist(self._checkpoint, limit=1)])

    @property
    def _checkpoint(self) -> RunnableConfig:
        graph = graph_of(self.checkpoint_ns)
        at = self.config.get("configurable", {}).get("checkpoint_map", {}).get(graph)
        settings = {"thread_id": self.thread_id, "checkpoint_ns": graph, **({"checkpoint_id": at} if at else {})}
        return {"configurable": settings}

    def _interrupts(self, found: Iterable[CheckpointTuple]) -> list[Any]:
        return [
            interrupt.value
            for checkpoint in found
            for task_id, channel, written in checkpoint.pending_writes or ()
            if task_id == self.task_id and channel == INTERRUPT
            for interrupt in written
        ]

    def hand_back(self, answer: Any) -> None:
        """Have LangGraph's own `interrupt` find an answer that was heard."""
        self.config.get("configurable", {})["__pregel_scratchpad"].resume.append(answer)


def graph_of(checkpoint_ns: str) -> str:
    """The namespace of the graph that a task is of; empty for the outermost.

    >>> graph_of("research:1f|tools:2c"), graph_of("tools:2c")
    ('research:1f', '')
    """
    return checkpoint_ns.rpartition("|")[0]


def decider_of(config: RunnableConfig) -> str | None:
    """`Standing.decider` of whatever runs there."""
    settings = config.get("configurable", {})
    names = _ON_SERVER[:1] if any(name in settings for name in _ON_SERVER) else ("actor",)
    name = settings.get(names[0])
    return str(name) if name else None


def standing(config: RunnableConfig | None = None) -> Standing | None:
    """Where the running task is; None in a graph that Holdfast does not save.

    Raises:
        LeaseLost: its run is over.
    """
    config = config or get_config()
    settings = config.get("configurable", {})
    saver = settings.get("__pregel_checkpointer")
    if not isinstance(saver, HoldfastSaver):
        saver = owner_of(config)
    info = getattr(settings.get("__pregel_runtime"), "execution_info", None)
    if not isinstance(saver, HoldfastSaver) or info is None or info.thread_id is None:
        return None
    lease = saver.leases.of(config)
    if lease is None and run_control(config) is not None:
        raise LeaseLost(str(info.thread_id))
    return Standing(
        saver=saver,
        config=config,
        thread_id=str(info.thread_id),
        task_id=info.task_id,
        checkpoint_ns=info.checkpoint_ns,
        lease=lease,
    )
