"""`list`: many checkpoints of a thread at once, their messages shared."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from .arrays import TextArray
from .connections import Rows as Answer
from .connections import Steps, run_again
from .integrity import CheckpointCorrupted, Unsound
from .loading import add_parts, sql
from .reading import Resolver, Rows, add_sends, built, by_key, checkpoint_rows, settings_of

if TYPE_CHECKING:
    from .loading import Loader

_log: Final = logging.getLogger("holdfast.checkpointing")


async def history(
    loader: Loader,
    config: RunnableConfig | None,
    filter: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> list[CheckpointTuple]:
    """Checkpoints, newest first; their messages are shared between them.

    Raises:
        CheckpointCorrupted: one is damaged; under the policy `fallback` it is left out, with an error in the log.
    """
    configurable = settings_of(config)
    parameters = {
        "thread_id": configurable.get("thread_id"),
        "checkpoint_ns": configurable.get("checkpoint_ns"),
        "checkpoint_id": configurable.get("checkpoint_id"),
        "before": settings_of(before).get("checkpoint_id"),
        "filter": json.dumps(filter) if filter else None,
        "limit": limit,
    }
    return await run_again(loader.connections, lambda: _history(loader, parameters), transaction=True)


def _history(loader: Loader, parameters: Mapping[str, Any]) -> Steps[list[CheckpointTuple]]:
    yield sql("snapshot", {})
    rows = yield sql("history", parameters)
    parts: list[Rows] = []
    for row in reversed(rows):  # a list stands on an older one
        with _left_out(loader, row[:3]):
            parts.append(checkpoint_rows(row[0], row[1], row[2], row[3], (row[4], row[5]), row[6]))
    keys = {name: TextArray(row[at] for row in rows) for at, name in enumerate(("threads", "namespaces", "ids"))}
    writes = by_key((yield sql("history_writes", keys)), 3)
    blobs = by_key((yield sql("history_blobs", _blob_keys(parts))), 2)
    stored = {key: {(row[0], row[1]): row[2:] for row in group} for key, group in blobs.items()}
    sound: list[Rows] = []
    for part in parts:
        key = (part.thread_id, part.ns, part.checkpoint_id)
        with _left_out(loader, key):
            add_parts(part, stored.get(key[:2], {}), writes.get(key, []))
            part.complete()
            sound.append(part)
    if all(parameters[name] is None for name in ("checkpoint_id", "before", "filter", "limit")):
        _check_line(loader, sound, (yield sql("history_heads", parameters)))
    # All messages in one go; one checkpoint after the other only to find out which are damaged.
    resolvers = {part.thread_id: Resolver(part.thread_id, loader.serde, keep=True) for part in sound}
    together = True
    try:
        for thread_id, resolver in resolvers.items():
            lists = (item for part in sound if part.thread_id == thread_id for item in part.lists())
            yield from resolver.gather(lists)
    except Unsound:
        together = False
        resolvers = {thread_id: Resolver(thread_id, loader.serde, keep=True) for thread_id in resolvers}
    done: list[CheckpointTuple] = []
    for part in sound:
        with _left_out(loader, (part.thread_id, part.ns, part.checkpoint_id)):
            if not together:
                yield from resolvers[part.thread_id].gather(part.lists())
            loaded = built(part, resolvers[part.thread_id], loader.serde)
            if sends := (yield from loader.old_sends(part)):
                add_sends(loaded, sends, loader.next_version(None, None))
            done.append(loaded)
    done.reverse()
    return done


def _check_line(loader: Loader, parts: list[Rows], heads: Answer) -> None:
    """Leave out of a whole history what those that stand on it, or the heads, knew otherwise."""
    known = {(part.thread_id, part.ns, part.checkpoint_id): part for part in parts}
    for thread_id, ns, checkpoint_id, writes in heads:
        with _left_out(loader, (thread_id, ns, checkpoint_id)):
            if (thread_id, ns, checkpoint_id) not in known:
                raise Unsound(f"checkpoint {checkpoint_id} is missing", "checkpoints")
            if len(known[thread_id, ns, checkpoint_id].write_rows) < writes:
                raise Unsound("writes are missing", f"checkpoint_writes ({checkpoint_id})")
    for part in parts:
        parent = (part.thread_id, part.ns, part.parent_id or "")
        if part.seal is None or not part.parent_id:
            continue
        with _left_out(loader, (part.thread_id, part.ns, part.parent_id)):
            if parent not in known:
                raise Unsound(f"checkpoint {part.parent_id} is missing", "checkpoints")
            if len(known[parent].write_rows) < part.seal.parent_writes:
                raise Unsound("writes are missing", f"checkpoint_writes ({part.parent_id})")


@contextmanager
def _left_out(loader: Loader, key: Sequence[str]) -> Generator[None]:
    """A damaged checkpoint of a history: by policy an error, or left out, with an error in the log."""
    try:
        yield
    except Unsound as unsound:
        thread_id, ns, checkpoint_id = key
        if loader.policy == "raise":
            raise CheckpointCorrupted(
                unsound.damage, thread_id=thread_id, checkpoint_ns=ns, checkpoint_id=checkpoint_id
            ) from unsound
        _log.error("left out of a history: thread %s checkpoint %s: %s", thread_id, checkpoint_id, unsound.damage)


def _blob_keys(parts: Sequence[Rows]) -> dict[str, TextArray]:
    """The stored values that some checkpoints name, each once."""
    keys = {
        (part.thread_id, part.ns, channel, str(version))
        for part in parts
        for channel, version in part.checkpoint["channel_versions"].items()
    }
    names = ("threads", "namespaces", "channels", "versions")
    return {name: TextArray(key[at] for key in keys) for at, name in enumerate(names)}
