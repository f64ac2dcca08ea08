"""What a process remembers of the threads it runs, so that a step costs what is new in it (pure).

Nothing here is needed for correctness: with an empty memory everything is serialised again and stored in
full, under the same content keys. A message object that was stored before is known by identity; that it is
still what was stored is checked by fingerprint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from secrets import randbits
from threading import RLock
from typing import Any, Final

import ormsgpack
from langchain_core.messages import BaseMessage

from .packing import ListEdit
from .pages import KnownList, Listed, Rung, edited

_CHECKPOINTS: Final = 16
_THREADS: Final = 256
_MESSAGES: Final = 50_000
_ALL: Final = 1024
"""Of how many messages, the newest, the content is looked at at each step; of a list that is no longer, of all."""
_OTHERS: Final = 256
"""And of how many others, in turn; if one has changed, of all. Of each, three places far off in memory are read."""
_DEEP: Final = 8
"""How many of the newest messages, and of the others in turn, are compared in full at each step."""
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
        self, messages: list[BaseMessage], store: Digest, before: KnownList | None = None, shared: int = 0
    ) -> tuple[ListEdit, Listed, list[Rung]]:
        """A list as an edit of one that is stored, what to remember of it, and what it stands on.

        Args:
            messages: the list.
            store: stores a message that is not known.
            before: the list that this channel had before; without one, the best of those that are known.
            shared: how many objects at the start are the same in `before`.
        """
        best = before
        if not shared:
            for other in self._lists():
                if (length := other.shared(messages)) > shared:
                    best, shared = other, length
        rest = messages[shared:]
        fresh = [self.digest_of(message, store) for message in rest]
        if best is None:
            return ListEdit(refs=tuple(fresh)), Listed().extend(rest, fresh), []
        prefix = shared
        # Before the end is added: what is looked at is what the list has in common with the other.
        suspects, changed = self._suspects(messages, best, shared), len(self._changed)
        listed = best.start(shared).extend(rest, fresh)
        while suspects:
            for index in suspects:
                if listed.replace(index, self.digest_of(messages[index], store), messages[index].content):
                    prefix = min(prefix, index)
            # What was found to be changed may stand elsewhere in the list too.
            more, changed = len(self._changed) > changed, len(self._changed)
            suspects = [i for i in range(shared) if id(messages[i]) in self._changed] if more else []
        source = before or best
        edit, path = edited(listed, source, prefix if source is best else 0)
        return edit, listed, path

    def tidy(self) -> None:
        """Let go of messages that no known list holds."""
        if len(self._objects) > self._many:
            pages = {id(page): page for known in self._lists() for page in known.pages}
            alive = set(map(id, chain.from_iterable(page.messages for page in pages.values())))
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
        windows = _windows(length, _ALL, _OTHERS, turn)
        found = [i for low, high in windows for i in known.reassigned(messages, low, high)]
        if found and length > _ALL:
            found = list(known.reassigned(messages, 0, length))  # who changes one in place seldom changes one only
        if self._changed:
            found += [i for i in range(length) if id(messages[i]) in self._changed]
        for low, high in _windows(length, _DEEP, _DEEP, turn):
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


def _windows(length: int, newest: int, others: int, turn: int) -> list[tuple[int, int]]:
    """The newest positions, so many, and so many of the others, in turn."""
    older = max(0, length - newest)
    if not older:
        return [(0, length)]
    low = turn % -(-older // others) * others
    return [(older, length), (low, min(low + others, older))]


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
