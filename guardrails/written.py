"""What calls are asked, as it is written down: as a digest that tells them apart, and for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

_DATA: Final = (int, float, Enum, date, time, timedelta, Decimal, UUID, PurePath)
_TEXT: Final = 2000


def digest(value: Any) -> bytes:
    """Of a value: the same in another process, and another one for another value, as far as it is data."""
    return hashlib.blake2b(_written(value).encode(), digest_size=16).digest()


def _written(value: Any) -> str:
    items: Any = value
    if value is None or type(value) in (str, int, float, bool):
        return json.dumps(items)
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{_written(key)}: {_written(item)}' for key, item in items.items()))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, items))}]"
    if isinstance(value, (set, frozenset)):
        return f"<{', '.join(sorted(map(_written, items)))}>"
    kind = f"{type(items).__module__}.{type(items).__qualname__}"
    if isinstance(value, type):
        return f"{kind} {value.__module__}.{value.__qualname__}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{kind} {bytes(items).hex()}"
    if callable(dump := getattr(items, "model_dump", None)):
        return f"{kind} {_written(dump())}"
    if is_dataclass(items):
        return f"{kind} {_written({one.name: getattr(items, one.name) for one in fields(items)})}"
    if isinstance(value, (str, *_DATA)):
        return f"{kind} {json.dumps(str(items))}"
    return kind  # what it holds is not known; its text may hold an address


def told(value: Any) -> Any:
    """A value as JSON that Postgres takes, long texts cut."""
    if isinstance(value, str):
        text = value if len(value) <= _TEXT else f"{value[:_TEXT]}… ({len(value)} characters)"
        return text.replace("\0", "").encode("utf-8", "replace").decode()
    items: Any = value
    if isinstance(value, Mapping):
        return {str(told(str(key))): told(item) for key, item in items.items()}
    if isinstance(value, (list, tuple)):
        return [told(item) for item in items[:100]]
    if value is None or isinstance(value, (bool, int)):
        return items
    return told(str(items))
