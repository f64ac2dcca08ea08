"""Results of calls as the journal keeps them: what comes back is what was returned, or it is not accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command, Send

from ..checkpointing.errors import HoldfastError
from ..checkpointing.serde import MessageSerializer, TypeNotAllowed

_COMMAND_FIELDS: Final = tuple(field.name for field in fields(Command))


class ResultNotKept(HoldfastError):
    """A call was made, and what it returned cannot be written down."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"{name!r} was called, and its result cannot be recorded: {why}; let it return text, plain data, messages "
            "or a Command, or allow the type with Database(types=[...])"
        )


def sealed(name: str, result: Any, serde: MessageSerializer) -> tuple[str, bytes]:
    """A result in serialised form.

    Raises:
        ResultNotKept: it would not come back as it is.
    """
    try:
        data = serde.dump(_packed(result))
        _unpacked(serde.load(data))
    except TypeNotAllowed as error:
        raise ResultNotKept(name, str(error)) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ResultNotKept(name, f"{type(error).__name__}: {error}") from error
    return data


def opened(data: tuple[str, bytes], serde: MessageSerializer) -> Any:
    """What `sealed` was given."""
    return _unpacked(serde.load(data))


def _packed(value: Any) -> list[Any]:
    """A tagged form: the strict serializer keeps neither tuples nor what is special about a Command."""
    items: Any = value
    if isinstance(value, Command):
        return ["command", [[name, _packed(getattr(items, name))] for name in _COMMAND_FIELDS]]
    if isinstance(value, Send):
        return ["send", value.node, _packed(value.arg)]
    if isinstance(value, tuple):
        return ["tuple", [_packed(item) for item in items]]
    if isinstance(value, list):
        return ["list", [_packed(item) for item in items]]
    if isinstance(value, dict):
        return ["dict", [[_packed(key), _packed(item)] for key, item in items.items()]]
    if isinstance(value, ToolMessage) and value.artifact is not None:
        return ["message", value.model_copy(update={"artifact": None}), _packed(value.artifact)]
    if isinstance(value, Mapping) and not isinstance(value, BaseMessage):
        raise TypeError(f"{type(items).__name__} is not plain data")
    return ["value", value]


def _unpacked(packed: list[Any]) -> Any:
    kind, *rest = packed
    if kind == "command":
        given = {name: _unpacked(item) for name, item in rest[0]}
        if given["graph"] == Command.PARENT:
            given["graph"] = Command.PARENT  # LangGraph compares by identity
        found: Command[Any] = Command(**given)  # Command[Any](…) sets an attribute that it has no slot for
        return found
    if kind == "send":
        return Send(rest[0], _unpacked(rest[1]))
    if kind == "tuple":
        return tuple(_unpacked(item) for item in rest[0])
    if kind == "list":
        return [_unpacked(item) for item in rest[0]]
    if kind == "dict":
        return {_unpacked(key): _unpacked(item) for key, item in rest[0]}
    if kind == "message":
        return rest[0].model_copy(update={"artifact": _unpacked(rest[1])})
    return rest[0]
