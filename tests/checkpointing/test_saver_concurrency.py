"""Many runs at once, in one process and in several: every thread ends as if it had been alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from holdfast.checkpointing import CheckpointCorrupted, Database, DatabaseUnavailable, HoldfastError
from holdfast.checkpointing.upkeep import ThreadExists
from tests.support.tables import assert_all_load, assert_heads_agree, assert_sound, read
from tests.support.talks import Plain, on, plain, said, talk, view

KINDS: Final = ("plain", "delta", "long delta")
GIVEN: Final[list[Any]] = [
    said(0, "send ask"),
    Command(resume="yes"),
    said(1, "change again inner"),
    Command(resume="no"),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which reducers the graph has."""
    return str(request.param)


@pytest.fixture
def two(database_uri: str) -> Iterator[list[Database]]:
    """Two handles on one database, as two processes have."""
    with Database.connect(database_uri) as one, Database.connect(database_uri) as other:
        yield [one, other]


def alone(kind: str) -> Any:
    """The end of a thread that nobody disturbs."""
    graph = talk(InMemorySaver(), kind)
    for given in GIVEN:
        graph.invoke(given, on("t"), durability="sync")
    return now(graph, "t")


def now(graph: Any, thread: str) -> Any:
    """The newest state, subgraphs included."""
    return view(graph.get_state(on(thread), subgraphs=True))


def live(graph: Any, thread: str) -> None:
    """A thread's whole life, sync."""
    for given in GIVEN:
        graph.invoke(given, on(thread), durability="sync")


async def alive(graph: Any, thread: str) -> None:
    """A thread's whole life, async."""
    for given in GIVEN:
        await graph.ainvoke(given, on(thread), durability="sync")


def test_many_threads_at_once_sync_and_async(kind: str, two: list[Database], database_uri: str) -> None:
    """Half of them by invoke from a pool of threads, half by ainvoke on two loops, on two handles."""
    graphs = [talk(database.saver, kind) for database in two]
    names = [f"{manner} {number}" for manner in ("sync", "async") for number in range(12)]

    async def gathered(graph: Any, threads: list[str]) -> None:
        await asyncio.gather(*(alive(graph, thread) for thread in threads))

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(live, graphs[at % 2], name) for at, name in enumerate(names[:12])]
        jobs += [pool.submit(asyncio.run, gathered(graphs[at], names[12 + at :: 2])) for at in (0, 1)]
        for job in jobs:
            job.result()
    expected = alone(kind)
    for at, name in enumerate(names):
        assert now(graphs[at % 2], name) == expected
    assert_sound(database_uri)


def test_invoke_and_ainvoke_take_turns_on_a_thread(kind: str, two: list[Database], database_uri: str) -> None:
    graphs = [talk(database.saver, kind) for database in two]
    for number, given in enumerate(GIVEN):
        graph = graphs[number % 3 % 2]
        if number % 2:
            asyncio.run(graph.ainvoke(given, on("t"), durability="sync"))
        else:
            graph.invoke(given, on("t"), durability="async")
    assert now(graphs[1], "t") == alone(kind)
    assert_sound(database_uri)


