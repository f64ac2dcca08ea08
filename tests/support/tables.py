"""What the saver's tables hold, looked at from outside: nothing half there, nothing left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from holdfast.checkpointing import Database
from holdfast.checkpointing.packing import LIST, SNAPSHOT, ListEdit, Source, edits_in, unpack_writes
from tests.support.talks import on

Key = tuple[str, str, str]
"""(thread, namespace, checkpoint)."""
Row = tuple[str, bytes | None]
"""(type, bytes)."""


@dataclass(slots=True)
class Tables:
    """The rows of some threads; of all, if none is named."""

    checkpoints: dict[Key, dict[str, Any]] = field(default_factory=dict[Key, dict[str, Any]])
    writes: dict[Key, list[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(list))
    blobs: dict[tuple[str, Source], Row] = field(default_factory=dict[tuple[str, Source], Row])
    messages: set[tuple[str, bytes]] = field(default_factory=set[tuple[str, bytes]])
    heads: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict[tuple[str, str], tuple[str, int]])
    ours: set[Key] = field(default_factory=set[Key])
    """The checkpoints that this saver put."""


def read(uri: str) -> Tables:
    """All rows, in one snapshot."""
    tables = Tables()
    with psycopg.connect(uri) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows = connection.execute("SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, type FROM checkpoints")
        for thread, ns, checkpoint_id, checkpoint, kind in rows:
            tables.checkpoints[thread, ns, checkpoint_id] = checkpoint
            if kind and kind.startswith("hf"):
                tables.ours.add((thread, ns, checkpoint_id))
        for *key, kind, blob in connection.execute(
            "SELECT thread_id, checkpoint_ns, checkpoint_id, type, blob FROM checkpoint_writes"
        ):
            tables.writes[key[0], key[1], key[2]].append((kind, blob))
        for thread, ns, channel, version, kind, blob in connection.execute(
            "SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs"
        ):
            tables.blobs[thread, Source(ns, channel, version)] = (kind, blob)
        tables.messages = set(connection.execute("SELECT thread_id, digest FROM holdfast.messages"))
        for thread, ns, checkpoint_id, writes in connection.execute(
            "SELECT thread_id, checkpoint_ns, checkpoint_id, writes FROM holdfast.heads"
        ):
            tables.heads[thread, ns] = (checkpoint_id, writes)
    return tables


def assert_heads_agree(tables: Tables) -> None:
    """Each namespace's head is its newest checkpoint, with as many rows of writes as there are."""
    newest: dict[tuple[str, str], str] = {}
    for thread, ns, checkpoint_id in tables.checkpoints:
        newest[thread, ns] = max(checkpoint_id, newest.get((thread, ns), ""))
    with_ours = {(thread, ns) for thread, ns, _ in tables.ours}
    expected = {
        (thread, ns): (checkpoint_id, len(tables.writes.get((thread, ns, checkpoint_id), ())))
        for (thread, ns), checkpoint_id in newest.items()
        if (thread, ns) in with_ours
    }
    assert tables.heads == expected


def assert_all_load(uri: str, tables: Tables) -> None:
    """Every checkpoint loads in a process that remembers nothing, in its thread's history and if it is the newest."""
    with Database.connect(uri) as db:
        listed: list[Any] = [found.config.get("configurable") for found in db.saver.list(None)]
        for thread, ns in {key[:2] for key in tables.checkpoints}:
            assert db.saver.get_tuple(on(thread, checkpoint_ns=ns)) is not None
    names = {(key["thread_id"], key["checkpoint_ns"], key["checkpoint_id"]) for key in listed}
    assert names == tables.checkpoints.keys()


def assert_nothing_left_over(tables: Tables) -> None:
    """Every row of writes, stored value and message belongs to a checkpoint that is there, and none is missing."""
    assert not {key for key, rows in tables.writes.items() if rows} - tables.checkpoints.keys()
    live = {
        (thread, Source(ns, channel, str(version)))
        for (thread, ns, _), checkpoint in tables.checkpoints.items()
        for channel, version in checkpoint["channel_versions"].items()
    }
    messages: set[tuple[str, bytes]] = set()
    visited: set[tuple[str, Source]] = set()

    def refer(thread: str, edits: Iterable[ListEdit]) -> None:
        messages.update((thread, digest) for edit in edits for digest in _digests(tables, thread, edit, visited))

    for thread, source in live & tables.blobs.keys():
        refer(thread, edits_in(*_inner(*tables.blobs[thread, source])))
    for (thread, _, _), rows in tables.writes.items():
        for kind, blob in rows:
            if kind.startswith("hf"):
                for _, _, inner, data in unpack_writes(blob)[1]:
                    refer(thread, edits_in(inner, data))
    assert not tables.blobs.keys() - live - visited
    assert tables.messages == messages


def _digests(tables: Tables, thread: str, edit: ListEdit, visited: set[tuple[str, Source]]) -> list[bytes]:
    if edit.source is None:
        return list(edit.refs)
    visited.add((thread, edit.source))
    kind, blob = _inner(*tables.blobs[thread, edit.source])
    assert kind in (LIST, SNAPSHOT)
    return edit.apply(_digests(tables, thread, edits_in(kind, blob)[0], visited))


def _inner(kind: str, blob: bytes | None) -> tuple[str, bytes]:
    """The kind of value in a row of ours: `hf1:digest:kind:…`; others hold no references."""
    return (kind.split(":")[2] if kind.startswith("hf") else "", blob or b"")


def assert_sound(uri: str) -> Tables:
    """All of the above, on the whole database."""
    tables = read(uri)
    assert_heads_agree(tables)
    assert_nothing_left_over(tables)
    assert_all_load(uri, tables)
    return tables
