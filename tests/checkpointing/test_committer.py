"""When a put is answered for: at the commit, or early with writes behind it, and then nothing is built on a loss."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from holdfast.checkpointing import Database, DatabaseUnavailable, committer, connections
from tests.support.talks import on, said, talk

ON: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


class Gate:
    """Holds commits back, or lets them fail, in front of the real connection."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.failing = False
        self.commits = 0

    def let(self, run: Callable[[], Any]) -> Any:
        self.reached.set()
        self.open.wait()
        if self.failing:
            raise psycopg.OperationalError("the connection is lost")
        self.commits += 1
        return run()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    found = Gate()
    real = connections.KeptConnection.run

    def run(self: connections.KeptConnection, steps: Any) -> Any:
        return found.let(lambda: real(self, steps))

    monkeypatch.setattr(connections.KeptConnection, "run", run)
    monkeypatch.setattr(connections, "_PAUSES", ())
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def checkpoint(step: int) -> Any:
    return {**empty_checkpoint(), "id": str(uuid6(clock_seq=step))}


def at(checkpoint_id: str) -> Any:
    return {"configurable": {**ON["configurable"], "checkpoint_id": checkpoint_id}}


def put(pool: ThreadPoolExecutor, db: Database, made: Any, parent: Any = None) -> Future[Any]:
    return pool.submit(db.saver.put, at(parent["id"]) if parent else ON, made, {"source": "loop", "step": 1}, {})


def write(pool: ThreadPoolExecutor, db: Database, on: Any) -> Future[Any]:
    return pool.submit(db.saver.put_writes, at(on["id"]), [("a", 1)], "task")


def test_a_put_with_nothing_behind_it_is_durable_when_it_returns(
    db: Database, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    answer = put(pool, db, checkpoint(1))
    assert not answer.done()
    gate.open.set()
    answer.result()
    assert gate.commits >= 1


def test_a_put_with_writes_behind_it_is_answered_at_once(db: Database, gate: Gate, pool: ThreadPoolExecutor) -> None:
    first = checkpoint(1)
    held = put(pool, db, first)
    behind = write(pool, db, first)
    held.result()
    assert not behind.done()
    assert gate.commits == 0
    gate.open.set()
    behind.result()
    assert db.saver.get_tuple(ON) is not None


def test_no_more_are_answered_early_than_may_be_lost(db: Database, gate: Gate) -> None:
    with ThreadPoolExecutor(64) as many:
        line = [checkpoint(step) for step in range(1, 25)]
        waiting = [put(many, db, line[0])]
        gate.reached.wait()  # the others come in any order, but not before it
        waiting += [put(many, db, made, before) for before, made in pairwise(line)]
        last = write(many, db, line[-1])
        while sum(answer.done() for answer in waiting) < 16:
            pass
        assert sum(answer.done() for answer in waiting) == 16
        gate.open.set()
        for answer in [*waiting, last]:
            answer.result()
    assert len(list(db.saver.list(ON))) == 24


def test_after_a_loss_nothing_is_built_on_it_until_the_thread_is_loaded(
    db: Database, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    first, second = checkpoint(1), checkpoint(2)
    held, behind = put(pool, db, first), write(pool, db, first)
    held.result()
    gate.failing = True
    gate.open.set()
    with pytest.raises(DatabaseUnavailable):
        behind.result()
    gate.failing = False
    with pytest.raises(DatabaseUnavailable, match="earlier checkpoint"):
        put(pool, db, second, first).result()
    assert db.saver.get_tuple(ON) is None
    put(pool, db, second).result()
    assert [found.checkpoint["id"] for found in db.saver.list(ON)] == [second["id"]]


def test_what_arrives_together_is_committed_together(db: Database, gate: Gate, pool: ThreadPoolExecutor) -> None:
    held = put(pool, db, checkpoint(1))
    many = [
        pool.submit(db.saver.put, {"configurable": {"thread_id": f"t{i}", "checkpoint_ns": ""}}, checkpoint(1), {}, {})
        for i in range(12)
    ]
    gate.open.set()
    for answer in [held, *many]:
        answer.result()
    assert gate.commits < 26
    with psycopg.connect(db.uri) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (13,)


def test_writes_that_langgraph_waits_for_do_not_wait_for_company(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a `DeltaChannel` a checkpoint is put only when its writes are saved: nothing would ever join them."""
    graph = talk(db.saver, "delta")
    graph.invoke(said(0, ""), on("t"))
    monkeypatch.setattr(committer, "_COMPANY", 3600.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(graph.invoke, said(1, ""), on("t"), durability="sync").result(timeout=60)
    assert graph.get_state(on("t")).next == ()


def test_a_thread_that_cannot_be_saved_harms_no_other_of_its_batch(
    db: Database, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    """A name that no index can keep is the fault of that thread alone, whatever class of error the server calls it."""

    def put_on(thread: str) -> Future[Any]:
        config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        return pool.submit(db.saver.put, config, checkpoint(1), {"source": "loop", "step": 1}, {})

    held = put(pool, db, checkpoint(1))
    gate.reached.wait()
    bad, good = put_on(secrets.token_hex(4000)), [put_on(f"t{number}") for number in range(5)]
    while len(db.saver._committer._waiting) < 6:  # pyright: ignore[reportPrivateUsage] - one batch
        pass
    gate.open.set()
    for answer in (held, *good):
        answer.result()
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        bad.result()
