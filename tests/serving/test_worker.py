"""What a worker promises of failures, of others that run the same thread, of its end, and of a lost server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import Database
from holdfast.serving.dispatch import Dispatcher, Queued, queued
from holdfast.serving.errors import UnusableGraphs
from holdfast.serving.registry import known_graphs, named_in
from holdfast.serving.segments import Standing, next_move
from holdfast.serving.worker import Timing
from tests.conftest import ROOT
from tests.support.leases import held
from tests.support.queue_graphs import INPUT, TABLE, graphs_file
from tests.support.queue_graphs import gate as gate_builder
from tests.support.queues import QUICK, approval, at_rest, did, jobs, until, values, waiting, working


@pytest.fixture
def uri(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """This test's database, with an outside."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    return database_uri


async def failed(db: Database) -> Queued:
    """The thread that could not go on, when nothing is left to be done."""
    await at_rest(db)
    (one,) = await queued(db)
    return one


# which move


def test_an_input_begins_a_thread_that_is_not_there_and_no_other() -> None:
    assert next_move(Standing(begun=False), cause="submitted", given=True, again=False) == "begin"
    assert next_move(Standing(begun=True, ended=True), cause="submitted", given=True, again=False) == "nothing"
    running = Standing(begun=True, unfinished=True)
    assert next_move(running, cause="submitted", given=True, again=True) == "go on"
    assert next_move(Standing(begun=False), cause="decided", given=False, again=False) == "unknown"


def test_what_waits_is_left_until_it_is_decided_and_what_stopped_beside_it_is_not() -> None:
    assert next_move(Standing(begun=True), cause="decided", given=False, again=False) == "nothing"
    decided = Standing(begun=True, settled=("i",))
    assert next_move(decided, cause="decided", given=False, again=False) == "resume"
    beside = Standing(begun=True, unfinished=True)
    assert next_move(beside, cause="decided", given=False, again=False) == "go on"


def test_a_decision_does_not_run_again_what_has_failed() -> None:
    broken = Standing(begun=True, failed=True, unfinished=True)
    assert next_move(broken, cause="decided", given=False, again=False) == "nothing"
    assert next_move(broken, cause="decided", given=False, again=True) == "go on"
    assert next_move(broken, cause="resumed", given=False, again=False) == "go on"


# failures


async def test_a_failure_for_good_is_kept_and_not_tried_again(uri: str, db: Database, tmp_path: Path) -> None:
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("failing", {**INPUT, "folder": str(tmp_path)}, "t")
    async with working(db, tmp_path):
        one = await failed(db)
        assert (one.state, one.graph, one.attempts) == ("failed", "failing", 1)
        assert one.error == "broken failed: ZeroDivisionError: for good"
        (tmp_path / "open").touch()
        await dispatcher.aresume("failing", "t")
        await until(lambda: _mended(db))
        await at_rest(db)
    assert (tmp_path / "tried").read_text() == "xx"
    assert await queued(db) == []
    assert set(did(uri).values()) == {1}


async def _mended(db: Database) -> bool:
    return "mended" in (await values(db, "t"))["said"]


async def test_a_failure_that_may_pass_is_tried_again_so_often_and_then_kept(
    uri: str, db: Database, tmp_path: Path
) -> None:
    (tmp_path / "passing").touch()
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("failing", {**INPUT, "folder": str(tmp_path)}, "t")
    async with working(db, tmp_path):
        one = await failed(db)
        assert (one.state, one.attempts) == ("failed", len(QUICK.pauses) + 1)
        assert one.error == "broken failed: ConnectTimeoutError: nobody answers"
    assert (tmp_path / "tried").read_text() == "x" * (len(QUICK.pauses) + 1)
    assert set(did(uri).values()) == {1}


async def test_a_thread_without_anything_to_go_on_with_is_a_failure(uri: str, db: Database, tmp_path: Path) -> None:
    from holdfast.serving.jobs import Segment

    dispatcher = await Dispatcher.aattach(db)
    job = Segment(thread_id="nobody", graph="two", cause="decided").job()
    await db.atransact(lambda connection: dispatcher.enqueue(connection, job))
    async with working(db, tmp_path):
        one = await failed(db)
        assert one.error is not None
        assert "no thread 'nobody'" in one.error


