"""Verification: whatever is damaged is found and named, and nothing else is."""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, LiteralString

import psycopg
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import Database, verify
from holdfast.checkpointing.findings import Finding
from holdfast.checkpointing.verify import NothingStored


def appended(state: list[AnyMessage], writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    return state + [message for write in writes for message in write]


class State(MessagesState):
    log: Annotated[list[AnyMessage], DeltaChannel(appended, list)]  # pyright: ignore[reportArgumentType]
    notes: Annotated[list[dict[str, Any]], operator.add]


class Inner(TypedDict):
    seen: Annotated[list[str], operator.add]


def on(thread: str, ns: str = "") -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns}}


def node(update: Any) -> Any:
    """A node that does always the same."""

    def update_state(state: Any) -> Any:
        return update

    return update_state


def agent(saver: Any) -> Any:
    """Messages in a list, in a delta channel and inside other data; a subgraph; an interrupt at the end."""
    inner = StateGraph(Inner).add_node("look", node({"seen": ["x"]})).add_edge(START, "look").compile()

    def answer(state: State) -> Any:
        said = AIMessage(f"answer {len(state['messages'])}")
        return {"messages": [said], "log": [said], "notes": [{"about": said, "long": "x" * 300}]}

    def look(state: State) -> Any:
        inner.invoke({"seen": []})
        return {"notes": []}

    def ask(state: State) -> Any:
        return {"notes": [{"answer": interrupt("go on?")}]}

    builder = StateGraph(State).add_node("answer", answer).add_node("look", look).add_node("ask", ask)
    builder.add_edge(START, "answer").add_edge("answer", "look").add_edge("look", "ask")
    return builder.compile(checkpointer=saver)


def talk(saver: Any, thread: str = "t", turns: int = 3) -> None:
    graph = agent(saver)
    for number in range(turns):
        said = HumanMessage(f"question {number}")
        graph.invoke({"messages": [said], "log": [said]}, on(thread), durability="sync")


def damage(db: Database, thread: str = "t") -> list[Finding]:
    return [finding for finding in db.verify(thread) if finding.severity == "damage"]


