"""What `kill_at` promises: a strike each time that the point is passed, and no other."""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Callable
from itertools import repeat
from typing import Annotated, Any, TypedDict, get_args

import pytest
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from holdfast.chaos import KillPoint, kill_at
from holdfast.chaos.kill import Moment
from tests.support.scripted import ScriptedModel

MOMENTS: tuple[Moment, ...] = get_args(Moment)
ONCE_MORE = RetryPolicy(initial_interval=0.001, max_attempts=2, retry_on=ConnectionError)
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}


class State(TypedDict):
    """One entry for each execution of the node."""

    drafts: Annotated[list[str], operator.add]


Node = Callable[[State], Any]
EMPTY: State = {"drafts": []}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


@tool
def broken(word: str) -> str:
    """Fail."""
    raise ConnectionError(word)


def node(model: Runnable[Any, Any] | None = None, used: BaseTool = look_up) -> Node:
    """A node that asks a model, then calls a tool."""
    model = model or GenericFakeChatModel(messages=repeat(AIMessage("drafted")))

    def draft(state: State) -> State:
        model.invoke("write")
        return {"drafts": [str(used.invoke({"word": "ink"}))]}

    return draft


async def async_draft(state: State) -> State:
    """The node of `node()`, awaited."""
    await GenericFakeChatModel(messages=repeat(AIMessage("drafted"))).ainvoke("write")
    return {"drafts": [str(await look_up.ainvoke({"word": "ink"}))]}


def graph(
    action: Any, *, name: str = "draft", after: Any = None, route: Any = None, saves: bool = True, **options: Any
) -> Runnable[Any, Any]:
    """A graph of one node; `route` and `after` choose what runs before and after it."""
    builder: Any = StateGraph(State).add_node(name, action, **options)
    if route:
        builder.add_conditional_edges(START, route, [name])
    else:
        builder.add_edge(START, name)
    if after:
        builder.add_conditional_edges(name, after, [name, END])
    return builder.compile(checkpointer=InMemorySaver() if saves else None)


def strikes(tested: Runnable[Any, Any], point: str, given: Any = EMPTY) -> int:
    """How often the point is passed until the graph ends."""
    struck: list[str] = []
    with kill_at(point, strike=lambda: struck.append(point)):
        tested.invoke(given, THREAD)
    return len(struck)


def passes(new: Callable[[], Runnable[Any, Any]], name: str = "draft") -> dict[str, int]:
    """How often each moment of the node is passed, each in a graph of its own."""
    return {moment: strikes(new(), f"{name}:{moment}") for moment in MOMENTS}


def each(count: int, **others: int) -> dict[str, int]:
    """The same number for every moment but the others."""
    return {**dict.fromkeys(MOMENTS, count), **others}


def test_each_moment_strikes_once() -> None:
    assert passes(lambda: graph(node())) == each(1)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_each_moment_strikes_once_in_async_graphs(moment: str, streamed: bool) -> None:
    struck: list[str] = []
    with kill_at(f"draft:{moment}", strike=lambda: struck.append(moment)):
        if streamed:
            assert [chunk async for chunk in graph(async_draft).astream(EMPTY, THREAD)]
        else:
            await graph(async_draft).ainvoke(EMPTY, THREAD)
    assert struck == [moment]


def test_moments_come_in_their_order() -> None:
    """A model's strike falls before the model answers, a node's end after its code."""
    model = ScriptedModel(script=[AIMessage("drafted")] * len(MOMENTS))
    answered: dict[str, int] = {}
    for moment in MOMENTS:
        model.requests.clear()
        with kill_at(KillPoint(node="draft", moment=moment), lambda: answered.update({moment: len(model.requests)})):  # noqa: B023 - used at once
            graph(node(model)).invoke(EMPTY, THREAD)
    assert answered == {"start": 0, "model": 0, "model_end": 1, "tool": 1, "tool_end": 1, "end": 1}


def test_a_completion_model_is_a_model_too() -> None:
    assert passes(lambda: graph(node(FakeListLLM(responses=["drafted"])))) == each(1)


def test_a_plain_function_counts_as_a_node() -> None:
    calls_nothing = each(0, start=1, end=1)
    assert passes(lambda: graph(lambda _state: {"drafts": ["x"]})) == calls_nothing  # pyright: ignore[reportUnknownLambdaType]


def test_other_nodes_do_not_strike() -> None:
    assert passes(lambda: graph(node(), name="drafts")) == each(0)
    assert passes(lambda: graph(node(), name="dra")) == each(0)


def test_a_retried_node_strikes_again() -> None:
    """The first try fails in its model: it started and asked, but nothing of it ended."""

    def new() -> Runnable[Any, Any]:
        model = ScriptedModel(script=[ConnectionError("gone"), AIMessage("drafted")])
        return graph(node(model), retry_policy=ONCE_MORE)

    assert passes(new) == each(1, start=2, model=2)


