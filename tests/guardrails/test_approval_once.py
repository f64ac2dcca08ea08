"""An approval is of one call, and is carried out by one task: not by its twin, nor again where a thread went back."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from holdfast.checkpointing import Database
from holdfast.nodes import approve_calls_node
from tests.support.approvals import APPROVE, KINDS, LOOK, MAIL, MODES, PAY, Call, Desk

CONFIG: Any = {"configurable": {"thread_id": "t", "actor": "ada"}}


def turn(calls: list[tuple[Call, str | None]]) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": at} for (name, args), at in calls])


def asks(desk: Desk, calls: list[tuple[Call, str | None]]) -> None:
    """A model asks for calls under ids of its own."""
    desk.graph.update_state(CONFIG, {"messages": [HumanMessage("Do it.", id="begin")]}, as_node="__start__")
    desk.graph.update_state(CONFIG, {"messages": [turn(calls)]}, as_node="model")
    desk.run()


def stock(desk: Desk) -> Desk:
    """With LangGraph's own tool node, which journals nothing."""
    node = ToolNode(desk.tools, wrap_tool_call=desk.approval.wrap_tool_call)
    builder = StateGraph(MessagesState).add_node("approve", approve_calls_node(desk.approval)).add_node("tools", node)
    builder.add_edge(START, "approve").add_edge("approve", "tools")
    desk.graph = builder.compile(checkpointer=desk.db.saver)
    return desk


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "calls",
    [
        [(PAY, "c"), (PAY, "c")],
        [(PAY, "c"), (MAIL, "c")],
        [(PAY, "c"), (("pay", {"to": "eve", "usd": 5}), "c")],
        [(PAY, None), (PAY, None)],
        [(PAY, None)],
        [(PAY, ""), (MAIL, "")],
    ],
)
def test_calls_that_cannot_be_told_apart_are_not_made(
    db: Database, kind: str, mode: str, calls: list[tuple[Call, str | None]]
) -> None:
    """A decision on one would be carried out for its twin, or for none; nobody is asked, and the thread goes on."""
    desk = Desk(db, {"pay": "always", "send": "always"}, kind=kind, mode=mode)
    asks(desk, calls)
    assert desk.asked is None
    assert desk.state.next == ()
    assert (desk.done, desk.requests) == ([], [])
    assert {message.status for message in desk.results} == {"error"}


@pytest.mark.parametrize("kind", KINDS)
def test_others_of_the_turn_are_asked_about_all_the_same(db: Database, kind: str) -> None:
    desk = Desk(db, {"pay": "always", "send": "always"}, kind=kind)
    asks(desk, [(PAY, "c"), (PAY, "c"), (MAIL, "d")])
    assert [action["name"] for action in desk.asked["action_requests"]] == ["send"]
    desk.answer(APPROVE)
    assert desk.done == [MAIL]


def test_a_stock_tool_node_does_not_make_them_either(db: Database) -> None:
    """It comes with every call of the turn."""
    desk = stock(Desk(db, {"pay": "always"}, kind="hand-made"))
    desk.run({"messages": [turn([(PAY, "c"), (PAY, "c"), (LOOK, "d")])]})
    assert desk.done == [LOOK]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["replayed", "forked", "rolled back"])
def test_what_was_approved_is_carried_out_once(db: Database, mode: str, how: str) -> None:
    """The thread goes back to where the call was approved and not made yet; the model is told, and may ask anew."""
    desk = Desk(db, {"pay": "always"}, [PAY], mode=mode)
    desk.begin()
    desk.answer(APPROVE)
    assert desk.done == [PAY]
    before = next(state for state in desk.graph.get_state_history(CONFIG) if state.next == ("tools",)).config
    if how == "rolled back":
        db.rollback("t", before["configurable"]["checkpoint_id"])
    elif how == "forked":
        before = desk.graph.update_state(before, None, as_node="ApprovalMiddleware.after_model")
    at: dict[str, Any] = {} if how == "rolled back" else before["configurable"]
    desk.run(None, by="ada", **at)
    assert desk.done == [PAY]
    assert desk.results[0].text.startswith("Not called: what was approved was carried out before")
    assert desk.state.next == ()


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_call_that_failed_is_made_again_by_its_own_task(db: Database, durability: str) -> None:
    """As is one that was killed."""
    desk = stock(Desk(db, {"send": "always"}, kind="hand-made"))
    desk.run({"messages": [turn([(MAIL, "c")])]})
    desk.decide(desk.requests[0])

    def fails(to: str) -> None:
        desk.sent = lambda to: None
        raise ConnectionError(to)

    desk.sent = fails
    with pytest.raises(ConnectionError):
        desk.graph.invoke(None, CONFIG, durability=durability)
    desk.graph.invoke(None, CONFIG, durability=durability)
    assert desk.done == [MAIL, MAIL]
    assert [message.text for message in desk.results] == ["sent to bob@example.com"]
