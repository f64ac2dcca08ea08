"""When a scope spends faster than its own recent past: the decision, which is pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from statistics import median
from types import MappingProxyType
from typing import Any, Final

from ..checkpointing.audit import NewEvent
from .runway import Unit

_DAY: Final = 24
_TEN: Final = 10
_NORMAL: Final = Decimal("0.6745")
_CENT: Final = Decimal("0.01")
_TWO_DIGITS: Final = Context(prec=2)
_FLOORS: Final[Mapping[Unit, Decimal]] = MappingProxyType({"usd": Decimal(1), "tokens": Decimal(250_000)})


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """How far above its recent past a scope's hour has to be.

    A day's peak is what its dearest hour cost. An hour is unusual when it has cost more than all of

    - `factor` times the median of the daily peaks;
    - what has a modified z-score of `score` among them, 0.6745 · (x - median) / MAD with MAD the median of the
      absolute deviations from the median: B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers" (ASQC,
      1993), who advise 3.5; also in the NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.17;
    - `floors`, so that pennies alarm nobody.

    Peaks and not all hours, as agents rest and run in turn: a scope that works for an hour each night has a median
    hour of nothing, and would alarm every night. Medians, as an hour or a day that ran away must not become what is
    usual: less than half of the days can move them only within what the others were.

    An hour that is not over is compared as it stands, and not with what it may come to: nothing alarms because the
    hour began with a burst, and at a hundred times the usual the limit of three times is passed within two minutes.

    Raises:
        ValueError: `factor` is not above 1, `hours` is below 1, or `score` or a floor is negative or no number.
    """

    factor: Decimal = Decimal(3)
    score: Decimal = Decimal("3.5")
    hours: int = 6
    """How many hours must have cost something before there is a past to compare with."""
    floors: Mapping[Unit, Decimal] = field(default_factory=lambda: _FLOORS)

    def __post_init__(self) -> None:
        floors = {f"the floor for {unit}": floor for unit, floor in self.floors.items()}
        wrong = [
            *(() if self.factor.is_finite() and self.factor > 1 else [f"factor={self.factor} is not above 1"]),
            *(() if self.hours >= 1 else [f"hours={self.hours} is below 1"]),
            *(
                f"{name}={value} is not 0 or more"
                for name, value in {"score": self.score, **floors}.items()
                if not value.is_finite() or value < 0
            ),
        ]
        if wrong:
            raise ValueError(f"no rule for alerts: {'; '.join(wrong)}")


@dataclass(frozen=True, slots=True)
class Past:
    """What is usual for a scope, by its recent past."""

    usual: Decimal
    """Of a day's dearest hour; above 0."""
    limit: Decimal
    """An hour that has cost more than this is unusual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAlert:
    """A scope spends faster than its own recent past.

    >>> print(BudgetAlert(scope="tenant:acme", unit="usd", window_start=datetime(2026, 3, 1, 14, tzinfo=UTC),
    ...     spent=Decimal("12.30"), usual=Decimal("0.30"), at=datetime(2026, 3, 1, 14, 3, tzinfo=UTC)))
    'tenant:acme' has spent $12.30 since 14:00 UTC, 41 times the $0.30 of its usual dearest hour
    """

    scope: str
    unit: Unit
    window_start: datetime
    """Of the hour, in UTC."""
    spent: Decimal
    """In this hour so far, reservations included."""
    usual: Decimal
    """Of a day's dearest hour, in the recent past; above 0."""
    at: datetime
    """When it was noticed, in UTC."""

    @property
    def factor(self) -> Decimal:
        """How many times the usual was spent."""
        return self.spent / self.usual

    @property
    def title(self) -> str:
        return "Spending alert"

    @property
    def kind(self) -> str:
        return "budget.alerted"

    @property
    def urgent(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        return f"{self.scope} {self.unit} {self.window_start.isoformat()} {self.factor:.2f}"

    def __str__(self) -> str:
        spent, usual = (_amount(amount, self.unit) for amount in (self.spent, self.usual))
        since, times = f"{self.window_start.astimezone(UTC):%H:%M} UTC", _times(self.factor)
        return f"{self.scope!r} has spent {spent} since {since}, {times} the {usual} of its usual dearest hour"

    def details(self) -> dict[str, Any]:
        """As JSON: amounts and the factor as text, moments in ISO format."""
        return {
            "scope": self.scope,
            "unit": self.unit,
            "window_start": self.window_start.isoformat(),
            "spent": str(self.spent),
            "usual": str(self.usual),
            "factor": f"{self.factor:.2f}",
            "at": self.at.isoformat(),
        }

    def event(
        self,
        thread_id: str,
        *,
        actor: str = "budget",
        correlation_id: str | None = None,
        run_id: str | None = None,
        node: str | None = None,
    ) -> NewEvent:
        """For the trail of the thread whose call was the one too many; it costs nothing itself."""
        return NewEvent(
            thread_id=thread_id,
            kind="budget.alerted",
            actor=actor,
            details=self.details(),
            correlation_id=correlation_id,
            run_id=run_id,
            node=node,
        )


def past(history: Sequence[Decimal], unit: Unit, rule: AlertRule | None = None) -> Past | None:
    """What is usual by the hours before this one; None if too few of them cost anything.

    Args:
        history: what each hour cost, oldest first, an hour without costs as 0; a week is enough.
        unit: of the amounts.
        rule: else the usual `AlertRule()`.
    """
    rule = rule or AlertRule()
    if sum(spent > 0 for spent in history) < rule.hours:
        return None
    days = [max(history[max(end - _DAY, 0) : end]) for end in range(len(history), 0, -_DAY)]
    peaks = [peak for peak in days if peak > 0]
    usual = median(peaks)
    spread = median(abs(peak - usual) for peak in peaks)
    outlying = usual + rule.score * spread / _NORMAL
    return Past(usual, max(rule.factor * usual, outlying, rule.floors.get(unit, Decimal(0))))


def judge(
    known: Past | None, current: Decimal, *, scope: str, unit: Unit, hour: datetime, at: datetime
) -> BudgetAlert | None:
    """The alert that an hour's spending is worth, if it is.

    Args:
        known: the scope's `past`.
        current: what was spent and reserved since the hour began.
        scope: as the budget names it.
        unit: of the amounts.
        hour: when it began, in UTC.
        at: now, in UTC.
    """
    if known is None or current <= known.limit:
        return None
    return BudgetAlert(scope=scope, unit=unit, window_start=hour, spent=current, usual=known.usual, at=at)


def _amount(amount: Decimal, unit: Unit) -> str:
    if unit == "tokens":
        return f"{amount:,.0f} tokens"
    return f"${amount:,.2f}" if amount >= _CENT else f"${amount.normalize(_TWO_DIGITS):f}"


def _times(factor: Decimal) -> str:
    return f"{factor:,.0f} times" if factor >= _TEN else f"{factor:.1f} times"
