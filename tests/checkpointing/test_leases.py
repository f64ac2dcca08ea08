"""One runner a thread: who comes second is told before anything is called, and who lost the thread writes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from psycopg_pool import ConnectionPool

from holdfast.checkpointing import Database, DatabaseClosed, HoldfastSaver, Lease, LeaseLost, ThreadBusy, committer
from holdfast.checkpointing.connections import BlockingConnections, Steps
from tests.support.lease_child import INPUT, asking, two_steps
from tests.support.leases import TTL, held, rows, steal, when_free, workers
from tests.support.tables import assert_heads_agree, read
from tests.support.talks import on

DONE: Final = ["begin", "one", "two"]


@pytest.fixture
def other(database_uri: str) -> Iterator[Database]:
    """Another worker, as another process is."""
    with Database.connect(database_uri, lease_ttl=TTL) as database:
        yield database


def nothing() -> None:
    """A node that does nothing of note."""


def ids(state: Any) -> list[Any]:
    """The ids of a state's messages."""
    return [message.id for message in state["messages"]]


class Child:
    """A process that runs a thread, and stops or waits on its way."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.lease_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def hears(self) -> str:
        """The next that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stopped(self) -> None:
        """Return when it has stopped itself."""
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> list[str]:
        """Let it go on to its end; all that it says."""
        self.process.send_signal(signal.SIGCONT)
        said, _ = self.process.communicate("go\n")
        return said.split()


class Held:
    """A run in a thread of its own that is within its first node until it is let go."""

    def __init__(self, database: Database, thread: str = "t") -> None:
        self._inside, self._go = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        graph = two_steps(database.saver, self._first)
        self._run = self._pool.submit(lambda: graph.invoke(INPUT, on(thread), durability="sync"))
        self._inside.wait()

    def _first(self) -> None:
        self._inside.set()
        self._go.wait()

    def end(self) -> Any:
        """Let it go on; its result."""
        self._go.set()
        self._pool.shutdown()
        return self._run.result()


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    """Makes runs that are within a node."""
    made: list[Held] = []

    def make(*arguments: Any) -> Held:
        made.append(Held(*arguments))
        return made[-1]

    yield make
    for run in made:
        with suppress(Exception):
            run.end()


# Who comes second.


def test_a_second_process_is_told_before_any_node_starts(
    environment: dict[str, str], db: Database, database_uri: str
) -> None:
    """It can run the thread when the first one has ended."""
    child = Child(environment, "t", "sync", "sync", "node")
    assert child.hears() == "in node"
    before, ran = rows(database_uri), Counter[str]()
    graph = two_steps(db.saver, lambda: ran.update(["one"]))
    with pytest.raises(ThreadBusy, match="'t'"):
        graph.invoke(INPUT, on("t"))
    with pytest.raises(ThreadBusy, match="'t'"):
        asyncio.run(graph.ainvoke(INPUT, on("t")))
    assert (rows(database_uri), ran) == (before, Counter())
    assert child.end() == ["ended"]
    graph.invoke(INPUT, on("t"))
    assert ran == {"one": 1}


def test_a_second_run_of_the_same_process_is_told_too(db: Database, hold: Callable[..., Held]) -> None:
    ran = Counter[str]()
    graph = two_steps(db.saver, lambda: ran.update(["one"]))
    first = hold(db)
    with pytest.raises(ThreadBusy):
        graph.invoke(INPUT, on("t"))
    with pytest.raises(ThreadBusy):
        asyncio.run(graph.ainvoke(INPUT, on("t")))
    assert not ran
    assert ids(first.end()) == DONE
    graph.invoke(INPUT, on("t"))
    asyncio.run(graph.ainvoke(INPUT, on("t")))
    assert ran == {"one": 2}


async def test_the_second_of_two_async_runs_is_told(db: Database) -> None:
    inside, go = asyncio.Event(), asyncio.Event()
    graph = waiting(db.saver, inside, go)
    first = asyncio.create_task(graph.ainvoke(INPUT, on("t")))
    await inside.wait()
    with pytest.raises(ThreadBusy):
        await graph.ainvoke(INPUT, on("t"))
    go.set()
    await first
    await graph.ainvoke(INPUT, on("t"))


def waiting(saver: HoldfastSaver, inside: asyncio.Event, go: asyncio.Event) -> Any:
    """A graph whose node waits for an event."""

    async def node(state: MessagesState) -> Any:
        inside.set()
        await go.wait()
        return {"messages": [AIMessage("went", id="went")]}

    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=saver)


