"""Graphs around one kind of call, for tests of journaled calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from holdfast.checkpointing import HoldfastSaver
from holdfast.guardrails import JournalMiddleware
from holdfast.nodes import each_call, tool_node

ON: RunnableConfig = {"configurable": {"thread_id": "t"}}
ONE: dict[str, Any] = {"name": "act", "args": {"what": "a"}, "id": "call_a"}
TWO: dict[str, Any] = {"name": "act", "args": {"what": "b"}, "id": "call_b"}


class Crash(BaseException):
    """What a process that is gone leaves behind: no end of any kind."""


def asking(*calls: dict[str, Any]) -> dict[str, Any]:
    """An input that asks for tool calls."""
    return {"messages": [HumanMessage("go", id="begin"), AIMessage("", tool_calls=[*calls], id="asks")]}


def acting(
    saver: HoldfastSaver | None,
    *tools: Any,
    stock: bool = False,
    journal: JournalMiddleware | None = None,
    handle: bool = False,
) -> Any:
    """A graph that makes the calls of its input's last message, each as a task of its own or all in one."""
    node = tool_node(tools, journal=journal, handle_tool_errors=handle)
    builder = StateGraph(MessagesState).add_node("tools", node)
    if stock:
        builder.add_edge(START, "tools")
    else:
        builder.add_conditional_edges(START, each_call())
    return builder.compile(checkpointer=saver)


def node_graph(saver: Any, node: Callable[..., Any], **options: Any) -> Any:
    """A graph of one node."""
    return (
        StateGraph(MessagesState).add_node("node", node, **options).add_edge(START, "node").compile(checkpointer=saver)
    )


def both(runner: Any, given: Any, mode: str, **options: Any) -> Any:
    """Run it, sync or async."""
    if runner.checkpointer is not None:
        options = {"durability": "sync", **options}
    if mode == "async":
        return asyncio.run(runner.ainvoke(given, ON, **options))
    return runner.invoke(given, ON, **options)


def crashed(runner: Any, given: Any, mode: str = "sync") -> None:
    """Run it until its process is gone."""
    try:
        both(runner, given, mode)
    except Crash:
        return
    raise AssertionError("nothing crashed")


def questions(runner: Any) -> list[Any]:
    """What persons are asked."""
    return list(runner.get_state(ON).interrupts)


def answered(runner: Any, mode: str, say: Callable[[Any], Any]) -> Any:
    """Answer every effect that is in doubt, and go on."""
    answers = {
        question.id: {effect["effect_id"]: say(effect) for effect in question.value["effects"]}
        for question in questions(runner)
    }
    return both(runner, Command(resume=answers), mode)


def results(state: Any) -> list[ToolMessage]:
    """The tool messages of a state."""
    messages: Sequence[Any] = state["messages"]
    return [message for message in messages if isinstance(message, ToolMessage)]


def lambda_node(sync: Callable[..., Any], soon: Callable[..., Any]) -> Any:
    """A node that is both."""
    return RunnableLambda(sync, soon)
