"""The `holdfast` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from . import approvals, audit, budget, costs, doubts, notify, queueing, trust, upkeep
from .common import acting, json_option, with_database
from .inbox import cli as inbox_cli
from .ordering import Order, outreach_options

if TYPE_CHECKING:
    from langgraph.types import Command

    from holdfast.checkpointing import Database
    from holdfast.graphs.outreach import OutreachInput

    from .runs import Runner
    from .state import ThreadState

by_option = click.option("--by", "actor", metavar="NAME", help="Who decides.  [default: your login name]")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="holdfast", message="holdfast %(version)s")
def cli() -> None:
    """Agents that hold fast: run them, kill them, resume them, approve what they do.

    State lives in Postgres: the server that HOLDFAST_DATABASE_URI names, else an embedded one in your
    data directory (HOLDFAST_HOME moves it).
    """


@cli.group()
def run() -> None:
    """Start a graph on a new thread."""


@run.command()
@outreach_options
def outreach(order: Order, as_json: bool) -> int:
    """Research a company, draft a message that quotes its own documents, and wait for your approval.

    \b
    holdfast run outreach --company "Tidewater Instruments" --dossier samples/tidewater-instruments
    """
    from .runs import new_run

    async def segment(database: Database) -> int:
        brief, settings = order.brief(), order.settings()
        async with new_run(database, brief, order.thread_id, settings, acting(None)) as runner:
            return await _segment(runner, order.given(), as_json=as_json)

    return with_database(segment)


@cli.command()
@click.argument("thread")
@json_option
def resume(thread: str, as_json: bool) -> int:
    """Go on with a thread that was stopped, killed or failed, from where it stood."""
    from .runs import resumed
    from .state import checked_name

    async def segment(database: Database) -> int:
        async with database.threads.hold(checked_name(thread)):
            runner, given = await resumed(database, thread, actor=acting(None))
            return await _segment(runner, given, as_json=as_json)

    return with_database(segment)


@cli.command()
@click.argument("thread")
@click.option("--to", metavar="ADDRESS", help="Send it to this address.")
@click.option("--subject", help="Send it with this subject.")
@click.option(
    "--body",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="Send this text instead (- for standard input).",
)
@by_option
@json_option
def approve(thread: str, to: str | None, subject: str | None, body: Any, actor: str | None, as_json: bool) -> int:
    """Approve the message that a thread waits with, changed if you say so, and let it go on."""
    changes = {"to": to, "subject": subject, "body": body.read() if body else None}
    edits = {key: value for key, value in changes.items() if value is not None}

    def decision(state: ThreadState) -> dict[str, Any]:
        if not edits:
            return {"type": "approve"}
        email = state.values["email"]
        arguments = {key: email[key] for key in ("to", "subject", "body") if key in email} | edits
        return {"type": "edit", "edited_action": {"name": "send_email", "args": arguments}}

    return _decide(thread, decision, actor, as_json)


@cli.command()
@click.argument("thread")
@click.option("--reason", required=True, help="Why not; kept with the decision.")
@by_option
@json_option
def reject(thread: str, reason: str, actor: str | None, as_json: bool) -> int:
    """Reject the message that a thread waits with; the thread ends, and nothing is sent."""
    return _decide(thread, lambda _: {"type": "reject", "message": reason}, actor, as_json)


@cli.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@json_option
def threads(limit: int, as_json: bool) -> int:
    """List the most recent outreach threads, and others that wait for a worker or could not go on."""
    from rich.console import Console

    from . import render
    from .dispatch import queued
    from .state import survey

    async def listing(database: Database) -> int:
        states, known = await survey(database, limit), await queued(database)
        there = {state.thread_id for state in states}
        others = [one for one in known if one.thread_id not in there][:limit]
        if as_json:
            found = queueing.with_queue([render.as_json(state) for state in states], states, known)
            click.echo(render.dump([*found, *map(queueing.queue_json, others)]))
        elif states or others:
            if states:
                Console().print(render.table(states, queueing.statuses(states, known)))
            for one in others:
                click.echo(queueing.queue_line(one))
        else:
            click.echo("no threads yet; `holdfast run outreach --help` says how to start one")
        return 0

    return with_database(listing)


@cli.command()
@click.argument("thread")
@json_option
def show(thread: str, as_json: bool) -> int:
    """Show what a thread has found out, written and decided so far, and what it waits for."""
    from . import render
    from .dispatch import queued
    from .errors import UnknownGraph, UnknownThread
    from .state import checked_name, read

    async def shown(database: Database) -> int:
        known = await queued(database, checked_name(thread))
        try:
            state = await read(database, thread)
        except (UnknownThread, UnknownGraph):
            if not known:
                raise
            click.echo(render.dump(queueing.queue_json(known[0])) if as_json else queueing.queue_line(known[0]))
            return 0
        current = queueing.current(state, known)
        if as_json:
            (found,) = queueing.with_queue([render.as_json(state)], [state], known)
            click.echo(render.dump(found))
            return 0
        _report(state, as_json=False, full=True)
        if current is not None:
            click.echo(queueing.queue_line(current))
        return 0

    return with_database(shown)


for command in (upkeep.verify, upkeep.rollback, upkeep.prune, upkeep.messages, audit.audit, budget.budget, costs.costs):
    cli.add_command(command)
for command in (doubts.doubts, doubts.resolve, trust.trust, notify.notify):
    cli.add_command(command)
for command in (approvals.approvals, queueing.submit, queueing.worker, inbox_cli.inbox):
    cli.add_command(command)


def _decide(thread: str, decision: Callable[[ThreadState], dict[str, Any]], actor: str | None, as_json: bool) -> int:
    from langgraph.types import Command

    from .runs import checked_review, decidable
    from .state import checked_name

    async def segment(database: Database) -> int:
        async with database.threads.hold(checked_name(thread)):
            runner, state = await decidable(database, thread, actor=acting(actor))
            answer = checked_review(decision(state), state)
            return await _segment(runner, Command(resume=answer), as_json=as_json)

    return with_database(segment)


async def _segment(runner: Runner, given: OutreachInput | Command[Any] | None, *, as_json: bool) -> int:
    from rich.console import Console

    from .progress import Progress
    from .state import read

    console = Console(stderr=True, quiet=as_json, highlight=False)
    console.print(f"thread {runner.thread_id}, model {runner.settings.model}", markup=False, soft_wrap=True)
    async with _stop_signals(runner) as received:
        with Progress(console) as progress:
            try:
                state = await runner.advance(given, progress)
            except asyncio.CancelledError:
                if not received:
                    raise
                state = await read(runner.database, runner.thread_id)
    _report(state, as_json=as_json, full=False, tokens=runner.tokens)
    return 128 + received[0] if received and state.status == "stopped" else 0


def _report(state: ThreadState, *, as_json: bool, full: bool, tokens: int | None = None) -> None:
    from rich.console import Console

    from . import render

    if as_json:
        click.echo(render.dump(render.as_json(state, tokens)))
    else:
        render.show(Console(highlight=False), state, full=full)


@asynccontextmanager
async def _stop_signals(runner: Runner) -> AsyncGenerator[list[int]]:
    """The first Ctrl-C or SIGTERM asks the graph to stop at its next step boundary, the second cancels it."""
    received: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            click.echo("stopping after this step; once more to stop at once", err=True)
            runner.control.request_drain(signal.Signals(number).name)
        elif task is not None:
            task.cancel()

    def handler(number: int, _: object) -> None:
        loop.call_soon_threadsafe(stop, number)

    # signal.signal, not loop.add_signal_handler: that one is missing on Windows.
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
