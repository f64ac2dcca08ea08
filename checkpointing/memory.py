"""What a process remembers of the threads it runs, so that a step costs what is new in it (pure).

Nothing here is needed for correctness: with an empty memory everything is serialised again and stored in
full, under the same content keys. A message object that was stored before is known by identity; that it is
still what was stored is checked by fingerprint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, is_
from secrets import randbits
from threading import RLock
from typing import Any, Final, NamedTuple

import ormsgpack
from langchain_core.messages import BaseMessage

from .packing import ListEdit, Source

_CHECKPOINTS: Final = 16
_THREADS: Final = 256
_MESSAGES: Final = 50_000
_ALL: Final = 1024
"""Up to how many messages every object's content is looked at, at each step; and how many of a longer list."""
_DEEP: Final = 8
"""How many of the newest messages, and of the others in turn, are compared in full at each step."""
_PATH: Final = 64
"""How many edits may lie between a list and one in full, before it is stored in full again."""
_STRIDE: Final = 8
"""Every 8th version of a list stands on the one 8 before, every 64th on the one 64 before, and so on (as the
ranges of a Fenwick tree): a list is put together from some logarithm of its versions."""

_content: Final = attrgetter("content")

Digest = Callable[[BaseMessage], bytes]
"""Stores a message and gives its digest."""


@dataclass(slots=True)
class KnownMessage:
    """A message object as it was when it was stored or loaded."""

    message: BaseMessage
    content: Any
    fingerprint: int | None
    """None for a message that was loaded, until it is looked at."""
    digest: bytes

    def unchanged(self) -> bool:
        """Whether the object is seen to be what was stored."""
        return (
            self.fingerprint is not None
            and self.message.content is self.content
            and _fingerprint(self.message) == self.fingerprint
        )


@dataclass(slots=True)
class Listed:
    """A list of messages, their digests, and their contents as they were."""

    messages: list[BaseMessage]
    refs: list[bytes]
    contents: list[Any]


class Rung(NamedTuple):
    """A list that another stands on."""

    depth: int
    source: Source
    common: int
    """How many messages at the start both have."""


@dataclass(slots=True)
class KnownList(Listed):
    """A stored list of messages, with the objects that it was made of."""

    path: list[Rung]
    """What it stands on, from a list in full to itself."""

    @property
    def source(self) -> Source:
        return self.path[-1].source


@dataclass(slots=True)
class KnownCheckpoint:
    """A checkpoint that was put or loaded here."""

    digest: str
    step: int | None = None
    writes: int = 0
    foreign: Mapping[str, str] | None = field(default_factory=dict[str, str])
    """By channel: the version whose stored value is the official saver's; None if nobody looked."""
    rows: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Rows of writes that are on it: (task_id, idx); `writes` counts those that nobody listed."""
    lists: dict[str, KnownList] = field(default_factory=dict[str, KnownList])
    nodes: tuple[str, ...] = ()
    """The nodes that its pending Sends go to, in order."""
    seen: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its `versions_seen`: what differs in a checkpoint that stands on it tells which nodes ran."""
    written: set[str] = field(default_factory=set[str])
    """The nodes whose writes are on it."""

    @property
    def write_rows(self) -> int:
        return max(self.writes, len(self.rows))


@dataclass(slots=True)
class Head:
    """What the head of a namespace must say for this memory to hold."""

    generation: int
    exists: bool = False