def end(uri: str) -> None:
    """End all our connections, as a restart of the server does."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'holdfast'"
        )


def persist(graph: Any, thread: str) -> None:
    """Live on until the end, resuming what the loss of connections has cut."""
    for given in GIVEN:
        before = None
        while True:
            try:
                if before is None:
                    before = graph.get_state(on(thread)).config["configurable"].get("checkpoint_id")
                state = graph.get_state(on(thread))
                begun = state.config["configurable"].get("checkpoint_id") != before
                if begun and not (state.next and not state.interrupts):
                    break
                graph.invoke(None if begun else given, on(thread), durability="sync")
            except DatabaseUnavailable:
                continue
            break


def test_connections_that_are_ended_lose_nothing(kind: str, two: list[Database], database_uri: str) -> None:
    """Runs go on, or fail with DatabaseUnavailable and are resumed; nothing is half there."""
    count = itertools.count(1)

    def disturb(_: str) -> None:
        if next(count) % 30 == 0:
            end(database_uri)

    graphs = [talk(database.saver, kind, disturb) for database in two]
    with ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(persist, graphs[number % 2], str(number)) for number in range(6)]:
            job.result()
    assert next(count) > 90
    expected = alone(kind)["values"]
    for number in range(6):
        values = plain(graphs[0].get_state(on(str(number))).values)
        assert [message["id"] for message in values["messages"]] == [message["id"] for message in expected["messages"]]
    assert_sound(database_uri)


async def test_what_cannot_be_serialised_fails_alone(db: Database, database_uri: str) -> None:
    """Of many operations that are committed together, only the bad one fails."""
    graph: Any = StateGraph(Plain).add_node("n", lambda state: {"note": "n"}).add_edge(START, "n").compile()
    graph.checkpointer = db.saver
    await graph.ainvoke(said(0, ""), on("t"), durability="sync")
    config = (await graph.aget_state(on("t"))).config
    values = [threading.Lock() if number == 7 else number for number in range(20)]
    results = await asyncio.gather(
        *(db.saver.aput_writes(config, [("note", value)], f"task {at:02}") for at, value in enumerate(values)),
        return_exceptions=True,
    )
    assert [at for at, result in enumerate(results) if result is not None] == [7]
    assert isinstance(results[7], TypeError)
    found = await db.saver.aget_tuple(config)
    assert found is not None
    assert found.pending_writes is not None
    assert [value for _, _, value in found.pending_writes] == [at for at in range(20) if at != 7]
    assert_sound(database_uri)


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_a_run_that_is_cancelled_can_be_resumed(at: str, db: Database, database_uri: str) -> None:
    """Cancelled in the middle of a node, the thread goes on with that node."""
    ran: list[str] = []
    there = asyncio.Event()

    def node(name: str) -> Any:
        async def run(state: Any) -> Any:
            ran.append(name)
            if name == at and ran.count(name) == 1:
                there.set()
                await asyncio.Event().wait()
            return {"log": [name]}

        return run

    builder = StateGraph(Plain)
    for name, before in zip("abc", (START, "a", "b"), strict=True):
        builder.add_node(name, node(name)).add_edge(before, name)
    graph: Any = builder.compile(checkpointer=db.saver)
    running = asyncio.create_task(graph.ainvoke(said(0, ""), on("t"), durability="sync"))
    await there.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await graph.ainvoke(None, on("t"), durability="sync"))["log"] == ["a", "b", "c"]
    assert ran == sorted(["a", "b", "c", at])
    await asyncio.to_thread(assert_sound, database_uri)


def delete(other: Database, number: int) -> None:
    """Everything of the thread."""
    other.saver.delete_thread("t")


def prune(other: Database, number: int) -> None:
    """All but the newest checkpoint."""
    other.saver.prune(["t"])


def copy(other: Database, number: int) -> None:
    """To another thread, or one that is there."""
    with suppress(ThreadExists):
        other.saver.copy_thread("t", f"copy {number % 5}")


def delete_runs(other: Database, number: int) -> None:
    """What some run did, which may be going on."""
    other.saver.delete_for_runs([f"run {number % 4}"])


@pytest.mark.parametrize("upkeep", [delete, prune, copy, delete_runs])
def test_upkeep_elsewhere_while_a_thread_runs(
    kind: str, upkeep: Callable[[Database, int], None], two: list[Database], database_uri: str
) -> None:
    """Whatever comes in between, the thread is gone or loads in full, and so do its copies."""
    over, moved = threading.Event(), threading.Event()
    graph = talk(two[0].saver, kind, lambda _: moved.set())

    def disturb() -> int:
        number = 0
        while not over.is_set():
            moved.wait()
            moved.clear()
            upkeep(two[1], number := number + 1)
        return number

    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb)
        try:
            for number in range(15):
                config = {**on("t"), "metadata": {"run_id": f"run {number % 4}"}}
                try:
                    graph.invoke(said(number, "send inner" if number % 4 else "ask again"), config, durability="sync")
                except CheckpointCorrupted:
                    raise
                except HoldfastError:
                    continue  # it may be refused by name
        finally:
            over.set()
            moved.set()
        assert disturbing.result() > 15
    tables = read(database_uri)
    assert_heads_agree(tables)
    assert_all_load(database_uri, tables)
    with Database.connect(database_uri) as fresh:
        for thread in {key[0] for key in tables.checkpoints}:
            now(talk(fresh.saver, kind), thread)
