"""What scopes may spend and have spent, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.checkpointing.budgets import LIMITS, SetBudget, SpentWindow, Unit, Window, amount
from holdfast.checkpointing.ledger import Outstanding

from . import render
from .state import utc

_STARTS: Final[Mapping[Window, str]] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d"}
"""The windows that are shown, and how the ledger calls the present ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A scope's limit and spending in one kind of window; of calls and runs the limit alone."""

    window: Window
    limit: Decimal | None
    """That was set; None: none was."""
    spent: Decimal | None = None
    reserved: Decimal | None = None

    @property
    def left(self) -> Decimal | None:
        """Of the limit; below 0 it is not, though more than the limit may be spent."""
        if self.limit is None or self.spent is None or self.reserved is None:
            return None
        return max(self.limit - self.spent - self.reserved, Decimal(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of a scope, in one unit."""

    scope: str
    unit: Unit
    set: SetBudget | None
    lines: Sequence[Line]


def accounts(budgets: Iterable[SetBudget], windows: Iterable[SpentWindow], now: datetime) -> list[Account]:
    """Each scope that has a limit or has spent something in this hour or on this day, by name."""
    limits: dict[tuple[str, Unit], SetBudget] = {(each.budget.scope, each.budget.unit): each for each in budgets}
    spent = {
        (each.scope, each.unit, each.window): each
        for each in windows
        if each.window in _STARTS and each.start == now.astimezone(UTC).strftime(_STARTS[each.window])
    }
    known = set(limits)
    known.update((each.scope, each.unit) for each in spent.values())

    def account(scope: str, unit: Unit) -> Account:
        of: dict[Window, SpentWindow | None] = {window: spent.get((scope, unit, window)) for window in _STARTS}
        found = limits.get((scope, unit))
        return Account(scope=scope, unit=unit, set=found, lines=_lines(found, of))

    return [account(scope, unit) for scope, unit in sorted(known)]


def _lines(limits: SetBudget | None, spent: Mapping[Window, SpentWindow | None]) -> list[Line]:
    lines: list[Line] = []
    for window, name in LIMITS.items():
        limit: Decimal | None = getattr(limits.budget, name) if limits is not None else None
        if window in spent:
            found = spent[window]
            nothing = Decimal(0)
            used = (found.spent, found.reserved) if found is not None else (nothing, nothing)
            lines.append(Line(window=window, limit=limit, spent=used[0], reserved=used[1]))
        elif limit is not None:
            lines.append(Line(window=window, limit=limit))
    return lines


def as_json(account: Account) -> dict[str, Any]:
    """A scope as plain data; amounts are text, and exact."""
    return {
        "scope": account.scope,
        "unit": account.unit,
        "set_by": account.set.by if account.set else None,
        "set_at": account.set.at.isoformat() if account.set else None,
        "windows": [
            {
                "window": line.window,
                "limit": _text(line.limit),
                "spent": _text(line.spent),
                "reserved": _text(line.reserved),
                "left": _text(line.left),
            }
            for line in account.lines
        ],
    }


def table(console: Console, found: Sequence[Account]) -> None:
    """Print the scopes, a line for each of their windows."""
    rows = Table(box=None, pad_edge=False, highlight=False)
    rows.add_column("scope", overflow="fold")
    rows.add_column("window")
    for name in ("limit", "spent", "reserved", "left"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("set by", overflow="fold")
    for account in found:
        by = f"{account.set.by}, {utc(account.set.at)} UTC" if account.set else ""
        for number, line in enumerate(account.lines):
            amounts = [line.limit, line.spent, line.reserved, line.left]
            shown = ["" if value is None else amount(value, account.unit) for value in amounts]
            cells = [account.scope if not number else "", line.window, *shown, by if not number else ""]
            rows.add_row(*(Text(render.one_line(cell)) for cell in cells))
    with console.capture() as captured:
        console.print(rows)
    for text in captured.get().splitlines():
        console.out(text.rstrip(), highlight=False)


def reservation(one: Outstanding) -> str:
    """An outstanding reservation on one line."""
    where = f" on thread {one.thread_id}" if one.thread_id else ""
    up_to = f"up to {amount(one.usd, 'usd')} and {amount(Decimal(one.tokens), 'tokens')} of {', '.join(one.scopes)}"
    since = f"since {utc(one.made_at)} UTC by {one.worker}"
    return render.one_line(f"{one.reservation_id} {one.state}: {one.name}{where}, {up_to}, {since}")


def reservation_as_json(one: Outstanding) -> dict[str, Any]:
    """The same as plain data; amounts are text, and exact."""
    return {
        "reservation": one.reservation_id,
        "state": one.state,
        "usd": _text(one.usd),
        "tokens": one.tokens,
        "scopes": list(one.scopes),
        "thread_id": one.thread_id,
        "effect_id": one.effect_id,
        "name": one.name,
        "worker": one.worker,
        "made_at": one.made_at.isoformat(),
    }


def _text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"
