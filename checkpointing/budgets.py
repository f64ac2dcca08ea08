"""Budgets: what a scope may spend per call, per run, per hour and per day."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, get_args

from .errors import HoldfastError

Unit = Literal["usd", "tokens"]
Window = Literal["call", "run", "hour", "day"]
LIMITS: Final[dict[Window, str]] = {"call": "per_call", "run": "per_run", "hour": "hourly", "day": "daily"}
"""The field of a `Budget` that limits each window."""
SCOPE: Final = 200
"""Characters of a scope's name."""
_WHEN: Final[dict[Window, str]] = {"call": "", "run": "in this run", "hour": "this hour", "day": "today"}

_DIGITS: Final = 1000


class InvalidBudget(HoldfastError, ValueError):
    """A limit that is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a scope may spend; None is no limit.

    >>> Budget(scope="tenant:acme", hourly="2.50")
    Budget(scope='tenant:acme', unit='usd', per_call=None, per_run=None, hourly=Decimal('2.50'), daily=None)
    >>> Budget(scope="tenant:acme", hourly=0)
    Traceback (most recent call last):
    holdfast.checkpointing.budgets.InvalidBudget: budget 'tenant:acme': hourly must be a number above 0, not 0
    """

    scope: str
    """Who spends: `tenant:acme`, `agent:outreach`, … ; all calls that name it share its windows."""
    unit: Unit = "usd"
    """US dollars, or tokens of input and output together."""
    per_call: Decimal | None = None
    per_run: Decimal | None = None
    hourly: Decimal | None = None
    """Of each hour of the clock in UTC."""
    daily: Decimal | None = None
    """Of each day in UTC."""

    def __init__(
        self,
        scope: str,
        unit: Unit = "usd",
        *,
        per_call: Decimal | int | str | None = None,
        per_run: Decimal | int | str | None = None,
        hourly: Decimal | int | str | None = None,
        daily: Decimal | int | str | None = None,
    ) -> None:
        """Limits are decimals, whole numbers or texts: money in binary fractions does not add up.

        Raises:
            InvalidBudget: a limit is zero, negative, infinite, no number or a float; the scope is empty, longer than
                200 characters or not printable; the unit is none of ours.
        """
        if not 0 < len(scope) <= SCOPE or not scope.isprintable():
            # What an index cannot keep would fail the others of its batch, too.
            raise InvalidBudget(
                f"a budget's scope must be a name of 1 to {SCOPE} printable characters, not {cut(scope)}"
            )
        if unit not in get_args(Unit):
            raise InvalidBudget(f"budget {scope!r}: the unit must be usd or tokens, not {unit!r}")
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "unit", unit)
        for name, given in (("per_call", per_call), ("per_run", per_run), ("hourly", hourly), ("daily", daily)):
            object.__setattr__(self, name, _limit(scope, name, given))

    @property
    def unlimited(self) -> bool:
        """Whether it has no limit, and only counts."""
        return all(getattr(self, name) is None for name in LIMITS.values())


def possible(value: Decimal) -> bool:
    """Whether it is an amount: a number whose digits are within a thousand of the point.

    Postgres keeps 16,383 digits behind the point (its manual, 8.1.2), and who reads them out has to write them all.

    >>> possible(Decimal("0.01")), possible(Decimal("NaN")), possible(Decimal("1e9999"))
    (True, False, False)
    """
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_DIGITS and value.adjusted() <= _DIGITS


def cut(scope: str) -> str:
    """A name that is none, for an error."""
    return repr(scope) if len(scope) <= SCOPE else f"{scope[:40]!r}\u2026 ({len(scope)} characters)"


def _limit(scope: str, name: str, given: object) -> Decimal | None:
    if given is None:
        return None
    try:
        if isinstance(given, bool) or not isinstance(given, Decimal | int | str):
            raise InvalidOperation
        limit = Decimal(given)
        if not possible(limit) or limit <= 0:
            raise InvalidOperation
    except InvalidOperation:
        why = "; money is a Decimal or a text, as floats do not add up" if isinstance(given, float) else ""
        raise InvalidBudget(f"budget {scope!r}: {name} must be a number above 0, not {given!s}{why}") from None
    return limit


