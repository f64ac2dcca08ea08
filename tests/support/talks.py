"""Conversation graphs that use much of LangGraph at once, and what can be seen of their threads.

What a turn does is said by the words of its human message: `send` fans out, `ask` and `inner` wait for an answer,
`change`, `remove` and `again` edit the conversation. Every message has an id that follows from its turn, so that
two threads with the same turns are equal.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, cast

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Interrupt, Send, StateSnapshot, interrupt
from typing_extensions import TypedDict

Ran = Callable[[str], None]
"""Told the name of each node that runs."""


def newest(_: str, written: str) -> str:
    """A reducer that keeps what was written last."""
    return written


def joined(state: Sequence[Any] | None, writes: Sequence[Sequence[Any]]) -> list[Any]:
    """A delta reducer that appends."""
    return [*(state or ()), *(item for write in writes for item in write)]


def added(state: Sequence[Any] | None, writes: Sequence[Any]) -> list[Any]:
    """A delta reducer that does what `add_messages` does."""
    done: Any = list(state or ())
    for write in writes:
        done = add_messages(done, write)
    return cast("list[Any]", done)


class Plain(TypedDict, total=False):
    """The usual reducers."""

    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]
    heard: list[AnyMessage]
    note: Annotated[str, newest]


class Appended(TypedDict, total=False):
    """Messages in a list that only grows."""

    messages: Annotated[list[AnyMessage], operator.add]
    log: Annotated[list[str], operator.add]
    heard: list[AnyMessage]
    note: Annotated[str, newest]


class Delta(TypedDict, total=False):
    """Delta channels, stored in full every few updates."""

    messages: Annotated[list[AnyMessage], DeltaChannel(added, snapshot_frequency=7)]
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]
    heard: list[AnyMessage]
    note: Annotated[str, newest]


class LongDelta(TypedDict, total=False):
    """A delta channel that is never stored in full within a test."""

    messages: Annotated[list[AnyMessage], DeltaChannel(added, snapshot_frequency=10_000)]
    log: Annotated[list[str], operator.add]
    heard: list[AnyMessage]
    note: Annotated[str, newest]


STATES: Final[dict[str, Any]] = {"plain": Plain, "appended": Appended, "delta": Delta, "long delta": LongDelta}


def _nobody(_: str) -> None:
    """Nobody is told."""


def turn_of(state: Any) -> BaseMessage:
    """The newest human message that began a turn."""
    turns = (said for said in reversed(state["messages"]) if (said.id or "").startswith("turn"))
    return next(turns, HumanMessage("", id="no turn"))


def talk(saver: BaseCheckpointSaver[Any] | None, kind: str, ran: Ran = _nobody, *, stateful: bool = False) -> Any:
    """A graph with parallel nodes, a fan-out, a subgraph, interrupts, edits and a node that can be made to fail."""
    schema = STATES[kind]

    def saying(name: str) -> Any:
        def node(state: Any) -> Any:
            ran(name)
            turn = turn_of(state)
            return {"messages": [AIMessage(f"{name} of {turn.content}", id=f"{name} {turn.id}")], "log": [name]}

        return node

    def ask(state: Any) -> Any:
        ran("ask")
        turn = turn_of(state)
        if "ask" not in turn.content:
            return {"log": ["nothing to ask"]}
        answer = interrupt({"about": turn.content, "last": state["messages"][-1]})
        return {"messages": [HumanMessage(str(answer), id=f"answer {turn.id}")], "log": ["ask"]}

    def work(given: Any) -> Any:
        ran(f"work {given['number']}")
        name = f"work {given['number']} {given['message'].id}"
        return {"messages": [AIMessage([{"type": "text", "text": name}], id=name)], "log": [name]}

    def spread(state: Any) -> list[Any]:
        turn = turn_of(state)
        count = 3 if "send" in turn.content else 0
        return ["left", "right", "ask", *(Send("work", {"number": number, "message": turn}) for number in range(count))]

    def end(state: Any, config: RunnableConfig) -> Any:
        ran("end")
        if config.get("configurable", {}).get("fail"):
            raise RuntimeError("as told")
        return {"messages": _edits(kind, state), "log": ["end"]}

    builder = StateGraph(schema)
    for name in ("listen", "left", "right"):
        builder.add_node(name, saying(name))
    builder.add_node("ask", ask).add_node("work", cast("Any", work)).add_node("end", end)
    builder.add_node("sub", _subgraph(schema, ran, stateful=stateful))
    builder.add_edge(START, "listen").add_conditional_edges("listen", spread, ["left", "right", "ask", "work"])
    for name in ("left", "right", "ask", "work"):
        builder.add_edge(name, "sub")
    return builder.add_edge("sub", "end").add_edge("end", END).compile(checkpointer=saver)


def _edits(kind: str, state: Any) -> list[Any]:
    turn, messages = turn_of(state), state["messages"]
    edits: list[Any] = []
    if "again" in turn.content and messages:
        edits += [messages[0], messages[0]]
    if kind != "appended":
        if "change" in turn.content and messages:
            edits.append(AIMessage(f"changed in {turn.id}", id=messages[len(messages) // 2].id))
        if "remove" in turn.content and len(messages) > 3:
            edits.append(RemoveMessage(id=messages[1].id or ""))
    return edits


class _Heard(TypedDict, total=False):
    heard: list[AnyMessage]


def _subgraph(schema: Any, ran: Ran, *, stateful: bool) -> Any:
    def first(state: Any) -> Any:
        ran("first")
        return {"heard": [*(state.get("heard") or ())[-6:], *state["messages"][-2:]]}

    def second(state: Any) -> Any:
        ran("second")
        turn = turn_of(state)
        answer = interrupt("inside?") if "inner" in turn.content else "nothing"
        return {"heard": [*state["heard"], HumanMessage(str(answer), id=f"inner {turn.id}")]}

    builder = StateGraph(schema, output_schema=_Heard).add_node("first", first).add_node("second", second)
    builder.add_edge(START, "first").add_edge("first", "second")
    return builder.compile(checkpointer=True if stateful else None)


def said(number: int, words: str) -> dict[str, Any]:
    """The input of a turn."""
    return {"messages": [HumanMessage(words, id=f"turn {number}")]}


def on(thread: str, **configurable: Any) -> Any:
    """A config for a thread."""
    return {"configurable": {"thread_id": thread, **configurable}}


def seen(graph: Any, config: Any) -> list[Any]:
    """All that a thread's history shows, oldest first, without what differs from run to run."""
    history = list(graph.get_state_history(config))[::-1]
    places = {_id(state.config): place for place, state in enumerate(history)}
    return [
        {**view(state), "step": state.metadata["step"], "source": state.metadata["source"]}
        | {"parent": places[_id(state.parent_config)] if state.parent_config else None}
        for state in history
    ]


def view(state: Any) -> dict[str, Any]:
    """What a snapshot shows of the state, its tasks and their subgraphs."""
    return {
        "values": plain(state.values),
        "next": state.next,
        "tasks": [
            {
                "name": task.name,
                "path": plain(task.path),
                "error": str(task.error) if task.error else None,
                "interrupts": plain(task.interrupts),
                "result": plain(task.result),
                "state": view(task.state) if isinstance(task.state, StateSnapshot) else None,
            }
            for task in state.tasks
        ],
    }


def plain(value: Any) -> Any:
    """A value in which messages are dictionaries, so that a difference can be read."""
    if isinstance(value, BaseMessage):
        return value.model_dump()
    if isinstance(value, Interrupt):
        return {"interrupt": plain(value.value)}
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)  # type: ignore[redundant-cast]
        return {key: plain(item) for key, item in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return value


def _id(config: Any) -> str:
    return str(config["configurable"]["checkpoint_id"])
