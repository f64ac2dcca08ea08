"""What LangGraph asks a saver to keep: `put` and `put_writes`, with where each belongs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.constants import START

from .memory import Memory
from .reading import settings_of

_PULL: Final = "~__pregel_pull, "

Place = tuple[str, str, str, int]
"""Thread, namespace, checkpoint, and 1 for what comes after the checkpoint: the order of commits."""


@dataclass(slots=True)
class Operation:
    """A request to a saver; what is asked of it often is worked out once."""

    config: RunnableConfig
    thread_id: str = field(init=False)
    ns: str = field(init=False)
    stands_on: str | None = field(init=False)
    """The checkpoint that the config names."""
    place: Place = field(init=False)
    urgent: bool = field(init=False, default=True)
    """Whether it is to be committed without waiting for company."""

    def __post_init__(self) -> None:
        settings = settings_of(self.config)
        self.thread_id = str(settings["thread_id"])
        self.ns = str(settings.get("checkpoint_ns", ""))
        self.stands_on = settings.get("checkpoint_id") or None
        self.place = self._placed()

    def _placed(self) -> Place:
        raise NotImplementedError


@dataclass(slots=True)
class Put(Operation):
    """A checkpoint to be saved, as `put` is given it."""

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions

    def _placed(self) -> Place:
        return (self.thread_id, self.ns, self.checkpoint["id"], 0)


@dataclass(slots=True)
class PutWrites(Operation):
    """A task's writes to be saved, as `put_writes` is given them."""

    writes: Sequence[tuple[str, Any]]
    task_id: str
    task_path: str
    _unnamed: list[BaseMessage] = field(init=False)

    @property
    def unnamed(self) -> bool:
        """Whether it holds messages without an id, which most channels give them the moment they take them."""
        return any(message.id is None for message in self._unnamed)

    def _placed(self) -> Place:
        self._unnamed = [
            message
            for _, value in self.writes
            for message in _each(value)
            if isinstance(message, BaseMessage) and message.id is None
        ]
        # Errors, interrupts and answers are followed by no checkpoint.
        self.urgent = any(channel in WRITES_IDX_MAP for channel, _ in self.writes)
        return (self.thread_id, self.ns, self.stands_on or "", 1)


def _each(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else (value,)


def awaits(put: Put, others: Collection[Operation], memory: Memory) -> bool:
    """Whether a checkpoint stands on a node's writes that are neither in the database nor among the others.

    LangGraph hands writes over before the checkpoint that stands on them, but, under `invoke`, each in a
    thread of its own.
    """
    if put.metadata.get("source") != "loop":
        return False
    with memory.lock:
        known = memory.of(put.thread_id).checkpoints.get((put.ns, put.stands_on or ""))
        if known is None:
            return False
        ran = {node for node, seen in put.checkpoint["versions_seen"].items() if known.seen.get(node) != seen}
        ran -= known.written
    place = (put.thread_id, put.ns, put.stands_on, 1)
    ran.difference_update(
        pulled(other.task_path) or "" for other in others if isinstance(other, PutWrites) and other.place == place
    )
    return any(not node.startswith("__") or node == START for node in ran)


def pulled(path: str) -> str | None:
    """The node that ran, where a task path names one."""
    return path[len(_PULL) :] if path.startswith(_PULL) else None


def run_of(config: RunnableConfig) -> str | None:
    """The run that a config belongs to, as a server names it."""
    for part in (config.get("metadata") or {}, settings_of(config)):
        if (run_id := part.get("run_id")) is not None:
            return str(run_id)
    return None
