"""Copies values without what is not to be seen in them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from re import Pattern
from typing import Any, Final
from uuid import UUID

from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import BaseModel

from ..checkpointing.visibility import is_mapping, message_in

HIDDEN: Final[Any] = object()
"""In the place of a value of which nothing may be seen."""
_SEQUENCES: Final[tuple[type[Any], ...]] = (list, tuple, set, frozenset, deque)
_ATOMS: Final[Any] = (
    str, bytes, bytearray, int, float, complex, Decimal, Fraction, type(None),
    Enum, UUID, PurePath, Pattern, range, type, date, time, timedelta, tzinfo,
)  # fmt: skip


@dataclass(slots=True)
class Sieve:
    """Copies a value without the messages that `hides` names; what has none in it is returned as it is."""

    hides: Callable[[BaseMessage], bool]
    inside: set[int] = field(default_factory=set[int])

    def sift(self, value: Any) -> Any:
        if isinstance(value, _ATOMS):
            return value
        if id(value) in self.inside:
            return HIDDEN  # a value that contains itself
        self.inside.add(id(value))
        try:
            return self._sifted(value)
        except Exception:  # it cannot be read, or is too deep
            return HIDDEN
        finally:
            self.inside.discard(id(value))

    def _sifted(self, value: Any) -> Any:
        if (message := message_in(value)) is not None:
            return HIDDEN if self.hides(message) else self._beside(value)
        if is_mapping(value):
            return self._mapping(value)
        for kind in _SEQUENCES:
            if isinstance(value, kind):
                return self._sequence(value, kind)
        return self._object(value)

    def _beside(self, message: Any) -> Any:
        """A message that may be seen, as far as other messages may be hung onto it. Its content was judged with it."""
        if isinstance(message, BaseMessage):
            return self._rebuilt(message, ["additional_kwargs", "response_metadata", "artifact"])
        if is_mapping(message):
            judged = {key: message[key] for key in ("content", "tool_calls") if key in message}
            shown = self._mapping({key: item for key, item in message.items() if key not in judged})
            return {key: judged.get(key, shown.get(key)) for key in message if key in judged or key in shown}
        return message

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        shown = {key: self.sift(item) for key, item in value.items() if self.sift(key) is key}
        kept = {key: item for key, item in shown.items() if item is not HIDDEN}
        same = len(kept) == len(value) and all(item is value[key] for key, item in kept.items())
        return value if same else kept

    def _sequence(self, value: Any, kind: type[Any]) -> Any:
        shown = [self.sift(item) for item in value]
        if all(new is old for new, old in zip(shown, value, strict=True)):
            return value
        if hasattr(value, "_make"):  # a named tuple keeps its places
            return value._make(or_none(item) for item in shown)
        return kind(item for item in shown if item is not HIDDEN)

    def _object(self, value: Any) -> Any:
        names = _attributes(value)
        if isinstance(value, BaseModel | Send) or hasattr(value, "__dataclass_fields__"):
            return self._rebuilt(value, names)
        if isinstance(value, BaseException):  # LangGraph tells a failure by it: something has to stay
            return value if self._is_clean([*value.args, *_held(value, names)]) else type(value).__name__
        if not names:
            return value if type(value) is object or _is_numeric(value) else HIDDEN
        # What is called or iterated holds more than its attributes.
        opaque = any(hasattr(value, name) for name in ("__call__", "__next__", "__anext__"))
        return value if not opaque and self._is_clean(_held(value, names)) else HIDDEN

    def _is_clean(self, items: list[Any]) -> bool:
        return all(self.sift(item) is item for item in items)

    def _rebuilt(self, value: Any, names: Iterable[str]) -> Any:
        old = {name: getattr(value, name) for name in names if hasattr(value, name)}
        new = {name: self.sift(item) for name, item in old.items()}
        if all(new[name] is item for name, item in old.items()):
            return value
        clone = copy.copy(value)
        for name, item in new.items():
            object.__setattr__(clone, name, or_none(item))
        return clone


def _attributes(value: Any) -> list[str]:
    """The names under which an object holds something; pydantic's private and extra fields lie in slots."""
    slots = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    own = [*getattr(value, "__dict__", {}), *(name for name in slots if hasattr(value, name))]
    return [name for name in own if name not in {"__dict__", "__weakref__"}]


def _held(value: Any, names: Iterable[str]) -> list[Any]:
    return [getattr(value, name) for name in names]


def _names(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _is_numeric(value: Any) -> bool:
    """Whether it is an array of numbers, into which no message fits."""
    try:
        return memoryview(value).format not in {"O", "P"}
    except (TypeError, ValueError):
        return False


def or_none(value: Any) -> Any:
    return None if value is HIDDEN else value
