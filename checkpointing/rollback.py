"""Going back: an older checkpoint becomes a thread's newest, and nothing of its history is lost."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import randbelow
from typing import Any, Final

from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import UUID, uuid6

from .connections import Connections, Steps, run_again
from .deltas import delta_history
from .errors import HoldfastError
from .integrity import MARK, CheckpointCorrupted, Unsound, canonical, seal_checkpoint, stored_bits
from .loading import Loader
from .memory import Memory
from .reading import Rows, checkpoint_rows, config_of
from .serde import NotDecrypted, TypeNotAllowed
from .sql import queries
from .upkeep import locked

SQL: Final = queries("rollback")


class UnknownCheckpoint(HoldfastError):
    """A thread was to be rolled back to a checkpoint that it does not have."""

    def __init__(self, thread_id: str, checkpoint_id: str, known: Sequence[str], instead: str | None = None) -> None:
        self.thread_id: Final = thread_id
        self.checkpoint_id: Final = checkpoint_id
        self.known: Final = list(known)
        """The newest checkpoint ids that it has, newest first."""
        if instead:
            advice = f"that one is a subgraph's, made under {instead}: roll back to this"
        elif known:
            advice = f"its newest are: {', '.join(known)}"
        else:
            advice = "it has no checkpoints"
        super().__init__(f"thread {thread_id!r} has no checkpoint {checkpoint_id!r} to roll back to; {advice}")


@dataclass(slots=True)
class Rollbacks:
    """One transaction each, which a run of the thread waits for, and after which it looks again."""

    loader: Loader
    memory: Memory
    connections: Connections

    async def rollback(self, thread_id: str, checkpoint_id: str) -> str:
        """Make a checkpoint of the thread's root its newest, by a copy, and return the copy's id.

        The thread then goes on from there: state, next nodes and delta channels are the target's. What tasks
        wrote on the target is not taken over: they run again, an interrupt is asked again. So are subgraphs
        called within one run; one that keeps its state from call to call (`checkpointer=True`) goes back to
        its newest checkpoint before the target, and is empty again if it has none. (LangGraph resumes such a
        subgraph without its input, where a run goes on with the very node that calls it.)

        Nothing is deleted; a rollback can be rolled back. To the newest checkpoint it does nothing, and returns
        its id. Messages stay in the log. Do not run the thread meanwhile: `Threads.hold`.

        Raises:
            UnknownCheckpoint: the thread's root has no such checkpoint.
            CheckpointCorrupted: it is damaged; the thread stays as it is.
        """
        thread_id, checkpoint_id = str(thread_id), str(checkpoint_id)
        newest, subgraphs = await run_again(self.connections, lambda: _survey(thread_id, checkpoint_id))
        for ns, target in [("", checkpoint_id), *subgraphs]:
            await self._require_sound(thread_id, ns, target)
        if newest == checkpoint_id:
            return checkpoint_id
        try:
            return await run_again(self.connections, lambda: _move(thread_id, checkpoint_id), transaction=True)
        except Unsound as unsound:
            raise CheckpointCorrupted(unsound.damage, thread_id=thread_id, checkpoint_id=checkpoint_id) from unsound
        finally:
            self.memory.forget(thread_id)

    async def _require_sound(self, thread_id: str, ns: str, checkpoint_id: str) -> None:
        config = config_of(thread_id, ns, checkpoint_id)
        try:
            loaded = await self.loader.load(config)
            if loaded is not None:
                await delta_history(self.loader, config, _deltas(loaded))
        except (TypeNotAllowed, NotDecrypted):
            # It is what was written. To read it is for the program whose types or whose key it takes.
            return


def _deltas(loaded: CheckpointTuple) -> list[str]:
    """The channels whose value lies in a checkpoint's ancestors."""
    counters: Any = loaded.metadata.get("counters_since_delta_snapshot") or {}
    checkpoint = loaded.checkpoint
    return [
        key for key in counters if key in checkpoint["channel_versions"] and key not in checkpoint["channel_values"]
    ]


def _survey(thread_id: str, checkpoint_id: str) -> Steps[tuple[str | None, list[tuple[str, str]]]]:
    """The newest checkpoint, None if the head is not it; and where subgraphs that keep their state go back to."""
    key = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    yield from _target(key)
    ((newest, sound),) = yield SQL["newest"], key
    subgraphs = [(ns, before) for ns, _, before in (yield SQL["subgraphs"], key) if before]
    return (newest if sound else None), subgraphs


def _target(key: dict[str, Any]) -> Steps[tuple[Any, ...]]:
    for row in (yield SQL["target"], key):
        return row
    recent = yield SQL["recent"], key
    elsewhere = yield SQL["elsewhere"], key
    raise UnknownCheckpoint(
        key["thread_id"],
        key["checkpoint_id"],
        [row[0] for row in recent],
        next((root for _, root in elsewhere if root), None),
    )


