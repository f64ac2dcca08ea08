"""Workers may be killed at any moment: every thread finishes, nothing is done twice, nothing is held while it waits."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import Database
from holdfast.serving.dispatch import Dispatcher
from holdfast.serving.worker import Timing
from tests.support.queue_graphs import INPUT, SAID, TABLE, graphs_file
from tests.support.queues import approval, at_rest, did, jobs, steps, until, values, waiting
from tests.support.worker_child import Workers

THREADS = 60
STEPS = 7
"""Checkpoints of a thread of `two`: its input, its beginning, and five nodes."""


@pytest.fixture
def uri(database_uri: str) -> str:
    """This test's database, with an outside."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    return database_uri


@pytest.fixture
def workers(uri: str, tmp_path: Path) -> Iterator[Workers]:
    """Processes to kill."""
    workers = Workers(uri, tmp_path, graphs_file(tmp_path), pause=0.1)
    yield workers
    workers.close()


async def test_three_workers_one_killed_every_few_seconds_lose_nothing_and_repeat_nothing(
    uri: str, db: Database, workers: Workers
) -> None:
    """Sixty threads, two approvals each; half of the decisions are made where nobody enqueues anything."""
    names = [f"t{number}" for number in range(THREADS)]
    dispatcher = await Dispatcher.aattach(db)
    for name in names:
        await dispatcher.asubmit("two", INPUT, name)
    for _ in range(3):
        workers.start()
    killed = 0
    chance = random.Random(6)  # noqa: S311 - a test's choices

    async def decide() -> None:
        async with Database.open(uri) as quiet:
            decided = 0
            while decided < 2 * THREADS:
                for request in await db.approvals.afind(limit=10):
                    by = chance.choice((db, quiet))
                    await by.approvals.adecide(request.request_id, approval(request))
                    decided += 1
                await asyncio.sleep(0.05)

    async def kill() -> None:
        nonlocal killed
        for pause in itertools.cycle((1.0, 1.5, 1.2)):
            await asyncio.sleep(pause)
            workers.kill(chance.choice(workers.pids))
            killed += 1
            workers.start()

    killing = asyncio.create_task(kill())
    try:
        await asyncio.wait_for(decide(), 200)
        await asyncio.wait_for(until(lambda: _all_done(uri)), 120)
    finally:
        killing.cancel()
    await at_rest(db)
    assert killed >= 3
    for name in names:
        assert (await values(db, name))["said"] == SAID
        assert steps(uri, name) == STEPS
    assert did(uri) == {(name, what): 1 for name in names for what in ("before", "between", "after")}
    ends = [event for event in await _audit(db, names) if event.kind == "run.ended"]
    ended = Counter((event.thread_id, event.details["outcome"]) for event in ends)
    # A worker that is killed after its last write does not say how its run has ended.
    for name in names:
        assert ended[name, "finished"] <= 1
        assert ended[name, "interrupted"] <= 2
    # A worker that stood still for longer than its lease lives, as on a busy machine, finds out and saves nothing.
    others = {
        event.details.get("error", "").partition(":")[0] for event in ends if event.details["outcome"] == "failed"
    }
    assert others <= {"LeaseLost"}
    assert jobs(uri) == []


async def _audit(db: Database, names: list[str]) -> list[Any]:
    return [event for name in names for event in await db.audit.aread(thread_id=name)]


def _all_done(uri: str) -> bool:
    return sum(count for (_, what), count in did(uri).items() if what == "after") == THREADS


async def test_what_a_killed_worker_did_is_taken_over(uri: str, db: Database, workers: Workers, tmp_path: Path) -> None:
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("gate", {**INPUT, "folder": str(tmp_path)}, "t")
    first = workers.start()
    begun = tmp_path / "begun"
    await until(lambda: _lines(begun, 1))
    workers.start()
    workers.kill(first)
    at = time.monotonic()
    await until(lambda: _lines(begun, 2))
    assert time.monotonic() - at < 30
    (tmp_path / "open").touch()
    await at_rest(db)
    assert (await values(db, "t"))["said"] == ["before", "gate", "after"]
    assert set(did(uri).values()) == {1}
    usual = Timing()
    assert usual.silent + usual.sweep + usual.poll < 30


def _lines(file: Path, count: int) -> bool:
    return file.exists() and len(file.read_text().splitlines()) >= count


async def test_a_thread_waits_a_day_with_nothing_running_and_then_goes_on(
    uri: str, workers: Workers, tmp_path: Path
) -> None:
    """Every process is killed meanwhile: none is left, nor a connection, nor a lock."""
    async with Database.open(uri) as db:
        dispatcher = await Dispatcher.aattach(db)
        await dispatcher.asubmit("two", {**INPUT, "terms": {"days": 2}}, "t")
        workers.start()
        await waiting(db, "t")
    for pid in [*workers.pids]:
        workers.kill(pid)
    processes, connections, locks = await until(lambda: _nothing(uri))
    assert (processes, connections, locks) == ([], 0, 0)

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    workers.start(tomorrow)
    async with Database.open(uri) as other:
        other.approvals.clock = lambda: tomorrow
        await Dispatcher.aattach(other)
        for _ in range(2):
            (request,) = await waiting(other, "t")
            decided = await other.approvals.adecide(request.request_id, approval(request))
            assert decided.decided_at == tomorrow
        await at_rest(other)
        assert (await values(other, "t"))["said"] == SAID
    assert set(did(uri).values()) == {1}
    assert steps(uri, "t") == STEPS


def _nothing(uri: str) -> tuple[list[str], int, int] | None:
    """What is left, when nothing is."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connections = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchone()
        locks = connection.execute(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
            "WHERE d.datname = current_database() AND l.pid <> pg_backend_pid()"
        ).fetchone()
        leases = connection.execute("SELECT thread_id FROM holdfast.leases WHERE held").fetchall()
    assert connections is not None
    assert locks is not None
    if connections[0]:  # the server has not yet come to see that they are gone
        return None
    return [row[0] for row in leases], connections[0], locks[0]
