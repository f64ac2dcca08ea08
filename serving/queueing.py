"""`holdfast submit` and `holdfast worker`: runs that a worker makes, here or on another machine.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from .common import json_option, name_option, with_database
from .ordering import Order, outreach_options

if TYPE_CHECKING:
    from holdfast.checkpointing import Database

    from .dispatch import Queued
    from .state import ThreadState

_FILE = "langgraph.json"


class _Graphs(click.Group):
    """A command for whatever graph a langgraph.json names."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _graph_command(cmd_name)


@click.group(cls=_Graphs, subcommand_metavar="GRAPH [OPTIONS]")
def submit() -> None:
    """Queue a graph's run on a new thread; a worker runs it (`holdfast worker`).

    GRAPH is outreach, or a name in a langgraph.json:

    \b
    holdfast submit outreach --company "Tidewater Instruments" --dossier samples/tidewater-instruments
    holdfast submit billing --input '{"invoice": 4711}' --graphs langgraph.json
    holdfast submit billing --thread T          # go on with a thread that failed or was stopped
    """


@submit.command()
@outreach_options
def outreach(order: Order, as_json: bool) -> int:
    """Queue an outreach run; its dossier is read where the worker runs."""
    from dataclasses import asdict

    from .runs import checked_order
    from .state import GRAPH

    async def submitted(database: Database) -> int:
        from .dispatch import Dispatcher

        settings = order.settings()
        name = checked_order(order.brief(), order.thread_id, settings)
        dispatcher = await Dispatcher.aattach(database)
        await dispatcher.asubmit(GRAPH, order.given(), name, asdict(settings))
        return _told(name, GRAPH, as_json)

    return with_database(submitted)


def _graph_command(name: str) -> click.Command:
    @click.command(name, help=f"Queue a run of the graph {name!r}, or go on with a thread of it.")
    @click.option("--input", "given", metavar="JSON", help="The graph's input, an object; - for standard input.")
    @click.option("--thread", "thread_id", metavar="ID", help="Name of the thread.  [default: made up]")
    @click.option("--tenant", callback=name_option, metavar="NAME", help="For whom it is.")
    @click.option("--graphs", "file", default=_FILE, show_default=True, metavar="FILE", help="What names the graph.")
    @json_option
    def queue(given: str | None, thread_id: str | None, tenant: str | None, file: str, as_json: bool) -> int:
        if given is None and thread_id is None:
            raise click.UsageError("say --input JSON for a new thread, or --thread ID to go on with one")
        value = None if given is None else _object(sys.stdin.read() if given == "-" else given)
        return _submit_graph(name, value, thread_id, tenant, file, as_json)

    return queue


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is no JSON: {error}", param_hint="--input") from None
    if not isinstance(value, dict):
        raise click.BadParameter("it is no JSON object", param_hint="--input")
    return cast("dict[str, Any]", value)


def _submit_graph(
    graph: str, given: Mapping[str, Any] | None, thread_id: str | None, tenant: str | None, file: str, as_json: bool
) -> int:
    import uuid

    from .registry import named_in
    from .runs import new_thread_id

    if graph not in (known := named_in(file)):
        raise click.UsageError(f"{file} names no graph {graph!r}; it names {', '.join(sorted(known))}")

    async def submitted(database: Database) -> int:
        from .dispatch import Dispatcher

        dispatcher = await Dispatcher.aattach(database)
        name = thread_id if thread_id is not None else new_thread_id(graph)
        if given is None:
            await dispatcher.aresume(graph, name)
        else:
            settings = {"correlation_id": uuid.uuid4().hex, "tenant": tenant}
            await dispatcher.asubmit(graph, given, name, settings)
        return _told(name, graph, as_json)

    return with_database(submitted)


def _told(thread_id: str, graph: str, as_json: bool) -> int:
    from . import render

    if as_json:
        click.echo(render.dump({"thread_id": thread_id, "graph": graph, "status": "queued"}))
    else:
        click.echo(render.one_line(f"thread {thread_id} is queued; `holdfast worker` runs it"))
    return 0