def distinct(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """The budgets of a call, no two of them of the same scope and unit.

    Raises:
        InvalidBudget: two are.
    """
    found: dict[tuple[str, str], Budget] = {}
    for budget in budgets:
        if (budget.scope, budget.unit) in found:
            raise InvalidBudget(f"two budgets in {budget.unit} of scope {budget.scope!r}; say all limits in one")
        found[budget.scope, budget.unit] = budget
    return tuple(found.values())


class BudgetExceeded(HoldfastError):
    """A call was not made: what it may cost at the most is more than what is left."""

    def __init__(
        self, scope: str, unit: Unit, window: Window, *, limit: Decimal, used: Decimal, needed: Decimal
    ) -> None:
        """`used` is what is spent and reserved in the window, `needed` what the call may cost."""
        self.scope: Final = scope
        self.unit: Final[Unit] = unit
        self.window: Final[Window] = window
        self.limit: Final = limit
        self.used: Final = used
        self.needed: Final = needed
        super().__init__(self._text())

    def __reduce__(self) -> tuple[object, ...]:
        """Its arguments are not its text."""
        return _again, (self.scope, self.unit, self.window, self.limit, self.used, self.needed)

    @property
    def short(self) -> Decimal:
        """By how much the limit is too low for this call."""
        return self.needed + self.used - self.limit

    @property
    def told(self) -> str:
        """For who uses the agent: without the scope's name, and without advice to its operator."""
        needed = f"the next call may cost up to {amount(self.needed, self.unit)}"
        if self.window == "call":
            return f"{needed}, and {amount(self.limit, self.unit)} is the limit of a call"
        left = max(self.limit - self.used, Decimal(0))
        return (
            f"{amount(left, self.unit)} of {amount(self.limit, self.unit)} are left {_WHEN[self.window]}, and {needed}"
        )

    def _text(self) -> str:
        tokens = "--unit tokens " if self.unit == "tokens" else ""
        raised = f"{shlex.quote(self.scope)} {tokens}--{LIMITS[self.window].replace('_', '-')}"
        left = max(self.limit - self.used, Decimal(0))
        what = (
            f"the limit of a call is {amount(self.limit, self.unit)}"
            if self.window == "call"
            else f"{amount(left, self.unit)} of {amount(self.limit, self.unit)} are left {_WHEN[self.window]}"
        )
        wait = {"hour": ", or wait for the next hour (UTC)", "day": ", or wait for the next day (UTC)"}
        return (
            f"budget {self.scope!r}: this call may cost up to {amount(self.needed, self.unit)}, and {what}; it was "
            f"not made. Raise the limit (`holdfast budget set {raised} …`)"
            f"{wait.get(self.window, '')}, and resume"
        )


def _again(  # a class with keyword-only arguments cannot be rebuilt by position
    scope: str, unit: Unit, window: Window, limit: Decimal, used: Decimal, needed: Decimal
) -> BudgetExceeded:
    return BudgetExceeded(scope, unit, window, limit=limit, used=used, needed=needed)


def amount(value: Decimal, unit: Unit) -> str:
    """An amount for people: as many digits as it has, two at the least for money.

    >>> amount(Decimal("0.5"), "usd"), amount(Decimal("0.00123"), "usd"), amount(Decimal(12000), "tokens")
    ('0.50 USD', '0.00123 USD', '12,000 tokens')
    """
    if unit == "tokens":
        return f"{value:,f} tokens"
    short = f"{value:,f}"
    whole, _, part = short.partition(".")
    return f"{whole}.{part.rstrip('0'):0<2} USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBudget:
    """Limits that somebody set, which go before the declared ones."""

    budget: Budget
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentWindow:
    """What a scope has spent in a window."""

    scope: str
    unit: Unit
    window: Window
    start: str
    """`2026-11-21T18` or `2026-11-21` in UTC; of a run, its key."""
    spent: Decimal
    reserved: Decimal
