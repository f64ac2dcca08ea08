"""How values that hold messages are stored: the messages once, elsewhere, and here references to them (pure).

A list of messages is stored as an edit of a list that is stored already: that list's first so many, some
messages, that list's last so many. What grows by one message costs one reference, wherever it is written.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeGuard, cast

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]
from langgraph.types import Overwrite, Send

from .integrity import MESSAGE_DIGEST_SIZE, Unsound

MESSAGE: Final = "message"
LIST: Final = "list"
SNAPSHOT: Final = "snapshot"
VALUE: Final = "value"
OURS: Final = frozenset({MESSAGE, LIST, SNAPSHOT, VALUE})
"""The kinds of value that this module packs; any other kind is the serializer's own."""

_type: Final = cast("Callable[[Any], type[Any]]", type)
"""`type`, without what the checkers conclude from it about containers of anything."""
_DEEP: Final = 12
_LEAVES: Final = frozenset({str, int, float, bool, bytes, type(None)})
_VERSION: Final = re.compile(r"0{8}[0-9]{24}\..+", re.DOTALL)


class Source(NamedTuple):
    """Where a list of messages is stored: the key of its row in checkpoint_blobs, without the thread."""

    checkpoint_ns: str
    channel: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEdit:
    """A list of messages: the first `prefix` of `source`, then `refs`, then the last `suffix` of `source`."""

    refs: tuple[bytes, ...]
    """Digests of messages, 20 bytes each."""
    source: Source | None = None
    prefix: int = 0
    suffix: int = 0
    depth: int = 0
    """How many edits lie between this list and one that is stored in full."""

    def apply(self, source: list[bytes]) -> list[bytes]:
        """The list's digests, given those of its source.

        Raises:
            Unsound: the source is not the list that was edited.
        """
        if self.prefix + self.suffix > len(source):
            raise Unsound("a list is shorter than what was built on it", f"checkpoint_blobs {self.source}")
        return [*source[: self.prefix], *self.refs, *source[len(source) - self.suffix :]]


Lists = Callable[[list[BaseMessage]], ListEdit]
"""Stores a list of messages and says where."""

Messages = Callable[[ListEdit], list[BaseMessage]]
"""The messages of a stored list."""

Dump = Callable[[Any], tuple[str, bytes]]
Load = Callable[[tuple[str, bytes]], Any]


def pack(value: Any, dump: Dump, lists: Lists, messages: int = 0) -> tuple[str, bytes]:
    """A value as (kind, bytes), its messages handed to `lists`; without messages, as the serializer has it.

    Of a list, the first so many are known to be messages.
    """
    if isinstance(value, BaseMessage):
        return MESSAGE, lists([value]).refs[0]
    if _is_list(value, messages):
        return LIST, _dump_edit(lists(value))
    if isinstance(value, _DeltaSnapshot) and _is_list(value.value):
        return SNAPSHOT, _dump_edit(lists(value.value))
    found: list[ListEdit] = []
    place = f"holdfast {token_hex(8)}"  # which no state can hold by chance or by guess
    skeleton = _detach(value, lists, found, place, _DEEP)
    if not found:
        return dump(value)
    kind, blob = dump(skeleton)
    return VALUE, ormsgpack.packb([[_edit_fields(edit) for edit in found], kind, blob, place])


def unpack(kind: str, blob: bytes, load: Load, messages: Messages) -> Any:
    """What `pack` packed."""
    if kind == MESSAGE:
        return messages(ListEdit(refs=(blob,)))[0]
    if kind == LIST:
        return messages(_load_edit(blob))
    if kind == SNAPSHOT:
        return _DeltaSnapshot(messages(_load_edit(blob)))
    if kind == VALUE:
        edits, inner, skeleton, place = ormsgpack.unpackb(blob)
        listed = [messages(_edit_of(fields)) for fields in edits]
        return _attach(load((inner, skeleton)), listed, place)
    return load((kind, blob))


def edits_in(kind: str, blob: bytes) -> list[ListEdit]:
    """The lists that a stored value refers to."""
    if kind == MESSAGE:
        return [ListEdit(refs=(blob,))]
    if kind in (LIST, SNAPSHOT):
        return [_load_edit(blob)]
    if kind == VALUE:
        return [_edit_of(fields) for fields in ormsgpack.unpackb(blob)[0]]
    return []


PackedWrite = tuple[int, str, str, bytes]
"""A write as a row holds it: index, channel, kind, bytes."""


def pack_writes(writes: Sequence[PackedWrite], run_id: str | None) -> bytes:
    """A task's writes as one row holds them, and the run that wrote them."""
    return ormsgpack.packb([run_id, [list(write) for write in writes]])


