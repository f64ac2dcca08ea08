"""Whatever was tampered with in a chain of events is found and named."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from holdfast.checkpointing import AuditEvent, ChainHead, Database, NewEvent, NothingAudited
from holdfast.checkpointing.audit import SQL
from holdfast.checkpointing.chain import Link

FULL = NewEvent(
    thread_id="t",
    kind="model.answered",
    actor="research",
    details={"text": "high water at noon", "b": [1, 2.5, None]},
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


@pytest.fixture
def owner(database_uri: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        yield connection


def chain_of(db: Database, owner: psycopg.Connection[Any], events: int) -> None:
    """A thread with so many events, which its database's owner may change."""
    if not db.audit.heads():
        for _ in range(events):
            db.audit.append(FULL)
    for table in ("events", "chains"):
        owner.execute(sql.SQL("ALTER TABLE holdfast.{} DISABLE TRIGGER ALL").format(sql.Identifier(table)))


@contextmanager
def undone(owner: psycopg.Connection[Any]) -> Generator[None]:
    """What is done to the tables within the block is not there after it."""
    for table in map(sql.Identifier, ("events", "chains")):
        owner.execute(sql.SQL("CREATE TABLE public.{0} AS TABLE holdfast.{0}").format(table))
    try:
        yield
    finally:
        for table in map(sql.Identifier, ("events", "chains")):
            owner.execute(sql.SQL("TRUNCATE holdfast.{}").format(table))
            owner.execute(sql.SQL("INSERT INTO holdfast.{0} TABLE public.{0}").format(table))
            owner.execute(sql.SQL("DROP TABLE public.{}").format(table))


def renumber(owner: psycopg.Connection[Any], numbers: dict[int, int]) -> None:
    """Give events other numbers, and keep all else, digests too."""
    owner.execute("UPDATE holdfast.events SET number = number + 1000 WHERE number = ANY(%s)", [list(numbers)])
    owner.execute(
        "UPDATE holdfast.events AS e SET number = m.new FROM unnest(%s::bigint[], %s::bigint[]) AS m (old, new)"
        " WHERE e.number = m.old + 1000",
        [list(numbers), list(numbers.values())],
    )


def copy_event(owner: psycopg.Connection[Any], number: int, to: int) -> None:
    owner.execute("CREATE TEMP TABLE copied AS SELECT * FROM holdfast.events WHERE number = %s", [number])
    owner.execute("UPDATE copied SET number = %s", [to])
    owner.execute("INSERT INTO holdfast.events TABLE copied")
    owner.execute("DROP TABLE copied")


def seal(owner: psycopg.Connection[Any], number: int) -> None:
    """Give an event the digest that fits it and the one before, as a forger would."""
    row = owner.execute(SQL["links"], {"thread_id": "t", "after": number - 2, "limit": 2}).fetchall()
    (_, before, _), (_, _, body) = row
    digest = Link(number, b"", hashlib.sha256(body).digest()).seal(before)
    owner.execute("UPDATE holdfast.events SET digest = %s WHERE number = %s", [digest, number])


def test_an_unknown_thread_cannot_be_verified(db: Database) -> None:
    with pytest.raises(NothingAudited, match="nothing is recorded for thread 'nope'"):
        db.audit.verify("nope")


