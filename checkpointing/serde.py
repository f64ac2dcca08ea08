"""The serializer: the official one, strict, and loud about what strictness keeps out."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from .errors import HoldfastError

_refused: ContextVar[set[str] | None] = ContextVar("holdfast_refused_types", default=None)


class TypeNotAllowed(HoldfastError):
    """A checkpoint holds a value of a type that it may not bring back by naming it."""

    def __init__(self, types: Iterable[str]) -> None:
        self.types: Final = sorted(types)
        names = ", ".join(self.types)
        super().__init__(
            f"the state holds {names}: a type of yours is revived only where it is allowed, as in "
            f"Database(types=[{', '.join(name.rpartition('.')[2] for name in self.types)}]); nothing is lost"
        )


class StrictSerializer(JsonPlusSerializer):
    """`JsonPlusSerializer` that revives messages, LangGraph's own types, plain data and the types it is given.

    The official one is permissive by default (CVE-2026-28277), and where it is strict it hands a refused
    value on as plain data with one line in the log; this one raises `TypeNotAllowed`. No pickle.
    """

    def __init__(self, types: Iterable[type] = ()) -> None:
        super().__init__(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in types] or None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read a value back.

        Raises:
            TypeNotAllowed: it holds a type that is not allowed.
        """
        refused: set[str] = set()
        token = _refused.set(refused)
        try:
            value = super().loads_typed(data)
        finally:
            _refused.reset(token)
        if refused:
            raise TypeNotAllowed(refused)
        return value


def _listen(event: SerdeEvent) -> None:
    refused = _refused.get()
    if refused is not None and event["kind"].endswith("_blocked"):
        refused.add(f"{event['module']}.{event['name']}")


register_serde_event_listener(_listen)
