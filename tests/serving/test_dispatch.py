"""What makes a thread go on is put into the queue with its cause, once, or not at all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdfast.checkpointing import ApprovalRequest, Database, MissingExtra, NewRequest, Terms
from holdfast.checkpointing.migrate import SetupRefused
from holdfast.serving.dispatch import Dispatcher, queued
from holdfast.serving.errors import AlreadyQueued, InvalidThread, ThreadExists, UnknownThread
from holdfast.serving.jobs import TENDING, Job, Segment
from tests.conftest import new_database
from tests.support.queue_graphs import INPUT, SAID, TABLE
from tests.support.queues import approval, at_rest, did, jobs, steps, until, values, waiting, working


@pytest.fixture
def uri(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """This test's database, with an outside."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    return database_uri


@pytest.fixture
def dispatcher(uri: str, db: Database) -> Iterator[Dispatcher]:
    """A dispatcher that hears of this test's decisions."""
    dispatcher = Dispatcher.attach(db)
    yield dispatcher
    dispatcher.detach()


def new(call: str = "c", **more: Any) -> NewRequest:
    return NewRequest(
        thread_id="t", task_id="task", call_id=call, name="pay", arguments={"usd": 5}, graph_id="two", **more
    )


def open_(db: Database, call: str = "c", **more: Any) -> ApprovalRequest:
    (request,) = db.approvals.open([new(call, **more)])
    return request


# the queue's tables


def test_the_queue_has_a_schema_of_its_own_set_up_once_however_many_start(uri: str, db: Database) -> None:
    others = [Database(uri) for _ in range(5)]
    with ThreadPoolExecutor(6) as pool:
        for dispatcher in pool.map(Dispatcher.attach, [db, *others]):
            dispatcher.submit("two", INPUT, f"t{id(dispatcher)}")
    for other in others:
        other.close()
    assert len(jobs(uri)) == 6
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT to_regclass('public.procrastinate_jobs')").fetchone() == (None,)


def test_no_superuser_is_needed_and_a_role_without_rights_is_told_what_to_run(server_uri: str) -> None:
    with new_database(server_uri) as uri, psycopg.connect(uri, autocommit=True) as owner:
        Database(uri).close()
        owner.execute("CREATE ROLE holdfast_queue LOGIN")
        try:
            for right in (
                "USAGE ON SCHEMA holdfast",
                "ALL ON ALL TABLES IN SCHEMA holdfast",
                "CREATE ON SCHEMA public",
            ):
                owner.execute(f"GRANT {right} TO holdfast_queue".encode())
            owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO holdfast_queue")
            with Database.connect(make_conninfo(uri, user="holdfast_queue")) as db:
                with pytest.raises(SetupRefused, match="CREATE SCHEMA holdfast_jobs AUTHORIZATION"):
                    Dispatcher.attach(db)
                owner.execute("CREATE SCHEMA holdfast_jobs AUTHORIZATION holdfast_queue")
                Dispatcher.attach(db).submit("two", INPUT, "t")
            assert [job["lock"] for job in jobs(uri)] == ["t"]
        finally:
            owner.execute("DROP OWNED BY holdfast_queue")
            owner.execute("DROP ROLE holdfast_queue")


def test_tables_of_an_older_procrastinate_are_brought_up_to_this_one(uri: str, db: Database) -> None:
    folder = files("procrastinate") / "sql" / "migrations"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA holdfast_jobs")
        connection.execute("SET search_path = holdfast_jobs")
        for name in names:
            if name < "03.04":
                connection.execute((folder / name).read_text(encoding="utf-8").encode())
        connection.execute("COMMENT ON SCHEMA holdfast_jobs IS 'procrastinate 3.3.0'")
        there = "SELECT to_regproc('holdfast_jobs.procrastinate_retry_job_v2') IS NOT NULL"
        assert connection.execute(there).fetchone() == (False,)
        Dispatcher.attach(db).submit("two", INPUT, "t")
        assert connection.execute(there).fetchone() == (True,)