def unpack_writes(blob: bytes) -> tuple[str | None, list[PackedWrite]]:
    """What `pack_writes` packed."""
    run_id, writes = ormsgpack.unpackb(blob)
    return run_id, [(idx, channel, kind, data) for idx, channel, kind, data in writes]


def is_plain_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list and of no subclass, which may be more than its elements."""
    return _type(value) is list


def _is_list(value: Any, messages: int = 0) -> bool:
    if not is_plain_list(value) or not value:
        return False
    rest = value[messages:] if messages else value
    return all(issubclass(kind, BaseMessage) for kind in set(map(_type, rest)))


def _detach(value: Any, lists: Lists, found: list[ListEdit], place: str, deep: int) -> Any:
    # Exact types only: what is a subclass of list may be more than its elements.
    if _type(value) in _LEAVES or not deep:
        return value
    # A message without an id is input that no channel has taken yet; stored with it, it would be there twice.
    if isinstance(value, BaseMessage):
        if value.id is None:
            return value
        found.append(lists([value]))
        return {place: [len(found) - 1, True]}
    if _is_list(value) and all(message.id is not None for message in value):
        found.append(lists(value))
        return {place: [len(found) - 1, False]}
    return _rebuilt(value, lambda part: _detach(part, lists, found, place, deep - 1))


def _attach(value: Any, listed: list[list[BaseMessage]], place: str) -> Any:
    if _type(value) is dict and len(value) == 1 and place in value:
        index, alone = cast("tuple[int, bool]", value[place])
        return listed[index][0] if alone else listed[index]
    return _rebuilt(value, lambda part: _attach(part, listed, place))


def _rebuilt(value: Any, part: Callable[[Any], Any]) -> Any:
    """The value with its parts replaced, and itself where nothing was."""
    kind = _type(value)
    if kind is dict:
        return _rebuilt_dict(value, part)
    if kind is list or kind is tuple:
        if _LEAVES.issuperset(map(_type, value)):
            return value
        parts: list[Any] = list(map(part, value))
        same: bool = all(map(is_, parts, value))
        return value if same else _built(kind, parts)
    attribute = "arg" if kind is Send else "value" if kind is Overwrite or kind is _DeltaSnapshot else None
    if attribute is None:
        return value
    old = getattr(value, attribute)
    new = part(old)
    if new is old:
        return value
    if kind is _DeltaSnapshot:
        return _DeltaSnapshot(new)
    changed = copy.copy(value)
    object.__setattr__(changed, attribute, new)
    return changed


def _built(kind: type[Any], parts: list[Any]) -> Any:
    return kind(parts)


def _rebuilt_dict(value: dict[Any, Any], part: Callable[[Any], Any]) -> dict[Any, Any]:
    if _LEAVES.issuperset(map(_type, value.values())):
        return value
    parts = {key: part(item) for key, item in value.items()}
    return value if all(parts[key] is item for key, item in value.items()) else parts


def _dump_edit(edit: ListEdit) -> bytes:
    return ormsgpack.packb(_edit_fields(edit))


def _load_edit(blob: bytes) -> ListEdit:
    return _edit_of(ormsgpack.unpackb(blob))


def _edit_fields(edit: ListEdit) -> list[Any]:
    refs = b"".join(edit.refs)
    if edit.source is None:
        return [refs]
    ns, channel, version = edit.source
    return [refs, edit.prefix, edit.suffix, edit.depth, _shortened(version), ns, channel]


def _edit_of(fields: list[Any]) -> ListEdit:
    refs = fields[0]
    digests = tuple(refs[at : at + MESSAGE_DIGEST_SIZE] for at in range(0, len(refs), MESSAGE_DIGEST_SIZE))
    if len(fields) == 1:
        return ListEdit(refs=digests)
    _, prefix, suffix, depth, version, ns, channel = fields
    source = Source(ns, channel, _lengthened(version))
    return ListEdit(refs=digests, source=source, prefix=prefix, suffix=suffix, depth=depth)


def _shortened(version: str) -> str:
    # The official versions are 32 digits, mostly zeros, a dot and a random fraction.
    if version.startswith("~"):
        return "~" + version
    return "~" + version.lstrip("0") if _VERSION.fullmatch(version) else version


def _lengthened(version: str) -> str:
    if not version.startswith("~") or version.startswith("~~"):
        return version.removeprefix("~")
    number, _, fraction = version[1:].partition(".")
    return f"{number.zfill(32)}.{fraction}"
