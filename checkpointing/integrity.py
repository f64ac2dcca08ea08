"""Digests of what the saver stores, and the error for what does not match them (pure).

Every row that this saver writes into the official tables says so in its `type` column: `hf1:` and the
digest of the row, keys included, so that a row that was changed, moved or cut short is found when it is
read. A checkpoint's tag also names its parent's digest, how many rows of writes the parent had, and which
channels have a stored value, so that a missing row is found too. Rows of the official saver have no such
tag and are read as they are.

The digests find damage. They have no key: someone who may write to the tables can write a new digest as
well (use `EncryptedSerializer`, whose cipher is authenticated, against that).
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final

import ormsgpack

from .errors import HoldfastError

MARK: Final = "hf1:"
"""How the `type` of a row begins that this saver wrote."""

_SEAL_PARTS: Final = 5
_COUNT: Final = re.compile("[0-9]{1,9}")

MESSAGE_DIGEST_SIZE: Final = 20
"""Bytes: 160 bits, as content that an adversary can choose must not collide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it was written."""

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what} in {self.where}"


class CheckpointCorrupted(HoldfastError):
    """What the database holds is not what was written; nothing of it was passed on."""

    def __init__(
        self,
        damage: Damage,
        *,
        thread_id: str,
        checkpoint_ns: str = "",
        checkpoint_id: str | None = None,
        good: Sequence[str] = (),
    ) -> None:
        self.damage: Final = damage
        self.thread_id: Final = thread_id
        self.checkpoint_ns: Final = checkpoint_ns
        self.checkpoint_id: Final = checkpoint_id
        self.good: Final = list(good)
        """Checkpoint ids of the same namespace that load, newest first."""
        which = f" checkpoint {checkpoint_id}" if checkpoint_id else ""
        inside = f" ({checkpoint_ns})" if checkpoint_ns else ""
        advice = (
            f"roll the thread back to a checkpoint from before it (holdfast verify {thread_id} lists all damage)"
            if checkpoint_ns
            else f"the newest good checkpoint is {good[0]}: holdfast rollback {thread_id} --to {good[0]}"
            if good
            else "no good checkpoint is known; restore the database from a backup"
        )
        super().__init__(f"thread {thread_id}{inside}{which} is damaged: {damage}; {advice}")


class Unsound(Exception):
    """Damage found while a row is read; `CheckpointCorrupted` once it is known what to do instead."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where)
        self.damage: Final = Damage(what=what, where=where)


def message_digest(kind: str, body: bytes, key: bytes = b"") -> bytes:
    """The content key of a serialised message, 20 bytes; under a key, where its content is a secret."""
    return _hashed(body + kind.encode(), MESSAGE_DIGEST_SIZE, key)


def row_digest(*fields: str | bytes | int | None) -> str:
    """The digest of a row's fields, 20 characters; no two different rows give the same input."""
    parts: list[bytes] = []
    for field in fields:
        if field is None:
            parts.append(b"-")
        else:
            data = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogatepass")
            parts += (b"%d:" % len(data), data)
    return urlsafe_b64encode(_hashed(b"".join(parts), _ROW_DIGEST_SIZE)).decode()


def _hashed(data: bytes, size: int, key: bytes = b"") -> bytes:
    # hashlib lets go of the interpreter's lock for 2,048 bytes or more, which then takes longer to get back
    # than to hash them, while an event loop is busy.
    if len(data) > _LONG:
        return blake2b(data, digest_size=size, key=key).digest()
    hashed = blake2b(digest_size=size, key=key)
    for start in range(0, len(data), _SHORT):
        hashed.update(data[start : start + _SHORT])
    return hashed.digest()


_SHORT: Final = 2047
_LONG: Final = 1 << 18
_ROW_DIGEST_SIZE: Final = 15


def sealed(kind: str, *fields: str | bytes | int | None) -> str:
    """The `type` of a row: our mark, the digest of its fields and kind, and what kind of value it holds."""
    return f"{MARK}{row_digest(kind, *fields)}:{kind}"


def unsealed(kind: str | None, where: str, *fields: str | bytes | int | None) -> str | None:
    """The kind of value in a row that we wrote; None for a row of the official saver.

    Raises:
        Unsound: the row is not what was written.
    """
    if kind is None or not kind.startswith("hf"):
        return None
    _, _, rest = kind.partition(":")
    digest, _, inner = rest.partition(":")
    if not kind.startswith(MARK) or digest != row_digest(inner, *fields):
        raise Unsound("a row does not match its digest", where)
    return inner


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a checkpoint's `type` column says of it."""

    digest: str
    parent: str
    """The parent's digest; empty for a first checkpoint and for one that stands on the official saver's."""
    parent_writes: int
    """Rows of writes that the parent had, at the least, when this checkpoint was written."""
    stored: str
    """Which of the sorted channel versions have a row in checkpoint_blobs: bits, lowest first, hexadecimal."""

    def __str__(self) -> str:
        return f"{MARK}{self.digest}:{self.parent}:{self.parent_writes}:{self.stored}"


