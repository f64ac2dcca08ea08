"""The saver carries what LangGraph does with a checkpointer, under invoke and ainvoke alike."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import Database, HoldfastSaver, TypeNotAllowed

Run = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a graph with invoke, or with ainvoke on a loop of its own."""

    def sync(graph: Any, given: Any, config: Any, **options: Any) -> Any:
        return graph.invoke(given, config, durability="sync", **options)

    def asynchronous(graph: Any, given: Any, config: Any, **options: Any) -> Any:
        return asyncio.run(graph.ainvoke(given, config, durability="sync", **options))

    return sync if request.param == "sync" else asynchronous


class Trace(TypedDict):
    steps: Annotated[list[str], operator.add]


def step(name: str) -> Any:
    def node(state: Trace) -> Trace:
        return {"steps": [name]}

    return node


def on(thread: str, checkpoint_id: str | None = None) -> Any:
    chosen = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": thread, **chosen}}


def line(saver: BaseCheckpointSaver[Any], *names: str, **compile_options: Any) -> Any:
    """A graph of steps in a row."""
    builder = StateGraph(Trace)
    for name, before in zip(names, (START, *names), strict=False):
        builder.add_node(name, step(name))
        builder.add_edge(before, name)
    return builder.compile(checkpointer=saver, **compile_options)


async def test_it_conforms_to_the_checkpointer_contract(database_uri: str) -> None:
    """LangGraph's own conformance suite, with every extended capability."""

    @checkpointer_test(name="HoldfastSaver")
    async def saver() -> Any:
        async with Database.open(database_uri) as db:
            yield db.saver

    report = await validate(saver)
    assert report.passed_all_base()
    assert [name for name, result in report.results.items() if not (result.detected and result.passed)] == []
    assert {"delete_for_runs", "copy_thread", "prune"} <= report.results.keys()


def test_history_is_newest_first_and_any_point_can_be_run_again(db: Database, run: Run) -> None:
    graph = line(db.saver, "a", "b", "c")
    run(graph, {"steps": []}, on("t"))
    history = list(graph.get_state_history(on("t")))
    assert [state.next for state in history] == [(), ("c",), ("b",), ("a",), ("__start__",)]
    before_b = history[2].config
    assert run(graph, None, before_b)["steps"] == ["a", "b", "c"]
    assert len(list(graph.get_state_history(on("t")))) > len(history)


def test_a_fork_leaves_the_original_as_it_was(db: Database, run: Run) -> None:
    graph = line(db.saver, "a", "b")
    run(graph, {"steps": []}, on("t"))
    first = next(state for state in graph.get_state_history(on("t")) if state.next == ("b",))
    forked = graph.update_state(first.config, {"steps": ["changed"]}, as_node="a")
    assert run(graph, None, forked)["steps"] == ["a", "changed", "b"]
    assert graph.get_state(first.config).values == {"steps": ["a"]}


def test_an_update_by_hand_counts_as_a_nodes_own(db: Database, run: Run) -> None:
    graph = line(db.saver, "a", "b")
    graph.update_state(on("t"), {"steps": ["by hand"]}, as_node="a")
    assert graph.get_state(on("t")).next == ("b",)
    assert run(graph, None, on("t"))["steps"] == ["by hand", "b"]


def test_static_and_dynamic_interrupts_wait_and_go_on(db: Database, run: Run) -> None:
    graph = line(db.saver, "a", "b", interrupt_before=["b"])
    assert run(graph, {"steps": []}, on("static"))["steps"] == ["a"]
    assert run(graph, None, on("static"))["steps"] == ["a", "b"]

    def ask(state: Trace) -> Trace:
        return {"steps": [f"{interrupt('first?')} {interrupt('second?')}"]}

    asking = StateGraph(Trace).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=db.saver)
    assert run(asking, {"steps": []}, on("t"))["__interrupt__"][0].value == "first?"
    assert run(asking, Command(resume="one"), on("t"))["__interrupt__"][0].value == "second?"
    assert run(asking, Command(resume="two"), on("t"))["steps"] == ["one two"]


def test_a_failed_step_keeps_what_its_siblings_finished(db: Database, run: Run) -> None:
    """Pending writes: of two parallel nodes, only the one that failed runs again."""
    ran: list[str] = []

    def written() -> list[Any]:
        found = db.saver.get_tuple(on("t"))
        return (found.pending_writes or []) if found else []

    def good(state: Trace) -> Trace:
        ran.append("good")
        return {"steps": ["good"]}

    def bad(state: Trace) -> Trace:
        ran.append("bad")
        if ran.count("bad") == 1:
            while not any(value == ["good"] for _, _, value in written()):
                pass  # the sibling is to have finished and been saved
            raise RuntimeError("once")
        return {"steps": ["bad"]}

    builder = StateGraph(Trace).add_node("good", good).add_node("bad", bad)
    graph = builder.add_edge(START, "good").add_edge(START, "bad").compile(checkpointer=db.saver)
    with pytest.raises(RuntimeError, match="once"):
        run(graph, {"steps": []}, on("t"))
    assert sorted(run(graph, None, on("t"))["steps"]) == ["bad", "good"]
    assert ran.count("good") == 1


