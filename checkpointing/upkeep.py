"""Taking rows away: threads, runs, old checkpoints; nothing that is still stood on, nothing left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from langgraph.checkpoint.serde.types import TASKS

from .arrays import BytesArray
from .connections import Connections, Steps, run_again
from .errors import HoldfastError
from .integrity import MARK, CheckpointCorrupted, Unsound, seal_checkpoint
from .loading import Loader
from .memory import Memory
from .packing import LIST, SNAPSHOT, Source, edits_in, unpack_writes
from .reading import SENDS_APART, Resolver, Rows, checked_blob, checked_writes, checkpoint_rows
from .sql import queries
from .visibility import Audience, Visibility

SQL: Final = queries("upkeep")
_AT_ONCE: Final = 500
"""Threads that are deleted in one transaction: the server's room for locks is for some thousands."""
STRATEGIES: Final = ("keep_latest", "delete", "delete_all")


class ThreadExists(HoldfastError):
    """A thread was to be copied to one that has checkpoints of its own."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(f"thread {thread_id!r} has checkpoints of its own; delete it first or choose another name")


@dataclass(slots=True)
class Upkeep:
    """Each operation is one transaction for each thread, which runs of that thread wait for."""

    loader: Loader
    memory: Memory
    connections: Connections

    async def delete_threads(self, threads: Sequence[str]) -> None:
        """Remove everything of these threads."""
        ids = [str(thread_id) for thread_id in threads]
        for start in range(0, len(ids), _AT_ONCE):
            await self._alone(ids[start : start + _AT_ONCE], lambda some: _deleted(some, keep=()))

    async def copy_thread(self, source: str, target: str) -> None:
        """Copy a thread's rows; their digests do not name the thread."""
        names = {"source": str(source), "target": str(target)}

        def steps() -> Steps[None]:
            if (yield SQL["exists"], names):
                raise ThreadExists(names["target"])
            for table in ("checkpoints", "blobs", "writes", "messages", "heads", "effects"):
                yield SQL[f"copy_{table}"], names

        await self._alone(list(names.values()), lambda _: steps(), lock="hold")

    async def prune(self, threads: Sequence[str], strategy: str) -> None:
        """Keep the newest checkpoint of each namespace, or nothing."""
        if isinstance(threads, str):
            raise TypeError("thread_ids must be a sequence of thread ids, not a text")
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown prune strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
        if strategy != "keep_latest":
            await self.delete_threads(threads)
            return
        for thread_id in map(str, threads):
            await self._alone([thread_id], lambda ids: self._reduced(ids[0], _newest))

    async def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove what these runs put and wrote; checkpoints that delta channels still need stay."""
        runs = {str(run_id) for run_id in run_ids}
        if not runs:
            return

        def found() -> Steps[list[str]]:
            return [row[0] for row in (yield SQL["threads_of_runs"], {"runs": sorted(runs)})]

        def steps(ids: list[str]) -> Steps[None]:
            yield from self._reduced(ids[0], lambda history: _without(history, runs), runs)
            gone = {"threads": ids, "runs": sorted(runs)}
            yield SQL["withdraw_approvals_of_runs"], {**gone, "why": "the run was removed"}
            yield SQL["delete_approvals_of_runs"], gone

        for thread_id in await run_again(self.connections, found):
            await self._alone([thread_id], steps)

    async def prune_idle(self, before: datetime, *, keep: Audience | None = None) -> list[str]:
        """Remove threads that were last active before a moment; `keep` the messages that an audience may see.

        Returns the threads. One that becomes active meanwhile is left alone.
        """
        moment = _moment(before, keep)
        done: list[str] = []
        for thread_id in await self.idle(before, keep=keep):
            done += await self._alone([thread_id], lambda ids: _deleted_idle(ids, moment))
        return done

    async def idle(self, before: datetime, *, keep: Audience | None = None) -> list[str]:
        """The threads that `prune_idle` would remove."""

        def found() -> Steps[list[str]]:
            return [row[0] for row in (yield SQL["idle"], _moment(before, keep))]

        return await run_again(self.connections, found)

    async def _alone(self, threads: list[str], steps: Callable[[list[str]], Steps[Any]], *, lock: str = "lock") -> Any:
        def work() -> Steps[Any]:
            yield from locked(threads, lock)
            return (yield from steps(threads))

        try:
            return await run_again(self.connections, work, transaction=True)
        except Unsound as unsound:
            raise CheckpointCorrupted(unsound.damage, thread_id=", ".join(threads)) from unsound
        finally:
            for thread_id in threads:
                self.memory.forget(thread_id)

    def _reduced(
        self, thread_id: str, choose: Callable[[_History], set[_Key]], runs: AbstractSet[str] = frozenset()
    ) -> Steps[None]:
        """Remove the checkpoints that are not chosen, and what only they needed."""
        key = {"thread_id": thread_id}
        rows = yield SQL["checkpoints"], key
        if not rows:
            return
        writes = yield SQL["writes_of"], key
        history = _History(
            {
                (row[0], row[1]): checkpoint_rows(thread_id, row[0], row[1], row[2], (row[3], row[4]), row[5])
                for row in rows
            },
            sending={(row[0], row[1]) for row in writes if row[4] == TASKS},
        )
        keep = choose(history)
        needed = {ancestor for kept in keep for ancestor in history.needed_by(kept)}
        keep |= needed
        gone = history.rows.keys() - keep
        if gone:
            dropped = {**key, "namespaces": [ns for ns, _ in gone], "ids": [checkpoint_id for _, checkpoint_id in gone]}
            yield SQL["drop_writes_of"], dropped
            yield SQL["drop_checkpoints"], dropped
        writes = [row for row in writes if (row[0], row[1]) not in gone]
        own = [row for row in writes if runs and (row[0], row[1]) not in needed and _run_of(row) in runs]
        if own:
            columns = {"namespaces": 0, "ids": 1, "tasks": 2, "idxs": 7}
            yield SQL["drop_write_rows"], {**key, **{name: [row[at] for row in own] for name, at in columns.items()}}
        counts: dict[_Key, int] = defaultdict(int)
        left = [row for row in writes if row not in own]
        for row in left:
            counts[row[0], row[1]] += 1
        resealed = {**key, **history.resealed(keep, counts)}
        if resealed["ids"]:
            yield SQL["reseal"], resealed
        yield from self._collect(thread_id, [history.rows[kept] for kept in keep], left)
        yield SQL["settle_heads"], key

    def _collect(self, thread_id: str, kept: Sequence[Rows], writes: Sequence[tuple[Any, ...]]) -> Steps[None]:
        """Remove stored values, and messages, that no checkpoint and no write refers to any more."""
        key = {"thread_id": thread_id}
        live = {
            Source(rows.ns, channel, str(version))
            for rows in kept
            for channel, version in rows.checkpoint["channel_versions"].items()
        }
        resolver = Resolver(thread_id, self.loader.serde)
        digests: set[bytes] = set()
        for ns, channel, version, kind, data in (yield SQL["blobs_of"], key):
            blob = checked_blob(ns, channel, version, kind, data)
            source = Source(ns, channel, version)
            if blob is not None and blob.kind in (LIST, SNAPSHOT):
                resolver.know(source, edits_in(*blob)[0])
            elif blob is not None and source in live:
                digests |= yield from resolver.referred(edits_in(*blob))
        for source in live & resolver.known:
            digests |= yield from resolver.referred([resolver.edit_at(source)])
        for ns, checkpoint_id, task_id, path, channel, kind, data, idx in writes:
            for write in checked_writes((ns, checkpoint_id), task_id, path, idx, channel, kind, data):
                digests |= yield from resolver.referred(edits_in(write.kind, write.data))
        live |= resolver.visited
        garbage = [Source(*row) for row in (yield SQL["blob_keys"], key) if Source(*row) not in live]
        if garbage:
            columns = ("namespaces", "channels", "versions")
            yield SQL["drop_blobs"], {**key, **{name: [row[at] for row in garbage] for at, name in enumerate(columns)}}
        yield SQL["keep_messages"], {**key, "digests": BytesArray(digests)}


def locked(threads: list[str], lock: str = "lock") -> Steps[None]:
    """Let no run commit to these threads until the transaction ends."""
    wanted = {"threads": threads}
    yield SQL[lock], wanted
    # Namespaces that had no head to lock. Asked for second: a first commit that holds a head would not get it.
    yield SQL["alone"], wanted
    yield SQL[lock], wanted
    if lock == "lock":
        yield SQL["leases"], wanted


_Key = tuple[str, str]
"""(namespace, checkpoint)."""


@dataclass(slots=True)
class _History:
    """All checkpoints of a thread."""

    rows: Mapping[_Key, Rows]
    sending: AbstractSet[_Key]
    """Those with writes of an old format, which sent something to the next checkpoint's tasks."""
    heads: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.heads = {}
        for ns, checkpoint_id in self.rows:
            self.heads[ns] = max(checkpoint_id, self.heads.get(ns, ""))

    def needed_by(self, key: _Key) -> set[_Key]:
        """The ancestors without which a checkpoint cannot be loaded: those that its delta channels were written on."""
        rows, needed = self.rows[key], set[_Key]()
        if (
            rows.checkpoint.get("v", SENDS_APART) < SENDS_APART
            and rows.parent_id
            and (key[0], rows.parent_id) in self.sending
        ):
            needed.add((key[0], rows.parent_id))
        counters: dict[str, Any] = rows.metadata.get("counters_since_delta_snapshot") or {}
        missing = {
            channel
            for channel in counters
            if channel in rows.checkpoint["channel_versions"] and not rows.stores(channel)
        }
        while missing and rows.parent_id and (key[0], rows.parent_id) in self.rows:
            needed.add((key[0], rows.parent_id))
            rows = self.rows[key[0], rows.parent_id]
            missing = {channel for channel in missing if not rows.stores(channel)}
        return needed

    def resealed(self, keep: set[_Key], counts: Mapping[_Key, int]) -> dict[str, list[Any]]:
        """The kept checkpoints whose parent, or anything before it, changed: their new parents and seals."""
        changed: dict[str, list[Any]] = {"namespaces": [], "ids": [], "parents": [], "types": []}
        digests: dict[_Key, str] = {}
        for key in sorted(keep):
            rows = self.rows[key]
            parent = rows.parent_id
            while parent and (key[0], parent) not in keep:
                ancestor = self.rows.get((key[0], parent))
                parent = ancestor.parent_id if ancestor else None
            kind: str | None = None
            if rows.seal is not None:
                above = (key[0], parent) if parent else None
                seal = seal_checkpoint(
                    (key[0], key[1], parent),
                    *rows.forms,
                    parent=digests.get(above, "") if above else "",
                    parent_writes=min(rows.seal.parent_writes, counts.get(above, 0)) if above else 0,
                    stored=rows.seal.stored,
                )
                digests[key], kind = seal.digest, str(seal)
                if seal == rows.seal and parent == rows.parent_id:
                    continue
            elif parent == rows.parent_id:
                continue
            for name, value in zip(changed, (*key, parent, kind), strict=True):
                changed[name].append(value)
        return changed