def test_without_procrastinate_the_error_names_the_extra(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("procrastinate") or name.endswith("serving.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[worker\]'"):
        Dispatcher.attach(db)
    assert db.approvals.also is None


def test_where_there_is_no_queue_nothing_is_in_it(db: Database) -> None:
    assert asyncio.run(queued(db)) == []


# submitting


def test_a_submitted_thread_is_taken_by_name_once(uri: str, dispatcher: Dispatcher) -> None:
    dispatcher.submit("two", INPUT, "t", {"tenant": "acme"})
    with pytest.raises(ThreadExists, match="'t' exists already"):
        dispatcher.submit("two", INPUT, "t")
    (job,) = jobs(uri)
    assert (job["lock"], job["queue_name"], job["queueing_lock"]) == ("t", "graph:two", "submitted:t")


@pytest.mark.parametrize(("graph", "thread"), [("two", "-t"), ("two", ""), ("", "t"), ("g" * 101, "t"), ("a\nb", "t")])
def test_what_cannot_be_a_name_is_refused(dispatcher: Dispatcher, uri: str, graph: str, thread: str) -> None:
    with pytest.raises(InvalidThread):
        dispatcher.submit(graph, INPUT, thread)
    assert jobs(uri) == []


def test_of_many_that_submit_the_same_thread_one_does(uri: str, db: Database, dispatcher: Dispatcher) -> None:
    def one(number: int) -> bool:
        try:
            dispatcher.submit("two", {"said": [str(number)]}, "t")
        except ThreadExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(20))) == 1
    assert len(jobs(uri)) == 1


async def test_a_job_is_there_with_what_else_its_transaction_did_or_not_at_all(
    uri: str, db: Database, dispatcher: Dispatcher
) -> None:
    async def mine(connection: Any, fail: bool) -> None:
        await connection.execute("INSERT INTO outside (thread, what) VALUES ('t', 'order')")
        await dispatcher.submitting(connection, "two", INPUT, "t")
        assert await dispatcher.enqueue(connection, Job(task="x", queue="q", cause="c", arguments={}))
        assert not await dispatcher.enqueue(connection, Job(task="x", queue="q", cause="c", arguments={}))
        path = await (await connection.execute("SHOW search_path")).fetchone()
        assert "holdfast_jobs" not in str(path)
        if fail:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.atransact(lambda connection: mine(connection, fail=True))
    assert (jobs(uri), did(uri)) == ([], {})
    await db.atransact(lambda connection: mine(connection, fail=False))
    assert len(jobs(uri)) == 2
    assert did(uri) == {("t", "order"): 1}


async def test_a_thread_is_resumed_once_and_only_if_it_is_there(uri: str, dispatcher: Dispatcher, db: Database) -> None:
    with pytest.raises(UnknownThread):
        await dispatcher.aresume("two", "t")
    await dispatcher.asubmit("two", INPUT, "t")
    with pytest.raises(AlreadyQueued, match="waits for a worker already"):
        await dispatcher.aresume("two", "t")


# decisions


def test_a_decision_and_its_job_commit_or_vanish_together(uri: str, db: Database, dispatcher: Dispatcher) -> None:
    request = open_(db)

    async def failing(connection: Any, changed: ApprovalRequest, change: str) -> None:
        await dispatcher.changed(connection, changed, change)
        raise ZeroDivisionError

    db.approvals.also = failing
    with pytest.raises(ZeroDivisionError):
        db.approvals.decide(request.request_id, approval(request))
    assert not db.approvals.get(request.request_id).settled
    assert jobs(uri) == []
    db.approvals.also = dispatcher.changed
    db.approvals.decide(request.request_id, approval(request))
    (job,) = jobs(uri)
    assert (job["lock"], job["queueing_lock"]) == ("t", "decided:t:task")


def test_only_the_last_decision_of_a_task_lets_it_go_on_however_they_race(
    uri: str, db: Database, dispatcher: Dispatcher
) -> None:
    requests = db.approvals.open([new(str(number)) for number in range(12)])
    for request in requests[:-4]:
        db.approvals.decide(request.request_id, approval(request))
    assert jobs(uri) == []

    def decide(request: ApprovalRequest) -> None:
        db.approvals.decide(request.request_id, approval(request))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decide, requests[-4:]))
    assert len(jobs(uri)) == 1


def test_causes_that_come_twice_collapse(uri: str, db: Database, dispatcher: Dispatcher) -> None:
    for call in ("a", "b", "c"):
        request = open_(db, call)
        db.approvals.decide(request.request_id, approval(request))
    assert [job["queueing_lock"] for job in jobs(uri)] == ["decided:t:task"]


def test_a_request_of_no_graph_is_left_to_the_program_that_runs_it(
    uri: str, db: Database, dispatcher: Dispatcher
) -> None:
    (request,) = db.approvals.open(
        [NewRequest(thread_id="t", task_id="x", call_id="c", name="pay", arguments={}, checkpoint_ns="")]
    )
    db.approvals.decide(request.request_id, approval(request))
    (waived,) = db.approvals.open([new("w", waived="it is small")])
    assert waived.settled
    assert jobs(uri) == []