def test_sends_are_saved_and_delivered(db: Database, run: Run) -> None:
    def work(given: dict[str, int]) -> Trace:
        return {"steps": [f"work {given['number']}"]}

    def spread(state: Trace) -> list[Send]:
        return [Send("work", {"number": number}) for number in range(3)]

    builder = StateGraph(Trace).add_node("plan", step("plan"))
    builder.add_node("work", work)  # type: ignore[type-var]  # a Send brings its own input
    builder.add_edge(START, "plan").add_conditional_edges("plan", spread, ["work"]).add_edge("work", END)
    graph = builder.compile(checkpointer=db.saver, interrupt_before=["work"])
    run(graph, {"steps": []}, on("t"))
    assert graph.get_state(on("t")).next == ("work", "work", "work")
    assert run(graph, None, on("t"))["steps"] == ["plan", "work 0", "work 1", "work 2"]


def test_a_subgraphs_own_steps_are_saved_in_its_namespace(db: Database, run: Run) -> None:
    inner = StateGraph(Trace).add_node("x", step("x")).add_node("y", step("y"))
    inner_graph = inner.add_edge(START, "x").add_edge("x", "y").compile(interrupt_before=["y"])
    graph = StateGraph(Trace).add_node("sub", inner_graph).add_edge(START, "sub").compile(checkpointer=db.saver)
    run(graph, {"steps": ["begun"]}, on("t"))
    inside: Any = graph.get_state(on("t"), subgraphs=True).tasks[0].state
    assert inside.values["steps"] == ["begun", "x"]
    assert inside.next == ("y",)
    assert run(graph, None, on("t"))["steps"] == ["begun", "begun", "x", "y"]


def test_messages_come_back_as_they_were(db: Database, run: Run) -> None:
    """Text, blocks and odd characters survive the way through the database."""
    contents: list[Any] = ["plain", "\u00e9\U0001f600\u2028", [{"type": "text", "text": "block"}], ""]
    said: list[AnyMessage] = [HumanMessage(content, id=str(number)) for number, content in enumerate(contents)]
    builder = StateGraph(MessagesState).add_node("n", lambda state: {"messages": []}).add_edge(START, "n")
    graph = builder.compile(checkpointer=db.saver)
    run(graph, {"messages": said}, on("t"))
    assert graph.get_state(on("t")).values["messages"] == said


def test_what_was_written_sync_is_read_async_and_listed(db: Database) -> None:
    graph = line(db.saver, "a", "b")
    graph.invoke({"steps": []}, on("t"))

    async def read(saver: HoldfastSaver) -> Any:
        listed = [found.checkpoint["id"] async for found in saver.alist(on("t"), limit=2)]
        return listed, await saver.aget(on("t"))

    listed, newest = asyncio.run(read(db.saver))
    assert listed == [found.checkpoint["id"] for found in db.saver.list(on("t"), limit=2)]
    assert newest["id"] == listed[0]
    assert db.saver.get(on("t")) == newest


def test_a_run_can_begin_on_the_official_saver_and_go_on_here(db: Database, database_uri: str) -> None:
    """The tables are the official ones, so threads open unchanged; there is no way back, and it says so."""
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(database_uri) as official:
        line(official, "a", "b", interrupt_before=["b"]).invoke({"steps": []}, on("t"))
        assert line(db.saver, "a", "b").invoke(None, on("t"))["steps"] == ["a", "b"]
        with pytest.raises(NotImplementedError, match="Unknown serialization type: hf1:"):
            line(official, "a", "b").get_state(on("t"))


def test_types_that_a_graph_declares_can_be_allowed(db: Database) -> None:
    """`with_allowlist` gives a saver that revives those types, and leaves the first one strict."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    from tests.checkpointing.test_database import Foreign

    written = JsonPlusSerializer(allowed_msgpack_modules=True).dumps_typed(Foreign(7))
    allowing = db.saver.with_allowlist({(Foreign.__module__, Foreign.__name__)})
    assert allowing.serde.loads_typed(written) == Foreign(7)
    with pytest.raises(TypeNotAllowed):
        db.saver.serde.loads_typed(written)
    line(allowing, "a").invoke({"steps": []}, on("t"))
    assert line(db.saver, "a").get_state(on("t")).values == {"steps": ["a"]}