class ThreadMemory:
    """What is known of one thread; lost, it is rebuilt from what comes."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.generation = randbits(38)
        """Of heads that do not exist yet: their lease's, if the thread has one."""
        self.epoch = 0
        """The newest lease that was there when a head was read; 0 if there was none."""
        self.stored: dict[bytes, str] = {}
        """By digest of a message that is in the database: its visibility there."""
        self.checkpoints: OrderedDict[tuple[str, str], KnownCheckpoint] = OrderedDict()
        self.waited: set[str] = set()
        """Namespaces with a `DeltaChannel`: there LangGraph waits for a task's writes before it puts a checkpoint."""
        self._objects: dict[int, KnownMessage] = {}
        self._changed: set[int] = set()
        """Objects that were changed in place: lists that were stored before have the old digest."""
        self._turn = 0
        self._many = 1024

    @property
    def size(self) -> int:
        """How many messages it keeps alive."""
        return len(self._objects)

    def leased(self, epoch: int, generation: int) -> None:
        """Know the lease that was read together with a head."""
        if epoch >= self.epoch:
            self.epoch, self.generation = epoch, generation
            for head in self.heads.values():
                if not head.exists:
                    head.generation = generation

    def begin(self, ns: str) -> None:
        """Have a head for a namespace that has none."""
        self.heads.setdefault(ns, Head(self.generation))

    def remember(self, ns: str, checkpoint_id: str, known: KnownCheckpoint, *, loaded: bool = False) -> None:
        """Keep a checkpoint, forgetting the oldest; one that was loaded stands beside what a run put here."""
        key = (ns, f"{checkpoint_id} loaded" if loaded and (ns, checkpoint_id) in self.checkpoints else checkpoint_id)
        self.checkpoints[key] = known
        self.checkpoints.move_to_end(key)
        while len(self.checkpoints) > _CHECKPOINTS:
            self.checkpoints.popitem(last=False)

    def learn(self, message: BaseMessage, digest: bytes, *, loaded: bool = False) -> None:
        """Know this object from now on."""
        fingerprint = None if loaded else _fingerprint(message)
        self._objects[id(message)] = KnownMessage(message, message.content, fingerprint, digest)

    def digest_of(self, message: BaseMessage, store: Digest) -> bytes:
        """A message's digest; one that is new, or was changed in place, goes through `store`."""
        known = self._objects.get(id(message))
        if known is not None and known.unchanged():
            return known.digest
        digest = store(message)
        if known is not None and known.digest != digest:
            self._changed.add(id(message))
        self.learn(message, digest)
        return digest

    def edit(
        self, messages: list[BaseMessage], store: Digest, before: KnownList | None = None
    ) -> tuple[ListEdit, Listed, list[Rung]]:
        """A list as an edit of one that is stored, what to remember of it, and what it stands on.

        Args:
            messages: the list.
            store: stores a message that is not known.
            before: the list that this channel had before; without one, the best of those that are known.
        """
        best, shared = before, _shared(messages, before) if before else 0
        if not shared:
            for other in self._lists():
                if (length := _shared(messages, other)) > shared:
                    best, shared = other, length
        rest = messages[shared:]
        fresh = [self.digest_of(message, store) for message in rest]
        contents = list(map(_content, rest))
        if best is None:
            return ListEdit(refs=tuple(fresh)), Listed(list(messages), fresh, contents), []
        listed = Listed(list(messages), best.refs[:shared] + fresh, best.contents[:shared] + contents)
        prefix = shared
        suspects, changed = self._suspects(messages, best, shared), len(self._changed)
        while suspects:
            for index in suspects:
                listed.refs[index] = self.digest_of(messages[index], store)
                listed.contents[index] = messages[index].content
                prefix = min(prefix, index)
            # What was found to be changed may stand elsewhere in the list too.
            more, changed = len(self._changed) > changed, len(self._changed)
            suspects = [i for i in range(shared) if id(messages[i]) in self._changed] if more else []
        source = before or best
        edit, path = _edit(listed.refs, source, prefix if source.refs is best.refs else 0)
        return edit, listed, path

    def tidy(self) -> None:
        """Let go of messages that no known list holds."""
        if len(self._objects) > self._many:
            alive = set(map(id, chain.from_iterable(known.messages for known in self._lists())))
            self._objects = {key: known for key, known in self._objects.items() if key in alive}
            self._many = 1024 + 2 * len(self._objects)
            self._changed &= self._objects.keys()

    def _lists(self) -> Iterable[KnownList]:
        return {
            id(known): known for kept in reversed(self.checkpoints.values()) for known in kept.lists.values()
        }.values()

    def _suspects(self, messages: list[BaseMessage], known: KnownList, length: int) -> list[int]:
        """Positions whose message is not what was stored: all where content was assigned, others as they come up."""
        turn = self._turn = self._turn + 1
        windows = _windows(length, _ALL, turn)
        found = [i for low, high in windows for i in _reassigned(messages, known, low, high)]
        if self._changed:
            found += [i for i in range(length) if id(messages[i]) in self._changed]
        for low, high in _windows(length, _DEEP, turn):
            for i in range(low, high):
                kept = self._objects.get(id(messages[i]))
                if kept is None or not kept.unchanged():
                    found.append(i)
        return found


