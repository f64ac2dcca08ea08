"""Requests go with the thread or the run that made them, and are on record as withdrawn if anybody still waited."""

from __future__ import annotations

import operator
import threading
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import Audience, Database, UnknownRequest
from tests.support.asked import asking, opened, said, told

DAY = timedelta(days=1)


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


def waiting(db: Database, thread: str = "t", run: str = "run 1") -> Any:
    """A thread that waits for an approval, as a run left it; its graph."""

    def prepare(state: State) -> State:
        return {"done": ["prepared"]}

    def ask(state: State, config: RunnableConfig) -> State:
        task = str(config.get("configurable", {})["checkpoint_ns"])
        (request,) = db.approvals.open([asking(thread_id=thread, task_id=task, run_id=run)])
        if not request.settled:
            interrupt(request.request_id)
        return {"done": [request.state]}

    graph = StateGraph(State).add_sequence([prepare, ask]).add_edge(START, "prepare").compile(checkpointer=db.saver)
    graph.invoke({"done": []}, {**on(thread), "metadata": {"run_id": run}})
    return graph


def on(thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}}


def kinds(db: Database, thread: str = "t") -> list[str]:
    return [kind for kind, _ in told(db, thread)]


def test_a_request_is_gone_with_its_thread(db: Database) -> None:
    waiting(db)
    waiting(db, "u")
    (request,) = db.approvals.find(thread_id="t")
    done = opened(db, "another", task_id="x")
    db.approvals.decide(done.request_id, said(done))
    db.saver.delete_thread("t")
    assert db.approvals.find(thread_id="t", states=("waiting", "approved", "withdrawn")) == []
    with pytest.raises(UnknownRequest):
        db.approvals.decide(request.request_id, said(request))
    assert kinds(db) == ["requested", "requested", "decided", "withdrawn"]
    assert (db.audit.read(thread_id="t")[-1].details["message"]) == "the thread was removed"
    assert len(db.approvals.find()) == 1


def test_a_request_is_gone_with_its_run(db: Database) -> None:
    graph = waiting(db)
    (request,) = db.approvals.find()
    other = opened(db, "another", task_id="x", run_id="run 2")
    db.saver.delete_for_runs(["run 1"])
    assert db.approvals.find() == [other]
    assert kinds(db) == ["requested", "requested", "withdrawn"]
    assert graph.get_state(on("t")).values == {}
    with pytest.raises(UnknownRequest):
        db.approvals.get(request.request_id)


def test_the_newest_checkpoint_s_request_stays(db: Database) -> None:
    graph = waiting(db)
    (request,) = db.approvals.find()
    db.saver.prune(["t"])
    assert db.approvals.find() == [request]
    db.approvals.decide(request.request_id, said(request))
    assert graph.invoke(Command(resume="go on"), on("t"))["done"] == ["prepared", "approved"]


def test_what_waited_as_long_is_pruned_and_what_was_decided_since_is_not(db: Database) -> None:
    waiting(db)
    waiting(db, "decided")
    (request,) = db.approvals.find(thread_id="decided")
    tomorrow = datetime.now(UTC) + 2 * DAY
    db.approvals.clock = lambda: tomorrow
    db.approvals.decide(request.request_id, said(request))
    assert db.prune(DAY, now=tomorrow, dry_run=True) == ["t"]
    assert db.prune(DAY, now=tomorrow, keep=Audience.USER) == ["t"]
    assert db.approvals.find() == []
    assert kinds(db)[-1] == "withdrawn"
    assert db.approvals.get(request.request_id).state == "approved"
    assert db.prune(DAY, now=tomorrow + 2 * DAY) == ["decided"]


def test_a_decision_that_is_being_taken_keeps_its_thread(db: Database, database_uri: str) -> None:
    """It is not committed yet when the threads that are idle are looked for."""
    waiting(db)
    (request,) = db.approvals.find()
    later = datetime.now(UTC) + 2 * DAY
    pruned: list[list[str]] = []
    with psycopg.connect(database_uri) as deciding:
        deciding.execute(
            "UPDATE holdfast.approvals SET state = 'approved', decided_by = 'ada', decided_at = %s", (later,)
        )
        pruning = threading.Thread(target=lambda: pruned.append(db.prune(DAY, now=later)))
        pruning.start()
        with psycopg.connect(database_uri, autocommit=True) as looking:
            while not looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                pass
        deciding.commit()
    pruning.join()
    assert pruned == [[]]
    assert db.approvals.get(request.request_id).granted


def test_after_a_rollback_it_is_asked_anew(db: Database) -> None:
    graph = waiting(db)
    (before,) = db.approvals.find()
    checkpoints = [state.config["configurable"]["checkpoint_id"] for state in graph.get_state_history(on("t"))]
    db.rollback("t", checkpoints[1])
    assert db.approvals.find() == []
    assert db.approvals.get(before.request_id).message == "the thread was rolled back"
    graph.invoke(None, on("t"))
    (after,) = db.approvals.find()
    assert after.request_id != before.request_id
    assert kinds(db) == ["requested", "withdrawn", "requested"]


def test_an_approval_is_for_one_thread(db: Database) -> None:
    """What was approved in a thread may be done once, and not in each copy of it."""
    graph = waiting(db)
    (request,) = db.approvals.find()
    db.approvals.decide(request.request_id, said(request))
    db.saver.copy_thread("t", "copy")
    assert db.approvals.find(thread_id="copy", states=("waiting", "approved")) == []
    assert graph.get_state(on("copy")).next == ("ask",)
