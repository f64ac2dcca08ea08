"""What a call may cost, what is reserved for it, and what becomes of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from .budgets import Budget, Unit, Window

Outcome = Literal["settled", "released", "presumed"]
"""`presumed`: nobody knows what it did cost, and what it may have cost counts as spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a call may cost at the most, and who pays."""

    budgets: tuple[Budget, ...]
    usd: Decimal
    tokens: int
    name: str
    """Of the model or the tool."""
    run_key: str | None = None
    """Of the run whose window it is in; none, where limits of a run do not apply."""
    thread_id: str | None = None
    """Whose audit trail tells of it."""
    effect_id: str | None = None
    node: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """The window whose limit is nearest."""

    scope: str
    unit: Unit
    window: Window
    limit: Decimal
    used: Decimal
    """Spent and reserved, this call's included."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is taken from the windows for a call, until it is settled or released."""

    reservation_id: str
    wanted: Wanted
    nearest: Nearest | None = None
    """None, where there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What becomes of a reservation."""

    outcome: Outcome
    usd: Decimal | None = None
    """What the call did cost; None, if that is not known."""
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A call of which the audit trail tells by the ledger's own event, as no journal does."""

    event: str = "model.charged"
    run_id: str | None = None
    checkpoint_ns: str = ""
    step: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration: float | None = None
    """Seconds."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Ending:
    """A reservation's end, as it is asked for."""

    reservation: Reservation
    closing: Closing
    charge: Charge | None
    worker: str
