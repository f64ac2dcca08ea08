"""`holdfast costs`: what was spent, and on what.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from .common import age, json_option, text_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database
    from holdfast.checkpointing.costs import Grouping

GROUPINGS: tuple[Grouping, ...] = ("model", "node", "tool", "tenant", "thread", "run", "correlation", "day")


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        if (before := age(value)) is not None:
            return datetime.now(UTC) - before
        given = datetime.fromisoformat(value.strip())
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no moment: how long ago, as in 24h or 7d, or a date, as in 2026-03-01 or 2026-03-01T14:30Z"
        ) from None


@click.command()
@click.option("--by", type=click.Choice(GROUPINGS), default="model", show_default=True, help="What a line is of.")
@click.option("--since", callback=_moment, metavar="WHEN", help="How long ago, as in 24h, 7d or 8w, or a date in UTC.")
@click.option("--until", callback=_moment, metavar="WHEN", help="Up to then, and no longer.")
@click.option("--thread", callback=text_option, help="Only this thread's.")
@click.option("--correlation", callback=text_option, metavar="ID", help="Only this decision's; it may span threads.")
@click.option("--tenant", callback=text_option, help="Only what was charged to this tenant.")
@click.option("--chart", "as_chart", is_flag=True, help="Print bars alone.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with exact amounts.")
@json_option
def costs(
    by: Grouping,
    since: datetime | None,
    until: datetime | None,
    thread: str | None,
    correlation: str | None,
    tenant: str | None,
    as_chart: bool,
    as_csv: bool,
    as_json: bool,
) -> int:
    """Print what was spent, in US dollars: by model, or by node, tool, tenant, thread, run, correlation or day.

    The sums are those of the audit trail's events, those of deleted threads among them. Calls that were answered
    from the record cost nothing. Days are days in UTC.

    \b
    holdfast costs --by tenant --since 7d
    holdfast costs --by day --since 2026-03-01 --until 2026-04-01 --csv > march.csv
    """
    if as_chart + as_csv + as_json > 1:
        raise click.UsageError("--chart, --csv and --json exclude one another")
    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"--since {since:%Y-%m-%dT%H:%MZ} is not before --until {until:%Y-%m-%dT%H:%MZ}")
    from . import bills, render

    async def reported(database: Database) -> int:
        lines = await database.costs.areport(
            by, since=since, until=until, thread_id=thread, correlation_id=correlation, tenant=tenant
        )
        if as_json:
            click.echo(render.dump(bills.as_json(lines, by)))
        elif as_csv:
            click.echo(bills.as_csv(lines, by), nl=False)
        elif not lines:
            click.echo("nothing was spent")
        else:
            (bills.chart if as_chart else bills.table)(bills.console(), lines, by)
        return 0

    return with_database(reported)
