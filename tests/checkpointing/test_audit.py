"""The audit trail: what happened is added to it, stays as it was, and is read by audience."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import (
    Audience,
    AuditEvent,
    CheckpointCorrupted,
    Database,
    NewEvent,
    Visibility,
)

FULL = NewEvent(
    thread_id="t",
    kind="model.answered",
    actor="research",
    details={"text": "high water at noon", "b": [1, 2.5, None, "ü\x00"]},
    correlation_id="case-7",
    run_id="run-1",
    checkpoint_ns="inner:1",
    node="research",
    step=3,
    effect_id="e1",
    input_tokens=1200,
    output_tokens=300,
    cost=Decimal("0.0120"),
    duration_ms=4100.1,
)


def plain(thread_id: str = "t", kind: str = "note", **more: Any) -> NewEvent:
    return NewEvent(thread_id=thread_id, kind=kind, actor="ada", **more)


@pytest.fixture
def owner(database_uri: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        yield connection


# What is added and read


def test_an_event_is_read_as_it_was_added(db: Database) -> None:
    assert db.audit.append(FULL) == 1
    (read,) = db.audit.read(thread_id="t")
    for name in NewEvent.__dataclass_fields__:
        if name != "details":
            assert getattr(read, name) == getattr(FULL, name), name
    assert read.details == {"text": "high water at noon", "b": [1, 2.5, None, "ü\ufffd"]}
    assert (read.number, read.at.tzinfo, len(read.digest), read.withheld) == (1, UTC, 32, False)
    assert str(read.cost) == "0.0120"


async def test_the_async_surface_does_the_same(db: Database) -> None:
    assert await db.audit.aappend(FULL) == 1
    assert await db.audit.aread(correlation_id="case-7") == db.audit.read(thread_id="t")
    assert await db.audit.averify("t") == []
    assert await db.audit.aheads() == db.audit.heads()


def test_a_decision_may_span_threads_and_is_read_by_time(db: Database) -> None:
    for thread in ("b", "a", "b"):
        db.audit.append(plain(thread, correlation_id="case-7"))
    db.audit.append(plain("a"))
    read = db.audit.read(correlation_id="case-7")
    assert [(event.thread_id, event.number) for event in read] == [("b", 1), ("a", 1), ("b", 2)]
    assert read == sorted(read, key=lambda event: (event.at, event.thread_id, event.number))
    both = db.audit.read(correlation_id="case-7", thread_id="b")
    assert [(event.thread_id, event.number) for event in both] == [("b", 1), ("b", 2)]
    assert [event.number for event in db.audit.read(thread_id="a")] == [1, 2]


def test_reading_nothing_in_particular_is_refused(db: Database) -> None:
    with pytest.raises(TypeError, match="name a correlation_id"):
        db.audit.read()


@pytest.mark.parametrize("audience", Audience)
def test_details_that_an_audience_may_not_see_are_withheld_and_the_rest_is_listed(
    db: Database, audience: Audience
) -> None:
    for visibility in Visibility:
        db.audit.append(plain(visibility=visibility, details={"secret": 1}, cost=Decimal(2), input_tokens=5))
    for event in db.audit.read(thread_id="t", audience=audience):
        assert event.withheld is not audience.sees(event.visibility)
        assert event.details == ({} if event.withheld else {"secret": 1})
        assert (event.kind, event.actor, event.cost, event.input_tokens) == ("note", "ada", 2, 5)


def test_following_gives_what_is_there_and_then_what_is_added(db: Database) -> None:
    db.audit.append(plain(correlation_id="c"))
    followed = db.audit.follow(correlation_id="c", pause=lambda: db.audit.append(plain("u", correlation_id="c")))
    assert [(event.thread_id, event.number) for event in (next(followed), next(followed), next(followed))] == [
        ("t", 1),
        ("u", 1),
        ("u", 2),
    ]


async def test_following_from_async_code(db: Database) -> None:
    pause = partial(db.audit.aappend, plain())
    numbers: list[int] = []
    async for event in db.audit.afollow(thread_id="t", pause=pause):
        numbers.append(event.number)
        if len(numbers) == 3:
            break
    assert numbers == [1, 2, 3]


def test_eight_connections_number_a_thread_without_a_gap(db: Database, database_uri: str) -> None:
    start = threading.Barrier(8)

    def add() -> None:
        with psycopg.connect(database_uri, autocommit=True) as connection:
            start.wait()
            for _ in range(25):
                connection.execute(
                    "SELECT holdfast.append_event('t', NULL, NULL, '', NULL, NULL, 'w', 'note', NULL,"
                    " NULL, NULL, NULL, 0.1, 'visible', '{}')"
                )

    workers = [threading.Thread(target=add) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    events = db.audit.read(thread_id="t")
    assert [event.number for event in events] == list(range(1, 201))
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert db.audit.verify() == []


def test_an_event_of_a_transaction_that_is_undone_leaves_no_gap(db: Database, database_uri: str) -> None:
    statement = (
        "SELECT holdfast.append_event('t', NULL, NULL, '', NULL, NULL, 'w', 'note', NULL,"
        " NULL, NULL, NULL, NULL, 'visible', '{}')"
    )
    with psycopg.connect(database_uri) as connection:
        connection.execute(statement)
        connection.rollback()
        connection.execute(statement)
        connection.commit()
    assert [event.number for event in db.audit.read(thread_id="t")] == [1]
    assert db.audit.verify("t") == []


@pytest.mark.parametrize("digits", [-15, 0, 3])
def test_the_digest_does_not_depend_on_the_session(db: Database, database_uri: str, digits: int) -> None:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(f"SET extra_float_digits = {digits}".encode())
        connection.execute("SET TimeZone = 'Asia/Kathmandu'")
        connection.execute("SET DateStyle = 'German'")
        connection.execute(
            "SELECT holdfast.append_event('t', NULL, NULL, '', NULL, NULL, 'w', 'note', NULL,"
            " NULL, NULL, 1.10, 0.1234567890123456789, 'visible', '{\"x\": 0.1000}')"
        )
    assert db.audit.verify("t") == []


# What the database refuses


REFUSED = [
    "UPDATE holdfast.events SET actor = 'nobody'",
    "UPDATE holdfast.events SET actor = actor WHERE false",
    "DELETE FROM holdfast.events",
    "TRUNCATE holdfast.events",
    "INSERT INTO holdfast.events SELECT * FROM holdfast.events ON CONFLICT (thread_id, number) DO UPDATE SET step = 1",
    "SET session_replication_role = replica; DELETE FROM holdfast.events",
    "DELETE FROM holdfast.chains",
    "TRUNCATE holdfast.chains",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_events_are_never_changed_or_removed_not_even_by_the_owner(
    db: Database, owner: psycopg.Connection[Any], statement: str
) -> None:
    db.audit.append(FULL)
    before = db.audit.read(thread_id="t")
    with pytest.raises(psycopg.Error, match="events are never changed or removed") as refused:
        owner.execute(statement.encode())
    assert refused.value.sqlstate == "HF002"
    assert db.audit.read(thread_id="t") == before
    assert db.audit.verify("t") == []


def test_upkeep_leaves_events_alone(db: Database) -> None:
    builder = StateGraph(MessagesState).add_node("n", lambda state: {"messages": []}).add_edge(START, "n")
    builder.compile(checkpointer=db.saver).invoke(
        {"messages": [HumanMessage("x")]}, {"configurable": {"thread_id": "t"}}
    )
    db.audit.append(FULL)
    db.saver.delete_thread("t")
    db.saver.prune(["t"], strategy="delete")
    kinds = [event.kind for event in db.audit.read(thread_id="t")]
    assert kinds == ["run.started", "run.ended", FULL.kind]
    assert db.audit.verify() == []


# What the saver records


def test_damage_is_recorded_with_the_incident(database_uri: str, owner: psycopg.Connection[Any]) -> None:
    with Database.connect(database_uri, on_corruption="fallback") as db:
        builder = StateGraph(MessagesState).add_node("n", lambda state: {"messages": [HumanMessage("y")]})
        graph = builder.add_edge(START, "n").compile(checkpointer=db.saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        graph.invoke({"messages": [HumanMessage("x")]}, config, durability="sync")
        newest = checkpoint(graph)
        owner.execute("UPDATE checkpoints SET metadata = '{}' WHERE checkpoint_id = %s", [newest])
        fell_back_to = checkpoint(graph)
        owner.execute("UPDATE checkpoints SET metadata = '{}'")
        with pytest.raises(CheckpointCorrupted):
            graph.get_state(config)
        first, second = (event for event in db.audit.read(thread_id="t") if event.kind == "damage.found")
        assert described(first) == ("saver", "damage.found", Visibility.USER_HIDDEN, fell_back_to)
        assert described(second) == ("saver", "damage.found", Visibility.USER_HIDDEN, None)
        incidents = owner.execute("SELECT damage FROM holdfast.incidents ORDER BY incident_id").fetchall()
        assert [(event.details["damage"],) for event in (first, second)] == incidents
        assert db.audit.verify() == []


def checkpoint(graph: Any) -> str:
    return str(graph.get_state({"configurable": {"thread_id": "t"}}).config["configurable"]["checkpoint_id"])


def described(event: AuditEvent) -> tuple[str, str, Visibility, object]:
    return event.actor, event.kind, event.visibility, event.details["fell_back_to"]
