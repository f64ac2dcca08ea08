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
    from .guardrails import (
        ApprovalMiddleware,
        Budget,
        BudgetMiddleware,
        JournalMiddleware,
        StepTrackerMiddleware,
        effect,
    )

__all__ = [
    "ApprovalMiddleware",
    "Budget",
    "BudgetMiddleware",
    "Database",
    "DatabaseUnavailable",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "JournalMiddleware",
    "MissingExtra",
    "StepTrackerMiddleware",
    "ThreadBusy",
    "effect",
]


def __getattr__(name: str) -> object:
    # PEP 562: `holdfast --help` passes through here and must not wait for LangGraph to be imported.
    if name in __all__:
        from . import checkpointing, guardrails

        return getattr(checkpointing if hasattr(checkpointing, name) else guardrails, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