def _move(thread_id: str, checkpoint_id: str) -> Steps[str]:
    yield from locked([thread_id])
    key = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    target = yield from _target(key)
    ((last,),) = yield SQL["above"], key
    for ns, newest, before in (yield SQL["subgraphs"], key):
        if newest == before:
            continue
        if before:
            row = yield from _target({**key, "checkpoint_ns": ns, "checkpoint_id": before})
            last = yield from _save(_copied(thread_id, row, last))
        else:
            last = yield from _save(_emptied(thread_id, ns, last))
    # What was asked is asked again, of the tasks that are to come.
    yield SQL["withdraw_approvals"], {"threads": [thread_id], "why": "the thread was rolled back"}
    # The root last: its subgraphs' states are then older than it, should it be a target one day.
    return (yield from _save(_copied(thread_id, target, last)))


def _save(row: dict[str, Any]) -> Steps[str]:
    yield SQL["insert"], row
    yield SQL["head"], {**row, "generation": randbelow(2**38)}
    return str(row["checkpoint_id"])


def _copied(thread_id: str, row: tuple[Any, ...], last: str) -> dict[str, Any]:
    """A copy of a checkpoint with the same parent, so that delta channels read the same ancestors.

    Raises:
        Unsound: the checkpoint is not what was written.
    """
    ns, checkpoint_id, parent_id, checkpoint, metadata, kind, parent_kind, found = row
    rows = checkpoint_rows(thread_id, ns, checkpoint_id, parent_id, (checkpoint, metadata), kind)
    step = int(rows.metadata.get("step", -1))
    stored = {channel[1:]: channel[0] for channel in found or ()}
    foreign = [channel for channel, sign in stored.items() if sign == "-"]
    # Of no run: to remove that run is not to undo this. A step further, as LangGraph numbers its own forks.
    kept = {key: value for key, value in rows.metadata.items() if key != "run_id"}
    return _row(
        rows,
        _next_id(last, step),
        kept | {"source": "fork", "step": step + 1},
        parent=rows.seal.parent if rows.seal else _digest(parent_kind),
        parent_writes=rows.seal.parent_writes if rows.seal else 0,
        stored=rows.seal.stored if rows.seal else stored_bits(rows.checkpoint["channel_versions"], stored, foreign),
    )


def _emptied(thread_id: str, ns: str, last: str) -> dict[str, Any]:
    """A subgraph's state from before its first call."""
    checkpoint: dict[str, Any] = {**empty_checkpoint()}
    rows = Rows(
        thread_id=thread_id, ns=ns, checkpoint_id="", parent_id=None, checkpoint=checkpoint, metadata={},
        forms=(b"", b""), seal=None,
    )  # fmt: skip
    metadata: dict[str, Any] = {"source": "fork", "step": -2, "parents": {}}
    return _row(rows, _next_id(last, -2), metadata, parent="", parent_writes=0, stored="0")


def _row(
    rows: Rows, checkpoint_id: str, metadata: dict[str, Any], *, parent: str, parent_writes: int, stored: str
) -> dict[str, Any]:
    checkpoint = {**rows.checkpoint, "id": checkpoint_id, "ts": datetime.now(UTC).isoformat()}
    texts = json.dumps(checkpoint), json.dumps(metadata)
    seal = seal_checkpoint(
        (rows.ns, checkpoint_id, rows.parent_id),
        *map(canonical, texts),
        parent=parent,
        parent_writes=parent_writes,
        stored=stored,
    )
    return {
        "thread_id": rows.thread_id,
        "checkpoint_ns": rows.ns,
        "checkpoint_id": checkpoint_id,
        "parent": rows.parent_id,
        "type": str(seal),
        "checkpoint": texts[0],
        "metadata": texts[1],
    }


def _digest(kind: str | None) -> str:
    return kind.split(":")[1] if kind and kind.startswith(MARK) else ""


def _next_id(last: str, step: int) -> str:
    """An id as LangGraph makes them, above `last` even if that is of a clock that is ahead of ours.

    >>> _next_id("ffffffff-0000-6000-8000-000000000000", 0)[:23]
    'ffffffff-0000-6001-8000'
    """
    fresh = str(uuid6(clock_seq=step))
    if fresh > last:
        return fresh
    try:
        number = uuid.UUID(last).int
    except ValueError:  # not of LangGraph's making
        return f"{last}0"
    ticks = (number >> 80 << 12 | number >> 64 & 0xFFF) + 1
    return str(UUID(int=ticks >> 12 << 80 | (ticks & 0xFFF) << 64 | (step & 0x3FFF) << 48, version=6))
