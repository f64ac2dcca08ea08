"""`get_tuple`, `list` and the history of delta channels; what to do when something is damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]

from .audit import damage_found
from .connections import Connections, Steps, run_again
from .connections import Rows as Answer
from .integrity import MARK, CheckpointCorrupted, Damage, Unsound, parent_writes
from .memory import Head, KnownCheckpoint, Memory, ThreadMemory
from .operations import pulled
from .packing import LIST, SNAPSHOT, Source
from .pages import KnownList, Listed
from .reading import (
    SENDS_APART,
    SQL,
    Resolver,
    Rows,
    add_sends,
    built,
    checked_blob,
    checked_writes,
    checkpoint_rows,
    settings_of,
)
from .serde import MessageSerializer
from .writing import push_targets

Policy = Literal["raise", "fallback"]
"""What a load of a thread's newest checkpoint does when that is damaged."""

_NAMED: Final = 3
"""How many good checkpoints an error names."""
_log: Final = logging.getLogger("holdfast.checkpointing")


@dataclass(slots=True)
class _Found:
    """What the load query gives."""

    rows: Rows | None = None
    head: str | None = None
    generation: int = 0
    lease: tuple[int, int] | None = None
    """Epoch and generation."""
    children: list[str | None] = field(default_factory=list[str | None])
    """The seals of the checkpoints that stand on it."""
    head_writes: int = 0


