"""Rows are taken away so that what stays is as before, goes on, and nothing is left behind."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.types import Command

from holdfast.checkpointing import Audience, Database
from holdfast.checkpointing.upkeep import ThreadExists
from tests.support.tables import assert_sound, read
from tests.support.talks import STATES, on, plain, said, seen, talk, view

ENDS = {
    "ended": ["send change again", ""],
    "waits": ["send again", "ask send"],
    "waits inside": ["", "inner send"],
    "failed": ["change", "send"],
}
"""What is said in turn, so that the thread is left so."""


@pytest.fixture(params=STATES)
def kind(request: pytest.FixtureRequest) -> str:
    """Which reducers the graph has."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["per call", "stateful"])
def stateful(request: pytest.FixtureRequest) -> bool:
    """Whether the subgraph keeps its state from call to call."""
    return bool(request.param)


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> str:
    """How the thread is left."""
    return str(request.param)


def begin(graph: Any, end: str, thread: str = "t") -> None:
    """Turns of a conversation, which end so; each is a run of its own."""
    for number, words in enumerate(ENDS[end]):
        turn(graph, number, words, thread, fail=end == "failed" and number == 1)


def turn(graph: Any, number: int, words: str, thread: str = "t", *, fail: bool = False) -> None:
    """A turn, as the run of that number."""
    config = {**on(thread, fail=fail), "metadata": {"run_id": f"run {number}"}}
    with suppress(RuntimeError):
        graph.invoke(said(number, words), config, durability="sync")


def go_on(graph: Any, thread: str = "t") -> list[Any]:
    """End the turn, have another and answer; all states on the way."""
    states: list[Any] = []
    turns: list[Any] = [
        Command(resume="now"),
        said(7, "ask again send inner"),
        Command(resume="a"),
        Command(resume="b"),
    ]
    for given in turns:
        graph.invoke(given, on(thread), durability="sync")
        states.append(now(graph, thread))
    return states


def now(graph: Any, thread: str = "t") -> Any:
    """The newest state, subgraphs included."""
    return view(graph.get_state(on(thread), subgraphs=True))


def stays(graph: Any, twin: Any, before: Any, uri: str, thread: str = "t") -> None:
    """The thread is as it was, nothing is left over, and it goes on like its twin in memory."""
    assert now(graph, thread) == before
    assert_sound(uri)
    assert go_on(graph, thread) == go_on(twin)
    assert_sound(uri)


def roots(uri: str, thread: str = "t") -> int:
    """How many checkpoints the thread has, without those of subgraphs."""
    return sum(key[:2] == (thread, "") for key in read(uri).checkpoints)


def twin_of(kind: str, end: str, *, stateful: bool = False) -> Any:
    """The same thread in memory."""
    twin = talk(InMemorySaver(), kind, stateful=stateful)
    begin(twin, end)
    return twin


def test_pruned_to_its_newest_a_thread_is_as_before(
    kind: str, stateful: bool, end: str, db: Database, database_uri: str
) -> None:
    """`keep_latest` keeps one checkpoint, and those that its delta channels were written on."""
    graph = talk(db.saver, kind, stateful=stateful)
    begin(graph, end)
    before, count = now(graph), roots(database_uri)
    db.saver.prune(["t"])
    assert roots(database_uri) == 1 or ("delta" in kind and roots(database_uri) <= count)
    stays(graph, twin_of(kind, end, stateful=stateful), before, database_uri)


def test_a_thread_of_the_official_saver_can_be_pruned(kind: str, end: str, db: Database, database_uri: str) -> None:
    """As it comes, and after it has gone on here."""
    with PostgresSaver.from_conn_string(database_uri) as official:
        begin(talk(official, kind), end)
    graph = talk(db.saver, kind)
    before = now(graph)
    db.saver.prune(["t"])
    stays(graph, twin_of(kind, end), before, database_uri)
    before = now(graph)
    db.saver.prune(["t"])
    assert now(graph) == before
    assert_sound(database_uri)


def test_a_pruned_thread_can_be_pruned_again_in_another_process(kind: str, db: Database, database_uri: str) -> None:
    """One process runs the thread while another prunes it between the turns."""
    graph, twin = talk(db.saver, kind, stateful=True), talk(InMemorySaver(), kind, stateful=True)
    with Database.connect(database_uri) as other:
        for number, words in enumerate(["send", "change again", "ask", "inner", "send again"]):
            for each in (graph, twin):
                turn(each, number, words)
            other.saver.prune(["t"])
            assert now(graph) == now(talk(other.saver, kind, stateful=True)) == now(twin)
        assert_sound(database_uri)


