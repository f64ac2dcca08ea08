"""Arrays as parameters, in the wire's binary form: quicker than the general adapter, and always of one type.

The form is PostgreSQL's `array_send`: dimensions, a flag for nulls, the element's type, length and lower
bound, then each element after its length. A statement with dozens of them is planned once for each
combination of types, and the general adapter types an empty list, or one of nulls, differently from others.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Final
from weakref import WeakSet

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER: Final = struct.Struct(">iiiii")
_LENGTH: Final = struct.Struct(">i")


class TextArray(list[Any]):
    """A text[] parameter; None is null."""


class BytesArray(list[Any]):
    """A bytea[] parameter; None is null."""


class IntArray(list[Any]):
    """A bigint[] parameter; None is null."""


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element: ClassVar[int]

    def dump(self, obj: list[Any]) -> bytes:
        if not obj:
            return struct.pack(">iii", 0, 0, self.element)
        parts = [_HEADER.pack(1, 1 if None in obj else 0, self.element, len(obj), 1)]
        for item in obj:
            if item is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                data = self.encode(item)
                parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)

    def encode(self, item: Any) -> bytes:
        raise NotImplementedError


class _TextDumper(_ArrayDumper):
    oid, element = 1009, 25

    def encode(self, item: str) -> bytes:
        return item.encode()


class _BytesDumper(_ArrayDumper):
    oid, element = 1001, 17

    def encode(self, item: bytes) -> bytes:
        return item


class _IntDumper(_ArrayDumper):
    oid, element = 1016, 20

    def encode(self, item: int) -> bytes:
        return item.to_bytes(8, "big", signed=True)


_ready: Final[WeakSet[Any]] = WeakSet()


def adapt(connection: Any) -> None:
    """Teach a connection these types, once."""
    if connection not in _ready:
        context: AdaptContext = connection
        context.adapters.register_dumper(TextArray, _TextDumper)
        context.adapters.register_dumper(BytesArray, _BytesDumper)
        context.adapters.register_dumper(IntArray, _IntDumper)
        _ready.add(connection)
