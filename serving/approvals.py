"""`holdfast approvals`: what waits for a decision, and deciding it.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from .common import acting, json_option, name_option, text_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import ApprovalRequest, Database, Decided, DecisionType

STATES = ("waiting", "approved", "edited", "rejected", "responded", "expired", "withdrawn", "waived")
by_option = click.option("--by", "actor", callback=name_option, metavar="NAME", help="Who decides; else your login.")
request_argument = click.argument("request", callback=text_option)


def _texts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text_option(ctx, param, each) or "" for each in dict.fromkeys(value))


requests_argument = click.argument("requests", nargs=-1, callback=_texts, metavar="[REQUEST]...")
thread_option = click.option("--thread", "thread_id", callback=text_option, metavar="ID", help="All that it waits for.")


class _Listing(click.Group):
    """Lists when nothing else is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Listing)
def approvals() -> None:
    """See what waits for a decision, and decide it; without a command, list what waits.

    What a decision lets go on is run by a worker (`holdfast worker`).
    """


@approvals.command("list")
@click.option("--thread", "thread_id", callback=text_option, metavar="ID", help="Of this thread only.")
@click.option("--for", "decider", callback=name_option, metavar="NAME", help="That this person may decide.")
@click.option(
    "--state",
    "states",
    type=click.Choice((*STATES, "all")),
    multiple=True,
    default=("waiting",),
    show_default=True,
    help="In this state; may be given more than once.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="How many.")
@json_option
def list_(thread_id: str | None, decider: str | None, states: tuple[str, ...], limit: int, as_json: bool) -> int:
    """List requests, the one with the oldest deadline first."""
    from . import asked, render
    from .bills import console

    wanted = cast("Any", STATES if "all" in states else states)

    async def listed(database: Database) -> int:
        found = await database.approvals.afind(thread_id=thread_id, states=wanted, for_decider=decider, limit=limit)
        if as_json:
            click.echo(render.dump([asked.as_json(request) for request in found]))
        elif found:
            asked.table(console(), found)
        else:
            click.echo("nothing waits for a decision" if states == ("waiting",) else "there is no such request")
        return 0

    return with_database(listed)


@approvals.command()
@request_argument
@json_option
def show(request: str, as_json: bool) -> int:
    """Show a request: what is to be done, what the agent knew, who may decide and what was decided."""
    from . import asked, render

    async def shown(database: Database) -> int:
        found = await database.approvals.aget(request)
        click.echo(render.dump(asked.as_json(found)) if as_json else asked.text(found))
        return 0

    return with_database(shown)


@approvals.command()
@requests_argument
@thread_option
@by_option
@json_option
def approve(requests: tuple[str, ...], thread_id: str | None, actor: str | None, as_json: bool) -> int:
    """Let the action be done as it is shown; several at once where their policy allows that."""
    return _decide(_Which(requests, thread_id), "approve", actor, as_json)


@approvals.command()
@requests_argument
@thread_option
@click.option("--reason", required=True, callback=text_option, help="Why not; the agent is told.")
@by_option
@json_option
def reject(requests: tuple[str, ...], thread_id: str | None, reason: str, actor: str | None, as_json: bool) -> int:
    """Do not let the action be done; several at once where their policy allows that."""
    return _decide(_Which(requests, thread_id), "reject", actor, as_json, message=reason)


@approvals.command()
@requests_argument
@thread_option
@click.option("--message", required=True, callback=text_option, help="What the agent gets instead of a result.")
@by_option
@json_option
def respond(requests: tuple[str, ...], thread_id: str | None, message: str, actor: str | None, as_json: bool) -> int:
    """Answer in the action's place: it is not done, and the agent goes on with your answer."""
    return _decide(_Which(requests, thread_id), "respond", actor, as_json, message=message)


@approvals.command()
@request_argument
@click.option("--args", "arguments", metavar="JSON", help="All arguments as they are to be, an object.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="One argument; the value is JSON, or else a text."
)
@by_option
@json_option
def edit(request: str, arguments: str | None, changes: tuple[str, ...], actor: str | None, as_json: bool) -> int:
    """Let the action be done with other arguments; the agent is told of them.

    \b
    holdfast approvals edit apr-… --set to=ada@example.org --set urgent=true
    """
    if (arguments is None) is not bool(changes):
        raise click.UsageError("say --args JSON, or --set KEY=VALUE for each that is to change")
    given = _object(arguments) if arguments is not None else None
    changed = dict(_pair(text) for text in changes)
    return _decide(_Which((request,), None), "edit", actor, as_json, arguments=given, changed=changed)


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is no JSON: {error}", param_hint="--args") from None
    if not isinstance(value, dict):
        raise click.BadParameter("it is no JSON object", param_hint="--args")
    return cast("dict[str, Any]", value)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


@dataclass(frozen=True, slots=True)
class _Which:
    """The requests that are decided: those named, or all that a thread waits for."""

    ids: Sequence[str]
    thread_id: str | None

    def __post_init__(self) -> None:
        if bool(self.ids) is (self.thread_id is not None):
            raise click.UsageError("name the requests, or say --thread ID")

    async def found(self, database: Database) -> list[ApprovalRequest]:
        from .errors import NothingAsked

        if self.thread_id is None:
            return [await database.approvals.aget(request_id) for request_id in self.ids]
        waiting = await database.approvals.afind(thread_id=self.thread_id)
        if not waiting:
            raise NothingAsked(self.thread_id)
        return waiting


def _decide(
    which: _Which,
    kind: DecisionType,
    actor: str | None,
    as_json: bool,
    *,
    message: str = "",
    arguments: Mapping[str, Any] | None = None,
    changed: Mapping[str, Any] | None = None,
) -> int:
    from holdfast.checkpointing import Decided, DecisionRefused

    from . import asked, render

    def decided(request: ApprovalRequest) -> Decided:
        edited = arguments if changed is None or arguments is not None else {**request.arguments, **changed}
        given = edited if kind == "edit" else None
        return Decided(type=kind, by=acting(actor), digest=request.digest, arguments=given, message=message)

    async def deciding(database: Database) -> int:
        resumed = await _attached(database)
        found = await which.found(database)
        asked.check_bulk(found)
        done: list[ApprovalRequest] = []
        refused: list[DecisionRefused] = []
        for request in found:
            try:
                done.append(await database.approvals.adecide(request.request_id, decided(request)))
            except DecisionRefused as error:
                refused.append(error)
        if as_json:
            click.echo(render.dump([asked.as_json(request) for request in done]))
        for request in () if as_json else done:
            click.echo(asked.outcome(request, resumed=resumed))
        if refused:
            raise asked.all_of(refused)
        return 0

    return with_database(deciding)


async def _attached(database: Database) -> bool:
    """Whether what is decided is put into the queue of workers."""
    from holdfast.checkpointing import MissingExtra

    from .dispatch import Dispatcher

    try:
        await Dispatcher.aattach(database)
    except MissingExtra:
        return False
    return True
