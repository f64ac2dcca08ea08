"""Every single damage to what is stored is harmless to the loaded state, or reported; none is silent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from holdfast.checkpointing import CheckpointCorrupted, Database, HoldfastError
from tests.support.damage import DELETE, TABLES, Damage, Ward, damages
from tests.support.threads import THREAD, Build, Thread, delta, finished, observations, waiting

ALWAYS = ("newest", "list", "state", "history")


@pytest.fixture
def ward(database_uri: str) -> Iterator[Ward]:
    """What damages this test's database; asked for first, as its limits hold for connections to come."""
    ward = Ward(database_uri)
    yield ward
    ward.connection.close()


@pytest.fixture
def falling(ward: Ward, database_uri: str) -> Iterator[Database]:
    """An open database that goes back to what is good."""
    with Database.connect(database_uri, on_corruption="fallback") as database:
        yield database


def incidents(ward: Ward) -> list[tuple[Any, ...]]:
    statement = "SELECT thread_id, checkpoint_id, fell_back_to, damage FROM holdfast.incidents ORDER BY incident_id"
    return ward.connection.execute(statement).fetchall()


def silent(load: Callable[[], Any], expected: Any) -> bool:
    """Whether something else is loaded without a word; an error that has no name of ours is raised."""
    try:
        return bool(load() != expected)
    except HoldfastError:
        return False


def forgotten(db: Database) -> None:
    db.saver.upkeep.memory.forget(THREAD)


def checked(db: Database, ward: Ward, thread: Thread) -> Callable[[Damage, st.DataObject | None], None]:
    """A check of one damage against all that is loaded now."""
    loads = observations(db, thread)
    expected = {name: load() for name, load in loads.items()}
    assert incidents(ward) == []
    ward.keep()

    def check(damage: Damage, data: st.DataObject | None = None) -> None:
        names = [name for name in loads if name.startswith(ALWAYS)]
        others = [name for name in loads if not name.startswith(ALWAYS)]
        checkpoint_id = damage.row.get("checkpoint_id")
        names += [name for name in others if checkpoint_id and checkpoint_id in name]
        names += data.draw(st.lists(st.sampled_from(others), max_size=2)) if data else others
        with ward.damaged(damage) as done:
            for name in names if done else ():
                assert not silent(loads[name], expected[name]), f"silent in {name}: {damage}"

    return check


@pytest.mark.parametrize("build", [finished, waiting, delta])
def test_no_damage_is_silent(ward: Ward, db: Database, build: Build) -> None:
    """Whatever one value or row is damaged: what is loaded is equal, or an error of ours says so."""
    check = checked(db, ward, build(db.saver))

    # A damage is small as it is: a failure is reported as it was found.
    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(damages(ward), st.data())
    def every(damage: Damage, data: st.DataObject) -> None:
        check(damage, data)

    logging.disable(logging.CRITICAL)
    try:
        every()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("build", [finished, waiting, delta])
def test_no_lost_row_is_silent(ward: Ward, db: Database, build: Build, table: str) -> None:
    """Each row in turn is taken away, and missed wherever something else is loaded without it."""
    check = checked(db, ward, build(db.saver))
    for row in ward.rows(table):
        check(Damage(table=table, row=row, column=DELETE), None)


@pytest.mark.parametrize("versions", [3, [], None, "x", {}])
def test_a_checkpoint_without_channel_versions_is_reported(ward: Ward, db: Database, versions: Any) -> None:
    check = checked(db, ward, waiting(db.saver))
    for row in ward.rows("checkpoints"):
        changed = json.dumps({**json.loads(row["checkpoint"]), "channel_versions": versions})
        check(Damage(table="checkpoints", row=row, column="checkpoint", value=changed), None)


def test_a_list_that_is_said_to_stand_on_itself_is_reported(ward: Ward, db: Database) -> None:
    """A load that follows lists to what they stand on comes to an end."""
    thread = delta(db.saver)
    check = checked(db, ward, thread)
    edited = [row for row in ward.rows("checkpoint_blobs") if ":snapshot:" in row["type"]]
    assert edited
    for row in edited:
        kind = f"{row['type'].rpartition(':')[0]}:{row['version']}"
        check(Damage(table="checkpoint_blobs", row=row, column="type", value=kind), None)


def test_a_seal_that_is_no_number_is_reported(ward: Ward, db: Database) -> None:
    check = checked(db, ward, waiting(db.saver))
    for row in ward.rows("checkpoints"):
        parts = row["type"].split(":")
        for count in ("\u00b2", "-1", "", "9" * 5000):
            kind = ":".join([*parts[:3], count, parts[4]])
            check(Damage(table="checkpoints", row=row, column="type", value=kind), None)


@pytest.mark.parametrize("build", [finished, waiting, delta])
def test_writes_whose_type_is_gone_are_reported(ward: Ward, db: Database, build: Build) -> None:
    check = checked(db, ward, build(db.saver))
    for row in ward.rows("checkpoint_writes"):
        for kind in (None, "", "h"):
            check(Damage(table="checkpoint_writes", row=row, column="type", value=kind), None)


def test_a_damaged_checkpoint_cannot_be_run_on_without_a_word(ward: Ward, db: Database) -> None:
    """A writer that looks up a damaged checkpoint raises an error of ours."""
    thread = waiting(db.saver)
    ward.keep()
    newest = ward.rows("checkpoints")[-1]
    changed = json.dumps({**json.loads(newest["metadata"]), "step": "abc"})
    forgotten(db)
    with ward.damaged(Damage(table="checkpoints", row=newest, column="metadata", value=changed)):
        with pytest.raises(HoldfastError):
            thread.graph.update_state(thread.on(newest["checkpoint_id"]), {"short": "x"}, as_node="begin")
        given: Any = {**json.loads(newest["checkpoint"]), "id": "2"}
        with pytest.raises(HoldfastError):
            db.saver.put(thread.on(newest["checkpoint_id"]), given, {}, {})