def test_a_node_that_failed_for_good_strikes_when_it_is_resumed() -> None:
    model = ScriptedModel(script=[ConnectionError("gone"), AIMessage("drafted")])
    tested = graph(node(model))
    struck: list[str] = []
    with kill_at("draft:start", strike=lambda: struck.append("start")):
        with pytest.raises(ConnectionError):
            tested.invoke(EMPTY, THREAD)
        tested.invoke(None, THREAD)
    assert struck == ["start", "start"]


def test_each_round_of_a_loop_strikes() -> None:
    assert passes(lambda: graph(node(), after=three_rounds)) == each(3)


def test_each_round_of_a_loop_strikes_when_its_tool_fails() -> None:
    """A tool's error, handled by the tool's caller, ends no tool call and blocks nothing that follows."""

    def draft(state: State) -> State:
        with pytest.raises(ConnectionError):
            broken.invoke({"word": "ink"})
        return node()(state)

    assert passes(lambda: graph(draft, after=three_rounds)) == each(3, tool=6)


def three_rounds(state: State) -> str:
    """Back to the node until it ran three times."""
    return "draft" if len(state["drafts"]) < 3 else END


def three_sends(_state: State) -> list[Send]:
    """Three executions of the node at once."""
    return [Send("draft", EMPTY) for _ in range(3)]


def test_each_parallel_send_strikes() -> None:
    together = threading.Barrier(3, timeout=30)

    def draft(state: State) -> State:
        together.wait()
        return node()(state)

    assert passes(lambda: graph(draft, route=three_sends)) == each(3)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_each_parallel_send_strikes_in_async_graphs(moment: str) -> None:
    struck: list[str] = []
    with kill_at(f"draft:{moment}", strike=lambda: struck.append(moment)):
        await graph(async_draft, route=three_sends).ainvoke(EMPTY, THREAD)
    assert struck == [moment] * 3


def test_a_node_of_a_subgraph_strikes() -> None:
    assert passes(lambda: graph(graph(node(), saves=False), name="outer")) == each(1)


def test_a_node_counts_the_calls_of_a_subgraph_inside_it() -> None:
    assert passes(lambda: graph(graph(node(), saves=False), name="outer"), "outer") == each(1)


def test_each_call_of_a_subgraph_strikes() -> None:
    """LangGraph tells the calls apart by a bare number in their namespace, which is no node's name."""
    inner = graph(node(), saves=False)

    def outer(state: State) -> State:
        inner.invoke(state)
        inner.invoke(state)
        return EMPTY

    assert passes(lambda: graph(outer, name="outer")) == each(2)
    assert passes(lambda: graph(outer, name="outer"), "1") == each(0)


def test_what_carries_the_nodes_name_inside_the_node_is_not_the_node() -> None:
    """Neither a runnable nor a subgraph called like the node counts as another execution of it."""
    named = RunnableLambda(node(), name="draft")

    def draft(state: State) -> State:
        return named.invoke(state)

    assert passes(lambda: graph(draft)) == each(1)
    assert passes(lambda: graph(named)) == each(1)
    subgraph = graph(node(), name="inner", saves=False).with_config(run_name="draft")
    assert passes(lambda: graph(subgraph)) == each(1)


def test_a_node_inside_a_node_of_the_same_name_is_one_more_execution() -> None:
    """Two nodes start and end; the one model call and the one tool call are counted once."""
    assert passes(lambda: graph(graph(node(), saves=False))) == each(1, start=2, end=2)


def test_a_node_that_pauses_starts_again_and_ends_once() -> None:
    def draft(_state: State) -> State:
        return {"drafts": [interrupt("which?")]}

    tested = graph(draft)
    assert (strikes(tested, "draft:start"), strikes(tested, "draft:start", Command(resume="this"))) == (1, 1)
    tested = graph(draft)
    assert (strikes(tested, "draft:end"), strikes(tested, "draft:end", Command(resume="this"))) == (0, 1)


@pytest.mark.parametrize("text", ["draft:middle", "draft:", "draft", ":start", "", "draft:start:end"])
def test_an_unknown_moment_is_refused_with_the_list_of_moments(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))) as caught, kill_at(text):
        pytest.fail("armed")
    assert str(caught.value).endswith("start, model, model_end, tool, tool_end, end")


def test_nothing_strikes_outside_the_block() -> None:
    struck: list[str] = []
    tested = graph(node())
    tested.invoke(EMPTY, THREAD)
    with kill_at("draft:start", strike=lambda: struck.append("start")):
        pass
    with pytest.raises(KeyError), kill_at("draft:start", strike=lambda: struck.append("start")):
        raise KeyError
    tested.invoke(EMPTY, THREAD)
    assert struck == []
