"""From rows to checkpoints: every row is checked, lists are put together, each message is read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, PendingWrite, writes_sort_key

from .arrays import BytesArray
from .connections import Steps
from .errors import HoldfastError
from .integrity import Seal, Unsound, foreign_channels, parsed, read_seal, stored_channels, unsealed
from .packing import LIST, SNAPSHOT, ListEdit, Source, edits_in, unpack, unpack_writes
from .pages import Rung
from .serde import MessageSerializer
from .sql import queries

SQL: Final = queries("saver")
SENDS_APART: Final = 4
"""The checkpoint format in which pending sends lie in a channel; before, in the writes of the parent."""


class Blob(NamedTuple):
    """A stored channel value."""

    kind: str
    data: bytes


class Write(NamedTuple):
    """One write of a task, with what it is ordered by."""

    task_path: str
    task_id: str
    idx: int
    channel: str
    kind: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class Rows:
    """A checkpoint as the tables hold it, each row checked."""

    thread_id: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    forms: tuple[bytes, bytes]
    seal: Seal | None
    blobs: dict[str, Blob] = field(default_factory=dict[str, Blob])
    writes: list[Write] = field(default_factory=list[Write])
    write_rows: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    def version(self, channel: str) -> str:
        return str(self.checkpoint["channel_versions"][channel])

    def stores(self, channel: str) -> bool:
        """Whether this checkpoint has a value of the channel, without looking at others."""
        return channel in self.inline or channel in self.stored()

    @property
    def inline(self) -> dict[str, Any]:
        """The values within the checkpoint itself."""
        return self.checkpoint.get("channel_values") or {}

    def stored(self) -> list[str]:
        """The channels that must have a row in checkpoint_blobs; none that one knows of, for the official saver's."""
        return stored_channels(self.checkpoint["channel_versions"], self.seal.stored) if self.seal else []

    def foreign(self) -> list[str]:
        """The channels whose row may be the official saver's."""
        return foreign_channels(self.checkpoint["channel_versions"], self.seal.stored) if self.seal else []

    def complete(self) -> None:
        """Check that nothing is missing that was stored.

        Raises:
            Unsound: a channel has no stored value where there was one.
        """
        if missing := [channel for channel in self.stored() if channel not in self.blobs]:
            raise Unsound(f"the stored value of {', '.join(missing)} is missing", f"checkpoint_blobs ({self.ns!r})")

    def lists(self) -> Iterable[tuple[Source | None, ListEdit]]:
        """The lists of messages in it, with where those lie that others may stand on."""
        for channel, blob in self.blobs.items():
            own = Source(self.ns, channel, self.version(channel)) if blob.kind in (LIST, SNAPSHOT) else None
            for edit in edits_in(*blob):
                yield own, edit
        for write in self.writes:
            for edit in edits_in(write.kind, write.data):
                yield None, edit


def checkpoint_rows(
    thread_id: str, ns: str, checkpoint_id: str, parent_id: str | None, texts: tuple[str, str], kind: str | None
) -> Rows:
    """A row of the table checkpoints, checked.

    Raises:
        Unsound: it is not what was written.
    """
    (checkpoint, checkpoint_form), (metadata, metadata_form) = parsed(texts[0]), parsed(texts[1])
    seal = read_seal(kind, (ns, checkpoint_id, parent_id), checkpoint_form, metadata_form)
    if seal is None and not _is_checkpoint(checkpoint, metadata):
        raise Unsound("a row is no checkpoint", f"checkpoints ({checkpoint_id})")
    return Rows(
        thread_id=thread_id,
        ns=ns,
        checkpoint_id=checkpoint_id,
        parent_id=parent_id,
        checkpoint=checkpoint,
        metadata=metadata,
        forms=(checkpoint_form, metadata_form),
        seal=seal,
    )


def _is_checkpoint(checkpoint: Any, metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and isinstance(checkpoint, dict)
        and isinstance(checkpoint.get("channel_versions"), dict)
        and isinstance(checkpoint.get("channel_values") or {}, dict)
    )


def checked_blob(ns: str, channel: str, version: str, kind: str, data: bytes | None) -> Blob | None:
    """A row of checkpoint_blobs; None for the official saver's mark of an empty channel.

    Raises:
        Unsound: it is not what was written.
    """
    inner = unsealed(kind, f"checkpoint_blobs ({channel} {version})", ns, channel, version, data)
    if inner is None and kind == "empty":
        return None
    return Blob(inner.partition(":")[0] if inner else kind, data or b"")


