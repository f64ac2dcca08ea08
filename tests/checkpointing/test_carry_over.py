"""A thread that began on the official Postgres saver goes on here as if it had been here always, wherever it was cut.

The thread's life is a row of steps: supersteps, answers to interrupts, a failure, updates by hand, a fork. It is
lived on the official saver once; every moment of it is kept as a copy of its rows, and lived to the end on ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from psycopg import sql
from psycopg.rows import tuple_row

from holdfast.checkpointing import Database
from tests.conftest import new_database
from tests.support.tables import assert_sound
from tests.support.talks import STATES, on, said, seen, talk

TABLES: Final = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
STEPS: Final = 19
"""How many steps the life of a thread has."""
KINDS: Final = [("plain", False), ("delta", False), ("long delta", True)]
"""Reducers, and whether the subgraph keeps its state from call to call."""


def life(graph: Any, thread: str, lived: int = 0) -> Iterator[str]:
    """Live it from a step on; says what was done."""
    config = on(thread)
    for number, (what, step) in enumerate(_steps(graph, config)):
        if number >= lived:
            step()
            yield what


def _steps(graph: Any, config: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    def run(given: Any, where: Any = config) -> Callable[[], Any]:
        return lambda: graph.invoke(given, where, durability="sync", interrupt_after="*")

    def update(place: int | None, values: Any, as_node: str) -> Callable[[], Any]:
        def call() -> None:
            where = config if place is None else list(graph.get_state_history(config))[place].config
            graph.update_state(where, values, as_node=as_node)

        return call

    def failing() -> None:
        with suppress(RuntimeError):
            graph.invoke(None, on(config["configurable"]["thread_id"], fail=True), durability="sync")

    yield "first turn", run(said(0, "ask send"))
    yield "worked and asked", run(None)
    yield "answered", run(Command(resume="yes"))
    yield "inside", run(None)
    yield "failed", failing
    yield "ended", run(None)
    yield "by hand", update(None, {"messages": [AIMessage("by hand", id="hand")], "note": "by hand"}, "end")
    yield "second turn", run(said(1, "send change again inner"))
    yield "worked again", run(None)
    yield "asked inside", run(None)
    yield "answered inside", run(Command(resume="inside"))
    yield "ended again", run(None)
    yield "third turn, at once", lambda: graph.invoke(said(2, "remove ask"), config, durability="sync")
    yield "answered at once", lambda: graph.invoke(Command(resume="yes"), config, durability="sync")
    yield "forked", update(6, {"messages": [AIMessage("forked", id="fork")]}, "listen")
    yield from ((f"superstep {step} of the fork", run(None)) for step in range(3))
    yield "ran an old step again", lambda: graph.invoke(None, list(graph.get_state_history(config))[-4].config)


@dataclass(frozen=True, slots=True)
class Lived:
    """A life on the official saver."""

    done: list[str]
    ran: list[list[str]]
    """The nodes that ran, step by step."""
    history: list[Any]


@pytest.fixture(scope="module")
def uri(server_uri: str, template: str) -> Iterator[str]:
    """A database for all of these tests."""
    with new_database(server_uri, template) as created:
        yield created


@pytest.fixture(scope="module")
def ours(uri: str) -> Iterator[Database]:
    """Our end of it."""
    with Database.connect(uri) as database:
        yield database


@pytest.fixture(scope="module")
def lived(uri: str) -> Callable[[str, bool], Lived]:
    """The whole life on the official saver, each moment of it kept as the thread `kind stateful moment`."""
    known: dict[tuple[str, bool], Lived] = {}

    def live(kind: str, stateful: bool) -> Lived:
        if (kind, stateful) not in known:
            known[kind, stateful] = _live(uri, kind, stateful)
        return known[kind, stateful]

    return live


def _live(uri: str, kind: str, stateful: bool) -> Lived:
    ran: list[str] = []
    done, by_step = list[str](), list[list[str]]()
    thread = f"{kind} {stateful}"
    with PostgresSaver.from_conn_string(uri) as official:
        graph = talk(official, kind, ran.append, stateful=stateful)
        for moment, what in enumerate(life(graph, thread)):
            done.append(what)
            by_step.append(sorted(ran))
            ran.clear()
            copy(uri, thread, f"{thread} {moment}")
        return Lived(done, by_step, seen(graph, on(thread)))


def copy(uri: str, source: str, target: str) -> None:
    """Copy a thread's rows as they are."""
    with psycopg.connect(uri) as connection:
        for table in TABLES:
            names = connection.execute(f"SELECT * FROM {table} LIMIT 0").description or ()  # noqa: S608  # tables of ours
            columns = sql.SQL(", ").join(sql.Identifier(name.name) for name in names[1:])
            connection.execute(
                sql.SQL("INSERT INTO {0} (thread_id, {1}) SELECT %s, {1} FROM {0} WHERE thread_id = %s").format(
                    sql.Identifier(table), columns
                ),
                (target, source),
            )


