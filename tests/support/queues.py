"""Workers in this process, and what the queue and the outside hold."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from holdfast.checkpointing import ApprovalRequest, Database, Decided
from holdfast.serving.dispatch import queued
from holdfast.serving.registry import known_graphs
from holdfast.serving.worker import Timing, Worker
from tests.support.queue_graphs import graphs_file

QUICK: Final = Timing(poll=0.05, beat=0.3, silent=1.2, sweep=0.1, busy=0.05, pauses=(0.05, 0.05))


@contextlib.asynccontextmanager
async def working(db: Database, folder: Path, timing: Timing = QUICK) -> AsyncGenerator[Worker]:
    """A worker for the length of the block, which is drained at its end."""
    async with running(Worker(db, known_graphs(graphs_file(folder)), timing=timing)) as worker:
        yield worker


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncGenerator[Worker]:
    """A worker at work."""
    working = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.drain("the test is over")
        await working


async def until(found: Callable[[], Any]) -> Any:
    """What a function, sync or async, finds as soon as it finds anything."""
    while True:
        value = found()
        if value := await value if inspect.isawaitable(value) else value:
            return value
        await asyncio.sleep(0.02)


async def at_rest(db: Database) -> None:
    """Nothing waits for a worker, and none works."""

    async def rests() -> bool:
        return not [one for one in await queued(db) if one.state != "failed"]

    await until(rests)


async def waiting(db: Database, thread: str, count: int = 1) -> list[ApprovalRequest]:
    """The thread's open requests, as soon as there are so many and the thread is at rest."""

    async def open_ones() -> list[ApprovalRequest]:
        found = await db.approvals.afind(thread_id=thread)
        return found if len(found) == count else []

    found: list[ApprovalRequest] = await until(open_ones)
    await at_rest(db)
    return found


def approval(request: ApprovalRequest, by: str = "ada") -> Decided:
    return Decided(type="approve", by=by, digest=request.digest)


def jobs(uri: str) -> list[dict[str, Any]]:
    """What the queue holds."""
    with psycopg.connect(uri) as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT id, task_name, queue_name, lock, queueing_lock, status::text, priority, scheduled_at, attempts "
            "FROM holdfast_jobs.procrastinate_jobs ORDER BY id"
        )
        return cursor.fetchall()


def did(uri: str) -> Counter[tuple[str, str]]:
    """How often what was done outside, by thread."""
    with psycopg.connect(uri) as connection:
        return Counter(connection.execute("SELECT thread, what FROM outside").fetchall())


def steps(uri: str, thread: str) -> int:
    """Checkpoints of a thread: one for its input, and one a step."""
    with psycopg.connect(uri) as connection:
        found = connection.execute("SELECT count(*) FROM checkpoints WHERE thread_id = %s", [thread]).fetchone()
    assert found is not None
    return int(found[0])


async def values(db: Database, thread: str) -> dict[str, Any]:
    """A thread's state."""
    found = await db.saver.aget_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    return dict(found.checkpoint["channel_values"])