@pytest.mark.parametrize("strategy", ["delete", "delete_all"])
def test_a_deleted_thread_leaves_nothing_and_can_begin_anew(
    kind: str, strategy: str, db: Database, database_uri: str
) -> None:
    graph = talk(db.saver, kind)
    for thread in ("t", "other"):
        begin(graph, "waits", thread)
    other = now(graph, "other")
    db.saver.prune(["t"], strategy=strategy)
    tables = assert_sound(database_uri)
    found = {key[0] for rows in (tables.checkpoints, tables.blobs, tables.messages, tables.heads) for key in rows}
    assert found == {"other"}
    begin(graph, "waits")
    assert now(graph) == now(graph, "other") == other
    assert_sound(database_uri)


def test_without_its_last_run_a_thread_is_as_before_it(
    kind: str, stateful: bool, end: str, db: Database, database_uri: str
) -> None:
    """It goes back to where it was, and the run can be done again."""
    graph = talk(db.saver, kind, stateful=stateful)
    begin(graph, end)
    after, history = now(graph), seen(graph, on("t"))
    turn(graph, 2, "send ask again")
    db.saver.delete_for_runs(["run 2"])
    assert seen(graph, on("t")) == history
    stays(graph, twin_of(kind, end, stateful=stateful), after, database_uri)


def test_without_a_middle_run_the_newest_state_is_as_before(
    kind: str, stateful: bool, db: Database, database_uri: str
) -> None:
    graph, twin = (talk(saver, kind, stateful=stateful) for saver in (db.saver, InMemorySaver()))
    for each in (graph, twin):
        for number, words in enumerate(["send", "change again", "send inner"]):
            turn(each, number, words)
    before = now(graph)
    db.saver.delete_for_runs(["run 1"])
    stays(graph, twin, before, database_uri)


def test_without_any_run_nothing_is_left(kind: str, db: Database, database_uri: str) -> None:
    graph = talk(db.saver, kind)
    begin(graph, "waits")
    db.saver.delete_for_runs(["run 0", "run 1"])
    tables = assert_sound(database_uri)
    assert not [*tables.checkpoints, *tables.blobs, *tables.messages, *tables.heads]


def test_threads_that_are_idle_are_removed(kind: str, db: Database, database_uri: str) -> None:
    """Those that were active since stay as they are; of the others, the messages that an audience may see."""
    graph = talk(db.saver, kind)
    begin(graph, "waits", "old")
    last = datetime.fromisoformat(graph.get_state(on("old")).created_at)
    begin(graph, "waits", "t")
    before, day = now(graph), timedelta(days=1)
    moment = last + day + timedelta(microseconds=1)
    assert db.prune(day, now=last + day) == []
    assert db.prune(day, now=moment, dry_run=True) == ["old"]
    assert db.prune(day, now=moment, keep=Audience.USER) == ["old"]
    tables = read(database_uri)
    assert {key[0] for key in tables.checkpoints} == {thread for thread, _ in tables.heads} == {"t"}
    assert {thread for thread, _ in tables.messages} == {"old", "t"}
    assert db.prune(timedelta(days=-1), now=last, keep=None) == ["old", "t"]
    assert assert_sound(database_uri).messages == set()
    begin(graph, "waits", "t")
    assert now(graph) == before


def test_a_copy_and_its_original_go_on_apart(
    kind: str, stateful: bool, end: str, db: Database, database_uri: str
) -> None:
    graph, twin = talk(db.saver, kind, stateful=stateful), twin_of(kind, end, stateful=stateful)
    begin(graph, end)
    before, history = now(graph), seen(graph, on("t"))
    db.saver.copy_thread("t", "copy")
    assert seen(graph, on("copy")) == history
    with pytest.raises(ThreadExists, match="copy"):
        db.saver.copy_thread("t", "copy")
    stays(graph, twin, before, database_uri)
    stays(graph, twin_of(kind, end, stateful=stateful), before, database_uri, "copy")
    db.saver.delete_thread("t")
    assert_sound(database_uri)
    assert plain(graph.get_state(on("copy")).values) == now(twin)["values"]