@click.command()
@click.option(
    "--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N", help="Threads at once."
)
@click.option("--graphs", "file", metavar="FILE", help="A langgraph.json whose graphs are run too.")
@click.option("--poll", is_flag=True, help="Only look into the queue twice a second: behind a transaction pooler.")
@click.option("--until-idle", is_flag=True, help="End when no thread waits for a worker any more.")
def worker(concurrency: int, file: str | None, poll: bool, until_idle: bool) -> int:
    """Run queued threads, and go on with those whose approvals are decided, until stopped.

    Any number of workers may run, on any number of machines, and be killed at will: what one leaves behind another
    takes over. Ctrl-C or SIGTERM lets each graph finish its step and gives the rest back to the queue; a second one
    ends at once.
    """
    from holdfast.checkpointing import Database

    from .dispatch import require_engine
    from .registry import known_graphs

    require_engine()
    graphs = known_graphs(file)

    async def working() -> int:
        from .worker import Worker

        async with Database.open() as database:
            working = Worker(database, graphs, concurrency=concurrency, listen=not poll)
            click.echo(f"worker for {', '.join(sorted(graphs))}; {concurrency} at once", err=True)
            with _signals(working.drain, working.stop):
                await working.run(until_idle=until_idle)
        return 0

    _log_to_stderr()
    # Not the proactor of Windows, on which psycopg cannot wait.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(working())


@contextmanager
def _signals(drain: Callable[[str], None], stop: Callable[[str], None]) -> Generator[None]:
    """The first Ctrl-C or SIGTERM drains, the second stops."""
    received: list[int] = []
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        received.append(number)
        name = signal.Signals(number).name
        if len(received) == 1:
            click.echo("draining: each graph finishes its step; once more to stop at once", err=True)
            drain(name)
        else:
            stop(name)

    def handler(number: int, _: object) -> None:
        loop.call_soon_threadsafe(handle, number)

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def _log_to_stderr() -> None:
    """What happens to threads, a line each; the queue's own chatter is left out."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("holdfast")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)


def queue_line(known: Queued) -> str:
    """What the queue knows of a thread, on one line."""
    from . import render

    said = {
        "queued": "it waits for a worker (`holdfast worker` starts one)",
        "running": "a worker runs it",
        "failed": f"a worker could not go on with it: {known.error}",
    }[known.state]
    again = f"; the last attempt failed: {known.error}" if known.error and known.state != "failed" else ""
    return render.one_line(f"thread {known.thread_id} ({known.graph}): {said}{again}")


def queue_json(known: Queued) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "thread_id": known.thread_id,
        "graph": known.graph,
        "status": known.state,
        "error": known.error,
        "attempts": known.attempts,
        "since": known.since.isoformat() if known.since else None,
    }


def current(state: ThreadState, known: Sequence[Queued]) -> Queued | None:
    """What the queue knows of a thread that is there; not a failure after which it has gone on."""
    for one in known:
        if one.thread_id == state.thread_id and not (one.state == "failed" and _went_on(state, one)):
            return one
    return None


def _went_on(state: ThreadState, failure: Queued) -> bool:
    done = state.status in {"finished", "rejected"}
    return done or (state.updated_at is not None and failure.since is not None and state.updated_at > failure.since)


def statuses(states: Sequence[ThreadState], known: Sequence[Queued]) -> dict[str, str]:
    """By thread: what the queue says it is, for those of which it says anything."""
    found = ((state.thread_id, current(state, known)) for state in states)
    return {thread_id: one.state for thread_id, one in found if one is not None}


def with_queue(
    rows: Sequence[dict[str, Any]], states: Sequence[ThreadState], known: Sequence[Queued]
) -> list[dict[str, Any]]:
    """Threads as plain data, with what the queue knows of each."""
    found = (current(state, known) for state in states)
    return [{**row, "queue": None if one is None else queue_json(one)} for row, one in zip(rows, found, strict=True)]
