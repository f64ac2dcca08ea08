"""Going back to an older checkpoint: the thread goes on from there, and nothing of its history is lost."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, LiteralString

import psycopg
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import Database
from holdfast.checkpointing.integrity import CheckpointCorrupted
from holdfast.checkpointing.rollback import UnknownCheckpoint


class Trace(TypedDict):
    steps: Annotated[list[str], operator.add]


def appended(state: list[AnyMessage], writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    return state + [message for write in writes for message in write]


class Delta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(appended, list)]  # pyright: ignore[reportArgumentType]


@dataclass
class Order:
    """A type of the graph's own."""

    number: int


class Opaque(TypedDict):
    value: Any


def on(thread: str, checkpoint_id: str | None = None) -> Any:
    chosen = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": thread, **chosen}}


def node(update: Any) -> Any:
    """A node that does always the same."""

    def update_state(state: Any) -> Any:
        return update

    return update_state


def line(saver: BaseCheckpointSaver[Any], *names: str) -> Any:
    """A graph of steps in a row, each of which adds its name."""
    builder = StateGraph(Trace)
    for name, before in zip(names, (START, *names), strict=False):
        builder.add_node(name, node({"steps": [name]}))
        builder.add_edge(before, name)
    return builder.compile(checkpointer=saver)


def id_of(state: Any) -> str:
    """The checkpoint of a state or of a loaded checkpoint."""
    return str(state.config["configurable"]["checkpoint_id"])


def before(graph: Any, node: str, thread: str = "t") -> str:
    """The newest checkpoint at which this node is next."""
    found = next(state for state in graph.get_state_history(on(thread)) if state.next == (node,))
    return id_of(found)


def sound(db: Database, thread: str = "t") -> bool:
    return not [finding for finding in db.verify(thread) if finding.severity == "damage"]


def test_the_thread_goes_on_from_the_target(db: Database) -> None:
    graph = line(db.saver, "a", "b", "c")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    target = before(graph, "b")
    new = db.rollback("t", target)
    state = graph.get_state(on("t"))
    assert (state.values, state.next) == ({"steps": ["a"]}, ("b",))
    assert id_of(state) == new
    assert state.metadata["source"] == "fork"
    assert state.parent_config == graph.get_state(on("t", target)).parent_config
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["a", "b", "c"]
    assert sound(db)


def test_nothing_of_the_history_is_lost(db: Database) -> None:
    """A rollback can itself be rolled back."""
    graph = line(db.saver, "a", "b")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    history = [id_of(state) for state in graph.get_state_history(on("t"))]
    new = db.rollback("t", before(graph, "a"))
    after = [id_of(state) for state in graph.get_state_history(on("t"))]
    assert after == [new, *history]
    assert new > max(history)
    db.rollback("t", history[0])
    assert graph.get_state(on("t")).values == {"steps": ["a", "b"]}
    assert sound(db)


def test_a_rollback_to_the_newest_does_nothing(db: Database) -> None:
    graph = line(db.saver, "a")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    newest = id_of(graph.get_state(on("t")))
    assert db.rollback("t", newest) == newest
    assert id_of(graph.get_state(on("t"))) == newest


def test_a_new_input_can_follow(db: Database) -> None:
    graph = line(db.saver, "a")
    for number in range(3):
        graph.invoke({"steps": [str(number)]}, on("t"), durability="sync")
    done = [state for state in graph.get_state_history(on("t")) if not state.next]
    db.rollback("t", id_of(done[1]))
    assert graph.invoke({"steps": ["x"]}, on("t"), durability="sync")["steps"] == ["0", "a", "1", "a", "x", "a"]


def test_an_interrupt_is_asked_again_and_answered(db: Database) -> None:
    def ask(state: Trace) -> Trace:
        return {"steps": [interrupt("yes?")]}

    builder = StateGraph(Trace).add_node("ask", ask).add_node("end", node({"steps": ["end"]}))
    graph = builder.add_edge(START, "ask").add_edge("ask", "end").compile(checkpointer=db.saver)
    graph.invoke({"steps": []}, on("t"), durability="sync")
    target = before(graph, "ask")
    assert graph.invoke(Command(resume="no"), on("t"), durability="sync")["steps"] == ["no", "end"]
    db.rollback("t", target)
    assert graph.get_state(on("t")).next == ("ask",)
    assert graph.invoke(None, on("t"), durability="sync")["__interrupt__"][0].value == "yes?"
    assert graph.invoke(Command(resume="yes"), on("t"), durability="sync")["steps"] == ["yes", "end"]
    db.rollback("t", target)
    assert graph.invoke(Command(resume="at once"), on("t"), durability="sync")["steps"] == ["at once", "end"]


