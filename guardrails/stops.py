"""Errors that neither a tool node nor a retry may turn into a text."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from langgraph.errors import GraphBubbleUp

from ..checkpointing.errors import HoldfastError


@contextmanager
def stopping() -> Generator[None]:
    """Let Holdfast's errors through a `ToolNode` or a retry that handles errors: they end the run, as what they are."""
    try:
        yield
    except HoldfastError as error:
        if isinstance(error, GraphBubbleUp):
            raise
        stop = _stop(type(error)).__new__(_stop(type(error)))
        stop.__dict__.update(error.__dict__)
        stop.args = error.args
        raise stop from error


@contextmanager
def stopped() -> Generator[None]:
    """Around a graph within a node: what ended it is the node's error, which LangGraph saves; a stop it does not."""
    try:
        yield
    except HoldfastError as stop:
        if isinstance(stop, GraphBubbleUp) and isinstance(stop.__cause__, HoldfastError):
            raise stop.__cause__ from None
        raise


_stops: Final[dict[type[HoldfastError], type[HoldfastError]]] = {}


def _stop(kind: type[HoldfastError]) -> type[HoldfastError]:
    """The same error, as one that LangGraph passes on."""
    if kind not in _stops:
        names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _stops[kind] = type(kind.__name__, (kind, GraphBubbleUp), names)
    return _stops[kind]
