"""`holdfast notify`: tell people of requests for approval.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from .common import json_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database

_LAST = 120.0
"""Seconds that `--once` waits for each receiver."""


@click.command()
@click.option("--once", is_flag=True, help="Tell what is due, and end.")
@click.option("--waiting", is_flag=True, help="List what is still to be told, and tell nothing.")
@json_option
def notify(once: bool, waiting: bool, as_json: bool) -> int:
    """Tell people of requests, reminders, escalations and decisions, until it is stopped.

    \b
    HOLDFAST_WEBHOOK_URL       posted to, signed as https://www.standardwebhooks.com says
    HOLDFAST_WEBHOOK_SECRET    whsec_…; two with a space between while one replaces the other
    HOLDFAST_NOTIFY            addresses of https://appriseit.com, with spaces between
    HOLDFAST_INBOX_URL         where the inbox is, for links
    HOLDFAST_NOTIFY_ARGUMENTS  yes: tell the arguments of calls, too

    Any number of these may run, on any machines: each notice is told by one. What happened before the first of them
    ran is not told.
    """
    if once and waiting:
        raise click.UsageError("--once tells, --waiting lists: say one of them")

    async def told(database: Database) -> int:
        if waiting:
            return await _listed(database, as_json=as_json)
        from .announcing import required

        announcer = required(database)
        if not once:
            await announcer.run()
        count = 0
        while found := await announcer.announce():
            count += found
            await asyncio.to_thread(announcer.flush, _LAST)
        click.echo(f"{count} {'notice' if count == 1 else 'notices'} handed to {', '.join(announcer.receivers)}")
        return 0

    try:
        return with_database(told)
    except KeyboardInterrupt:
        return 0


async def _listed(database: Database, *, as_json: bool) -> int:
    from . import render
    from .state import utc

    found = await database.notices.aoutstanding()
    if as_json:
        click.echo(
            render.dump(
                [
                    {
                        "receiver": one.receiver, "request": one.request_id, "kind": one.kind, "number": one.number,
                        "at": one.at.isoformat(), "tries": one.tries,
                    }
                    for one in found
                ]
            )
        )  # fmt: skip
        return 0
    for one in found:
        tries = f", tried {one.tries} times" if one.tries else ""
        click.echo(render.one_line(f"{one.receiver}: {one.kind} {one.request_id}, {utc(one.at)} UTC{tries}"))
    if not found:
        click.echo("nothing is to be told")
    return 0