def checked_writes(
    key: tuple[str, str],
    task_id: str,
    path: str,
    idx: int,
    channel: str,
    kind: str | None,
    data: bytes,
    *,
    ours: bool = False,
) -> list[Write]:
    """A row of checkpoint_writes, which holds one write, or all of a task; `ours` if its checkpoint is.

    Raises:
        Unsound: it is not what was written.
    """
    where = f"checkpoint_writes ({key[1]} task {task_id})"
    if kind is None or unsealed(kind, where, *key, task_id, path, idx, channel, data) is None:
        if ours or kind is None:
            raise Unsound("a row has lost its digest", where)
        return [Write(path, task_id, idx, channel, kind, data)]
    return [Write(path, task_id, *write) for write in unpack_writes(data)[1]]


def ordered(writes: Iterable[Write]) -> list[Write]:
    """Writes in the order in which LangGraph applies them, each once.

    Where the official saver's row and ours hold the same write, ours, which came later, has all of them.
    """
    once = {(write.task_id, write.idx): write for write in writes}
    return sorted(once.values(), key=lambda write: writes_sort_key(write.task_path, write.task_id, write.idx))


class Resolver:
    """Puts lists together and reads messages, of one thread, each once."""

    def __init__(self, thread_id: str, serde: MessageSerializer, *, keep: bool = False) -> None:
        """`keep` the lists that were put together: the next version of one is then a step from it."""
        self._thread_id = thread_id
        self._serde = serde
        self._keep = keep
        self._edits: dict[Source, ListEdit] = {}
        self._digests: dict[Source, list[bytes]] = {}
        self.objects: dict[bytes, BaseMessage] = {}
        self.visibility: dict[bytes, str] = {}
        self.visited: set[Source] = set()

    def gather(self, lists: Iterable[tuple[Source | None, ListEdit]]) -> Steps[None]:
        """Read what these lists stand on, and the messages of all of them."""
        wanted: set[bytes] = set()
        for source, edit in lists:
            if source is not None:
                self.know(source, edit)
            yield from self._sources(edit, wanted)
        missing = wanted - self.objects.keys()
        if not missing:
            return
        rows = yield SQL["messages"], {"thread_id": self._thread_id, "digests": BytesArray(missing)}
        for row in rows:
            self.objects[row[0]] = self._serde.load_message(*self._serde.open_message(*row))
            self.visibility[row[0]] = row[3]

    def know(self, source: Source, edit: ListEdit) -> None:
        """A stored list that was read already."""
        self._edits[source] = edit

    @property
    def known(self) -> AbstractSet[Source]:
        """Where the lists are stored that were read."""
        return self._edits.keys()

    def edit_at(self, source: Source) -> ListEdit:
        """A list that was read, as it is stored."""
        return self._edits[source]

    def referred(self, edits: Iterable[ListEdit]) -> Steps[set[bytes]]:
        """The digests that these lists come to; what they stand on is `visited`."""
        digests: set[bytes] = set()
        for edit in edits:
            yield from self._sources(edit, set())
            digests.update(self.digests(edit))
        return digests

    def _sources(self, edit: ListEdit, wanted: set[bytes]) -> Steps[None]:
        wanted.update(edit.refs)
        while (source := edit.source) is not None:
            if source not in self._edits:
                yield from self._read(source)
            edit = self._edits[source]
            wanted.update(edit.refs)
            self.visited.add(source)

    def _read(self, source: Source) -> Steps[None]:
        rows = yield SQL["lists"], {"thread_id": self._thread_id, **source._asdict()}
        for version, kind, data in rows:
            self.take(Source(source.checkpoint_ns, source.channel, version), kind, data)
        if source not in self._edits:
            raise Unsound("a stored list is missing", f"checkpoint_blobs ({source.channel} {source.version})")

    def take(self, source: Source, kind: str, data: bytes | None) -> None:
        """A row of checkpoint_blobs that other lists may stand on."""
        blob = checked_blob(*source, kind, data)
        if blob is not None and blob.kind in (LIST, SNAPSHOT):
            self.know(source, edits_in(*blob)[0])

    def path(self, source: Source) -> list[Rung]:
        """What a gathered list stands on, from a list in full to itself."""
        common = len(self.at(source))
        rungs = [Rung(self._edits[source].depth, source, common)]
        while (edit := self._edits[rungs[-1].source]).source is not None:
            common = min(common, edit.prefix)
            depth = self._edits[edit.source].depth if edit.source in self._edits else 0
            rungs.append(Rung(depth, edit.source, common))
            if edit.source not in self._edits:
                break
        return rungs[::-1]

    def digests(self, edit: ListEdit) -> list[bytes]:
        """The digests of a list whose sources were gathered."""
        if edit.source is None:
            return list(edit.refs)
        chain: list[ListEdit] = [edit]
        while (source := chain[-1].source) is not None and source not in self._digests:
            chain.append(self._edits[source])
        done = list(self._digests[source]) if source is not None else []
        for index in range(len(chain) - 1, -1, -1):
            step = chain[index]
            if step.suffix or step.prefix > len(done):
                done = step.apply(done)
            else:
                del done[step.prefix :]
                done.extend(step.refs)
        return done

    def at(self, source: Source) -> list[bytes]:
        """The digests of a stored list that was gathered."""
        if source in self._digests:
            return self._digests[source]
        found = self.digests(self._edits[source])
        if self._keep:
            self._digests[source] = found
        return found

    def messages(self, edit: ListEdit) -> list[BaseMessage]:
        """The messages of a list that was gathered.

        Raises:
            Unsound: one of them is missing.
        """
        try:
            return list(map(self.objects.__getitem__, self.digests(edit)))
        except KeyError as error:
            raise Unsound("a message is missing", f"holdfast.messages ({error.args[0].hex()})") from error