def seal_checkpoint(
    key: tuple[str, str, str | None],
    checkpoint: bytes,
    metadata: bytes,
    *,
    parent: str,
    parent_writes: int,
    stored: str,
) -> Seal:
    """The seal of a checkpoint row: its namespace, id and parent's id, and its two parts in `canonical` form.

    The thread is in no digest: a row that strays from its thread is missed there, and threads can be copied.
    """
    digest = row_digest(*key, checkpoint, metadata, parent, parent_writes, stored)
    return Seal(digest=digest, parent=parent, parent_writes=parent_writes, stored=stored)


def read_seal(kind: str | None, key: tuple[str, str, str | None], checkpoint: bytes, metadata: bytes) -> Seal | None:
    """The seal of a checkpoint row that was read; None for one of the official saver's.

    Raises:
        Unsound: the row is not what was written.
    """
    if kind is None:
        return None
    parts = kind.split(":")
    where = f"checkpoints ({key[1]})"
    if len(parts) != _SEAL_PARTS or parts[0] + ":" != MARK or not _COUNT.fullmatch(parts[3]):
        raise Unsound("a checkpoint's digest is unreadable", where)
    seal = seal_checkpoint(
        key,
        checkpoint,
        metadata,
        parent=parts[2],
        parent_writes=int(parts[3]),
        stored=parts[4],
    )
    if seal.digest != parts[1]:
        raise Unsound("a checkpoint does not match its digest", where)
    return seal


def parent_writes(kind: str | None) -> int:
    """How many rows of writes its parent had, as far as a checkpoint's tag can be read."""
    parts = kind.split(":") if kind else []
    return int(parts[3]) if len(parts) == _SEAL_PARTS and _COUNT.fullmatch(parts[3]) else 0


def stored_bits(versions: Mapping[str, Any], stored: Iterable[str], foreign: Iterable[str] = ()) -> str:
    """Which channels have a stored value, as a bitmap over the sorted channel names.

    After a dot, those whose row may be the official saver's, and so without a digest.

    >>> stored_bits({"a": "1", "b": "1", "c": "2"}, ["a", "c"], ["c"])
    '5.4'
    """
    bits = [
        f"{sum(1 << i for i, channel in enumerate(sorted(versions)) if channel in present):x}"
        for present in (set(stored), set(foreign))
    ]
    return bits[0] if bits[1] == "0" else ".".join(bits)


def stored_channels(versions: Mapping[str, Any], bits: str) -> list[str]:
    """The channels that `stored_bits` marked.

    >>> stored_channels({"a": "1", "b": "1", "c": "2"}, "5")
    ['a', 'c']
    """
    return _channels(versions, bits.partition(".")[0])


def foreign_channels(versions: Mapping[str, Any], bits: str) -> list[str]:
    """The channels of which `stored_bits` says that their row may be the official saver's."""
    return _channels(versions, bits.partition(".")[2] or "0")


def _channels(versions: Mapping[str, Any], bits: str) -> list[str]:
    number = int(bits, 16)
    return [channel for i, channel in enumerate(sorted(versions)) if number >> i & 1]


def canonical(text: str) -> bytes:
    """A form of JSON that is the same before and after a trip through Postgres's jsonb.

    jsonb has its own order of keys, and keeps numbers as decimals: 1e16 comes back as 10000000000000000,
    -0.0 as 0.

    >>> canonical('{"b": 1e16, "a": 1.0}') == canonical('{"a": 1, "b": 10000000000000000}')
    True
    """
    return _packed(json.loads(text, parse_float=_number))


def parsed(text: str) -> tuple[Any, bytes]:
    """JSON from the database: its value, and its canonical form."""
    floats: list[str] = []

    def number(digits: str) -> float:
        floats.append(digits)
        return float(digits)

    value = json.loads(text, parse_float=number)
    return value, canonical(text) if floats else _packed(value)


def _packed(value: Any) -> bytes:
    try:
        return ormsgpack.packb(value, option=ormsgpack.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # numbers beyond 64 bits, half a surrogate pair
        return json.dumps(value, sort_keys=True).encode()


def _number(text: str) -> int | float:
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else float(exact)