def test_a_lease_is_known_by_its_run(db: Database, database_uri: str) -> None:
    """A node's config leads to it; each run has a newer one of the same worker, and no memory is lost by it."""
    found: list[Lease | None] = []

    def node(state: MessagesState, config: RunnableConfig) -> Any:
        found.append(db.saver.leases.of(config))
        return {}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    generations: list[Any] = []
    for _ in range(2):
        graph.invoke(INPUT, on("t"))
        with psycopg.connect(database_uri) as connection:
            generations.append(connection.execute("SELECT generation FROM holdfast.heads").fetchall())
    first, second = found
    assert first is not None
    assert second is not None
    assert (first.thread_id, first.worker) == (second.thread_id, second.worker) == ("t", db.saver.leases.worker)
    assert 0 < first.epoch < second.epoch
    assert generations[0] == generations[1]
    assert db.saver.leases.of(on("t")) is None


def test_a_lease_can_be_checked_without_the_database(db: Database, database_uri: str) -> None:
    """It counts as lost when the worker could not say for too long that it lives."""

    def node(state: MessagesState, config: RunnableConfig) -> Any:
        lease = db.saver.leases.of(config)
        assert lease is not None
        lease.check()
        kept, lease.pulse.until = lease.pulse.until, 0.0
        with pytest.raises(LeaseLost, match="'t'"):
            lease.check()
        lease.pulse.until = kept
        lease.check()
        return {}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    graph.invoke(INPUT, on("t"))
    assert held(database_uri) == []


# Who falls silent.


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_killed_workers_thread_is_taken_over(mode: str, environment: dict[str, str], other: Database) -> None:
    """Once it has been silent for as long as a lease lives."""
    child = Child(environment, "t", mode, "sync", "node")
    assert child.hears() == "in node"
    child.process.kill()
    child.process.communicate()
    graph = two_steps(other.saver, nothing)
    assert ids(when_free(lambda: graph.invoke(None, on("t")))) == DONE


@pytest.mark.parametrize(
    ("mode", "durability", "point"),
    [
        ("sync", "sync", "node"),
        ("async", "async", "node"),
        ("sync", "sync", "put:enter"),
        ("async", "async", "put:enter"),
        ("sync", "async", "before"),
        ("async", "sync", "before"),
        ("sync", "sync", "sent"),
        ("async", "sync", "sent"),
        ("async", "sync", "put_writes:enter"),
        ("sync", "sync", "committed"),
    ],
)
def test_a_worker_that_wakes_too_late_writes_nothing(
    mode: str, durability: str, point: str, environment: dict[str, str], other: Database, database_uri: str
) -> None:
    """Stopped at a point, before its very first write among them; a successor finishes; it goes on, and is refused."""
    child = Child(environment, "t", mode, durability, point)
    if point == "node":
        assert child.hears() == "in node"
        child.process.send_signal(signal.SIGSTOP)
    child.stopped()
    graph = two_steps(other.saver, nothing)

    def succeed() -> Any:
        begun = other.saver.get_tuple(on("t")) is not None
        return graph.invoke(None if begun else INPUT, on("t"))

    assert ids(when_free(succeed)) == DONE
    before = rows(database_uri)
    assert child.end()[-1] == "LeaseLost"
    assert rows(database_uri) == before
    assert_heads_agree(read(database_uri))


def lost_within(db: Database, meddle: Callable[[], None], *, sub: bool = False) -> None:
    """A run that loses its thread within its first node."""

    def said(name: str) -> Any:
        def node(state: MessagesState) -> Any:
            return {"messages": [AIMessage(name, id=name)]}

        return node

    def one(state: MessagesState) -> None:
        meddle()

    builder: Any = StateGraph(MessagesState).add_node("one", one).add_edge(START, "one")
    if sub:
        inner = StateGraph(MessagesState).add_node("in", said("in")).add_edge(START, "in").compile()
        builder.add_node("sub", inner).add_edge("one", "sub").add_edge(START, "sub")
    builder.add_node("two", said("two")).add_edge("one", "two")
    with pytest.raises(LeaseLost, match="'t'"):
        builder.compile(checkpointer=db.saver).invoke(INPUT, on("t"))