def test_what_a_task_had_written_on_the_target_is_not_taken_over(db: Database) -> None:
    ran: list[str] = []

    def good(state: Trace) -> Trace:
        ran.append("good")
        return {"steps": ["good"]}

    graph = StateGraph(Trace).add_node("good", good).add_edge(START, "good").compile(checkpointer=db.saver)
    graph.invoke({"steps": []}, on("t"), durability="sync")
    db.rollback("t", before(graph, "good"))
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["good"]
    assert ran == ["good", "good"]


def test_delta_channels_go_back_too(db: Database) -> None:
    def answer(state: Delta) -> Any:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    graph = StateGraph(Delta).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=db.saver)
    for number in range(4):
        graph.invoke({"messages": [HumanMessage(str(number))]}, on("t"), durability="sync")
    done = [state for state in graph.get_state_history(on("t")) if not state.next]
    db.rollback("t", id_of(done[2]))
    texts = [message.content for message in graph.get_state(on("t")).values["messages"]]
    assert texts == ["0", "answer 1", "1", "answer 3"]
    state = graph.invoke({"messages": [HumanMessage("other")]}, on("t"), durability="sync")
    assert [message.content for message in state["messages"]] == [*texts, "other", "answer 5"]
    assert sound(db)


class Inner(TypedDict):
    seen: Annotated[list[str], operator.add]


def stateful(db: Database) -> Any:
    """A graph whose subgraph keeps what it saw, from call to call."""
    inner = StateGraph(Inner).add_node("note", node({"seen": []})).add_edge(START, "note").compile(checkpointer=True)

    def call(state: Trace) -> Trace:
        return {"steps": [f"saw {len(inner.invoke({'seen': ['x']})['seen'])}"]}

    builder = StateGraph(Trace).add_node("first", node({"steps": ["first"]})).add_node("call", call)
    return builder.add_edge(START, "first").add_edge("first", "call").compile(checkpointer=db.saver)


def test_a_subgraph_that_keeps_its_state_goes_back_with_the_thread(db: Database) -> None:
    graph = stateful(db)
    for _ in range(3):
        graph.invoke({"steps": []}, on("t"), durability="sync")
    done = [state for state in graph.get_state_history(on("t")) if not state.next]
    assert done[0].values["steps"][-1] == "saw 3"
    db.rollback("t", id_of(done[2]))
    again = graph.invoke({"steps": []}, on("t"), durability="sync")
    assert again["steps"] == ["first", "saw 1", "first", "saw 2"]
    assert sound(db)


def test_a_subgraph_that_had_not_run_yet_is_empty_again(db: Database) -> None:
    graph = stateful(db)
    graph.invoke({"steps": []}, on("t"), durability="sync")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    first = [state for state in graph.get_state_history(on("t")) if state.next == ("first",)][-1]
    new = db.rollback("t", id_of(first))
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["first", "saw 1"]
    db.rollback("t", new)
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["first", "saw 1"]
    assert sound(db)


def test_a_thread_of_the_official_saver_can_go_back(db: Database, database_uri: str) -> None:
    with PostgresSaver.from_conn_string(database_uri) as official:
        old = line(official, "a", "b")
        old.invoke({"steps": []}, on("t"), durability="sync")
        target = before(old, "b")
    graph = line(db.saver, "a", "b")
    db.rollback("t", target)
    assert graph.get_state(on("t")).next == ("b",)
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["a", "b"]
    assert sound(db)


def test_what_this_program_may_not_read_can_still_be_gone_back_to(db: Database) -> None:
    """An operator's command knows none of the types that the graph's own program allows."""
    builder = StateGraph(Opaque).add_node("a", node({"value": Order(1)})).add_node("b", node({"value": 2}))
    graph = builder.add_edge(START, "a").add_edge("a", "b").compile(checkpointer=db.saver)
    graph.invoke({"value": 0}, on("t"), durability="sync")
    found = db.saver.with_allowlist([(Order.__module__, Order.__name__)])
    target = next(
        state for state in found.list(on("t")) if isinstance(state.checkpoint["channel_values"].get("value"), Order)
    )
    db.rollback("t", id_of(target))
    assert builder.compile(checkpointer=found).get_state(on("t")).values == {"value": Order(1)}


