"""`holdfast audit`: why did the agent do that, and is what the trail says still what was written.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .common import AUDIENCES, json_option, text_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import AuditEvent, ChainHead, Database

_DIGEST = 32
_NEWEST = 2**63


class _ByDefault(click.Group):
    """A group whose first argument may be a correlation id instead of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ByDefault)
def audit() -> None:
    """Tell why an agent did what it did: `holdfast audit CORRELATION_ID`, or `--thread THREAD`.

    That is short for `holdfast audit show`. With `head` and `verify`: see that the trail is as it was written.
    """


@audit.command()
@click.argument("correlation_id", required=False, callback=text_option)
@click.option("--thread", callback=text_option, help="All of this thread, or what of the decision happened on it.")
@click.option(
    "--as", "audience", type=click.Choice(AUDIENCES), default="operator", show_default=True, help="Who is looking."
)
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --follow: between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, one for each event.")
def show(
    correlation_id: str | None, thread: str | None, audience: str, follow: bool, interval: float, as_json: bool
) -> int:
    """Print what led to a decision, in order: what triggered it, what was shown, called, approved and paid."""
    if correlation_id is None and thread is None:
        raise click.UsageError("name a correlation id, or a --thread")
    from holdfast.checkpointing import Audience, NothingAudited

    from . import telling

    wanted: dict[str, Any] = {
        "correlation_id": correlation_id,
        "thread_id": thread,
        "audience": Audience(audience),
    }

    async def told(database: Database) -> int:
        events = await database.audit.aread(**wanted)
        if not events:
            named = [("correlation id", correlation_id), ("thread", thread)]
            raise NothingAudited(" on ".join(f"{kind} {name!r}" for kind, name in named if name is not None))
        teller = telling.Teller()
        tell = telling.as_json if as_json else teller.tell
        try:
            if follow:
                await _follow(database, lambda event: click.echo(tell(event)), wanted, interval)
            for event in events:
                click.echo(tell(event))
        finally:
            if not as_json:
                click.echo(str(teller.totals))
        return 0

    return with_database(told)


@audit.command()
@json_option
def head(as_json: bool) -> int:
    """Print the newest event of each thread and its digest.

    Kept where the database's owner cannot change it, it shows later whether the trail was rewritten:
    `holdfast audit head --json > heads.json`, then `holdfast audit verify --all --against heads.json`.
    """
    from . import render

    async def exported(database: Database) -> int:
        heads = await database.audit.aheads()
        if as_json:
            rows = [{"thread_id": head.thread_id, "number": head.number, "digest": head.digest.hex()} for head in heads]
            click.echo(json.dumps({"heads": rows}, indent=1))
        else:
            for each in heads:
                click.echo(f"{each.digest.hex()}  {each.number:>6}  {render.one_line(each.thread_id)}")
        return 0

    return with_database(exported)


@audit.command()
@click.argument("thread", required=False, callback=text_option)
@click.option("--all", "everything", is_flag=True, help="All threads of the database.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Heads that `holdfast audit head --json` printed before.",
)
@json_option
def verify(thread: str | None, everything: bool, against: Path | None, as_json: bool) -> int:
    """Check that all events are there, in their order and as they were written.

    Prints what is not, one finding a line, and ends with code 1 if there is any. The digests have no key: whoever
    may change the database can make up a new end of a chain that fits. Only --against shows that.
    """
    if (thread is None) is not everything:
        raise click.UsageError("name a thread, or say --all")
    from . import render

    heads = _heads(against) if against else []
    if against and thread is not None and thread not in {head.thread_id for head in heads}:
        click.echo(render.one_line(f"{against.name} does not know thread {thread}: it is not compared"), err=True)

    async def verified(database: Database) -> int:
        findings = await database.audit.averify(thread, against=heads)
        if as_json:
            rows = [{"thread_id": found.thread_id, "number": found.number, "what": found.what} for found in findings]
            click.echo(json.dumps({"sound": not findings, "findings": rows}, indent=2))
        else:
            for found in findings:
                click.echo(render.one_line(str(found)))
            if not findings:
                of = "every thread" if thread is None else f"thread {render.one_line(thread)}"
                click.echo(f"the trail of {of} is sound")
        return 1 if findings else 0

    return with_database(verified)


async def _follow(
    database: Database, tell: Callable[[AuditEvent], None], wanted: Mapping[str, Any], interval: float
) -> NoReturn:
    import asyncio

    async for event in database.audit.afollow(**wanted, pause=partial(asyncio.sleep, interval)):
        tell(event)
    raise AssertionError("unreachable: it has no end")


def _heads(file: Path) -> list[ChainHead]:
    from . import render
    from .errors import UnreadableHeads

    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        heads = [_head(**row) for row in given["heads"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableHeads(str(file), render.one_line(f"{type(error).__name__}: {error}")[:200]) from error
    if len({head.thread_id for head in heads}) < len(heads):
        raise UnreadableHeads(str(file), "a thread is in it twice")
    return heads


def _head(*, thread_id: object, number: object, digest: object) -> ChainHead:
    from holdfast.checkpointing import ChainHead

    if not isinstance(thread_id, str) or not isinstance(digest, str) or type(number) is not int:
        raise TypeError("a head is a thread_id, a number and a digest")
    sealed = bytes.fromhex(digest)
    if len(sealed) != _DIGEST or not 0 < number < _NEWEST:
        raise ValueError(f"no digest or no number: {digest}, {number}")
    if "\0" in thread_id or not thread_id.encode():
        raise ValueError("no thread")
    return ChainHead(thread_id=thread_id, number=number, digest=sealed)