def rows(uri: str, thread: str) -> set[tuple[Any, ...]]:
    """The thread's rows in the official tables, but for errors, interrupts and answers: later ones replace them."""
    final = {"checkpoint_writes": "AND idx >= 0"}
    with psycopg.connect(uri, row_factory=tuple_row) as connection:
        return {
            (table, *map(str, row))
            for table in TABLES
            for row in connection.execute(
                f"SELECT * FROM {table} WHERE thread_id = %s {final.get(table, '')}".encode(),  # noqa: S608  # tables of ours
                (thread,),
            )
        }


@pytest.mark.parametrize("moment", range(STEPS))
@pytest.mark.parametrize(("kind", "stateful"), KINDS)
def test_a_thread_goes_on_from_any_moment(
    kind: str, stateful: bool, moment: int, lived: Callable[[str, bool], Lived], uri: str, ours: Database
) -> None:
    """The same nodes run as on the official saver, to the same state and history; its rows stay as they were."""
    expected = lived(kind, stateful)
    assert len(expected.done) == STEPS
    thread, ran = f"{kind} {stateful} {moment}", list[str]()
    before = rows(uri, thread)
    graph = talk(ours.saver, kind, ran.append, stateful=stateful)
    for number, what in enumerate(life(graph, thread, moment + 1), moment + 1):
        assert (what, sorted(ran)) == (expected.done[number], expected.ran[number])
        ran.clear()
    assert seen(graph, on(thread)) == expected.history
    assert before <= rows(uri, thread)


def test_all_that_was_carried_over_is_whole(uri: str, lived: Callable[[str, bool], Lived]) -> None:
    """After all these lives: every checkpoint loads, the heads agree, nothing is left over."""
    assert lived("plain", False).done
    assert_sound(uri)


@pytest.mark.parametrize("kind", STATES)
def test_of_parallel_nodes_only_the_one_that_failed_runs_again(kind: str, uri: str, ours: Database) -> None:
    """A finished sibling's writes, saved by the official saver, count here."""
    ran, thread = list[str](), f"failed {kind}"

    def graph(saver: Any) -> Any:
        def good(state: Any) -> Any:
            ran.append("good")
            return {"messages": [AIMessage("good", id="good")], "log": ["good"]}

        def bad(state: Any) -> Any:
            ran.append("bad")
            if ran.count("bad") == 1:
                while not any(value == ["good"] for _, _, value in saver.get_tuple(on(thread)).pending_writes):
                    pass  # the sibling is to have finished and been saved
                raise RuntimeError("once")
            return {"messages": [AIMessage("bad", id="bad")], "log": ["bad"]}

        builder = StateGraph(STATES[kind]).add_node("good", good).add_node("bad", bad)
        return builder.add_edge(START, "good").add_edge(START, "bad").compile(checkpointer=saver)

    with PostgresSaver.from_conn_string(uri) as official, pytest.raises(RuntimeError, match="once"):
        graph(official).invoke(said(0, ""), on(thread), durability="sync")
    (failed,) = (task for task in graph(ours.saver).get_state(on(thread)).tasks if task.error)
    assert (failed.name, failed.error) == ("bad", "RuntimeError('once')")
    done = graph(ours.saver).invoke(None, on(thread), durability="sync")
    assert sorted(ran) == ["bad", "bad", "good"]
    assert sorted(message.id for message in done["messages"]) == ["bad", "good", "turn 0"]
