"""Reads messages that were verified, quicker than the general serializer reads what it must not trust.

The bytes of a message are what a valid message was dumped to, as its digest has shown, so that its fields
are taken as they are, without validation. Whatever does not look exactly like that goes the official way.
"""

from __future__ import annotations

from typing import Any, Final

import ormsgpack
from langchain_core import messages
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2

_CLASSES: Final[dict[tuple[str, str], type[BaseMessage]]] = {
    (kind.__module__, kind.__name__): kind
    for kind in (
        *(messages.AIMessage, messages.HumanMessage, messages.ToolMessage, messages.SystemMessage),
        *(messages.ChatMessage, messages.FunctionMessage, messages.RemoveMessage),
    )
}
_FIELDS: Final = {kind: frozenset(kind.model_fields) for kind in _CLASSES.values()}


def revive(body: bytes) -> BaseMessage | None:
    """The message in its msgpack form; None if it is not a plain one."""
    try:
        found = ormsgpack.unpackb(body, ext_hook=_message)
    except (ValueError, TypeError, LookupError):
        return None
    return found if isinstance(found, BaseMessage) else None


def _message(code: int, data: bytes) -> BaseMessage:
    if code != EXT_PYDANTIC_V2:
        raise ValueError(code)
    module, name, fields, *_ = ormsgpack.unpackb(data, ext_hook=_nested)
    kind = _CLASSES[module, name]
    if fields.keys() != _FIELDS[kind]:
        raise ValueError(name)  # of another version of langchain-core, or with fields of its own
    made = kind.__new__(kind)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", set(fields))
    object.__setattr__(made, "__pydantic_extra__", {})
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def _nested(code: int, data: bytes) -> Any:
    raise ValueError(code)
