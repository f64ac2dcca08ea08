"""Everything of a thread looked at: each row's digest, and that all is there that others stand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage

from .arrays import BytesArray, TextArray
from .connections import Connections, Steps, run_again
from .errors import HoldfastError
from .findings import Finding, Severity, check_head, check_parent
from .integrity import MARK, Unsound, row_digest
from .packing import LIST, SNAPSHOT, ListEdit, Source, edits_in, unpack
from .reading import checked_blob, checked_writes, checkpoint_rows
from .serde import MessageSerializer, NotDecrypted
from .sql import queries

SQL: Final = queries("verify")
_PAGE: Final[Mapping[str, int]] = {"rows": 200, "bytes": 2 * 1024 * 1024}
"""What is in memory at a time, and how long the loop is kept from others: rows, and bytes of them."""


class NothingStored(HoldfastError):
    """A thread was to be verified of which the database holds nothing."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(f"nothing of thread {thread_id!r} is stored in this database")


@dataclass(slots=True)
class Verifier:
    """Reads threads in pages, each thread as it was at one moment: one that runs meanwhile gives no false alarm."""

    connections: Connections
    serde: MessageSerializer

    async def threads(self) -> list[str]:
        """All threads of which anything is stored."""

        def steps() -> Steps[list[str]]:
            return [row[0] for row in (yield SQL["threads"], {})]

        return await run_again(self.connections, steps)

    async def verify(self, thread_id: str, *, missing_ok: bool = False) -> list[Finding]:
        """What is wrong with a thread, damage first; no damage means that every checkpoint of it can be loaded.

        Rows of the official saver have no digest: that they can be read is all that is known of them. What
        this saver may not revive or cannot decrypt is told apart from damage, as a note.

        Raises:
            NothingStored: there is no such thread, unless that is `missing_ok`.
        """
        thread_id = str(thread_id)
        steps = partial(_steps, thread_id, self.serde, missing_ok)
        return await run_again(self.connections, steps, transaction=True)


def _steps(thread_id: str, serde: MessageSerializer, missing_ok: bool) -> Steps[list[Finding]]:
    findings = yield from _Check(thread_id, serde).steps()
    if findings is None and not missing_ok:
        raise NothingStored(thread_id)
    return findings or []


class _Place(NamedTuple):
    """Where in the history something was found."""

    checkpoint_ns: str
    checkpoint_id: str | None = None
    source: Source | None = None
    """A stored value, of which it is not known yet which checkpoints have it."""


