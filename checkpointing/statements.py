"""The journal's and the ledger's statements, each for all who ask at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

from .arrays import BytesArray, IntArray, TextArray
from .audit import storable
from .budgets import BudgetExceeded
from .errors import LeaseLost
from .records import Claim, Effect, JournalMismatch, Settlement
from .spending import Closing, Ending, Nearest, Reservation, Wanted
from .sql import queries

_JOURNAL: Final = queries("journal")
_LEDGER: Final = queries("ledger")
_EVENTS: Final = {"completed": "completed", "failed": "failed", "raised": "failed", "suspended": "suspended"}
_LIMITS: Final = ("per_call", "per_run", "hourly", "daily")
Clock = Callable[[], datetime | None]
"""The time; None: the database's own."""
Statement = tuple[bytes, Callable[[Sequence[Any]], Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A claim, as it is asked for."""

    effect: Effect
    again: bool
    token: str
    worker: str

    @property
    def kind(self) -> str:
        """The statement that it goes into."""
        return "claim" if self.effect.wanted is None else "enter"


def leaving(settlement: Settlement) -> str:
    """The statement that a settlement goes into."""
    return "settle" if settlement.closing is None or settlement.claim.reservation is None else "leave"


@dataclass(frozen=True, slots=True)
class Reserving:
    """A reservation without a claim, as it is asked for."""

    reservation_id: str
    wanted: Wanted
    worker: str


def statements(clock: Clock) -> dict[str, Statement]:
    """By kind, in the order in which they are carried out.

    Ends first: they make room in the windows, and a call that was cancelled while its end was on the way may be
    claimed again beside it. A reservation that is withdrawn may be in the same batch.
    """
    return {
        "leave": (_LEDGER["leave"], partial(_leavings, clock)),
        "close": (_LEDGER["close"], partial(_endings, clock, False)),
        "close_soon": (_LEDGER["close"], partial(_endings, clock, True)),
        "settle": (_JOURNAL["settle"], _settlements),
        "enter": (_LEDGER["enter"], partial(_entries, clock)),
        "reserve": (_LEDGER["reserve"], partial(_reservations, clock)),
        "claim": (_JOURNAL["claim"], _claims),
        "withdraw": (_LEDGER["close"], partial(_endings, clock, True)),
    }


def _claims(asked: Sequence[Asked]) -> dict[str, Any]:
    effects = [one.effect for one in asked]
    leases = [effect.lease for effect in effects]
    return {
        "thread": TextArray(effect.thread_id for effect in effects),
        "effect": TextArray(effect.effect_id for effect in effects),
        "kind": TextArray(effect.kind for effect in effects),
        "name": TextArray(effect.name for effect in effects),
        "request": BytesArray(effect.request for effect in effects),
        "asked": TextArray(storable(effect.asked) for effect in effects),
        "token": TextArray(one.token for one in asked),
        "worker": TextArray(lease.worker if lease else one.worker for lease, one in zip(leases, asked, strict=True)),
        "epoch": IntArray(lease.epoch if lease else None for lease in leases),
        "again": IntArray(int(one.again) for one in asked),
        "ns": TextArray(effect.checkpoint_ns for effect in effects),
        "task": TextArray(effect.task_id for effect in effects),
        "node": TextArray(effect.node for effect in effects),
        "step": IntArray(effect.step for effect in effects),
        "correlation": TextArray(effect.correlation_id for effect in effects),
        "run": TextArray(effect.run_id for effect in effects),
        "on_doubt": TextArray(effect.on_doubt for effect in effects),
    }


def _entries(clock: Clock, asked: Sequence[Asked]) -> dict[str, Any]:
    wanted = [one.effect.wanted for one in asked if one.effect.wanted]
    return {**_claims(asked), **_needs(clock, wanted), "payer": TextArray(one.node for one in wanted)}


def _reservations(clock: Clock, asked: Sequence[Reserving]) -> dict[str, Any]:
    wanted = [one.wanted for one in asked]
    return {
        "id": TextArray(one.reservation_id for one in asked),
        "thread": TextArray(one.thread_id for one in wanted),
        "effect": TextArray(one.effect_id for one in wanted),
        "node": TextArray(one.node for one in wanted),
        "correlation": TextArray(one.correlation_id for one in wanted),
        "name": TextArray(one.name for one in wanted),
        "worker": TextArray(one.worker for one in asked),
        **_needs(clock, wanted),
    }


def _needs(clock: Clock, wanted: Sequence[Wanted]) -> dict[str, Any]:
    # In the order in which rows are locked.
    lines = [
        (number, budget)
        for number, one in enumerate(wanted, 1)
        for budget in sorted(one.budgets, key=lambda budget: (budget.scope, budget.unit))
    ]
    return {
        "at": clock(),
        "run_key": TextArray(one.run_key for one in wanted),
        "usd": TextArray(str(one.usd) for one in wanted),
        "tokens": TextArray(str(one.tokens) for one in wanted),
        "line": IntArray(number for number, _ in lines),
        "scope": TextArray(budget.scope for _, budget in lines),
        "unit": TextArray(budget.unit for _, budget in lines),
        **{name: TextArray(_text(getattr(budget, name)) for _, budget in lines) for name in _LIMITS},
    }


def _settlements(asked: Sequence[Settlement]) -> dict[str, Any]:
    effects = [one.claim.effect for one in asked]
    results = [one.result or (None, None) for one in asked]
    return {
        "thread": TextArray(effect.thread_id for effect in effects),
        "effect": TextArray(effect.effect_id for effect in effects),
        "token": TextArray(one.claim.token for one in asked),
        "epoch": IntArray(effect.lease.epoch if effect.lease else None for effect in effects),
        "state": TextArray(one.state for one in asked),
        "event": TextArray(one.event or _EVENTS[one.state] for one in asked),
        "type": TextArray(kind for kind, _ in results),
        "result": BytesArray(data for _, data in results),
        "tokens_in": IntArray(one.input_tokens for one in asked),
        "tokens_out": IntArray(one.output_tokens for one in asked),
        "price": TextArray(_text(one.cost) for one in asked),
        "ms": TextArray(_ms(one.duration) for one in asked),
        "details": TextArray(storable(one.details) for one in asked),
    }


def _leavings(clock: Clock, asked: Sequence[Settlement]) -> dict[str, Any]:
    return {**_settlements(asked), **_closings(clock, [one.closing for one in asked if one.closing])}


def _endings(clock: Clock, soon: bool, asked: Sequence[Ending]) -> dict[str, Any]:
    wanted, charges = [one.reservation.wanted for one in asked], [one.charge for one in asked]
    return {
        "id": TextArray(one.reservation.reservation_id for one in asked),
        "thread": TextArray(one.thread_id if charge else None for one, charge in zip(wanted, charges, strict=True)),
        "correlation": TextArray(one.correlation_id for one in wanted),
        "effect": TextArray(one.effect_id for one in wanted),
        "node": TextArray(one.node for one in wanted),
        "worker": TextArray(one.worker for one in asked),
        "run": TextArray(charge.run_id if charge else None for charge in charges),
        "ns": TextArray(charge.checkpoint_ns if charge else "" for charge in charges),
        "step": IntArray(charge.step if charge else None for charge in charges),
        "event": TextArray(charge.event if charge else "" for charge in charges),
        "tokens_in": IntArray(charge.input_tokens if charge else None for charge in charges),
        "tokens_out": IntArray(charge.output_tokens if charge else None for charge in charges),
        "ms": TextArray(_ms(charge.duration if charge else None) for charge in charges),
        "details": TextArray(storable(charge.details if charge else {}) for charge in charges),
        "soon": int(soon),
        **_closings(clock, [one.closing for one in asked]),
    }


def _closings(clock: Clock, closings: Sequence[Closing]) -> dict[str, Any]:
    return {
        "at": clock(),
        "closing": TextArray(one.outcome for one in closings),
        "usd": TextArray(_text(one.usd) for one in closings),
        "tokens": TextArray(_text(one.tokens) for one in closings),
    }


def _text(number: object) -> str | None:
    return None if number is None else str(number)


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.3f}"


def claimed(asked: Asked, row: tuple[Any, ...]) -> Claim:
    """The answer to a claim.

    Raises:
        BudgetExceeded, LeaseLost, JournalMismatch: it is none.
    """
    effect, reservation = asked.effect, None
    if effect.wanted is not None:
        reservation = reserved(asked.token, effect.wanted, row[:7])
        row = row[7:]
    outcome, attempt, kind, data = row
    if outcome == "lost":
        raise LeaseLost(effect.thread_id)
    if outcome == "mismatch":
        raise JournalMismatch(effect)
    return Claim(
        effect,
        outcome,
        attempt,
        asked.token,
        (kind, bytes(data)) if data is not None else None,
        reservation if outcome == "claimed" else None,
    )


def reserved(reservation_id: str, wanted: Wanted, row: tuple[Any, ...]) -> Reservation:
    """The answer to a reservation.

    Raises:
        BudgetExceeded: it is refused.
    """
    outcome, scope, unit, window, limit, used, needed = row
    if outcome == "refused":
        used = Decimal(0) if window == "call" else used
        raise BudgetExceeded(scope, unit, window, limit=limit, used=used, needed=needed)
    nearest = None
    if limit is not None and window != "call":
        nearest = Nearest(scope, unit, window, limit, used + needed)
    return Reservation(reservation_id, wanted, nearest)


def settled(settlement: Settlement, row: tuple[Any, ...]) -> None:
    """The answer to a settlement.

    Raises:
        LeaseLost: it is not ours to say any more.
    """
    if not row[0]:
        raise LeaseLost(settlement.claim.effect.thread_id)