def test_a_checkpoint_that_is_not_the_threads_is_refused(db: Database) -> None:
    graph = line(db.saver, "a")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    newest = id_of(graph.get_state(on("t")))
    with pytest.raises(UnknownCheckpoint, match=f"thread 't' has no checkpoint 'nope'.*{newest}") as caught:
        db.rollback("t", "nope")
    assert caught.value.known[0] == newest
    with pytest.raises(UnknownCheckpoint, match="no checkpoints"):
        db.rollback("other", newest)


def test_for_a_subgraphs_checkpoint_the_roots_is_named(db: Database) -> None:
    graph = stateful(db)
    graph.invoke({"steps": []}, on("t"), durability="sync")
    inside = next(iter(db.saver.list({"configurable": {"thread_id": "t", "checkpoint_ns": "call"}})))
    root = before(graph, "call")
    with pytest.raises(UnknownCheckpoint, match=f"made under {root}"):
        db.rollback("t", id_of(inside))


def test_a_damaged_target_is_refused_and_the_thread_stays(db: Database, database_uri: str) -> None:
    graph = line(db.saver, "a", "b")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    newest, target, *older = [id_of(state) for state in graph.get_state_history(on("t"))]
    with psycopg.connect(database_uri) as connection:
        connection.execute("UPDATE checkpoints SET metadata = '{}' WHERE checkpoint_id = %s", [target])
    with pytest.raises(CheckpointCorrupted) as caught:
        db.rollback("t", target)
    assert caught.value.good == older
    assert id_of(graph.get_state(on("t"))) == newest


DAMAGE: dict[str, LiteralString] = {
    "the newest is gone": "DELETE FROM checkpoints WHERE checkpoint_id = %(newest)s",
    "the newest was changed": "UPDATE checkpoints SET metadata = '{}' WHERE checkpoint_id = %(newest)s",
    "a value is gone": "DELETE FROM checkpoint_blobs WHERE version = %(version)s",
    "the head is gone": "DELETE FROM holdfast.heads",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_the_checkpoint_that_a_corrupted_thread_names_brings_it_back(
    db: Database, database_uri: str, statement: LiteralString
) -> None:
    graph = line(db.saver, "a", "b")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    newest = id_of(graph.get_state(on("t")))
    found = db.saver.get_tuple(on("t"))
    assert found is not None
    version = found.checkpoint["channel_versions"]["steps"]
    with psycopg.connect(database_uri) as connection:
        connection.execute(statement, {"newest": newest, "version": version})
    with pytest.raises(CheckpointCorrupted) as caught:
        graph.get_state(on("t"))
    db.rollback("t", caught.value.good[0])
    assert graph.invoke(None, on("t"), durability="sync")["steps"] == ["a", "b"]


def test_another_process_that_runs_the_thread_looks_again(db: Database, database_uri: str) -> None:
    """What it knew of the thread's rows is not counted on after a rollback."""

    def answer(state: MessagesState) -> Any:
        return {"messages": [AIMessage("a")]}

    graph = StateGraph(MessagesState).add_node("a", answer).add_edge(START, "a")
    with Database.connect(database_uri) as other:
        theirs = graph.compile(checkpointer=other.saver)
        for text in ("one", "two"):
            theirs.invoke({"messages": [HumanMessage(text)]}, on("t"), durability="sync")
        done = [state for state in theirs.get_state_history(on("t")) if not state.next]
        db.rollback("t", id_of(done[1]))
        state = theirs.invoke({"messages": [HumanMessage("three")]}, on("t"), durability="sync")
    assert [message.content for message in state["messages"]] == ["one", "a", "three", "a"]
    assert sound(db)


def test_it_has_an_async_twin(db: Database) -> None:
    graph = line(db.saver, "a", "b")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    asyncio.run(db.arollback("t", before(graph, "b")))
    assert graph.get_state(on("t")).next == ("b",)


def test_the_copy_sorts_above_an_id_of_a_clock_that_is_ahead(db: Database) -> None:
    graph = line(db.saver, "a")
    graph.invoke({"steps": []}, on("t"), durability="sync")
    found = db.saver.get_tuple(on("t"))
    assert found is not None
    ahead: Any = {**found.checkpoint, "id": "7fffffff-ffff-6fff-8000-000000000000"}
    db.saver.put(found.config, ahead, found.metadata, {})
    new = db.rollback("t", before(graph, "a"))
    assert new > ahead["id"]
    assert graph.get_state(on("t")).next == ("a",)