@pytest.mark.parametrize("build", [finished, waiting])
def test_an_explicit_load_names_the_good_checkpoints(falling: Database, ward: Ward, build: Build) -> None:
    """Who asks for a damaged checkpoint gets no other one, whatever the policy, and hears which are good."""
    thread = build(falling.saver)
    ward.keep()
    rows = [row for row in ward.rows("checkpoints") if row["checkpoint_ns"] == ""]
    ids = [row["checkpoint_id"] for row in rows][::-1]
    forgotten(falling)
    with ward.damaged(Damage(table="checkpoints", row=rows[-2], column="metadata", value="{}")):
        with pytest.raises(CheckpointCorrupted) as caught:
            falling.saver.get_tuple(thread.on(ids[1]))
        error = caught.value
        assert (error.thread_id, error.checkpoint_ns, error.checkpoint_id) == (THREAD, "", ids[1])
        assert error.good == ids[2:5]
        assert all(part in str(error) for part in (THREAD, ids[1], ids[2], "holdfast rollback"))
        newest: Any = falling.saver.get_tuple(thread.on())
        assert newest.checkpoint["id"] == ids[0]
    assert incidents(ward) == [(THREAD, ids[1], None, str(error.damage))]


@pytest.mark.parametrize("build", [finished, waiting])
def test_a_thread_falls_back_to_its_newest_good_checkpoint(
    falling: Database, ward: Ward, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    thread = build(falling.saver)
    ward.keep()
    rows = [row for row in ward.rows("checkpoints") if row["checkpoint_ns"] == ""]
    first, second, third = (row["checkpoint_id"] for row in reversed(rows[-3:]))
    before = falling.saver.get_tuple(thread.on(third))
    for damaged in (first, second):
        statement = "UPDATE checkpoints SET metadata = metadata || '{\"step\": 99}' WHERE checkpoint_id = %s"
        ward.connection.execute(statement, [damaged])
    forgotten(falling)
    with caplog.at_level(logging.ERROR, "holdfast"):
        assert falling.saver.get_tuple(thread.on()) == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert all(part in caplog.text for part in (THREAD, third, "does not match its digest"))
    ((thread_id, _, fell_back_to, damage),) = incidents(ward)
    assert (thread_id, fell_back_to) == (THREAD, third)
    assert "does not match its digest" in damage
    said = HumanMessage("go on", id="go on")
    state = thread.graph.invoke({"messages": [said]}, thread.on(), durability="sync")
    forgotten(falling)
    assert said in state["messages"]
    assert thread.graph.get_state(thread.on()).values["messages"] == state["messages"]
    assert len(incidents(ward)) == 2, "one for each load; none once the thread has been run on"


@pytest.mark.parametrize("change", ["UPDATE holdfast.messages SET body = body || 'x'", "DELETE FROM holdfast.messages"])
def test_a_message_that_was_damaged_is_stored_anew(falling: Database, ward: Ward, change: Any) -> None:
    """A run that goes back and says the same again leaves a thread that loads."""
    thread = waiting(falling.saver)
    done = ward.connection.execute(change + " WHERE node = 'begin'")
    assert done.rowcount == 1
    forgotten(falling)
    forgotten(falling)
    thread.graph.invoke(None, thread.on(), durability="sync")
    forgotten(falling)
    state = thread.graph.get_state(thread.on())
    assert "ask" in state.next
    assert [message.content for message in state.values["messages"]][:2] == ["hello", "begin"]


@pytest.mark.parametrize("table", ["messages", "checkpoint_blobs", "checkpoint_writes", "checkpoints"])
def test_a_delta_thread_falls_back_too(falling: Database, ward: Ward, table: str) -> None:
    """What is left of delta channels is a state that was there once, from which the thread can be run on."""
    thread = delta(falling.saver)
    ward.keep()
    rows = ward.rows(table)
    if table == "messages":  # in order of arrival: nothing is good that stands on the first
        (order,) = ward.connection.execute("SELECT array_agg(digest ORDER BY position) FROM holdfast.messages")
        rows.sort(key=lambda row: order[0].index(row["digest"]))
    past: list[Any] = [state.values for state in thread.graph.get_state_history(thread.on())]
    for row in rows[len(rows) // 2 :]:
        with ward.damaged(Damage(table=table, row=row, column=DELETE)):
            forgotten(falling)
            assert thread.graph.get_state(thread.on()).values in past


def test_an_incident_does_not_hide_what_is_wrong(ward: Ward, db: Database) -> None:
    """Under the policy `raise` every load of a damaged thread says so, and nothing is loaded."""
    thread = waiting(db.saver)
    ward.connection.execute("UPDATE holdfast.messages SET body = body || 'x'")
    for _ in range(2):
        forgotten(db)
        with pytest.raises(CheckpointCorrupted, match=r"holdfast\.messages"):
            thread.graph.get_state(thread.on())
        with pytest.raises(CheckpointCorrupted, match=r"holdfast\.messages"):
            thread.graph.invoke(None, thread.on())
        with pytest.raises(CheckpointCorrupted, match=r"holdfast\.messages"):
            list(thread.graph.get_state_history(thread.on()))
    assert len(incidents(ward)) == 4