def built(rows: Rows, resolver: Resolver, serde: MessageSerializer) -> CheckpointTuple:
    """The checkpoint that LangGraph is given.

    Raises:
        Unsound: a value cannot be read.
        TypeNotAllowed, NotDecrypted: it can, but this saver may not.
    """
    values = dict(rows.inline)
    for channel, blob in rows.blobs.items():
        where = f"checkpoint_blobs ({channel} {rows.version(channel)})"
        values[channel] = value_of(blob.kind, blob.data, serde, resolver, where)
    pending: list[PendingWrite] = []
    for write in ordered(rows.writes):
        where = f"checkpoint_writes ({rows.checkpoint_id} task {write.task_id})"
        pending.append((write.task_id, write.channel, value_of(write.kind, write.data, serde, resolver, where)))
    checkpoint: Any = {**rows.checkpoint, "channel_values": values}
    return CheckpointTuple(
        config=config_of(rows.thread_id, rows.ns, rows.checkpoint_id),
        checkpoint=checkpoint,
        metadata=rows.metadata,  # type: ignore[arg-type]  # JSON that was a CheckpointMetadata  # pyright: ignore[reportArgumentType]
        parent_config=config_of(rows.thread_id, rows.ns, rows.parent_id) if rows.parent_id else None,
        pending_writes=pending,
    )


def value_of(kind: str, data: bytes, serde: MessageSerializer, resolver: Resolver, where: str) -> Any:
    """A stored value.

    Raises:
        Unsound: it cannot be read.
        TypeNotAllowed, NotDecrypted: it can, but this saver may not.
    """
    try:
        return unpack(kind, data, serde.load, resolver.messages)
    except (HoldfastError, Unsound):
        raise
    except Exception as error:
        raise Unsound(f"a value cannot be read ({type(error).__name__})", where) from error


def settings_of(config: RunnableConfig | None) -> dict[str, Any]:
    """What a config names: thread, namespace, checkpoint."""
    return config.get("configurable", {}) if config else {}


def config_of(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def add_sends(found: CheckpointTuple, sends: Sequence[Any], next_version: Any) -> None:
    """Give a checkpoint of the format before 4 its pending sends, as the official saver does."""
    checkpoint: Checkpoint = found.checkpoint
    checkpoint["channel_values"]["__pregel_tasks"] = list(sends)
    versions: Mapping[str, Any] = checkpoint["channel_versions"]
    checkpoint["channel_versions"]["__pregel_tasks"] = max(versions.values()) if versions else next_version


def by_key(rows: Iterable[tuple[Any, ...]], width: int) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Rows grouped by their first columns."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        groups[row[:width]].append(row[width:])
    return groups