def _newest(history: _History) -> set[_Key]:
    """The newest of each namespace, without calls of subgraphs that began at a checkpoint that goes.

    A call's namespace ends in its task's id, after a colon; a stateful subgraph's does not, and outlives the call.
    """
    keep = {(ns, checkpoint_id) for ns, checkpoint_id in history.heads.items()}
    for ns, checkpoint_id in list(keep):
        parents: dict[str, str] = history.rows[ns, checkpoint_id].metadata.get("parents") or {}
        root = parents.get("", "")
        if ":" in ns and ("", root) in history.rows and root != history.heads.get(""):
            keep.discard((ns, checkpoint_id))
    return keep


def _without(history: _History, runs: set[str]) -> set[_Key]:
    return {key for key, rows in history.rows.items() if str(rows.metadata.get("run_id")) not in runs}


def _run_of(row: tuple[Any, ...]) -> str | None:
    return unpack_writes(row[6])[0] if row[5].startswith(MARK) else None


def _deleted(threads: list[str], keep: Sequence[str]) -> Steps[None]:
    wanted = {"threads": threads, "keep": list(keep)}
    yield SQL["withdraw_approvals"], {**wanted, "why": "the thread was removed"}
    names = ("checkpoints", "blobs", "writes", "messages", "heads", "leases", "incidents", "settings", "effects")
    for table in (*names, "approvals"):
        yield SQL[f"delete_{table}"], wanted


def _moment(before: datetime, keep: Audience | None) -> dict[str, Any]:
    kept = [visibility.value for visibility in Visibility if keep is not None and keep.sees(visibility)]
    return {"before": before, "keep": kept}


def _deleted_idle(threads: list[str], moment: Mapping[str, Any]) -> Steps[list[str]]:
    # A decision that is being taken makes its thread active: it is waited for, and those to come find nothing.
    yield SQL["lock_approvals"], {"threads": threads}
    idle = [row[0] for row in (yield SQL["still_idle"], {**moment, "threads": threads})]
    if idle:
        yield from _deleted(idle, moment["keep"])
    return idle
