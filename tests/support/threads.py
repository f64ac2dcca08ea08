"""Threads with something of everything in them, for tests of what is stored."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, MessagesState, StateGraph, add_messages
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import Database, HoldfastSaver

THREAD: Final = "the thread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread that was run, the graph that ran it, and its delta channels."""

    graph: Any
    deltas: Sequence[str] = ()

    def on(self, checkpoint_id: str | None = None, ns: str = "") -> Any:
        chosen = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
        return {"configurable": {"thread_id": THREAD, "checkpoint_ns": ns, **chosen}}


Build = Callable[[HoldfastSaver], Thread]


class Agent(MessagesState, total=False):
    short: str
    long: str
    number: int
    large: float
    tenth: float
    flag: bool
    plain: dict[str, Any]
    nested: dict[str, Any]
    sends: list[Send]
    done: Annotated[list[str], operator.add]


class Inner(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    inside: int


def finished(saver: HoldfastSaver) -> Thread:
    """A thread of an agent with tools, Sends and a subgraph, run twice to its end."""

    def model(state: Agent) -> dict[str, Any]:
        number = len(state["messages"])
        call = {"name": "look", "args": {"at": number}, "id": f"call {number}"}
        usage: Any = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
        return {"messages": [AIMessage("", id=f"m{number}", tool_calls=[call], usage_metadata=usage)]}

    def tools(state: Agent) -> dict[str, Any]:
        number = len(state["messages"])
        seen = ToolMessage("seen", id=f"m{number}", tool_call_id=f"call {number - 1}", artifact={"raw": [1, 2.5]})
        note = HumanMessage([{"type": "text", "text": "kept \u00e9\U0001f600"}], id="kept")
        return {
            "messages": [seen],
            "short": "short",
            "long": "long " * 100,
            "number": number,
            "large": 1e16,
            "tenth": 0.1,
            "flag": True,
            "plain": {"a": [1, None, 2.5], "b": {"c": "d"}},
            "nested": {"notes": [note, note], "deeper": ({"one": seen}, [])},
            "sends": [Send("work", {"messages": [note], "n": 1}), Send("work", 2)],
        }

    def spread(state: Agent) -> list[Send]:
        return [Send("work", {"given": HumanMessage(f"do {n}", id=f"do {n}")}) for n in range(2)]

    def work(given: Any) -> dict[str, Any]:
        return {"done": [given["given"].content], "messages": [AIMessage("done", id=f"done {given['given'].id}")]}

    def think(_: Inner) -> dict[str, Any]:
        return {"inside": 1}

    def say(_: Inner) -> dict[str, Any]:
        return {"messages": [AIMessage("said", id="said")]}

    inner: Any = StateGraph(Inner)
    inner = inner.add_node("think", think).add_edge(START, "think")
    inner = inner.add_node("say", say).add_edge("think", "say")
    builder: Any = StateGraph(Agent)
    builder.add_node("model", model).add_node("tools", tools)
    builder.add_node("work", work).add_node("sub", inner.compile())
    builder.add_edge(START, "model").add_edge("model", "tools").add_conditional_edges("tools", spread, ["work"])
    graph: Any = builder.add_edge("work", "sub").compile(checkpointer=saver)
    thread = Thread(graph=graph)
    said = SystemMessage("be good", id="s"), HumanMessage("hello", id="h")
    graph.invoke({"messages": list(said)}, thread.on(), durability="sync")
    graph.invoke({"messages": [HumanMessage("again", id="h2")]}, thread.on(), durability="sync")
    return thread


def waiting(saver: HoldfastSaver) -> Thread:
    """A thread that waits at an interrupt, with siblings that have finished."""

    def ask(_: Agent) -> dict[str, Any]:
        return {"short": interrupt({"question": "go on?"})}

    def said(name: str) -> Callable[[Agent], dict[str, Any]]:
        return lambda _: {"messages": [AIMessage(name, id=name)], "done": [name]}

    builder: Any = StateGraph(Agent)
    builder.add_node("begin", said("begin")).add_node("ask", ask).add_edge(START, "begin")
    for name in ("first", "second"):
        builder.add_node(name, said(name)).add_edge("begin", name)
    graph: Any = builder.add_edge("begin", "ask").compile(checkpointer=saver)
    thread = Thread(graph=graph)
    graph.invoke({"messages": [HumanMessage("hello", id="h")]}, thread.on(), durability="sync")
    return thread


def _joined(state: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    return [*state, *(item for write in writes for item in write)]


class Deltas(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(_joined, snapshot_frequency=3)]
    notes: Annotated[list[str], DeltaChannel(_joined, snapshot_frequency=5)]
    turn: int


def delta(saver: HoldfastSaver) -> Thread:
    """A thread whose channels are stored as what was written to them, with a full copy now and then."""

    def step(name: str) -> Callable[[Deltas], dict[str, Any]]:
        def node(state: Deltas) -> dict[str, Any]:
            number = len(state.get("messages", []))
            said = AIMessage(name, id=f"m{number}")
            return {"messages": [said], "notes": [f"{name} {number}"], "turn": number}

        return node

    builder: Any = StateGraph(Deltas)
    names = ("a", "b", "c")
    for name, before in zip(names, (START, *names), strict=False):
        builder.add_node(name, step(name)).add_edge(before, name)
    graph: Any = builder.compile(checkpointer=saver)
    thread = Thread(graph=graph, deltas=("messages", "notes"))
    for turn in range(3):
        given: Any = {"messages": [HumanMessage("hello", id=f"h{turn}")], "notes": [f"turn {turn}"]}
        graph.invoke(given, thread.on(), durability="sync")
    return thread


def observations(db: Database, thread: Thread) -> dict[str, Callable[[], Any]]:
    """Everything that can be loaded of a thread, by what it is called: each loads it anew, with no memory."""
    saver = db.saver

    def fresh(load: Callable[[], Any]) -> Callable[[], Any]:
        def loaded() -> Any:
            saver.upkeep.memory.forget(THREAD)
            return load()

        return loaded

    everything = {"configurable": {"thread_id": THREAD}}
    configs: list[Any] = [known.config for known in saver.list(cast("Any", everything))]
    found: dict[str, Callable[[], Any]] = {
        "list": lambda: list(saver.list(cast("Any", everything))),
        "state": partial(thread.graph.get_state, thread.on(), subgraphs=True),
        "history": lambda: list(thread.graph.get_state_history(thread.on())),
    }
    for namespace in {config["configurable"]["checkpoint_ns"] for config in configs}:
        found[f"newest in {namespace!r}"] = partial(saver.get_tuple, thread.on(ns=namespace))
    for config in configs:
        name = config["configurable"]["checkpoint_id"]
        found[name] = partial(saver.get_tuple, config)
        if thread.deltas:
            history = partial(saver.get_delta_channel_history, config=config, channels=thread.deltas)
            found[f"deltas of {name}"] = history
    return {name: fresh(load) for name, load in found.items()}
