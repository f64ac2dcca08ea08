"""Holdfast: a LangGraph extension for agents that run for hours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpointing import (
        Database,
        DatabaseUnavailable,
        HoldfastError,
        HoldfastSaver,
        HoldfastStore,
        MissingExtra,
        ThreadBusy,
    )

__all__ = [
    "Database",
    "DatabaseUnavailable",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "MissingExtra",
    "ThreadBusy",
]


def __getattr__(name: str) -> object:
    # PEP 562: `holdfast --help` passes through here and must not wait for LangGraph to be imported.
    if name in __all__:
        from . import checkpointing

        return getattr(checkpointing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