EDITS: dict[str, st.SearchStrategy[Any]] = {
    "thread_id": st.sampled_from(["u", "other"]),
    "number": st.integers(7, 2**63 - 1),
    "at": st.integers(1, 10**6).map(lambda microseconds: f"2026-01-01 00:00:00.{microseconds:06}+00"),
    "correlation_id": st.sampled_from([None, "x", ""]),
    "run_id": st.sampled_from([None, "x"]),
    "checkpoint_ns": st.sampled_from(["", "x"]),
    "node": st.sampled_from([None, "x", ""]),
    "step": st.sampled_from([None, 0, 4, -1]),
    "actor": st.sampled_from(["x", "research "]),
    "kind": st.sampled_from(["x", "model.failed"]),
    "effect_id": st.sampled_from([None, "x"]),
    "input_tokens": st.sampled_from([None, 0, 1201]),
    "output_tokens": st.sampled_from([None, 0, 299]),
    "cost": st.sampled_from([None, "0.01200", "0.012", "NaN", "0"]),
    "duration_ms": st.sampled_from([None, 0.0, 4100.100000000001, float("nan")]),
    "visibility": st.sampled_from(["visible", "always_hidden"]),
    "details": st.sampled_from(["{}", "null", '{"text": "low water"}', '{"text": "high water at noon"}', "[]"]),
    "digest": st.binary(max_size=33),
}
EDIT = st.sampled_from(sorted(EDITS)).flatmap(lambda column: st.tuples(st.just(column), EDITS[column]))


def test_no_column_is_left_out_of_the_edits() -> None:
    assert EDITS.keys() == {column.name for column in fields(AuditEvent)} - {"withheld"}


@given(edit=EDIT, number=st.integers(1, 6))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_edit_of_any_column_of_any_event_is_found_and_named(
    db: Database, owner: psycopg.Connection[Any], edit: tuple[str, Any], number: int
) -> None:
    chain_of(db, owner, 6)
    column, value = edit
    with undone(owner):
        owner.execute(
            sql.SQL("UPDATE holdfast.events SET {} = %s WHERE thread_id = 't' AND number = %s").format(
                sql.Identifier(column)
            ),
            [value, number],
        )
        found = db.audit.verify()
        named = {(finding.thread_id, finding.number) for finding in found}
        assert ("t", number) in named
        # Nothing else is blamed: only where the event went to, and what its leaving took away.
        expected = {"number": {("t", number), ("t", value)}, "thread_id": {("t", number), (value, None)}}
        assert {name for name in named if name[0] == "t" or name[1] is None} <= expected.get(column, {("t", number)})
        assert db.audit.verify("t")
    assert db.audit.verify() == []