def test_what_time_will_do_is_scheduled_without_a_lock_behind_all_else(
    uri: str, db: Database, dispatcher: Dispatcher
) -> None:
    day = timedelta(days=1)
    request = open_(db, terms=Terms(expires_in=3 * day, remind_every=day))
    expiry, reminder = jobs(uri)
    assert request.expires_at is not None
    assert abs(expiry["scheduled_at"] - request.expires_at) < timedelta(seconds=1)
    assert abs(reminder["scheduled_at"] - request.requested_at - day) < timedelta(seconds=1)
    for job in (expiry, reminder):
        assert (job["lock"], job["queue_name"]) == (None, TENDING)
        assert job["priority"] < 0
    db.approvals.clock = lambda: request.requested_at + day + timedelta(seconds=1)
    assert [change.kind for change in db.approvals.tend()] == ["reminded"]
    assert [job["queueing_lock"] for job in jobs(uri)][2:] == [f"reminder:{request.request_id}:1"]


def test_whoever_was_told_before_still_is_and_detaching_restores_it(uri: str, db: Database) -> None:
    told: list[str] = []

    async def before(connection: Any, request: ApprovalRequest, change: str) -> None:
        told.append(change)

    db.approvals.also = before
    dispatcher = Dispatcher.attach(db)
    request = open_(db)
    db.approvals.decide(request.request_id, approval(request))
    assert told == ["requested", "decided"]
    assert len(jobs(uri)) == 1
    dispatcher.detach()
    assert db.approvals.also is before


# going on


async def test_a_thread_is_run_paused_decided_and_finished(
    uri: str, db: Database, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    await dispatcher.asubmit("two", INPUT, "t", {"correlation_id": "why"})
    async with working(db, tmp_path):
        for name in ("first", "second"):
            (request,) = await waiting(db, "t")
            assert (request.name, request.correlation_id, request.graph_id) == (name, request.correlation_id, "two")
            await db.approvals.adecide(request.request_id, approval(request))
        await at_rest(db)
    assert (await values(db, "t"))["said"] == SAID
    assert did(uri) == {("t", what): 1 for what in ("before", "between", "after")}
    assert jobs(uri) == []
    assert {event.correlation_id for event in await db.audit.aread(thread_id="t") if event.kind == "run.started"} == {
        "why"
    }


async def test_of_two_that_ask_beside_each_other_each_goes_on_when_it_is_decided(
    uri: str, db: Database, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    await dispatcher.asubmit("side", INPUT, "t")
    async with working(db, tmp_path):
        left, right = sorted(await waiting(db, "t", 2), key=lambda request: request.name)
        await db.approvals.adecide(right.request_id, approval(right))
        assert [request.name for request in await waiting(db, "t")] == ["left"]
        assert did(uri) == {}
        await db.approvals.adecide(left.request_id, approval(left))
        await at_rest(db)
    assert sorted((await values(db, "t"))["said"]) == ["after", "left approved", "right approved"]


async def test_what_is_decided_where_nobody_enqueues_is_found_and_gone_on_with(
    uri: str, db: Database, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    await dispatcher.asubmit("two", INPUT, "t")
    async with working(db, tmp_path):
        async with Database.open(uri) as other:
            for name in ("first", "second"):
                (request,) = await waiting_for(db, name)
                await other.approvals.adecide(request.request_id, approval(request))
            await until(lambda: _ended(db))
        await at_rest(db)
    assert (await values(db, "t"))["said"] == SAID


async def _ended(db: Database) -> bool:
    return (await values(db, "t"))["said"] == SAID


async def test_a_request_expires_by_a_sweep_under_an_injected_clock(
    uri: str, db: Database, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    await dispatcher.asubmit("two", {**INPUT, "terms": {"days": 1}}, "t")
    async with working(db, tmp_path):
        await waiting(db, "t")
        later = datetime.now(UTC) + timedelta(days=1, minutes=1)
        db.approvals.clock = lambda: later
        (request,) = await waiting_for(db, "second")
    assert request.name == "second"
    assert (await values(db, "t"))["said"] == ["before", "first expired", "between"]


async def waiting_for(db: Database, name: str) -> list[ApprovalRequest]:
    async def found() -> list[ApprovalRequest]:
        return [request for request in await db.approvals.afind(thread_id="t") if request.name == name]

    requests: list[ApprovalRequest] = await until(found)
    await at_rest(db)
    return requests


async def test_duplicates_of_a_segment_run_nothing_twice(
    uri: str, db: Database, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """The same job again, after its work was done, while it runs, or with its input."""
    await dispatcher.asubmit("two", INPUT, "t")
    async with working(db, tmp_path):
        for _ in range(2):
            (request,) = await waiting(db, "t")
            await db.approvals.adecide(request.request_id, approval(request))
            for cause in ("submitted", "decided", "resumed"):
                segment = Segment(thread_id="t", graph="two", cause=cause, given=INPUT, why="again")
                await db.atransact(partial(dispatcher.enqueue, job=segment.job()))
        await at_rest(db)
    assert (await values(db, "t"))["said"] == SAID
    assert set(did(uri).values()) == {1}
    assert steps(uri, "t") == 7
