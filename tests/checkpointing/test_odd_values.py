"""What providers and callers put into a run that is out of the ordinary is saved all the same."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import Database


class Odd(MessagesState, total=False):
    value: Any


def saved(db: Database, written: dict[str, Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """A state after a node wrote this, as a process loads it that knows nothing."""

    def write(_: Odd) -> dict[str, Any]:
        return written

    builder: Any = StateGraph(Odd)
    graph = builder.add_node("write", write).add_edge(START, "write").compile(checkpointer=db.saver)
    config = {"configurable": {"thread_id": "t"}, "metadata": metadata or {}}
    graph.invoke({"messages": [HumanMessage("hello", id="h")]}, config, durability="sync")
    db.saver.upkeep.memory.forget("t")
    values: dict[str, Any] = graph.get_state(config).values
    return values


def test_a_number_of_tokens_beyond_an_integer_stops_no_run(db: Database) -> None:
    usage: Any = {"input_tokens": 1, "output_tokens": 2**31, "total_tokens": 2**31 + 1}
    said = AIMessage("said", id="said", usage_metadata=usage)
    assert saved(db, {"messages": [said]})["messages"][-1] == said


def test_a_correlation_id_that_postgres_cannot_hold_stops_no_run(db: Database) -> None:
    """The official saver takes the zero byte out of metadata."""
    saved(db, {"value": "x"}, {"correlation_id": "a\x00b"})


@pytest.mark.parametrize(
    "value", [1e300, 1.2345678901234566e25, float(2**60), 1e16, 0.1, 1.5e15, -2.5, 10**15, True, 0]
)
def test_a_number_comes_back_as_it_was(db: Database, value: float) -> None:
    """A float is a float again: jsonb knows decimals only, and 1e300 is no whole number of 301 digits."""
    found = saved(db, {"value": value})["value"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", ["\x00", "a" * 300 + "\x00", "\u2028", float("inf"), float("-inf"), 10**18])
def test_what_jsonb_cannot_hold_comes_back_as_it_was(db: Database, value: Any) -> None:
    assert saved(db, {"value": value})["value"] == value
