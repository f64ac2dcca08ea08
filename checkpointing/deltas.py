"""The history of delta channels: what was written to them since they were last stored in full."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]

from .connections import Steps, run_again
from .integrity import CheckpointCorrupted, Unsound
from .loading import Loader, known_list
from .packing import LIST, SNAPSHOT, Source, edits_in
from .reading import (
    SQL,
    Blob,
    Resolver,
    Rows,
    Write,
    checked_blob,
    checked_writes,
    checkpoint_rows,
    ordered,
    settings_of,
    value_of,
)

_PAGE: Final = 128


@dataclass(slots=True)
class _Walk:
    """The ancestors of a checkpoint, as far back as each channel needs them."""

    channels: Sequence[str]
    chains: dict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    """By channel: ancestors whose writes count, newest first."""
    seeds: dict[str, Rows] = field(default_factory=dict[str, Rows])
    """By channel: the ancestor that stores its value."""
    ours: set[str] = field(default_factory=set[str])
    """Ancestors that this saver wrote."""
    least: dict[str, int] = field(default_factory=dict[str, int])
    """By ancestor: rows of writes that it must have."""


async def delta_history(
    loader: Loader, config: RunnableConfig, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    """By channel: the value at the nearest ancestor that stores one, and the writes since, oldest first.

    Raises:
        CheckpointCorrupted: an ancestor, or one of its writes, is missing or damaged.
    """
    configurable = settings_of(config)
    thread_id, ns = str(configurable["thread_id"]), str(configurable.get("checkpoint_ns", ""))
    checkpoint_id = configurable.get("checkpoint_id")
    if channels and not checkpoint_id:
        newest = await loader.load(config)
        checkpoint_id = settings_of(newest.config)["checkpoint_id"] if newest else None
    if not channels or not checkpoint_id:
        return {channel: {"writes": []} for channel in channels}
    resolver = Resolver(thread_id, loader.serde)

    def steps() -> Steps[tuple[_Walk, dict[str, Blob], dict[str, list[Write]]]]:
        walk = yield from _walked(thread_id, ns, checkpoint_id, channels)
        blobs = yield from _seed_blobs(thread_id, ns, walk)
        writes = yield from _writes(thread_id, ns, walk)
        yield from resolver.gather(
            (Source(ns, channel, walk.seeds[channel].version(channel)) if blob.kind in (LIST, SNAPSHOT) else None, edit)
            for channel, blob in blobs.items()
            for edit in edits_in(*blob)
        )
        yield from resolver.gather(
            (None, edit) for group in writes.values() for write in group for edit in edits_in(write.kind, write.data)
        )
        return walk, blobs, writes

    try:
        try:
            walk, blobs, writes = await run_again(loader.connections, steps)
        except Unsound:  # upkeep may have taken rows away between two statements

            def snapshot() -> Steps[tuple[_Walk, dict[str, Blob], dict[str, list[Write]]]]:
                yield SQL["snapshot"], {}
                return (yield from steps())

            walk, blobs, writes = await run_again(loader.connections, snapshot, transaction=True)
        result = {
            channel: _history(loader, channel, walk, blobs.get(channel), writes, resolver) for channel in channels
        }
    except Unsound as unsound:
        raise CheckpointCorrupted(
            unsound.damage, thread_id=thread_id, checkpoint_ns=ns, checkpoint_id=checkpoint_id
        ) from unsound
    with loader.memory.lock:
        _remember(loader, (thread_id, ns, checkpoint_id), walk, blobs, result, resolver)
    return result


def _history(
    loader: Loader,
    channel: str,
    walk: _Walk,
    blob: Blob | None,
    writes: Mapping[str, list[Write]],
    resolver: Resolver,
) -> DeltaChannelHistory:
    found: list[PendingWrite] = []
    for ancestor in reversed(walk.chains[channel]):
        where = f"checkpoint_writes ({ancestor})"
        for write in writes.get(ancestor, ()):
            if write.channel == channel:
                value = value_of(write.kind, write.data, loader.serde, resolver, where)
                found.append((write.task_id, channel, value))
    entry: DeltaChannelHistory = {"writes": found}
    if (seed := walk.seeds.get(channel)) is not None:
        where = f"checkpoint_blobs ({channel} {seed.version(channel)})"
        entry["seed"] = value_of(blob.kind, blob.data, loader.serde, resolver, where) if blob else seed.inline[channel]
    return entry


def _walked(thread_id: str, ns: str, checkpoint_id: str, channels: Sequence[str]) -> Steps[_Walk]:
    walk = _Walk(channels)
    here: dict[str, str | None] = {}
    """By channel: the ancestor to look at next."""
    seen: dict[str, tuple[Rows, list[str]]] = {}
    cursor = checkpoint_id
    page = _PAGE
    while True:
        key = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": cursor, "channels": list(channels)}
        answer = yield SQL["ancestors"], {**key, "limit": page}
        for row in answer:
            if row[0] not in seen:
                seen[row[0]] = checkpoint_rows(thread_id, ns, row[0], row[1], (row[2], row[3]), row[4]), row[5] or []
        if checkpoint_id not in seen:
            if (yield SQL["expected"], key):
                raise Unsound(f"checkpoint {checkpoint_id} is missing", "checkpoints")
            return walk
        first = _require_parent(seen[checkpoint_id][0], walk)
        for channel in channels:
            here.setdefault(channel, first)
            here[channel] = _advance(walk, seen, channel, here[channel])
        if all(channel in walk.seeds or here[channel] is None for channel in channels):
            return walk
        if len(answer) < page:
            missing = next(where for where in here.values() if where is not None)
            raise Unsound(f"checkpoint {missing} is missing", "checkpoints")
        cursor, page = answer[-1][0], page * 4


def _require_parent(rows: Rows, walk: _Walk) -> str | None:
    if rows.parent_id and rows.seal is not None:
        walk.least[rows.parent_id] = max(walk.least.get(rows.parent_id, 0), rows.seal.parent_writes)
    return rows.parent_id


def _advance(walk: _Walk, seen: Mapping[str, tuple[Rows, list[str]]], channel: str, here: str | None) -> str | None:
    """Walk on to the next ancestor that was not read yet; None at the end."""
    while here is not None and here in seen:
        rows, stored = seen[here]
        if rows.seal is not None:
            walk.ours.add(here)
        walk.chains[channel].append(here)
        # What the seal says must be there and is missing: not an ancestor to walk past.
        if channel not in stored and rows.seal is not None and channel in rows.stored():
            raise Unsound(f"the stored value of {channel} is missing", f"checkpoint_blobs ({rows.checkpoint_id})")
        if channel in stored or rows.inline.get(channel) is not None:
            walk.seeds[channel] = rows
            return None
        here = _require_parent(rows, walk)
    return here


def _seed_blobs(thread_id: str, ns: str, walk: _Walk) -> Steps[dict[str, Blob]]:
    versions = {channel: rows.version(channel) for channel, rows in walk.seeds.items()}
    if not versions:
        return {}
    wanted = {"channels": list(versions), "versions": list(versions.values())}
    rows = yield SQL["blobs"], {"thread_id": thread_id, "checkpoint_ns": ns, **wanted}
    blobs = {row[0]: checked_blob(ns, *row) for row in rows}
    return {channel: blob for channel, blob in blobs.items() if blob is not None}


def _writes(thread_id: str, ns: str, walk: _Walk) -> Steps[dict[str, list[Write]]]:
    ids = sorted({ancestor for chain in walk.chains.values() for ancestor in chain})
    if not ids:
        return {}
    key = {"thread_id": thread_id, "checkpoint_ns": ns, "ids": ids}
    found: dict[str, list[Write]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for checkpoint_id, task_id, path, channel, kind, data, idx in (yield SQL["ancestors_writes"], key):
        counts[checkpoint_id] += 1
        found[checkpoint_id] += [
            write
            for write in checked_writes(
                (ns, checkpoint_id), task_id, path, idx, channel, kind, data, ours=checkpoint_id in walk.ours
            )
            if write.channel in walk.channels
        ]
    if short := next((ancestor for ancestor in ids if counts[ancestor] < walk.least.get(ancestor, 0)), None):
        raise Unsound("writes are missing", f"checkpoint_writes ({short})")
    return {checkpoint_id: ordered(group) for checkpoint_id, group in found.items()}


def _remember(
    loader: Loader,
    key: tuple[str, str, str],
    walk: _Walk,
    blobs: Mapping[str, Blob],
    result: Mapping[str, DeltaChannelHistory],
    resolver: Resolver,
) -> None:
    """What a run that goes on from here need not store again: the seeds' messages, and those written since."""
    thread = loader.memory.of(key[0])
    known = thread.checkpoints.get(key[1:])
    if known is None:
        return
    for digest, message in resolver.objects.items():
        thread.learn(message, digest, loaded=True)
    thread.stored.update(resolver.visibility)
    for channel, blob in blobs.items():
        if blob.kind in (LIST, SNAPSHOT):
            seed = result[channel].get("seed")
            messages = seed.value if isinstance(seed, _DeltaSnapshot) else seed
            source = Source(key[1], channel, walk.seeds[channel].version(channel))
            known.lists[channel] = known_list(source, list(messages or ()), resolver)