@pytest.mark.parametrize("sub", [False, True], ids=["", "with a subgraph that begins"])
@pytest.mark.parametrize("known", ["nothing new", "its state", "its history", "nothing at all"])
def test_what_the_process_learns_meanwhile_does_not_let_it_write(
    known: str, sub: bool, db: Database, database_uri: str
) -> None:
    """Reading a thread that was lost makes its process know the newer heads; its run is refused all the same."""
    before: list[Any] = []
    reader = two_steps(db.saver, nothing)

    def meddle() -> None:
        steal(database_uri, "t")
        if known == "its state":
            reader.get_state(on("t"))
        elif known == "its history":
            list(reader.get_state_history(on("t")))
        elif known == "nothing at all":
            db.saver.upkeep.memory.forget("t")
        before.append([row for row in rows(database_uri)["checkpoints"] if "(t,," in row[0]])

    lost_within(db, meddle, sub=sub)
    assert [row for row in rows(database_uri)["checkpoints"] if "(t,," in row[0]] == before[0]


def test_a_thread_that_was_taken_over_before_the_first_write_stays_empty(
    db: Database, database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the run's look and its first commit: there is no head yet that could tell."""
    commit, before = committer.run_again_blocking, rows(database_uri)
    stolen = iter(["t"])

    def late(connections: BlockingConnections, steps: Callable[[], Steps[Any]]) -> Any:
        for thread in stolen:
            steal(database_uri, thread)
        return commit(connections, steps)

    monkeypatch.setattr(committer, "run_again_blocking", late)
    with pytest.raises(LeaseLost, match="'t'"):
        two_steps(db.saver, nothing).invoke(INPUT, on("t"))
    assert rows(database_uri) == before
    assert list(stolen) == []


def test_a_heartbeat_that_comes_too_late_finds_out(other: Database, database_uri: str) -> None:
    """It is as good as another after that, for the threads that are left."""
    found: list[Lease] = []

    def node(state: MessagesState, config: RunnableConfig) -> Any:
        lease = other.saver.leases.of(config)
        assert lease is not None
        found.append(lease)
        steal(database_uri, "t")
        while not lease.lost:
            time.sleep(0.01)  # a heartbeat finds it out
        with pytest.raises(LeaseLost, match="'t'"):
            lease.check()
        return {}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=other.saver)
    with pytest.raises(LeaseLost):
        graph.invoke(INPUT, on("t"))
    assert not found[0].pulse.overdue