@given(gone=st.sets(st.integers(1, 6), min_size=1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_deleted_events_are_named(db: Database, owner: psycopg.Connection[Any], gone: set[int]) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        owner.execute("DELETE FROM holdfast.events WHERE number = ANY(%s)", [sorted(gone)])
        runs = [number for number in sorted(gone) if number - 1 not in gone]
        assert [finding.number for finding in db.audit.verify("t")] == runs
        assert all("is missing" in finding.what for finding in db.audit.verify("t"))


@given(order=st.permutations(range(1, 7)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_in_another_order_are_named_with_the_place_where_they_belong(
    db: Database, owner: psycopg.Connection[Any], order: list[int]
) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        renumber(owner, dict(zip(range(1, 7), order, strict=True)))
        assert {finding.number: finding.what for finding in db.audit.verify("t")} == {
            new: f"is out of place: it was written as event {old}" for old, new in enumerate(order, 1) if new != old
        }


def test_an_event_that_was_put_in_between_is_found(db: Database, owner: psycopg.Connection[Any]) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        renumber(owner, {4: 5, 5: 6, 6: 7})
        copy_event(owner, 2, 4)
        said = {finding.number: finding.what for finding in db.audit.verify("t")}
    assert said == {
        4: "is out of place: it was written as event 2",
        5: "is out of place: it was written as event 4",
        6: "is out of place: it was written as event 5",
        7: "is out of place: it was written as event 6",
    }


def test_an_event_that_was_put_at_the_end_is_found(db: Database, owner: psycopg.Connection[Any]) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        copy_event(owner, 6, 7)
        owner.execute("UPDATE holdfast.events SET actor = 'x' WHERE number = 7")
        assert [finding.number for finding in db.audit.verify("t")] == [7]
    with undone(owner):  # with a digest that fits
        copy_event(owner, 6, 7)
        seal(owner, 7)
        assert [str(finding) for finding in db.audit.verify("t")] == [
            "thread t event 7: is behind the end of its chain, event 6"
        ]


CHAINS = {
    "deleted": ("DELETE FROM holdfast.chains", "the end of its chain is missing"),
    "lower": ("UPDATE holdfast.chains SET number = 4", "the end of its chain was changed: it is event 6, not 4"),
    "higher": ("UPDATE holdfast.chains SET number = 9", "the end of its chain was changed: it is event 6, not 9"),
    "none": ("UPDATE holdfast.chains SET number = 0", "the end of its chain was changed: it is event 6, not 0"),
    "another digest": ("UPDATE holdfast.chains SET digest = 'x'", "does not fit event 6: one of the two was changed"),
    "an older one": (
        "UPDATE holdfast.chains SET number = 5, digest = (SELECT digest FROM holdfast.events WHERE number = 5)",
        "is behind the end of its chain, event 5",
    ),
}


@pytest.mark.parametrize(("statement", "said"), CHAINS.values(), ids=CHAINS)
def test_a_changed_end_of_a_chain_is_found(
    db: Database, owner: psycopg.Connection[Any], statement: str, said: str
) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        owner.execute(statement.encode())
        (finding,) = db.audit.verify("t")
        assert said in finding.what


def test_a_chain_that_was_renamed_is_missed_and_found(db: Database, owner: psycopg.Connection[Any]) -> None:
    chain_of(db, owner, 6)
    with undone(owner):
        owner.execute("UPDATE holdfast.chains SET thread_id = 'u'")
        assert [(finding.thread_id, finding.number) for finding in db.audit.verify()] == [("t", None), ("u", 1)]


def test_a_rewritten_tail_is_found_against_exported_heads(db: Database, owner: psycopg.Connection[Any]) -> None:
    """With digests that fit: nothing but the exported head can tell."""
    chain_of(db, owner, 6)
    heads = db.audit.heads()
    assert db.audit.verify(against=heads) == []
    with undone(owner):
        owner.execute("UPDATE holdfast.events SET actor = 'somebody else' WHERE number = 5")
        for number in (5, 6):
            seal(owner, number)
        owner.execute("UPDATE holdfast.chains SET digest = (SELECT digest FROM holdfast.events WHERE number = 6)")
        assert db.audit.verify() == []
        (finding,) = db.audit.verify(against=heads)
        assert finding.number == 6
        assert "it or what was before it was rewritten" in finding.what
        assert db.audit.verify("t", against=heads) == [finding]


def test_a_cut_tail_and_a_vanished_thread_are_found_against_exported_heads(
    db: Database, owner: psycopg.Connection[Any]
) -> None:
    chain_of(db, owner, 6)
    heads = db.audit.heads()
    with undone(owner):
        owner.execute("DELETE FROM holdfast.events WHERE number > 4")
        owner.execute(
            "UPDATE holdfast.chains SET number = 4, digest = (SELECT digest FROM holdfast.events WHERE number = 4)"
        )
        assert db.audit.verify() == []
        assert [finding.number for finding in db.audit.verify(against=heads)] == [6]
        owner.execute("DELETE FROM holdfast.events")
        owner.execute("DELETE FROM holdfast.chains")
        assert db.audit.verify() == []
        assert [finding.number for finding in db.audit.verify(against=heads)] == [6]
        assert db.audit.verify("t", against=heads)


def test_a_thread_that_went_on_still_fits_the_exported_head(db: Database) -> None:
    db.audit.append(FULL)
    heads = db.audit.heads()
    assert heads == [ChainHead(thread_id="t", number=1, digest=db.audit.read(thread_id="t")[0].digest)]
    db.audit.append(FULL)
    db.audit.append(replace(FULL, thread_id="new"))
    assert db.audit.verify(against=heads) == []


def test_a_chain_in_disorder_beyond_searching_is_still_found(db: Database, owner: psycopg.Connection[Any]) -> None:
    chain_of(db, owner, 200)
    with undone(owner):
        renumber(owner, {number: 201 - number for number in range(1, 201)})
        assert {finding.number for finding in db.audit.verify("t")} >= set(range(1, 201))