@dataclass(slots=True)
class _Check:
    """One thread's verification: what was found, and what later pages must know of earlier ones."""

    thread_id: str
    serde: MessageSerializer
    _findings: list[tuple[Finding, Source | None]] = field(default_factory=list[tuple[Finding, Source | None]])
    _seen: int = 0
    _official: Counter[str] = field(default_factory=Counter[str])
    _unread: Counter[str] = field(default_factory=Counter[str])
    _early: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Rows of writes on checkpoints that are not there."""
    _lengths: dict[Source, int | None] = field(default_factory=dict[Source, int | None])
    """Of each stored list how long it is: enough to know whether others can stand on it; None if it is damaged."""
    _later: list[tuple[ListEdit, _Place]] = field(default_factory=list[tuple[ListEdit, _Place]])
    """Lists that stand on one which was not read yet."""
    _stood_on: set[Source] = field(default_factory=set[Source])
    _referred: set[bytes] = field(default_factory=set[bytes])
    _wanted: dict[bytes, _Place] = field(default_factory=dict[bytes, _Place])
    """Messages that this page is the first to refer to."""
    _forgotten: int = 0
    _opened: bool = False
    """Whether something was decrypted: the key is then the thread's, and what it does not open is damaged."""
    _closed: list[tuple[str, _Place, NotDecrypted]] = field(default_factory=list[tuple[str, _Place, NotDecrypted]])

    def steps(self) -> Steps[list[Finding] | None]:
        """All findings, damage first; None for a thread that is not there."""
        yield SQL["snapshot"], {}
        yield from self._paged("checkpoints", {"ns": "", "id": ""}, self._checkpoint)
        yield from self._paged("blobs", {"ns": "", "channel": "", "version": ""}, self._blob)
        yield from self._paged("writes", {"ns": "", "id": "", "task": "", "idx": -(2**31)}, self._write)
        for edit, place in self._later:
            with self._reported(place):
                self._stands(edit)
        yield from self._paged("messages", {"digest": b""}, self._message)
        for where, place, error in self._closed:
            if self._opened:
                self._found("damage", "a message does not decrypt, where others do", where, place)
            else:
                self._unread[str(error)] += 1
        heads = yield SQL["heads"], {"thread_id": self.thread_id}
        if not heads and not self._seen:
            return None
        for head in heads:
            with self._reported(_Place(head[0], head[1] or head[3])):
                check_head(*head[1:])
        unused = yield SQL["unused"], {"thread_id": self.thread_id}
        self._note_the_rest([Source(*row) for row in unused if Source(*row) not in self._stood_on])
        yield from self._place_values()
        return sorted((finding for finding, _ in self._findings), key=lambda finding: finding.severity)

    def _paged(self, table: str, start: Mapping[str, Any], check: Callable[..., None]) -> Steps[None]:
        """Check all rows of a table; its key comes first in them."""
        cursor = start
        while rows := (yield SQL[table], {"thread_id": self.thread_id, **_PAGE, **cursor}):
            self._seen += len(rows)
            for row in rows:
                check(*row)
            cursor = dict(zip(start, rows[-1], strict=False))
            if self._wanted:
                held = yield SQL["held"], {"thread_id": self.thread_id, "digests": BytesArray(self._wanted)}
                for digest in self._wanted.keys() - {row[0] for row in held}:
                    where = f"holdfast.messages ({digest.hex()})"
                    self._found("damage", "a message is missing", where, self._wanted[digest])
                self._wanted.clear()

    def _checkpoint(
        self,
        ns: str,
        checkpoint_id: str,
        parent_id: str | None,
        checkpoint: str,
        metadata: str,
        kind: str | None,
        *rest: Any,
    ) -> None:
        place = _Place(ns, checkpoint_id)
        has_parent, parent_kind, parent_rows, present = rest
        with self._reported(place):
            rows = checkpoint_rows(self.thread_id, ns, checkpoint_id, parent_id, (checkpoint, metadata), kind)
            seal = rows.seal
            if seal is None:
                self._official["checkpoints"] += 1
            else:
                signs = {channel[1:]: channel[0] for channel in present}
                if missing := ", ".join(channel for channel in rows.stored() if channel not in signs):
                    self._found("damage", f"the stored value of {missing} is missing", "checkpoint_blobs", place)
                own = set(rows.stored()) - set(rows.foreign())
                if bare := ", ".join(sorted(channel for channel in own if signs.get(channel) == "-")):
                    self._found("damage", f"the stored value of {bare} has lost its digest", "checkpoint_blobs", place)
            if parent_id and has_parent and seal is not None:
                check_parent(seal, parent_id, parent_kind, parent_rows)
            elif parent_id and not has_parent:
                severity: Severity = "damage" if seal is not None and seal.parent else "note"
                self._found(severity, f"its parent {parent_id} is missing", "checkpoints", place)

    def _blob(self, ns: str, channel: str, version: str, kind: str, data: bytes | None) -> None:
        source = Source(ns, channel, version)
        with self._reported(_Place(ns, None, source)):
            self._lengths[source] = None  # of what is no sound list; set below
            blob = checked_blob(ns, channel, version, kind, data)
            if not (kind or "").startswith(MARK):
                self._official["stored values"] += 1
            if blob is not None and blob.kind in (LIST, SNAPSHOT):
                (edit,) = edits_in(*blob)
                self._lengths[source] = edit.prefix + len(edit.refs) + edit.suffix
            if blob is not None:
                self._value(blob.kind, blob.data, f"checkpoint_blobs ({channel} {version})", _Place(ns, None, source))

    def _write(self, ns: str, checkpoint_id: str, task_id: str, idx: int, path: str, *rest: Any) -> None:
        channel, kind, data, seal = rest
        place = _Place(ns, checkpoint_id)
        if seal is None:
            self._early[ns, checkpoint_id] += 1
        if not (kind or "").startswith(MARK):
            self._official["rows of writes"] += 1
        with self._reported(place):
            for write in checked_writes((ns, checkpoint_id), task_id, path, idx, channel, kind, data, ours=bool(seal)):
                with self._reported(place):
                    where = f"checkpoint_writes ({checkpoint_id} task {task_id} {write.channel})"
                    self._value(write.kind, write.data, where, place)

    def _message(
        self, digest: bytes, kind: str, body: bytes, visibility: str, role: str, correlation: str | None, ns: str,
        *rest: Any,
    ) -> None:  # fmt: skip
        place, where = _Place(ns), f"holdfast.messages ({digest.hex()})"
        *about, checksum = rest
        if checksum != row_digest(digest, kind, visibility, role, correlation, ns, *about):
            self._found("damage", "what is known of a message does not match its digest", where, place)
        with self._reported(place), self._read(where):
            try:
                plain = self.serde.open_message(digest, kind, body, visibility)
            except NotDecrypted as error:
                self._closed.append((where, place, error))
            else:
                self._opened |= "+" in kind
                self.serde.load_message(*plain)
        self._forgotten += digest not in self._referred

    def _value(self, kind: str, data: bytes, where: str, place: _Place) -> None:
        with self._read(where):
            for edit in edits_in(kind, data):
                fresh = [digest for digest in edit.refs if digest not in self._referred]
                self._referred.update(fresh)
                self._wanted.update(dict.fromkeys(fresh, place))
                if edit.source is not None:
                    self._stood_on.add(edit.source)
                    if edit.source in self._lengths:
                        self._stands(edit)
                    else:
                        self._later.append((edit, place))
            unpack(kind, data, self.serde.load, _stand_in)
            self._opened |= "+" in kind

    def _stands(self, edit: ListEdit) -> None:
        """Whether a list can be put together, given that what it stands on can."""
        assert edit.source is not None
        if edit.source not in self._lengths:
            raise Unsound("a stored list is missing", f"checkpoint_blobs ({edit.source.channel} {edit.source.version})")
        length = self._lengths[edit.source]  # None: that one was reported
        if length is not None and edit.prefix + edit.suffix > length:
            raise Unsound("a list is shorter than what was built on it", f"checkpoint_blobs {edit.source}")

    def _note_the_rest(self, unused: Sequence[Source]) -> None:
        for (ns, checkpoint_id), count in self._early.items():
            what = f"{count} rows of writes on a checkpoint that is not there, or not yet"
            self._found("note", what, "checkpoint_writes", _Place(ns, checkpoint_id))
        counted = {
            "stored values that nothing refers to": (len(unused), "checkpoint_blobs"),
            "messages that no checkpoint refers to": (self._forgotten, "holdfast.messages"),
            **{f"values not read, as {text}": (count, "the thread") for text, count in self._unread.items()},
        }
        for what, (count, where) in counted.items():
            if count:
                self._found("note", f"{count} {what}", where, _Place(""))
        if self._official:
            counts = ", ".join(f"{count} {of}" for of, count in self._official.items())
            self._found(
                "note",
                f"unverified, as the official saver wrote them without digests: {counts}",
                "the thread",
                _Place(""),
            )

    def _place_values(self) -> Steps[None]:
        """Say of damaged values which checkpoint has them."""
        sources = {source for _, source in self._findings if source is not None}
        if not sources:
            return
        columns = zip(("namespaces", "channels", "versions"), zip(*sources, strict=True), strict=True)
        wanted = {name: TextArray(column) for name, column in columns}
        rows = yield SQL["holders"], {"thread_id": self.thread_id, **wanted}
        holders = {Source(*row[:3]): row[3] for row in rows}
        for index, (finding, source) in enumerate(self._findings):
            if source is not None and source in holders:
                self._findings[index] = replace(finding, checkpoint_id=holders[source]), None

    def _found(self, severity: Severity, what: str, where: str, place: _Place) -> None:
        ns, checkpoint_id, source = place
        found = Finding(
            severity=severity, thread_id=self.thread_id, what=what, where=where, checkpoint_ns=ns,
            checkpoint_id=checkpoint_id,
        )  # fmt: skip
        self._findings.append((found, source))

    @contextmanager
    def _reported(self, place: _Place) -> Generator[None]:
        try:
            yield
        except Unsound as unsound:
            self._found("damage", unsound.damage.what, unsound.damage.where, place)

    @contextmanager
    def _read(self, where: str) -> Generator[None]:
        """Tell what cannot be read from what this saver may not read."""
        try:
            yield
        except Unsound:
            raise
        except HoldfastError as error:
            self._unread[str(error)] += 1
        except Exception as error:
            raise Unsound(f"a value cannot be read ({type(error).__name__})", where) from error


def _stand_in(_: ListEdit) -> list[BaseMessage]:
    return [HumanMessage("")]
