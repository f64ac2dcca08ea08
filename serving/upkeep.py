"""The commands for threads of any graph: are they sound, back to before, away with the old, what was said.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from .common import AUDIENCES, age_option, json_option, with_database

if TYPE_CHECKING:
    from holdfast.checkpointing import Database


@click.command()
@click.argument("thread", required=False)
@click.option("--all", "everything", is_flag=True, help="All threads of the database.")
@json_option
def verify(thread: str | None, everything: bool, as_json: bool) -> int:
    """Check whether all of a thread is stored as it was written.

    Prints what is not, one finding a line, and ends with code 1 if anything is damaged. Threads may run
    meanwhile. A note is no damage: rows of the official saver, which have no digests; values whose types or
    key this command does not have, whose digests are checked all the same; rows that nothing refers to.
    """
    if (thread is None) is not everything:
        raise click.UsageError("name a thread, or say --all")
    from dataclasses import asdict

    from . import render
    from .state import checked_name

    async def verified(database: Database) -> int:
        if thread is not None:
            checked_name(thread)
        findings = await database.averify(thread, progress=None if as_json else _progress)
        damaged = {finding.thread_id for finding in findings if finding.severity == "damage"}
        if as_json:
            click.echo(render.dump({"sound": not damaged, "findings": [asdict(finding) for finding in findings]}))
        else:
            for finding in findings:
                click.echo(render.one_line(str(finding)))
            of = f"thread {thread}" if thread is not None else "every thread"
            click.echo(f"damaged: {render.one_line(', '.join(sorted(damaged)))}" if damaged else f"{of} is sound")
        return 1 if damaged else 0

    return with_database(verified)


@click.command()
@click.argument("thread")
@click.option("--to", "checkpoint", required=True, metavar="CHECKPOINT", help="The id of the checkpoint to go back to.")
@json_option
def rollback(thread: str, checkpoint: str, as_json: bool) -> int:
    """Make an older checkpoint the newest of its thread, which goes on from there.

    Nothing is deleted: a rollback can be rolled back. What the thread did outside since then stays done.
    """
    from . import render
    from .errors import UnknownGraph
    from .state import checked_name, read

    async def rolled_back(database: Database) -> int:
        async with database.threads.hold(checked_name(thread)):
            new = await database.arollback(thread, checkpoint)
        if as_json:
            click.echo(render.dump({"thread_id": thread, "checkpoint_id": new, "changed": new != checkpoint}))
            return 0
        if new == checkpoint:
            click.echo(f"thread {thread} stands at {checkpoint} already; nothing was changed")
        else:
            click.echo(f"thread {thread} is back at {checkpoint}; its newest checkpoint is now {new}")
        with suppress(UnknownGraph):  # one that its own program resumes
            click.echo(render.status_line(await read(database, thread)))
        return 0

    return with_database(rolled_back)


@click.command()
@click.option("--older-than", "age", callback=age_option, required=True, metavar="AGE", help="As in 12h, 30d or 8w.")
@click.option("--keep", type=click.Choice(AUDIENCES), help="Keep the messages that these may see.")
@click.option("--dry-run", is_flag=True, help="Only say which threads it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(age: timedelta, keep: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove threads that were last active so long ago, those that wait for a person included.

    With --keep their messages stay, as far as these may see them; everything else of the threads goes.
    """
    from holdfast.checkpointing import Database
    from holdfast.checkpointing.visibility import Audience

    from . import render
    from .errors import NotConfirmed

    if not (dry_run or yes or sys.stdin.isatty()):
        raise NotConfirmed
    now, kept = datetime.now(UTC), Audience(keep) if keep else None
    with Database.connect() as database:
        threads = database.prune(age, keep=kept, now=now, dry_run=True)
        sure = yes or (not dry_run and bool(threads) and click.confirm(f"remove {_count(threads)} for good?", err=True))
        if sure and not dry_run:
            threads = database.prune(age, keep=kept, now=now)
    if as_json:
        click.echo(render.dump({"removed": sure and not dry_run, "threads": threads}))
    elif dry_run:
        for thread in threads:
            click.echo(render.one_line(thread))
        click.echo(f"{_count(threads)} would be removed", err=True)
    else:
        click.echo(f"{_count(threads if sure else [])} removed")
    return 0


@click.command()
@click.argument("thread")
@click.option(
    "--as", "audience", type=click.Choice(AUDIENCES), default="user", show_default=True, help="Who is looking."
)
@json_option
def messages(thread: str, audience: str, as_json: bool) -> int:
    """Print what was said on a thread, as far as a user, an operator or an auditor may see it."""
    from holdfast.checkpointing.visibility import Audience

    from . import render, transcript
    from .state import checked_name

    async def printed(database: Database) -> int:
        logged = await database.amessages(checked_name(thread), audience=Audience(audience))
        if not logged:
            await transcript.require_thread(database, thread)
        if as_json:
            click.echo(render.dump([transcript.as_json(message) for message in logged]))
        elif logged:
            click.echo("\n\n".join(transcript.text(message) for message in logged))
        else:
            click.echo(f"nothing on thread {thread} that this audience ({audience}) may see", err=True)
        return 0

    return with_database(printed)


def _progress(done: int, of: int) -> None:
    if of > 1 and sys.stderr.isatty():
        click.echo(f"\rverified {done} of {of} threads\x1b[K", err=True, nl=done + 1 == of)
    elif done and not done % 100:
        click.echo(f"verified {done} of {of} threads", err=True)


def _count(threads: list[str]) -> str:
    return f"{len(threads)} thread{'' if len(threads) == 1 else 's'}"