@pytest.fixture
def tables(database_uri: str) -> Iterator[psycopg.Connection[Any]]:
    """The tables, for who comes past the saver."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        yield connection


@contextmanager
def small_pages() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_PAGE", {"rows": 3, "bytes": 1000})
        yield


def test_a_sound_thread_has_no_findings(db: Database) -> None:
    talk(db.saver)
    assert db.verify("t") == []


def test_all_threads_are_verified_unless_one_is_named(db: Database, tables: psycopg.Connection[Any]) -> None:
    for thread in ("a", "b", "c"):
        talk(db.saver, thread, turns=1)
    tables.execute("UPDATE checkpoints SET metadata = '{}' WHERE thread_id IN ('a', 'c')")
    seen: list[tuple[int, int]] = []
    found = db.verify(progress=lambda done, of: seen.append((done, of)))
    assert {finding.thread_id for finding in found} == {"a", "c"}
    assert seen == [(0, 3), (1, 3), (2, 3)]
    assert db.verify("b") == []


def test_a_thread_of_which_nothing_is_stored_is_no_sound_thread(db: Database) -> None:
    with pytest.raises(NothingStored, match="nothing of thread 'nope' is stored"):
        db.verify("nope")


DAMAGE: dict[str, tuple[LiteralString, str]] = {
    "a checkpoint is changed": (
        "UPDATE checkpoints SET checkpoint = checkpoint || '{\"v\": 9}' WHERE checkpoint_id = %(middle)s",
        "does not match its digest in checkpoints",
    ),
    "metadata is changed": (
        "UPDATE checkpoints SET metadata = '{}' WHERE checkpoint_id = %(middle)s",
        "does not match its digest in checkpoints",
    ),
    "a parent is gone": (
        "DELETE FROM checkpoints WHERE checkpoint_id = %(middle)s",
        "its parent .* is missing in checkpoints",
    ),
    "the newest is gone": (
        "DELETE FROM checkpoints WHERE checkpoint_id = %(newest)s",
        "checkpoint .* is missing in checkpoints",
    ),
    "a digest is gone": (
        "UPDATE checkpoints SET type = NULL WHERE checkpoint_id = %(middle)s",
        "its parent .* has lost its digest",
    ),
    "the newest's digest is gone": (
        "UPDATE checkpoints SET type = NULL WHERE checkpoint_id = %(newest)s",
        "a checkpoint's digest is missing",
    ),
    "a digest is unreadable": (
        "UPDATE checkpoints SET type = 'hf1:x' WHERE checkpoint_id = %(middle)s",
        "a checkpoint's digest is unreadable",
    ),
    "the head is gone": ("DELETE FROM holdfast.heads WHERE checkpoint_ns = ''", "the thread's head is missing"),
    "the head is older": (
        "UPDATE holdfast.heads SET checkpoint_id = %(middle)s WHERE checkpoint_ns = ''",
        "the thread's head is not its newest checkpoint",
    ),
    "a value is changed": (
        "UPDATE checkpoint_blobs SET blob = blob || 'x' WHERE channel = 'notes'",
        "a row does not match its digest in checkpoint_blobs .notes",
    ),
    "a value has lost its digest": (
        "UPDATE checkpoint_blobs SET type = 'msgpack', blob = 'x' WHERE channel = 'notes'",
        "the stored value of notes has lost its digest",
    ),
    "a value is gone": (
        "DELETE FROM checkpoint_blobs WHERE channel = 'notes'",
        "the stored value of notes is missing in checkpoint_blobs",
    ),
    "a value is exchanged": (
        "UPDATE checkpoint_blobs AS b SET (type, blob) = (SELECT type, blob FROM checkpoint_blobs AS other"
        " WHERE other.channel = 'notes' AND other.version > b.version ORDER BY version LIMIT 1)"
        " WHERE channel = 'notes' AND version = (SELECT min(version) FROM checkpoint_blobs WHERE channel = 'notes')",
        "a row does not match its digest in checkpoint_blobs .notes",
    ),
    "a list that others stand on is gone": (
        "DELETE FROM checkpoint_blobs WHERE channel = 'messages'"
        " AND version IN (SELECT split_part(type, ':', 4) FROM checkpoint_blobs WHERE channel = 'messages')",
        "a stored list is missing in checkpoint_blobs .messages",
    ),
    "a write is changed": (
        "UPDATE checkpoint_writes SET blob = 'x' WHERE task_id = (SELECT min(task_id) FROM checkpoint_writes)",
        "a row does not match its digest in checkpoint_writes",
    ),
    "a write is moved": (
        "UPDATE checkpoint_writes SET checkpoint_id = %(middle)s WHERE channel = '__interrupt__'",
        "a row does not match its digest in checkpoint_writes",
    ),
    "a write is gone": (
        "DELETE FROM checkpoint_writes WHERE checkpoint_id = %(middle)s",
        "of 1 rows of writes on its parent .* 0 are left",
    ),
    "the newest's write is gone": (
        "DELETE FROM checkpoint_writes WHERE checkpoint_id = %(newest)s",
        "of 1 rows of writes 0 are left",
    ),
    "a message is changed": (
        "UPDATE holdfast.messages SET body = body || 'x'::bytea WHERE role = 'ai'",
        "a message does not match its digest in holdfast.messages",
    ),
    "a message is gone": (
        "DELETE FROM holdfast.messages WHERE role = 'ai'",
        "a message is missing in holdfast.messages",
    ),
    "a message is shown to others": (
        "UPDATE holdfast.messages SET visibility = 'user_hidden'",
        "what is known of a message does not match its digest",
    ),
    "a message is given to another node": (
        "UPDATE holdfast.messages SET node = 'ask'",
        "what is known of a message does not match its digest",
    ),
}


@pytest.mark.parametrize("small", [False, True], ids=["one page", "small pages"])
@pytest.mark.parametrize(("statement", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(
    db: Database, tables: psycopg.Connection[Any], statement: LiteralString, expected: str, small: bool
) -> None:
    talk(db.saver)
    ids = [
        row[0] for row in tables.execute("SELECT checkpoint_id FROM checkpoints WHERE checkpoint_ns = '' ORDER BY 1")
    ]
    assert tables.execute(statement, {"middle": ids[4], "newest": ids[-1]}).rowcount
    if small:
        with small_pages():
            found = damage(db)
    else:
        found = damage(db)
    assert found
    assert any(re.search(expected, str(finding)) for finding in found), [str(finding) for finding in found]


def test_small_pages_find_nothing_in_a_sound_thread(db: Database) -> None:
    talk(db.saver, turns=5)
    with small_pages():
        assert db.verify("t") == []


def test_a_damaged_value_says_which_checkpoint_has_it(db: Database, tables: psycopg.Connection[Any]) -> None:
    talk(db.saver)
    newest = db.saver.get_tuple(on("t"))
    assert newest is not None
    version = newest.checkpoint["channel_versions"]["notes"]
    tables.execute("UPDATE checkpoint_blobs SET blob = 'x' WHERE channel = 'notes' AND version = %s", [version])
    (found,) = damage(db)
    holders = tables.execute(
        "SELECT checkpoint_id FROM checkpoints WHERE checkpoint -> 'channel_versions' ->> 'notes' = %s ORDER BY 1",
        [version],
    ).fetchall()
    assert found.checkpoint_id == holders[0][0]


def test_what_was_not_revived_is_no_damage(db: Database) -> None:
    builder = StateGraph(Opaque).add_node("a", node({"value": Order(1)})).add_edge(START, "a")
    builder.compile(checkpointer=db.saver).invoke({"value": 0}, on("t"), durability="sync")
    (found,) = db.verify("t")
    assert found.severity == "note"
    assert "2 values not read, as the state holds" in found.what
    assert "Order" in found.what


def test_of_encrypted_threads_the_key_is_told_from_damage(
    database_uri: str, tables: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", "k" * 32)
    with Database.connect(database_uri) as db:
        talk(db.saver)
        assert db.verify("t") == []
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", "x" * 32)
    with Database.connect(database_uri) as other:
        assert {finding.severity for finding in other.verify("t")} == {"note"}
    tables.execute("UPDATE holdfast.messages SET body = body || 'x'::bytea WHERE role = 'ai'")
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", "k" * 32)
    with Database.connect(database_uri) as db:
        assert {finding.what for finding in damage(db)} == {"a message does not decrypt, where others do"}


def test_rows_of_the_official_saver_are_counted(db: Database, database_uri: str) -> None:
    with PostgresSaver.from_conn_string(database_uri) as official:
        talk(official, turns=1)
    (found,) = db.verify("t")
    assert found.severity == "note"
    assert found.what.startswith("unverified, as the official saver wrote them without digests: ")
    assert "7 checkpoints" in found.what
    talk(db.saver, turns=1)
    assert [finding.severity for finding in db.verify("t")] == ["note"]


def test_a_value_of_the_official_saver_that_cannot_be_read_is_damage(
    db: Database, database_uri: str, tables: psycopg.Connection[Any]
) -> None:
    with PostgresSaver.from_conn_string(database_uri) as official:
        talk(official, turns=1)
    tables.execute("UPDATE checkpoint_blobs SET blob = '\\xc1' WHERE channel = 'messages'")
    assert all("a value cannot be read" in finding.what for finding in damage(db))
    assert damage(db)


def test_what_nothing_refers_to_is_noted(db: Database, tables: psycopg.Connection[Any]) -> None:
    talk(db.saver)
    tables.execute("DELETE FROM checkpoints")
    tables.execute("DELETE FROM checkpoint_writes")
    tables.execute("DELETE FROM holdfast.heads")
    found = db.verify("t")
    assert {finding.severity for finding in found} == {"note"}
    assert [finding.what.partition(" ")[2] for finding in found] == ["stored values that nothing refers to"]
    tables.execute("DELETE FROM checkpoint_blobs")
    (left,) = db.verify("t")
    assert left.what == "6 messages that no checkpoint refers to"


def test_writes_that_came_before_their_checkpoint_are_noted(db: Database) -> None:
    talk(db.saver)
    early: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "later"}}
    db.saver.put_writes(early, [("notes", ["x"])], "task")
    (found,) = db.verify("t")
    assert (found.severity, found.checkpoint_id) == ("note", "later")
    assert found.what == "1 rows of writes on a checkpoint that is not there, or not yet"


def test_a_thread_that_runs_meanwhile_gives_no_false_alarm(db: Database) -> None:
    talk(db.saver, turns=2)
    done = threading.Event()

    def run() -> None:
        talk(db.saver, turns=15)
        done.set()

    runner = threading.Thread(target=run)
    runner.start()
    rounds = 0
    with small_pages():
        while not done.is_set() or not rounds:
            assert db.verify("t") == []
            rounds += 1
    runner.join()
    assert damage(db) == []


def test_pruned_copied_and_forked_threads_are_sound(db: Database) -> None:
    talk(db.saver, turns=4)
    graph = agent(db.saver)
    history = list(graph.get_state_history(on("t")))
    graph.update_state(history[6].config, {"notes": [{"by": "hand"}]}, as_node="look")
    assert db.verify("t") == []
    db.saver.copy_thread("t", "copy")
    assert db.verify("copy") == []
    db.saver.prune(["t"])
    assert db.verify("t") == []


@dataclass
class Order:
    """A type of the graph's own."""

    number: int


class Opaque(TypedDict):
    value: Any
