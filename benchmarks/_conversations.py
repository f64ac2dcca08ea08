"""The same conversations for everyone: messages made of the sample documents, and the graphs that speak them."""

from __future__ import annotations

import operator
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import (
    _messages_delta_reducer,  # pyright: ignore[reportPrivateUsage] - the one LangGraph has for DeltaChannel
    add_messages,
)
from typing_extensions import TypedDict

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "tidewater-instruments"
SMALLEST, LARGEST = 200, 12 * 1024
"""Characters of a tool's result."""
EVERY = 100
"""`snapshot_frequency` of the DeltaChannel."""

Channel: TypeAlias = Literal["add_messages", "DeltaChannel", "operator.add"]
Script: TypeAlias = Sequence[AnyMessage]


class MessagesState(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def _reduced(state: list[AnyMessage], writes: Sequence[Any]) -> list[AnyMessage]:
    return _messages_delta_reducer(state, list(writes))


class DeltaState(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_reduced, snapshot_frequency=EVERY)]


class AppendState(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]


STATES: dict[Channel, type[Any]] = {
    "add_messages": MessagesState,
    "DeltaChannel": DeltaState,
    "operator.add": AppendState,
}


@cache
def words() -> list[str]:
    """Every word of the text documents in `samples/`, in their order."""
    paths = sorted(path for path in SAMPLES.rglob("*") if path.suffix in {".md", ".txt", ".html"})
    return [word for path in paths for word in path.read_text(encoding="utf-8").split()]


def mixed(chance: random.Random, size: int) -> str:
    """Slices of two to eight words from anywhere in the documents, joined: text of their kind that never recurs."""
    source, slices, length = words(), list[str](), 0
    while length < size:
        at = chance.randrange(len(source) - 8)
        slices.append(" ".join(source[at : at + chance.randint(2, 8)]))
        length += len(slices[-1]) + 1
    return " ".join(slices)[:size]


def script(name: str, supersteps: int) -> Script:
    """A question, and the message of each superstep: calls of a tool and their results in turn."""
    chance = random.Random(name)  # noqa: S311 - it must be the same for everyone
    said: list[AnyMessage] = [HumanMessage(mixed(chance, 300), id=_identity(chance))]
    while len(said) <= supersteps:
        call = f"call_{chance.getrandbits(96):024x}"
        said += [_call(chance, call), _result(chance, call)]
    return said[: supersteps + 1]


def _call(chance: random.Random, call: str) -> AIMessage:
    read, written = chance.randint(1_000, 90_000), chance.randint(40, 400)
    return AIMessage(
        mixed(chance, chance.randint(80, 400)),
        id=f"lc_run--{_identity(chance)}",
        tool_calls=[{"name": "search", "args": {"query": mixed(chance, 60)}, "id": call, "type": "tool_call"}],
        usage_metadata={"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
    )


def _result(chance: random.Random, call: str) -> ToolMessage:
    text = mixed(chance, chance.randint(SMALLEST, LARGEST))
    return ToolMessage(text, tool_call_id=call, name="search", id=_identity(chance))


def _identity(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def information(serde: SerializerProtocol, said: Script) -> int:
    """The bytes of what a run of that script newly stores, with every value stored once.

    The question twice, as the input and as a message; the triggers of the nodes are None and take nothing.
    """
    start = serde.dumps_typed({"messages": [said[0]]})
    return len(start[1]) + sum(len(serde.dumps_typed(message)[1]) for message in said)


def compiled(
    saver: Any,
    channel: Channel,
    scripts: Mapping[str, Script],
    at_step: Callable[[str], object],
    *,
    asynchronous: bool = False,
) -> Any:
    """A model and its tools, which say what the thread's script has for them; `at_step` is called by each first."""

    def speak(state: Any, config: RunnableConfig) -> dict[str, Any]:
        thread = _thread(config)
        at_step(thread)
        return {"messages": [scripts[thread][len(state["messages"])]]}

    async def aspeak(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return speak(state, config)

    def route(state: Any, config: RunnableConfig) -> str:
        return "model" if len(state["messages"]) < len(scripts[_thread(config)]) else END

    builder: Any = StateGraph(STATES[channel])
    for name in ("model", "tools"):
        builder.add_node(name, aspeak if asynchronous else speak)
    builder.add_edge(START, "model").add_edge("model", "tools").add_conditional_edges("tools", route, ["model", END])
    return builder.compile(checkpointer=saver)


def config(thread: str, supersteps: int = 25) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}, "recursion_limit": supersteps + 5}


def _thread(config: RunnableConfig) -> str:
    return str(config.get("configurable", {})["thread_id"])


class Clock:
    """When each superstep of each thread began, and at last when its run had ended."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stamps: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, thread: str) -> None:
        self._stamps[thread].append(self._now())

    def span(self) -> tuple[float, float]:
        """The first and the last stamp of all."""
        every = [stamp for stamps in self._stamps.values() for stamp in stamps]
        return min(every), max(every)

    def durations(self) -> list[float]:
        """Seconds of each superstep: from the start of its node to the start of the next one's."""
        return [later - sooner for stamps in self._stamps.values() for sooner, later in pairwise(stamps)]