class Memory:
    """The threads that were active last."""

    def __init__(self) -> None:
        self.lock: Final = RLock()
        """Held while anything of it is read or changed: loads and commits run in two threads."""
        self._threads: OrderedDict[str, ThreadMemory] = OrderedDict()

    def of(self, thread_id: str) -> ThreadMemory:
        """What is known of a thread, which is nothing at first."""
        if (known := self._threads.get(thread_id)) is not None:
            self._threads.move_to_end(thread_id)
            return known
        size = sum(kept.size for kept in self._threads.values())
        while self._threads and (size > _MESSAGES or len(self._threads) >= _THREADS):
            size -= self._threads.popitem(last=False)[1].size
        return self._threads.setdefault(thread_id, ThreadMemory())

    def waited(self, thread_id: str, ns: str) -> bool:
        """Whether a checkpoint comes only when the writes are answered for; asked without the lock, on any thread."""
        known = self._threads.get(thread_id)
        return known is not None and ns in known.waited

    def forget(self, thread_id: str) -> None:
        """Know nothing of a thread any more."""
        with self.lock:
            self._threads.pop(thread_id, None)


def _shared(messages: Sequence[BaseMessage], known: KnownList) -> int:
    """How many objects at the start are the same."""
    length = min(len(messages), len(known.messages))
    if not length or messages[0] is not known.messages[0]:
        return 0
    if all(map(is_, messages[:length], known.messages)):
        return length
    return next(i for i in range(length) if messages[i] is not known.messages[i])


def _windows(length: int, size: int, turn: int) -> list[tuple[int, int]]:
    """The newest `size` positions, and as many of the others, in turn."""
    newest = max(0, length - size)
    if not newest:
        return [(0, length)]
    low = turn % -(-newest // size) * size
    return [(newest, length), (low, min(low + size, newest))]


def _reassigned(messages: list[BaseMessage], known: KnownList, low: int, high: int) -> list[int]:
    contents = list(map(_content, messages[low:high]))
    kept = known.contents[low:high]
    if all(map(is_, contents, kept)):
        return []
    return [low + i for i, (now, then) in enumerate(zip(contents, kept, strict=True)) if now is not then]


def _edit(refs: list[bytes], known: KnownList, prefix: int) -> tuple[ListEdit, list[Rung]]:
    shortest = min(len(refs), len(known.refs))
    while prefix < shortest and refs[prefix] == known.refs[prefix]:
        prefix += 1
    suffix = 0
    while suffix < shortest - prefix and refs[-1 - suffix] == known.refs[-1 - suffix]:
        suffix += 1
    # Naming another list takes as much room as three references.
    if prefix + suffix <= 3 or len(known.path) >= _PATH:  # noqa: PLR2004
        return ListEdit(refs=tuple(refs)), []
    path = [rung._replace(common=min(rung.common, prefix)) for rung in known.path]
    depth = path[-1].depth + 1
    stride = 1
    while depth % (stride * _STRIDE) == 0:
        stride *= _STRIDE
    for length, rung in enumerate(path, 1):
        if stride > 1 and rung.depth == depth - stride and len(refs) - rung.common <= 2 * stride + _STRIDE:
            tail = tuple(refs[rung.common :])
            return ListEdit(refs=tail, source=rung.source, prefix=rung.common, depth=depth), path[:length]
    middle = tuple(refs[prefix : len(refs) - suffix])
    return ListEdit(refs=middle, source=known.source, prefix=prefix, suffix=suffix, depth=depth), path


def _fingerprint(message: BaseMessage) -> int:
    # A long text is known by identity; everything else, and all that can change in place, is read.
    parts: Mapping[str, Any] = vars(message)
    if type(message.content) is str and len(message.content) > _SHORT:
        parts = {**parts, "content": None}
    try:
        return hash(ormsgpack.packb(parts, default=repr, option=_OPTIONS)) ^ hash(repr(message.__pydantic_extra__))
    except (TypeError, ValueError):
        return hash(repr(parts))


_SHORT: Final = 1024
_OPTIONS: Final = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