async def test_a_graph_that_no_worker_knows_waits_for_one_that_does(uri: str, db: Database, tmp_path: Path) -> None:
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("elsewhere", INPUT, "t")
    await dispatcher.asubmit("gate", {**INPUT, "folder": str(tmp_path)}, "u")
    (tmp_path / "open").touch()
    async with working(db, tmp_path):
        await until(lambda: _ended(db, "u"))
        (one,) = await until(lambda: _only_one(db))
    assert (one.thread_id, one.state) == ("t", "queued")


async def _ended(db: Database, thread: str) -> bool:
    found = await db.saver.aget_tuple({"configurable": {"thread_id": thread}})
    return found is not None and "after" in found.checkpoint["channel_values"].get("said", [])


async def _only_one(db: Database) -> list[Queued]:
    found = await queued(db)
    return found if len(found) == 1 else []


# others


async def test_a_thread_that_somebody_else_runs_is_waited_for_without_failing(
    uri: str, db: Database, tmp_path: Path
) -> None:
    dispatcher = await Dispatcher.aattach(db)
    async with Database.open(uri) as other:
        graph: Any = gate_builder.compile(checkpointer=other.saver)
        config: Any = {"configurable": {"thread_id": "t", "graph_id": "gate"}}
        running = asyncio.create_task(graph.ainvoke({**INPUT, "folder": str(tmp_path)}, config))
        await until(lambda: _there(tmp_path / "begun"))
        await dispatcher.aresume("gate", "t")
        async with working(db, tmp_path):
            await until(lambda: _tried(uri))
            (tmp_path / "open").touch()
            await running
            await at_rest(db)
        assert await queued(db) == []
    assert (await values(db, "t"))["said"] == ["before", "gate", "after"]
    assert set(did(uri).values()) == {1}


def _there(file: Path) -> bool:
    return file.exists()


def _tried(uri: str) -> bool:
    return any(job["attempts"] >= 2 for job in jobs(uri))


async def test_a_server_that_drops_every_connection_is_worked_with_again(
    uri: str, db: Database, tmp_path: Path
) -> None:
    dispatcher = await Dispatcher.aattach(db)
    async with working(db, tmp_path):
        await dispatcher.asubmit("two", INPUT, "t")
        (request,) = await waiting(db, "t")
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await db.approvals.adecide(request.request_id, approval(request))
        (request,) = await waiting(db, "t")
    assert request.name == "second"


def test_a_worker_that_would_count_as_dead_between_signs_of_life_is_refused() -> None:
    with pytest.raises(ValueError, match="silent must be at least twice beat"):
        Timing(beat=10, silent=15)


# its end


