"""`holdfast doubts` and `holdfast resolve`: calls whose worker went away, and what became of them.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import click

from .common import acting, json_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database

Outcome = Literal["happened", "did not happen", "abandoned"]


@click.command()
@click.argument("thread", required=False)
@json_option
def doubts(thread: str | None, as_json: bool) -> int:
    """List calls that were begun and of which nobody knows whether they happened.

    Their worker died, or they ended in an error that does not say. Calls that are being made are not among them.
    """
    from . import render

    async def listed(database: Database) -> int:
        found = await database.journal.adoubts(thread)
        if as_json:
            rows = [
                {
                    "thread_id": doubt.thread_id,
                    "effect_id": doubt.effect_id,
                    "kind": doubt.kind,
                    "name": doubt.name,
                    "asked": doubt.asked,
                    "state": doubt.state,
                    "on_doubt": doubt.on_doubt,
                    "since": doubt.claimed_at.isoformat(),
                }
                for doubt in found
            ]
            click.echo(render.dump(rows))
            return 0
        for doubt in found:
            asked = json.dumps(doubt.asked, ensure_ascii=False)
            then = "" if doubt.on_doubt == "ask" else f" ({_THEN[doubt.on_doubt]})"
            where = f"{doubt.thread_id}  {doubt.effect_id}  {doubt.claimed_at:%Y-%m-%d %H:%M:%S} UTC"
            click.echo(render.one_line(f"{where}  {doubt.kind} {doubt.name} {asked}{then}"))
        if not found:
            click.echo("nothing is in doubt")
        return 0

    return with_database(listed)


_THEN = {
    "retry": "is made again on resume",
    "idempotent": "is made again on resume, with the same key",
    "reconcile": "the outside is asked on resume",
}


@click.command()
@click.argument("thread")
@click.argument("effect")
@click.option("--happened", metavar="RESULT", help="It happened, and this is what it returned: JSON, or else a text.")
@click.option("--did-not-happen", is_flag=True, help="It did not: it is made when the thread is resumed.")
@click.option("--abandon", is_flag=True, help="Give it up: the agent is told that nobody knows.")
@click.option("--as", "actor", help="Who says so; else the user of this machine.")
def resolve(
    thread: str, effect: str, happened: str | None, did_not_happen: bool, abandon: bool, actor: str | None
) -> int:
    """Say what became of a call that `holdfast doubts` lists; then resume its thread.

    It is written to the audit trail. The call is not made here.
    """
    outcomes: list[Outcome] = []
    if happened is not None:
        outcomes.append("happened")
    if did_not_happen:
        outcomes.append("did not happen")
    if abandon:
        outcomes.append("abandoned")
    if len(outcomes) != 1:
        raise click.UsageError("say one of --happened RESULT, --did-not-happen, --abandon")
    from holdfast.checkpointing.journal import Said, spoken

    from .errors import NotInDoubt

    async def resolved(database: Database) -> int:
        result = spoken(_value(happened)) if happened is not None else None
        said = Said(outcomes[0], acting(actor), result)
        if not await database.journal.aresolve(thread, effect, said):
            raise NotInDoubt(thread, effect)
        click.echo(f"{effect}: {outcomes[0]}; resume the thread to go on")
        return 0

    return with_database(resolved)


def _value(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return given