async def test_one_lost_thread_does_not_harm_others_of_the_same_commit(db: Database, database_uri: str) -> None:
    """Twenty runs write at once, one of which has lost its thread."""
    inside, go = 0, asyncio.Event()

    async def node(state: MessagesState) -> Any:
        nonlocal inside
        inside += 1
        if inside == 20:
            await asyncio.to_thread(steal, database_uri, "3")
            go.set()
        await go.wait()
        return {"messages": [AIMessage("went", id="went")]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    runs = [graph.ainvoke(INPUT, on(str(number))) for number in range(20)]
    ends = await asyncio.gather(*runs, return_exceptions=True)
    assert [number for number, end in enumerate(ends) if isinstance(end, BaseException)] == [3]
    assert isinstance(ends[3], LeaseLost)


def test_a_lost_run_may_be_run_anew(db: Database, database_uri: str) -> None:
    """When its successor has ended, by the very process that lost it."""
    lost_within(db, lambda: steal(database_uri, "t"))
    graph = two_steps(db.saver, nothing)
    with pytest.raises(ThreadBusy):
        graph.invoke(INPUT, on("t"))
    with psycopg.connect(database_uri) as connection:
        connection.execute("DELETE FROM holdfast.workers WHERE worker = 'thief'")
    assert ids(graph.invoke(INPUT, on("t"))) == DONE


@pytest.mark.slow
def test_of_32_processes_that_resume_one_thread_one_runs(
    environment: dict[str, str], db: Database, tmp_path: Path
) -> None:
    asking(db.saver, nothing).invoke(INPUT, on("t"))
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.support.lease_child", "t", "crowd", "32", str(log)]
    subprocess.run(command, env=environment, check=True)
    assert Counter(log.read_text(encoding="utf-8").split()) == {"ran": 1, "ThreadBusy": 31}
    assert ids(asking(db.saver, nothing).get_state(on("t")).values) == ["begin", "answer"]


# However a run ends, another worker can go on at once.


def test_an_interrupt_releases(db: Database, other: Database, database_uri: str) -> None:
    asking(db.saver, nothing).invoke(INPUT, on("t"))
    assert held(database_uri) == []
    asking(other.saver, nothing).invoke(Command(resume="yes"), on("t"))
    asyncio.run(asking(db.saver, nothing).ainvoke(INPUT, on("u")))
    assert held(database_uri) == []
    asyncio.run(asking(other.saver, nothing).ainvoke(Command(resume="yes"), on("u")))


def test_an_error_releases(db: Database, other: Database, database_uri: str) -> None:
    def fail() -> None:
        raise RuntimeError("as told")

    graph = two_steps(db.saver, fail)
    with pytest.raises(RuntimeError, match="as told"):
        graph.invoke(INPUT, on("t"))
    assert held(database_uri) == []
    with pytest.raises(RuntimeError, match="as told"):
        asyncio.run(graph.ainvoke(INPUT, on("u")))
    assert held(database_uri) == []
    for thread in ("t", "u"):
        assert ids(two_steps(other.saver, nothing).invoke(None, on(thread))) == DONE


async def test_a_cancelled_run_releases(db: Database, other: Database, database_uri: str) -> None:
    inside, go = asyncio.Event(), asyncio.Event()
    run = asyncio.create_task(waiting(db.saver, inside, go).ainvoke(INPUT, on("t")))
    await inside.wait()
    assert held(database_uri) == ["t"]
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert held(database_uri) == []
    go.set()
    await waiting(other.saver, inside, go).ainvoke(None, on("t"))


def test_an_abandoned_stream_releases_when_it_is_closed(db: Database, other: Database, database_uri: str) -> None:
    stream = two_steps(db.saver, nothing).stream(INPUT, on("t"))
    next(stream)
    assert held(database_uri) == ["t"]
    stream.close()
    assert held(database_uri) == []
    assert ids(two_steps(other.saver, nothing).invoke(None, on("t"))) == DONE


async def test_an_abandoned_async_stream_releases_when_it_is_closed(
    db: Database, other: Database, database_uri: str
) -> None:
    stream = two_steps(db.saver, nothing).astream(INPUT, on("t"))
    await anext(stream)
    assert held(database_uri) == ["t"]
    await stream.aclose()
    assert held(database_uri) == []
    assert ids(await two_steps(other.saver, nothing).ainvoke(None, on("t"))) == DONE


def test_a_run_that_does_not_get_its_state_releases(db: Database, other: Database, database_uri: str) -> None:
    """The lease is there before the state is read, and goes if that cannot be read."""
    graph = two_steps(db.saver, nothing)
    graph.invoke(INPUT, on("t"))
    with psycopg.connect(database_uri) as connection:
        connection.execute("UPDATE holdfast.heads SET checkpoint_id = 'z'")
    with pytest.raises(Exception, match="is missing"):
        graph.invoke(INPUT, on("t"))
    assert held(database_uri) == []


def test_a_graph_of_another_thread_within_a_node_has_its_own_lease(db: Database, database_uri: str) -> None:
    seen: list[list[str]] = []
    nested = two_steps(db.saver, lambda: seen.append(held(database_uri)))

    def outer() -> None:
        seen.append(held(database_uri))
        nested.invoke(INPUT, on("inner"))
        seen.append(held(database_uri))

    two_steps(db.saver, outer).invoke(INPUT, on("t"))
    assert seen == [["t"], ["inner", "t"], ["t"]]
    assert held(database_uri) == []


@pytest.mark.parametrize("stateful", [None, True])
def test_subgraphs_are_of_their_run(stateful: bool | None, db: Database, database_uri: str) -> None:
    """They take no lease, and do not end the one there is."""
    seen: list[tuple[list[str], int]] = []

    def look(state: MessagesState, config: RunnableConfig) -> Any:
        lease = db.saver.leases.of(config)
        seen.append((held(database_uri), lease.epoch if lease is not None else 0))
        return {}

    inner = StateGraph(MessagesState).add_node("in", look).add_edge(START, "in").compile(checkpointer=stateful)
    builder: Any = StateGraph(MessagesState).add_node("before", look).add_node("sub", inner).add_node("after", look)
    builder.add_edge(START, "before").add_edge("before", "sub").add_edge("sub", "after")
    builder.compile(checkpointer=db.saver).invoke(INPUT, on("t"))
    assert len(seen) == 3
    assert seen == [(["t"], seen[0][1])] * 3
    assert held(database_uri) == []


# What it costs, and who is left alone.


async def test_200_threads_at_once_take_one_heartbeat_and_no_connections(db: Database, database_uri: str) -> None:
    inside, go = 0, asyncio.Event()
    seen: list[Any] = []

    def look() -> None:
        with psycopg.connect(database_uri) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast' AND datname = %s"
            seen.extend(connection.execute(query, [connection.info.dbname]).fetchone() or ())
        seen.append(len(workers(database_uri)))
        seen.append(len(held(database_uri)))

    async def node(state: MessagesState) -> Any:
        nonlocal inside
        inside += 1
        if inside == 200:
            await asyncio.to_thread(look)
            go.set()
        await go.wait()
        return {}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    await asyncio.gather(*(graph.ainvoke(INPUT, on(str(number))) for number in range(200)))
    connections, alive, leases = seen
    assert connections <= 11  # the pool's ten, and the committer's
    assert (alive, leases) == (1, 200)
    assert held(database_uri) == []


def test_state_is_read_and_changed_while_a_run_goes_on(
    db: Database, other: Database, database_uri: str, hold: Callable[..., Held]
) -> None:
    """By its own process and by another, without a lease; the run goes on and keeps its own."""
    run = hold(db)
    kept = held(database_uri)
    while not two_steps(db.saver, nothing).get_state(on("t")).next:
        pass  # LangGraph starts the node before it knows that the input is saved
    for database in (db, other):
        graph = two_steps(database.saver, nothing)
        state = graph.get_state(on("t"))
        assert state.next == ("one",)
        graph.update_state(state.config, {"messages": [HumanMessage("more", id="more")]})
        asyncio.run(graph.aupdate_state(state.config, {"messages": [HumanMessage("more", id="more")]}))
        graph.update_state(on("elsewhere"), {"messages": [HumanMessage("new", id="new")]}, as_node="two")
    assert held(database_uri) == kept == ["t"]
    run.end()
    assert held(database_uri) == []


def test_closing_releases(db: Database, other: Database, database_uri: str, hold: Callable[..., Held]) -> None:
    """The worker is gone, and its threads are free."""
    run = hold(db)
    assert workers(database_uri) == [db.saver.leases.worker]
    db.close()
    assert (held(database_uri), workers(database_uri)) == ([], [])
    assert ids(two_steps(other.saver, nothing).invoke(None, on("t"))) == DONE
    with pytest.raises(DatabaseClosed):
        run.end()


def test_a_saver_on_a_pool_holds_its_threads_too(db: Database, database_uri: str) -> None:
    options = {"autocommit": True, "prepare_threshold": 0}
    with ConnectionPool(database_uri, min_size=1, max_size=2, kwargs=options) as pool:
        saver = HoldfastSaver(pool)

        def second() -> None:
            with pytest.raises(ThreadBusy):
                two_steps(db.saver, nothing).invoke(INPUT, on("t"))

        assert ids(two_steps(saver, second).invoke(INPUT, on("t"))) == DONE
        assert held(database_uri) == []
        saver.close()


def test_a_deleted_thread_leaves_no_lease(db: Database, database_uri: str) -> None:
    two_steps(db.saver, nothing).invoke(INPUT, on("t"))
    db.saver.delete_thread("t")
    with psycopg.connect(database_uri) as connection:
        assert connection.execute("SELECT * FROM holdfast.leases").fetchall() == []


def test_a_lease_too_short_to_keep_is_refused(database_uri: str) -> None:
    with pytest.raises(ValueError, match="lease_ttl must be at least 1 s"):
        Database(database_uri, lease_ttl=timedelta(milliseconds=100))


LEFT = """
import asyncio, sys
from langgraph.graph import START, MessagesState, StateGraph
from holdfast.checkpointing import Database

entered = []

async def node(state):
    if not entered:
        entered.append(True)
        await asyncio.Event().wait()
    return {}

config = {"configurable": {"thread_id": "left"}}
with Database.connect(sys.argv[1]) as db:
    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    loop = asyncio.new_event_loop()
    left = loop.create_task(graph.ainvoke({"messages": []}, config))
    while not entered:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(graph.ainvoke({"messages": []}, config))
    assert graph.get_state(config).next == ()
"""


def test_a_run_whose_loop_was_closed_under_it_holds_nothing(database_uri: str) -> None:
    """It can never go on, and nobody would ever tell of its end. (In a child: Python complains of what was left.)"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", LEFT, database_uri], check=True, stderr=subprocess.DEVNULL)
