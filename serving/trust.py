"""`holdfast trust`: how far each kind of action may go alone, from which numbers, and what people say of it.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from .common import acting, json_option, name_option, text_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database, Evidence
    from holdfast.checkpointing.evidence import Ring
    from holdfast.guardrails.trust import TrustRecord, TrustRule

tool_argument = click.argument("tool", callback=name_option)
pattern_option = click.option(
    "--pattern", callback=name_option, metavar="NAME", help="Which kind of the tool's actions.  [default: the tool]"
)
by_option = click.option("--by", "actor", callback=name_option, metavar="NAME", help="Who says it; else your login.")
why_option = click.option("--why", default="", metavar="TEXT", help="The reason, for the record.")


@click.group()
def trust() -> None:
    """See what autonomy a tool has earned, and from which numbers; limit it, and report what went wrong.

    \b
    ring 0  every call is approved first
    ring 1  a call whose checks pass is made, and reviewed after
    ring 2  a call is made; some are put up for review

    A ring is earned when the lower bound of the rate at which people approve calls as they stand reaches the ring's
    threshold, and is lost with the next rejection or incident.
    """


@trust.command("list")
@json_option
def listed(as_json: bool) -> int:
    """List every kind of action of which something is known.

    A tool's rule is the one that its program declared, and until that has asked for the first time the usual one.
    """
    from . import bills, render, standings

    async def shown(database: Database) -> int:
        records = [await _record(database, place.tool, place.pattern) for place in await database.trust.aplaces()]
        if as_json:
            click.echo(render.dump([standings.as_json(record) for record in records]))
        elif records:
            standings.table(bills.console(), records)
        else:
            click.echo("nobody was asked about any call yet")
        return 0

    return with_database(shown)


@trust.command()
@tool_argument
@pattern_option
@json_option
def show(tool: str, pattern: str | None, as_json: bool) -> int:
    """Show one kind of action: the numbers, what the rings demand, and the newest cases."""
    from . import bills, render, standings

    async def shown(database: Database) -> int:
        record = await _record(database, tool, pattern)
        if as_json:
            click.echo(render.dump(standings.as_json(record, cases=True)))
        else:
            for line in standings.lines(record):
                click.echo(line)
            standings.cases(bills.console(), record)
        return 0

    return with_database(shown)


@trust.command()
@tool_argument
@pattern_option
@click.option("--ring", type=click.IntRange(0, 2), required=True, help="The highest that is allowed.")
@click.option("--exact", is_flag=True, help="This very ring, earned or not, until the next rejection or incident.")
@why_option
@by_option
def pin(tool: str, pattern: str | None, ring: int, exact: bool, why: str, actor: str | None) -> int:
    """Limit a tool to a ring, or give it one; it is written to the audit trail.

    \b
    holdfast trust pin send_email --ring 0 --why "until the new template was seen"
    holdfast trust pin read_file --ring 2 --exact
    """

    async def pinned(database: Database) -> int:
        rule = await _rule(database, tool, pattern)
        await database.trust.apin(
            tool, cast("Ring", ring), by=acting(actor), why=why, pattern=pattern, exact=exact, rule=rule
        )
        return await _told(database, tool, pattern, f"pinned to ring {ring}{'' if exact else ' at the most'}")

    return with_database(pinned)


@trust.command()
@tool_argument
@pattern_option
@by_option
def unpin(tool: str, pattern: str | None, actor: str | None) -> int:
    """Let the evidence decide again."""
    from .errors import NotPinned

    async def unpinned(database: Database) -> int:
        rule = await _rule(database, tool, pattern)
        if not await database.trust.aunpin(tool, by=acting(actor), pattern=pattern, rule=rule):
            raise NotPinned(tool, pattern)
        return await _told(database, tool, pattern, "no longer pinned")

    return with_database(unpinned)


@trust.command()
@click.argument("tool", callback=name_option, required=False)
@pattern_option
@click.option("--request", "request_id", callback=text_option, metavar="ID", help="The call's; else name the tool.")
@click.option("--why", required=True, metavar="TEXT", help="What harm was done.")
@by_option
def incident(tool: str | None, pattern: str | None, request_id: str | None, why: str, actor: str | None) -> int:
    """Report that a call did harm: its tool goes to ring 0 at once.

    \b
    holdfast trust incident --request apr-… --why "went to the wrong customer"
    holdfast trust incident send_email --why "complaints about spam"
    """
    if (tool is None) == (request_id is None) or (request_id is not None and pattern is not None):
        raise click.UsageError("name a TOOL, perhaps with --pattern, or a call by --request")

    async def reported(database: Database) -> int:
        name, kind = (tool, pattern) if request_id is None else await _of_request(database, request_id)
        assert name is not None
        rule = await _rule(database, name, kind)
        if request_id is None:
            await database.trust.aincident(name, pattern=kind, by=acting(actor), why=why, rule=rule)
        else:
            await database.trust.aincident(request_id=request_id, by=acting(actor), why=why, rule=rule)
        return await _told(database, name, kind, "an incident is on record")

    return with_database(reported)


@trust.command()
@click.argument("request_id", callback=text_option, required=False, metavar="[REQUEST]")
@click.option("--fine", is_flag=True, help="The call was right as it was made.")
@click.option("--tool", callback=name_option, metavar="NAME", help="List this tool's runs only.")
@why_option
@by_option
@json_option
def review(request_id: str | None, fine: bool, tool: str | None, why: str, actor: str | None, as_json: bool) -> int:
    """List the automatic runs that wait for a review, or say of one that it was fine.

    \b
    holdfast trust review
    holdfast trust review apr-… --fine

    Of one that was not, `holdfast trust incident --request` says so.
    """
    if (request_id is None) == fine:
        raise click.UsageError("name a REQUEST and say --fine; without both, the runs are listed")
    from . import bills, render, standings

    async def reviewed(database: Database) -> int:
        if request_id is not None:
            name, kind = await _of_request(database, request_id)
            rule = await _rule(database, name, kind)
            await database.trust.areview(request_id, by=acting(actor), why=why, rule=rule)
            return await _told(database, name, kind, "one more run was fine")
        runs = await database.trust.ato_review(tool)
        if as_json:
            click.echo(render.dump([standings.run_as_json(run) for run in runs]))
        elif runs:
            standings.runs(bills.console(), runs)
        else:
            click.echo("no run waits for a review")
        return 0

    return with_database(reviewed)


async def _rule(database: Database, tool: str, pattern: str | None) -> TrustRule:
    """As the tool's program has declared it, else the usual one."""
    from holdfast.guardrails.trust import TrustRule

    wanted = tool if pattern is None else pattern
    places = await database.trust.aplaces(tool)
    written = next((place.rule for place in places if place.pattern == wanted), None)
    return TrustRule() if written is None else TrustRule.read(written)


async def _record(database: Database, tool: str, pattern: str | None) -> TrustRecord:
    rule = await _rule(database, tool, pattern)
    evidence: Evidence = await database.trust.aevidence(tool, pattern=pattern, window=rule.window, tally=True)
    return rule.judge(evidence)


async def _of_request(database: Database, request_id: str) -> tuple[str, str]:
    place = await database.trust.aplace_of(request_id)
    return place.tool, place.pattern


async def _told(database: Database, tool: str, pattern: str | None, what: str) -> int:
    """What was done, and where that leaves the tool."""
    from . import render, standings

    record: Any = await _record(database, tool, pattern)
    click.echo(render.one_line(f"{standings.subject(record)}: {what}; {standings.short(record)}"))
    return 0
