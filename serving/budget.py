"""`holdfast budget`: what may be spent, what was, and calls of which nobody knows what they did cost.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from .common import acting, amount_option, cost_option, json_option, name_option, text_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database
    from holdfast.checkpointing.budgets import Budget, Unit

UNITS: tuple[Unit, ...] = ("usd", "tokens")
scope_argument = click.argument("scope", callback=name_option)
unit_option = click.option("--unit", type=click.Choice(UNITS), default="usd", show_default=True, help="Of what.")
by_option = click.option("--by", "actor", callback=name_option, metavar="NAME", help="Who decides; else your login.")


@click.group()
def budget() -> None:
    """Say how much a scope may spend, and see what it has spent.

    A scope is a name that calls are charged to, such as agent:outreach or tenant:acme.
    """


@budget.command("list")
@json_option
def listed(as_json: bool) -> int:
    """List each scope's limits that were set, and what it has spent in this hour and on this day (UTC).

    What is reserved is for calls that are being made, or of which nobody knows yet what they did cost. Limits that
    programs declare themselves are theirs, and not known here.
    """
    from . import accounts, bills, render

    async def shown(database: Database) -> int:
        now = _now()
        ledger = database.ledger
        windows = [
            *await ledger.awindows(window="hour", since=now),
            *await ledger.awindows(window="day", since=now - timedelta(days=1)),
        ]
        found = accounts.accounts(await ledger.abudgets(), windows, now)
        if as_json:
            click.echo(render.dump([accounts.as_json(account) for account in found]))
        elif found:
            accounts.table(bills.console(), found)
        else:
            click.echo("no limit was set, and nothing was spent today")
        return 0

    return with_database(shown)


@budget.command("set")
@scope_argument
@unit_option
@click.option("--per-call", callback=amount_option, metavar="X", help="The most that one call may cost.")
@click.option("--per-run", callback=amount_option, metavar="X", help="The most that one run may cost, resumed or not.")
@click.option("--hourly", callback=amount_option, metavar="X", help="In each hour of the clock (UTC).")
@click.option("--daily", callback=amount_option, metavar="X", help="On each day (UTC).")
@by_option
def set_(
    scope: str,
    unit: Unit,
    per_call: Decimal | None,
    per_run: Decimal | None,
    hourly: Decimal | None,
    daily: Decimal | None,
    actor: str | None,
) -> int:
    """Set limits of a scope, for all workers from the next call on.

    Each stands in place of the one that was set before or that programs declare; those of which nothing is said here
    stay as they are. It is written to the audit trail.

    \b
    holdfast budget set tenant:acme --hourly 2.50 --daily 20
    holdfast budget set agent:outreach --unit tokens --per-run 400000
    """
    if per_call is per_run is hourly is daily is None:
        raise click.UsageError("say one of --per-call, --per-run, --hourly, --daily at the least")
    from holdfast.checkpointing import Budget

    from . import render

    limits = Budget(scope, unit, per_call=per_call, per_run=per_run, hourly=hourly, daily=daily)

    async def changed(database: Database) -> int:
        before = await database.ledger.aset(limits, by=acting(actor))
        said = f"before: {_limits(before)}" if before is not None else "none was set before"
        click.echo(render.one_line(f"{scope}: {_limits(limits)} ({said})"))
        return 0

    return with_database(changed)


@budget.command()
@scope_argument
@unit_option
@by_option
def remove(scope: str, unit: Unit, actor: str | None) -> int:
    """Take away the limits that were set; those that programs declare hold again."""
    from . import render
    from .errors import NoSuchBudget

    async def removed(database: Database) -> int:
        if not await database.ledger.aremove(scope, unit, by=acting(actor)):
            raise NoSuchBudget(scope, unit)
        click.echo(render.one_line(f"{scope}: no limit in {unit} is set any more"))
        return 0

    return with_database(removed)


@budget.command()
@json_option
def outstanding(as_json: bool) -> int:
    """List reservations that nobody has settled: what their calls may cost counts as spent.

    A call that is being made is among them as held. One that stays held has lost its worker: resuming its thread
    finds out what became of it. Of one that is presumed nobody knows what it did cost; your provider's records may,
    and `holdfast budget resolve` takes it down.
    """
    from . import accounts, render

    async def shown(database: Database) -> int:
        found = await database.ledger.aoutstanding()
        if as_json:
            click.echo(render.dump([accounts.reservation_as_json(one) for one in found]))
        for one in () if as_json else found:
            click.echo(accounts.reservation(one))
        if not found and not as_json:
            click.echo("nothing is outstanding")
        return 0

    return with_database(shown)


@budget.command()
@click.argument("reservation", callback=text_option)
@click.option("--cost", callback=cost_option, metavar="USD", help="The call was made, and this is what it did cost.")
@click.option(
    "--tokens",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --cost: of input and output.  [default: as reserved]",
)
@click.option("--not-made", is_flag=True, help="The call was not made, and cost nothing.")
@by_option
def resolve(reservation: str, cost: Decimal | None, tokens: int | None, not_made: bool, actor: str | None) -> int:
    """Say what the call of an outstanding reservation did cost; it is written to the audit trail.

    Not of a call that is being made: what it does cost would not be counted any more.
    """
    if (cost is None) is not not_made or (not_made and tokens is not None):
        raise click.UsageError("say --cost USD, with --tokens N if you know them, or --not-made")
    from holdfast.checkpointing.budgets import amount

    from . import render
    from .errors import NotOutstanding

    async def resolved(database: Database) -> int:
        if not await database.ledger.aresolve(reservation, usd=cost, tokens=tokens, by=acting(actor)):
            raise NotOutstanding(reservation)
        said = "was not made, and what was reserved is given back" if cost is None else f"cost {amount(cost, 'usd')}"
        click.echo(render.one_line(f"{reservation}: the call {said}"))
        return 0

    return with_database(resolved)


def _limits(limits: Budget) -> str:
    from holdfast.checkpointing.budgets import LIMITS, amount

    known = [(name, getattr(limits, name)) for name in LIMITS.values()]
    return ", ".join(f"{name.replace('_', ' ')} {amount(limit, limits.unit)}" for name, limit in known if limit)


def _now() -> datetime:
    return datetime.now(UTC)