@dataclass(slots=True)
class Loader:
    """Reads checkpoints, and keeps in memory what a run that goes on from them need not store again."""

    connections: Connections
    serde: MessageSerializer
    memory: Memory
    policy: Policy
    next_version: Callable[[Any, None], str]

    async def load(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or its thread's newest.

        Raises:
            CheckpointCorrupted: it is damaged; under the policy `fallback`, so are all before it.
        """
        configurable = settings_of(config)
        thread_id, ns = str(configurable["thread_id"]), str(configurable.get("checkpoint_ns", ""))
        checkpoint_id = configurable.get("checkpoint_id") or None
        try:
            return await self._sound(thread_id, ns, checkpoint_id)
        except Unsound:
            pass
        try:
            # Upkeep may have taken rows away between two statements: what is damaged is so in one snapshot.
            return await self._sound(thread_id, ns, checkpoint_id, snapshot=True)
        except Unsound as unsound:
            return await self._recover(thread_id, ns, checkpoint_id, unsound.damage)

    async def _sound(
        self, thread_id: str, ns: str, checkpoint_id: str | None, *, snapshot: bool = False
    ) -> CheckpointTuple | None:
        """A checkpoint; one to fall back from, or to, with all that its delta channels stand on."""
        from .deltas import delta_history

        loaded = await self._load(thread_id, ns, checkpoint_id, snapshot=snapshot)
        if loaded is not None and self.policy == "fallback":
            values = loaded.checkpoint["channel_values"]
            counters: Mapping[str, Any] = loaded.metadata.get("counters_since_delta_snapshot") or {}
            if channels := [channel for channel in counters if channel not in values]:
                try:
                    await delta_history(self, loaded.config, channels)
                except CheckpointCorrupted as corrupted:
                    raise Unsound(corrupted.damage.what, corrupted.damage.where) from corrupted
        return loaded

    async def _load(
        self, thread_id: str, ns: str, checkpoint_id: str | None, *, snapshot: bool = False
    ) -> CheckpointTuple | None:
        resolver = Resolver(thread_id, self.serde)
        parameters = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}

        def steps() -> Steps[tuple[_Found, list[Any]]]:
            if snapshot:
                yield sql("snapshot", {})
            found = _found(thread_id, ns, (yield sql("load", parameters)), resolver)
            _check_head(found, checkpoint_id)
            _check_children(found, checkpoint_id)
            sends: list[Any] = []
            if found.rows is not None:
                yield from resolver.gather(found.rows.lists())
                sends = yield from self.old_sends(found.rows)
            return found, sends

        found, sends = await run_again(self.connections, steps, transaction=snapshot)
        if found.rows is None:
            with self.memory.lock:
                self._current(thread_id, ns, found)
            return None
        loaded = built(found.rows, resolver, self.serde)
        if sends:
            add_sends(loaded, sends, self.next_version(None, None))
        with self.memory.lock:
            self._remember(found, loaded, resolver)
        return loaded

    def old_sends(self, rows: Rows) -> Steps[list[Any]]:
        if rows.checkpoint.get("v", SENDS_APART) >= SENDS_APART or not rows.parent_id:
            return []
        key = {"thread_id": rows.thread_id, "checkpoint_ns": rows.ns, "checkpoint_id": rows.parent_id}
        return [self.serde.load((kind, data)) for kind, data in (yield sql("sends", key))]

    def _current(self, thread_id: str, ns: str, found: _Found) -> ThreadMemory:
        """What is known of a thread; nothing, if rows that it counts on were taken away since, by whomever."""
        thread = self.memory.of(thread_id)
        known = thread.heads.get(ns)
        if known is not None and known.exists and (found.head is None or known.generation != found.generation):
            self.memory.forget(thread_id)
            thread = self.memory.of(thread_id)
        if found.head is not None:
            thread.heads[ns] = Head(found.generation, exists=True)
        else:
            thread.begin(ns)
        if found.lease is not None:
            thread.leased(*found.lease)
        return thread

    def _remember(self, found: _Found, loaded: CheckpointTuple, resolver: Resolver) -> None:
        rows = found.rows
        assert rows is not None
        thread = self._current(rows.thread_id, rows.ns, found)
        for digest, message in resolver.objects.items():
            thread.learn(message, digest, loaded=True)
        thread.stored.update(resolver.visibility)
        if rows.metadata.get("counters_since_delta_snapshot"):
            thread.waited.add(rows.ns)
        known = KnownCheckpoint(
            digest=rows.seal.digest if rows.seal else "",
            step=rows.metadata.get("step"),
            rows=set(rows.write_rows),
            foreign={channel: rows.version(channel) for channel in (rows.foreign() if rows.seal else rows.blobs)},
            seen=rows.checkpoint.get("versions_seen") or {},
            written={name for write in rows.writes if (name := pulled(write.task_path)) is not None},
            nodes=push_targets(loaded.checkpoint["channel_values"].get(TASKS)),
        )
        for channel, blob in rows.blobs.items():
            if blob.kind in (LIST, SNAPSHOT):
                value = loaded.checkpoint["channel_values"][channel]
                messages = value.value if isinstance(value, _DeltaSnapshot) else value
                source = Source(rows.ns, channel, rows.version(channel))
                known.lists[channel] = known_list(source, messages, resolver)
        thread.remember(rows.ns, rows.checkpoint_id, known, loaded=True)

    async def _recover(self, thread_id: str, ns: str, checkpoint_id: str | None, damage: Damage) -> CheckpointTuple:
        """By policy the newest good checkpoint before the damaged one, or an error that names it."""
        key = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        self.memory.forget(thread_id)
        good: list[str] = []
        fall_back = self.policy == "fallback" and checkpoint_id is None
        for older in await run_again(self.connections, lambda: _all("older", key)):
            try:
                loaded = await self._sound(thread_id, ns, older[0])
            except Unsound:
                continue
            if loaded is not None:
                good.append(older[0])
                if fall_back:
                    await self._report(key, damage, older[0])
                    return loaded
            if len(good) == _NAMED:
                break
        corrupted = CheckpointCorrupted(
            damage, thread_id=thread_id, checkpoint_ns=ns, checkpoint_id=checkpoint_id, good=good
        )
        await self._report(key, damage, None)
        raise corrupted

    async def _report(self, key: Mapping[str, Any], damage: Damage, fell_back_to: str | None) -> None:
        _log.error(
            "thread %s is damaged: %s; %s",
            key["thread_id"],
            damage,
            f"went back to checkpoint {fell_back_to}" if fell_back_to else "refused to load it",
        )
        row = {**key, "damage": str(damage), "fell_back_to": fell_back_to}

        def steps() -> Steps[None]:
            yield sql("report", row)
            yield damage_found(row)

        await run_again(self.connections, steps, transaction=True)


def known_list(source: Source, messages: Sequence[BaseMessage], resolver: Resolver) -> KnownList:
    """A stored list that was loaded, for later edits."""
    return KnownList(Listed().extend(messages, resolver.at(source)).pages, path=resolver.path(source))


def _found(thread_id: str, ns: str, answer: Answer, resolver: Resolver) -> _Found:
    found = _Found()
    # The checkpoint comes first in the answer's logic, not necessarily in its order.
    for source, a, b, c, d, kind, _, n in answer:
        if source == "checkpoint":
            found.rows = checkpoint_rows(thread_id, ns, a, b, (c, d), kind)
        elif source == "head":
            found.head, found.generation, found.head_writes = a, n >> 24, n & 0xFFFFFF
        elif source == "lease":
            found.lease = (n, int(a))
        elif source == "child":
            found.children.append(kind)
    if found.rows is not None:
        rows = found.rows
        blobs = {(row[1], row[2]): (row[5], row[6]) for row in answer if row[0] == "blob"}
        writes = [(row[1], row[2], row[3], row[5], row[6], row[7]) for row in answer if row[0] == "write"]
        add_parts(rows, blobs, writes)
        rows.complete()
        for (channel, version), (kind, data) in blobs.items():
            if channel not in rows.blobs or version != rows.version(channel):
                resolver.take(Source(ns, channel, version), kind, data)
    return found


def add_parts(rows: Rows, blobs: Mapping[tuple[str, str], tuple[Any, ...]], writes: Sequence[tuple[Any, ...]]) -> None:
    own = set(rows.stored()) - set(rows.foreign())
    for channel, version in rows.checkpoint["channel_versions"].items():
        if (row := blobs.get((channel, str(version)))) is not None:
            if channel in own and not str(row[0]).startswith(MARK):
                raise Unsound("a stored value has lost its digest", f"checkpoint_blobs ({channel} {version})")
            blob = checked_blob(rows.ns, channel, str(version), *row)
            if blob is not None:
                rows.blobs[channel] = blob
    key = (rows.ns, rows.checkpoint_id)
    for task_id, path, channel, kind, data, idx in writes:
        rows.writes += checked_writes(key, task_id, path, idx, channel, kind, data, ours=rows.seal is not None)
        rows.write_rows.add((task_id, idx))


def _check_head(found: _Found, checkpoint_id: str | None) -> None:
    """Whether the newest checkpoint is the one that was written last, with all its writes.

    Raises:
        Unsound: it is not.
    """
    rows, newest = found.rows, checkpoint_id is None
    if rows is None:
        if found.head is not None and checkpoint_id in (None, found.head):
            raise Unsound(f"checkpoint {found.head} is missing", "checkpoints")
        return
    if newest and found.head is None and rows.seal is not None:
        raise Unsound("the thread's head is missing", "holdfast.heads")
    if newest and found.head is not None and found.head > rows.checkpoint_id:
        raise Unsound(f"checkpoint {found.head} is missing", "checkpoints")
    if newest and found.head is not None and found.head < rows.checkpoint_id and rows.seal is not None:
        raise Unsound("the thread's head is not its newest checkpoint", "holdfast.heads")
    if found.head == rows.checkpoint_id:
        if rows.seal is None:
            raise Unsound("a checkpoint's digest is missing", f"checkpoints ({rows.checkpoint_id})")
        if len(rows.write_rows) < found.head_writes:
            raise Unsound("writes are missing", f"checkpoint_writes ({rows.checkpoint_id})")


def _check_children(found: _Found, checkpoint_id: str | None) -> None:
    """Whether a checkpoint is as those that stand on it knew it.

    Raises:
        Unsound: it is not.
    """
    if found.children and found.rows is None:
        raise Unsound(f"checkpoint {checkpoint_id} is missing", "checkpoints")
    least = max(map(parent_writes, found.children), default=0)
    if found.rows is not None and len(found.rows.write_rows) < least:
        raise Unsound("writes are missing", f"checkpoint_writes ({checkpoint_id})")


def sql(name: str, parameters: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    return SQL[name], parameters


def _all(name: str, parameters: Mapping[str, Any]) -> Steps[Answer]:
    return (yield sql(name, parameters))
