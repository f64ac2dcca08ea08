"""From LangGraph's `put` and `put_writes` to the rows of a commit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]

from .batch import Batch
from .connections import BlockingConnections, Rows, Steps, run_again_blocking
from .errors import LeaseLost, ThreadChanged
from .integrity import CheckpointCorrupted, Unsound, canonical, row_digest, seal_checkpoint, sealed, stored_bits
from .leases import Leases, correlation_of
from .memory import Head, KnownCheckpoint, Memory, ThreadMemory
from .operations import Operation, Put, PutWrites, pulled, run_of
from .packing import LIST, SNAPSHOT, ListEdit, PackedWrite, Source, is_plain_list, pack, pack_writes
from .pages import KnownList, Rung
from .reading import checkpoint_rows
from .serde import MessageSerializer
from .sql import queries
from .visibility import VisibilityPolicy

SQL: Final = queries("saver")
_EXACT: Final = 1e15
_INLINE: Final = 256
"""Characters of a string that stays within the checkpoint; a longer one is stored once, as a blob."""
_NONE: Final[Mapping[str, str]] = {}
_UNSTORED: Final = "~"
"""After every visibility."""
_UNFIT: Final = re.compile("[\x00\ud800-\udfff]")
"""What jsonb cannot hold."""
_PUSH: Final = re.compile(r"~__pregel_push, (\d{10})(?:, False)?$")


@dataclass(slots=True)
class _Origin:
    """Where messages come from that are met now."""

    thread_id: str
    ns: str
    correlation_id: str | None
    node: str | None
    step: int | None


@dataclass(slots=True)
class Encoder:
    """Turns operations into rows, storing only what the thread's memory does not know."""

    serde: MessageSerializer
    policy: VisibilityPolicy
    memory: Memory
    leases: Leases
    _origin: _Origin = field(init=False)
    _batch: Batch = field(init=False)
    _thread: ThreadMemory = field(init=False)

    def encode(
        self,
        operation: Operation,
        batch: Batch,
        connections: BlockingConnections,
        *,
        must_stand: bool = False,
        epoch: int | None = None,
    ) -> None:
        """Add an operation's rows to the batch; nothing of it, if it cannot be serialised.

        Args:
            epoch: the lease of the run whose operation it is.

        Raises:
            ThreadChanged: the checkpoint that it stands on is gone, and it `must_stand`.
            LeaseLost: there is a newer lease.

        An exception leaves the thread's memory ahead of the database: the caller is to forget it.
        """
        with self.memory.lock:
            self._encode(operation, batch, connections, must_stand, epoch)

    def _encode(
        self, operation: Operation, batch: Batch, connections: BlockingConnections, must_stand: bool, epoch: int | None
    ) -> None:
        thread = self.memory.of(operation.thread_id)
        ns = operation.ns
        stands_on = operation.stands_on
        unknown = stands_on and (ns, stands_on) not in thread.checkpoints and (must_stand or isinstance(operation, Put))
        if ns not in thread.heads or unknown:
            self._recall(connections, thread, operation.thread_id, ns, stands_on)
        if must_stand:
            if "" not in thread.heads:
                self._recall(connections, thread, operation.thread_id, "", None)
            gone = stands_on and (ns, stands_on) not in thread.checkpoints
            begins = not ns and not stands_on
            there = thread.heads[""].exists or (operation.thread_id, "") in batch.heads
            if gone or not (begins or there):
                raise ThreadChanged(operation.thread_id)
        if epoch is not None and thread.epoch > epoch:
            raise LeaseLost(operation.thread_id)  # a head was read that is the newer lease's
        # A namespace that begins has no head to hold against upkeep; the thread's own serves.
        root = thread.heads.get("")
        if root is not None and root.exists and not thread.heads[ns].exists:
            batch.touched[operation.thread_id, ""] = root
        self._thread, self._batch = thread, batch
        known = thread.checkpoints.get((ns, stands_on)) if stands_on else None
        lease = self.leases.of(operation.config)
        correlation_id = correlation_of(operation.config) or (lease.correlation_id if lease else None)
        self._origin = _Origin(operation.thread_id, ns, correlation_id, None, known.step if known else None)
        if isinstance(operation, Put):
            self._put(operation, known)
        elif isinstance(operation, PutWrites):
            self._put_writes(operation, known)
        thread.tidy()

    def _recall(
        self, connections: BlockingConnections, thread: ThreadMemory, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> None:
        """Read what must be known of a checkpoint that this process neither put nor loaded."""
        key = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}

        def steps() -> Steps[Rows]:
            return (yield SQL["recall"], key)

        ((parent_id, checkpoint, metadata, kind, writes, generation, epoch, leased),) = run_again_blocking(
            connections, steps
        )
        if generation is None:
            thread.begin(ns)
        elif ns not in thread.heads:
            thread.heads[ns] = Head(generation, exists=True)
        if epoch is not None:
            thread.leased(epoch, leased)
        if checkpoint_id and checkpoint is not None:
            try:
                rows = checkpoint_rows(thread_id, ns, checkpoint_id, parent_id, (checkpoint, metadata), kind)
            except Unsound as unsound:
                raise CheckpointCorrupted(
                    unsound.damage, thread_id=thread_id, checkpoint_ns=ns, checkpoint_id=checkpoint_id
                ) from unsound
            digest = rows.seal.digest if rows.seal else ""
            known = KnownCheckpoint(digest, step=rows.metadata.get("step"), writes=writes, foreign=None)
            thread.remember(ns, checkpoint_id, known)

    def _put(self, put: Put, parent: KnownCheckpoint | None) -> None:
        thread_id, ns = put.thread_id, self._origin.ns
        checkpoint, checkpoint_id = put.checkpoint, put.checkpoint["id"]
        metadata = get_serializable_checkpoint_metadata(put.config, put.metadata)
        versions = checkpoint["channel_versions"]
        inline, values = self._split(checkpoint["channel_values"])
        known = KnownCheckpoint(
            digest="",
            step=metadata.get("step"),
            nodes=push_targets(values.get(TASKS)),
            lists=dict(parent.lists) if parent else {},
            seen=checkpoint["versions_seen"],
        )
        for channel in put.new_versions:
            if channel in values and channel in versions:
                self._blob(channel, str(versions[channel]), values[channel], known)
        before: Mapping[str, str] | None = parent.foreign if parent else _NONE
        known.foreign = {
            channel: str(versions[channel])
            for channel in values
            if channel in versions
            and channel not in put.new_versions
            and (before is None or before.get(channel) == str(versions[channel]))
        }
        kept = [channel for channel in values if channel in versions and channel not in put.new_versions]
        counters = metadata.get("counters_since_delta_snapshot")
        if counters:
            self._thread.waited.add(ns)
        counts_on = kept or counters or not self._thread.heads[ns].exists
        if put.stands_on and parent is None and counts_on:
            raise ThreadChanged(thread_id)  # what it counts on went with the checkpoint that it stands on
        stored = stored_bits(versions, values, known.foreign)
        body = {**checkpoint, "channel_values": inline}
        texts = json.dumps(body), json.dumps(metadata)
        parent_id = put.stands_on
        seal = seal_checkpoint(
            (ns, checkpoint_id, parent_id),
            canonical(texts[0]),
            canonical(texts[1]),
            parent=parent.digest if parent else "",
            parent_writes=parent.write_rows if parent else 0,
            stored=stored,
        )
        known.digest = seal.digest
        head = self._thread.heads[ns]
        self._batch.checkpoint((thread_id, ns, checkpoint_id, parent_id, str(seal), *texts), head)
        self._thread.remember(ns, checkpoint_id, known)

    def _split(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What stays within the checkpoint, and what becomes a blob, as the official saver divides them."""
        inline: dict[str, Any] = {}
        stored: dict[str, Any] = {}
        for channel, value in values.items():
            if isinstance(value, _DeltaSnapshot):
                inline[channel], stored[channel] = True, value
            elif value is None or (isinstance(value, (str, int, float)) and self._fits(value)):
                inline[channel] = value
            else:
                stored[channel] = value
        return inline, stored

    def _fits(self, value: str | float) -> bool:
        if isinstance(value, str):
            return len(value) <= _INLINE and not self.serde.encrypts and _UNFIT.search(value) is None
        # jsonb keeps a number's digits and not its type: of a larger float it makes a whole number.
        return not isinstance(value, float) or abs(value) < _EXACT

    def _blob(self, channel: str, version: str, value: Any, known: KnownCheckpoint) -> None:
        before = known.lists.pop(channel, None)
        shared = before.shared(value) if before and is_plain_list(value) else 0
        listed: list[KnownList] = []
        edits: list[ListEdit] = []
        source = Source(self._origin.ns, channel, version)

        def lists(messages: list[BaseMessage]) -> ListEdit:
            edit, found, path = self._thread.edit(messages, self._store, before, shared if messages is value else 0)
            path.append(Rung(edit.depth, source, len(found)))
            listed.append(KnownList(found.pages, path=path))
            edits.append(edit)
            return edit

        kind, blob = pack(value, self.serde.dump, lists, shared)
        if kind in (LIST, SNAPSHOT):
            known.lists[channel] = listed[0]
            stands_on = edits[0].source
            if stands_on is not None and stands_on[:2] == source[:2]:
                kind = f"{kind}:{stands_on.version}"  # for the database, to follow
        key = (self._origin.thread_id, self._origin.ns, channel, version)
        self._batch.blobs[key] = (*key, sealed(kind, *key[1:], blob), blob)

    def _put_writes(self, put: PutWrites, known: KnownCheckpoint | None) -> None:
        checkpoint_id = put.place[2]
        self._origin.node = _node(put.task_path, known)
        run_id = run_of(put.config)
        packed: list[PackedWrite] = []
        for position, (channel, value) in enumerate(put.writes):
            packed.append((WRITES_IDX_MAP.get(channel, position), channel, *pack(value, self.serde.dump, self._edit)))
        rows = [[write] for write in packed if write[0] < 0]
        if regular := [write for write in packed if write[0] >= 0]:
            rows.append(regular)
        for writes in rows:
            idx = min(write[0] for write in writes) if writes[0][0] < 0 else 0
            channel = writes[0][1] if len(writes) == 1 else "*"
            key = (self._origin.thread_id, self._origin.ns, checkpoint_id, put.task_id, put.task_path, idx, channel)
            blob = pack_writes(writes, run_id)
            self._batch.write((*key, sealed(f"writes:{len(writes)}", *key[1:], blob), blob), len(writes))
            if known:
                known.rows.add((put.task_id, idx))
        if known and (node := pulled(put.task_path)) is not None:
            known.written.add(node)
        head = self._thread.heads[self._origin.ns]
        if head.exists:
            self._batch.touched[self._origin.thread_id, self._origin.ns] = head

    def _edit(self, messages: list[BaseMessage]) -> ListEdit:
        return self._thread.edit(messages, self._store)[0]

    def _store(self, message: BaseMessage) -> bytes:
        """A message's digest; its row, unless the thread has it."""
        digest, kind, plain = self.serde.dump_message(message)
        origin = self._origin
        visibility = self.policy.classify(message, node=origin.node)
        if self._thread.stored.get(digest, _UNSTORED) <= visibility.value:
            return digest  # of two opinions the stricter holds: they are in alphabetical order
        kind, body = self.serde.seal_message(kind, plain, visibility)
        tokens = _tokens(message)
        about = (visibility.value, message.type, origin.correlation_id, origin.ns, origin.node, origin.step, tokens)
        row = (origin.thread_id, digest, kind, body, *about)
        self._batch.message((*row, row_digest(digest, kind, *about)))
        self._thread.stored[digest] = visibility.value
        return digest


def _tokens(message: BaseMessage) -> int | None:
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    return min(usage["total_tokens"], 2**31 - 1) if usage else None


def push_targets(sends: Any) -> tuple[str, ...]:
    """The nodes that pending Sends go to, in order."""
    return tuple(getattr(send, "node", "") for send in sends or ())


def _node(path: str, known: KnownCheckpoint | None) -> str | None:
    """The node that a task path names, or that its Send goes to; None for input and updates from outside."""
    if (node := pulled(path)) is not None:
        return node
    if (found := _PUSH.match(path)) and known and int(found[1]) < len(known.nodes):
        return known.nodes[int(found[1])]
    return None
