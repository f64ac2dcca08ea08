"""What one process remembers of a thread does not outlive what another one did to it."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import Database

ON: Any = {"configurable": {"thread_id": "t"}}


def echo(state: MessagesState) -> Any:
    return {"messages": [AIMessage(f"heard {len(state['messages'])}", id=f"a{len(state['messages'])}")]}


def graph(db: Database) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", echo)
    builder.add_edge(START, "echo")
    return builder.compile(checkpointer=db.saver)


def contents(db: Database) -> list[Any]:
    return [message.content for message in graph(db).get_state(ON).values["messages"]]


def test_a_thread_that_another_deleted_begins_anew(db: Database, database_uri: str) -> None:
    graph(db).invoke({"messages": [HumanMessage("one", id="h1")]}, ON)
    with Database.connect(database_uri) as other:
        other.saver.delete_thread("t")
        graph(db).invoke({"messages": [HumanMessage("one", id="h1")]}, ON)
        assert contents(other) == ["one", "heard 1"]
        assert other.verify("t") == []


def test_a_message_that_another_pruned_is_stored_again(db: Database, database_uri: str) -> None:
    first = HumanMessage("one", id="h1")
    graph(db).invoke({"messages": [first]}, ON)
    graph(db).invoke({"messages": [RemoveMessage(id="h1")]}, ON)
    with Database.connect(database_uri) as other:
        other.saver.prune(["t"])
        assert "one" not in contents(other)
        graph(db).get_state(ON)
        graph(db).invoke({"messages": [first]}, ON)
        assert "one" in contents(other)
        assert other.verify("t") == []