@pytest.fixture
def start(environment: dict[str, str], uri: str, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `holdfast worker`; whatever is left of it is killed."""
    started: list[subprocess.Popen[str]] = []
    command = [sys.executable, "-m", "holdfast.serving", "worker", "--concurrency", "2"]
    graphs = str(graphs_file(tmp_path))

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "--graphs", graphs], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_sigterm_finishes_the_step_and_gives_the_rest_back(
    uri: str, db: Database, tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    dispatcher = await Dispatcher.aattach(db)
    for number in range(3):
        await dispatcher.asubmit("gate", {**INPUT, "folder": str(tmp_path)}, f"t{number}")
    process = start()
    await until(lambda: _begun(tmp_path, 2))
    process.send_signal(signal.SIGTERM)
    await until(lambda: _said(process, "draining"))
    (tmp_path / "open").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {job["status"] for job in jobs(uri)} == {"todo"}
    assert len(jobs(uri)) == 3
    assert held(uri) == []
    assert [await _progress(db, f"t{number}") for number in range(3)] == [["before", "gate"], ["before", "gate"], []]
    async with working(db, tmp_path):
        await at_rest(db)
    for number in range(3):
        assert await _progress(db, f"t{number}") == ["before", "gate", "after"]
    assert set(did(uri).values()) == {1}
    assert await queued(db) == []


async def test_a_second_signal_ends_at_once_and_loses_nothing(
    uri: str, db: Database, tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("gate", {**INPUT, "folder": str(tmp_path)}, "t")
    process = start()
    await until(lambda: _begun(tmp_path, 1))
    process.send_signal(signal.SIGTERM)
    await until(lambda: _said(process, "draining"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert [job["status"] for job in jobs(uri)] == ["todo"]
    (tmp_path / "open").touch()
    async with working(db, tmp_path):
        await at_rest(db)
    assert await _progress(db, "t") == ["before", "gate", "after"]
    assert set(did(uri).values()) == {1}


def _begun(folder: Path, count: int) -> bool:
    file = folder / "begun"
    return file.exists() and len(file.read_text().splitlines()) == count


def _said(process: subprocess.Popen[str], what: str) -> bool:
    assert process.stderr is not None
    return what in process.stderr.readline()


async def _progress(db: Database, thread: str) -> list[str]:
    found = await db.saver.aget_tuple({"configurable": {"thread_id": thread}})
    return [] if found is None else list(found.checkpoint["channel_values"].get("said", []))


# graphs


def test_graphs_are_named_by_module_or_by_file(tmp_path: Path) -> None:
    (tmp_path / "own_graphs.py").write_text(
        "from tests.support.queue_graphs import two\n\ndef made(config):\n    return two\n\ngraph = two.compile()\n"
    )
    file = tmp_path / "langgraph.json"
    file.write_text(
        '{"graphs": {"a": "./own_graphs.py:graph", "b": "own_graphs:made", "c": {"path": "own_graphs:graph"}}}'
    )
    assert sorted(known_graphs(file)) == ["a", "b", "c", "outreach"]
    assert named_in(file)["c"] == "own_graphs:graph"


async def test_compiled_graphs_builders_and_functions_run_alike(uri: str, db: Database, tmp_path: Path) -> None:
    (tmp_path / "more_graphs.py").write_text(
        "from tests.support.queue_graphs import two\n\nasync def made(config):\n    return two.compile()\n\n"
        "def plain():\n    return two\n\ngraph = two.compile()\n"
    )
    file = tmp_path / "langgraph.json"
    file.write_text('{"graphs": {"a": "./more_graphs.py:graph", "b": "more_graphs:made", "c": "more_graphs:plain"}}')
    for name, opened in known_graphs(file).items():
        if name != "outreach":
            prepared = await opened(db, f"t-{name}", {"correlation_id": "why", "tenant": None})
            await prepared.graph.ainvoke(INPUT, prepared.config, durability="sync")
            (request,) = await db.approvals.afind(thread_id=f"t-{name}")
            assert (request.graph_id, request.name) == (name, "first")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "names no graphs"),
        ('{"graphs": {"a": "nothing"}}', "not given as module:attribute"),
        ('{"graphs": {"a": "tests.support.queue_graphs:missing"}}', "cannot be loaded: AttributeError"),
        ('{"graphs": {"a": "./missing_file.py:graph"}}', "cannot be loaded: FileNotFoundError"),
        ('{"graphs": {"a": "tests.support.queue_graphs:TABLE"}}', "is a str and no graph"),
        ('{"graphs": {"a": "./json.py:graph"}}', "another module is called 'json'"),
    ],
)
def test_what_is_no_graph_is_refused_at_the_start(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "langgraph.json"
    file.write_text(text)
    with pytest.raises(UnusableGraphs, match=problem):
        known_graphs(file)


async def test_a_graph_with_a_checkpointer_of_its_own_is_refused(db: Database, tmp_path: Path) -> None:
    (tmp_path / "kept_graphs.py").write_text(
        "from langgraph.checkpoint.memory import InMemorySaver\nfrom tests.support.queue_graphs import two\n\n"
        "graph = two.compile(checkpointer=InMemorySaver())\n"
    )
    file = tmp_path / "langgraph.json"
    file.write_text('{"graphs": {"a": "./kept_graphs.py:graph"}}')
    with pytest.raises(UnusableGraphs, match="has a checkpointer of its own"):
        await known_graphs(file)["a"](db, "t", {})
