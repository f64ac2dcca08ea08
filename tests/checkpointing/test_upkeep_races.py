"""Upkeep in one process meets a run in another, at each of its statements; nothing is half there afterwards."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph

from holdfast.checkpointing import CheckpointCorrupted, Database, HoldfastError
from holdfast.checkpointing.connections import Connections, Steps
from holdfast.checkpointing.upkeep import SQL, Upkeep
from tests.support.tables import assert_all_load, assert_heads_agree, read
from tests.support.talks import Plain, on, said, talk, view

T = TypeVar("T")
REMOVALS: Final[dict[str, Callable[[Upkeep], Awaitable[None]]]] = {
    "delete": lambda upkeep: upkeep.delete_threads(["t"]),
    "prune": lambda upkeep: upkeep.prune(["t"], "keep_latest"),
    "delete_for_runs": lambda upkeep: upkeep.delete_for_runs(["old"]),
    "copy": lambda upkeep: upkeep.copy_thread("t", "copy"),
}
STATEMENTS: Final = {
    "delete": ("delete_checkpoints", "delete_blobs", "delete_writes", "delete_messages", "delete_heads"),
    "prune": ("checkpoints", "writes_of", "drop_checkpoints", "blobs_of", "blob_keys", "keep_messages", "settle_heads"),
    "delete_for_runs": ("checkpoints", "writes_of", "blobs_of", "blob_keys", "keep_messages", "settle_heads"),
    "copy": ("exists", "copy_checkpoints", "copy_blobs", "copy_writes", "copy_messages", "copy_heads"),
}
MEETINGS: Final = [(removal, statement) for removal, found in STATEMENTS.items() for statement in found]


@dataclass(slots=True)
class Meeting:
    """Connections that stop before a statement, until the run has ended or waits for a lock that we hold."""

    connections: Connections
    uri: str
    statement: str
    reached: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    async def run(self, steps: Callable[[], Steps[T]], *, transaction: bool = False) -> T:
        return await self.connections.run(lambda: self._stopping(steps()), transaction=transaction)

    def _stopping(self, steps: Steps[T]) -> Steps[T]:
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, tuple) and wanted[0] == SQL[self.statement]:
                    self.reached.set()
                    self._wait()
                wanted = steps.send((yield wanted))
        except StopIteration as end:
            result: T = end.value
            return result

    def _wait(self) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            while not self.ended.is_set():
                waiting = connection.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                if waiting.fetchall():
                    return


@pytest.fixture
def two(database_uri: str) -> Iterator[list[Database]]:
    """Two handles on one database, as two processes have."""
    with Database.connect(database_uri) as one, Database.connect(database_uri) as other:
        yield [one, other]


class Keeper:
    """Runs an operation in another process's place, once; it stops before the meeting's statement."""

    def __init__(self, database: Database, uri: str, removal: str, statement: str) -> None:
        upkeep = database.saver.upkeep
        self._meeting = Meeting(upkeep.connections, uri, statement)
        self._upkeep = replace(upkeep, connections=self._meeting)
        self._bridge = database.saver._bridge  # pyright: ignore[reportPrivateUsage]
        self._removal = REMOVALS[removal]
        self._pool = ThreadPoolExecutor(1)
        self._job: Future[None] | None = None

    def begin(self) -> None:
        """Begin it; return when it has come to the statement, or has ended without."""
        if self._job is None:
            self._job = self._pool.submit(self._bridge.call, self._removal, self._upkeep)
            self._job.add_done_callback(lambda _: self._meeting.reached.set())
        self._meeting.reached.wait()

    def end(self) -> None:
        """Let it go on to its end."""
        self._meeting.ended.set()
        self._pool.shutdown()
        assert self._job is not None
        self._job.result()


def run(graph: Any, given: Any, **metadata: str) -> None:
    """A run, which may be refused by name, but never find damage."""
    try:
        graph.invoke(given, {**on("t"), "metadata": metadata}, durability="sync")
    except CheckpointCorrupted:
        raise
    except HoldfastError:
        pass


def assert_whole(uri: str, graph: Any) -> None:
    """All threads load, and go on."""
    tables = read(uri)
    assert_heads_agree(tables)
    assert_all_load(uri, tables)
    for thread in {key[0] for key in tables.checkpoints}:
        view(graph.get_state(on(thread), subgraphs=True))
    graph.invoke(said(2, ""), on("t"))
    assert graph.get_state(on("t")).next == ()


@pytest.mark.parametrize("begun", [True, False], ids=["old thread", "new thread"])
@pytest.mark.parametrize("node", ["listen", "first"])
@pytest.mark.parametrize(("removal", "statement"), MEETINGS)
def test_a_run_and_upkeep_meet(
    removal: str, statement: str, node: str, begun: bool, two: list[Database], database_uri: str
) -> None:
    """The run commits what it can between two statements of the upkeep, which began in the midst of a node."""
    keeper = Keeper(two[1], database_uri, removal, statement)
    if begun:
        run(talk(two[0].saver, "plain"), said(0, "send"), run_id="old")
    graph = talk(two[0].saver, "plain", lambda name: keeper.begin() if name == node else None)
    try:
        run(graph, said(1, "send again"))
    finally:
        keeper.end()
    assert_whole(database_uri, graph)


@pytest.mark.parametrize(("removal", "statement"), MEETINGS)
def test_a_subgraph_begins_during_upkeep(removal: str, statement: str, two: list[Database], database_uri: str) -> None:
    """Its namespace is new: nobody could lock its head."""
    keeper = Keeper(two[1], database_uri, removal, statement)

    def inside(state: Any) -> Any:
        return {"messages": [AIMessage("inside", id=f"inside {len(state['messages'])}")]}

    def sub(state: Any) -> Any:
        keeper.begin()
        return inner.invoke(state)

    inner = StateGraph(Plain).add_node("inside", inside).add_edge(START, "inside").compile()
    graph = StateGraph(Plain).add_node("sub", sub).add_edge(START, "sub").compile(checkpointer=two[0].saver)
    try:
        run(graph, said(1, ""))
    finally:
        keeper.end()
    assert_whole(database_uri, graph)


@pytest.mark.parametrize(("removal", "statement"), MEETINGS)
def test_a_thread_begins_during_upkeep(removal: str, statement: str, two: list[Database], database_uri: str) -> None:
    """Its first commit is there in full, or not at all."""
    keeper = Keeper(two[1], database_uri, removal, statement)
    graph = talk(two[0].saver, "plain")
    keeper.begin()
    try:
        run(graph, said(1, "send again"))
    finally:
        keeper.end()
    assert_whole(database_uri, graph)
