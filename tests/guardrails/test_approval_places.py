"""Where approvals are asked for: beside each other, within others, and in threads that went on."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from holdfast.checkpointing import Database, NotResumable
from holdfast.checkpointing.requests import STATES
from holdfast.guardrails import ApprovalMiddleware
from holdfast.nodes import approve_calls_node
from tests.support.approvals import APPROVE, LOOK, MAIL, MODES, PAY, Asks, Desk

CONFIG: Any = {"configurable": {"thread_id": "t", "actor": "ada"}}
GO: Any = {"messages": [HumanMessage("Do it.", id="begin")]}


def test_agents_beside_each_other_are_answered_each_by_its_own(db: Database) -> None:
    """One answer for both, by the interrupts' ids; one of them refused, the other goes on."""
    done: list[str] = []

    def send(to: str, text: str = "") -> str:
        """Send a message."""
        done.append(to)
        return f"sent to {to}"

    builder = StateGraph(MessagesState)
    for name in ("left", "right"):
        model = Asks(turns=[[("send", {"to": name})]])
        agent: Any = create_agent(model, [send], middleware=[ApprovalMiddleware({"send": "always"})])
        builder.add_node(name, agent)
        builder.add_edge(START, name)
    graph: Any = builder.compile(checkpointer=db.saver)
    graph.invoke(GO, CONFIG)
    by_name = {one.value["action_requests"][0]["args"]["to"]: one.id for one in graph.get_state(CONFIG).interrupts}
    graph.invoke(Command(resume={by_name["left"]: APPROVE, by_name["right"]: {"type": "maybe"}}), CONFIG)
    assert done == ["left"]
    (waiting,) = graph.get_state(CONFIG).interrupts
    assert waiting.id == by_name["right"]
    graph.invoke(Command(resume={"decisions": [{"type": "reject"}]}), CONFIG)
    assert done == ["left"]
    states = {one.arguments["to"]: one.state for one in db.approvals.find(thread_id="t", states=STATES)}
    assert states == {"left": "approved", "right": "rejected"}


@pytest.mark.parametrize("mode", MODES)
def test_a_stock_tool_node_makes_only_what_was_approved(db: Database, mode: str) -> None:
    """It comes with every call of the turn, those that were answered too: these stay answered."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL, PAY, LOOK], kind="hand-made", mode=mode)
    node = ToolNode(
        desk.tools, wrap_tool_call=desk.approval.wrap_tool_call, awrap_tool_call=desk.approval.awrap_tool_call
    )
    builder = StateGraph(MessagesState).add_node("approve", approve_calls_node(desk.approval)).add_node("tools", node)
    builder.add_edge(START, "approve").add_edge("approve", "tools")
    desk.graph = builder.compile(checkpointer=db.saver)
    asking = desk.model.invoke([HumanMessage("x")])
    desk.run({"messages": [HumanMessage("Do it.", id="begin"), asking]})
    desk.answer({"decisions": [{"type": "reject", "message": "No."}, APPROVE]})
    assert sorted(desk.done) == [LOOK, PAY]
    assert [message.text for message in desk.results if message.name == "send"] == [
        "Not called: ada rejected this call. The reason: No."
    ]


def test_what_a_thread_asked_before_it_went_on_is_taken_back(db: Database) -> None:
    """Somebody gave the waiting thread something else to do; the inbox does not keep what nobody waits for."""
    desk = Desk(db, {"send": "always"}, [MAIL], [MAIL])
    desk.begin()
    desk.run({"messages": [HumanMessage("Something else.")]}, by="cy")
    assert [(request.state, request.decided_by) for request in desk.requests] == [
        ("withdrawn", "cy"),
        ("waiting", None),
    ]
    assert desk.requests[0].message == "the thread went on without an answer"
    desk.answer(APPROVE)
    assert desk.done == [MAIL]


def test_nothing_is_held_while_somebody_is_asked(db: Database, database_uri: str) -> None:
    """No lock and no transaction, and another process may go on with the thread at once."""
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    with psycopg.connect(database_uri) as connection:
        held = connection.execute(
            "SELECT a.state, l.mode FROM pg_stat_activity AS a LEFT JOIN pg_locks AS l USING (pid)"
            " WHERE a.datname = current_database() AND a.application_name = 'holdfast'"
            " AND (l.pid IS NOT NULL OR a.state <> 'idle')"
        ).fetchall()
    assert held == []
    with Database.connect(database_uri) as other:
        elsewhere = Desk(other, {"send": "always"}, [MAIL])
        elsewhere.answer(APPROVE)
        assert elsewhere.done == [MAIL]


@pytest.mark.parametrize("mode", MODES)
def test_what_a_crash_would_lose_is_not_asked(db: Database, mode: str) -> None:
    """Under `durability="exit"` a request could not be found again."""
    desk = Desk(db, {"send": "always"}, [MAIL], mode=mode)
    middleware = [desk.approval]
    graph: Any = create_agent(desk.model, desk.tools, middleware=middleware, checkpointer=db.saver)
    with pytest.raises(NotResumable):
        graph.invoke(GO, CONFIG, durability="exit")
    assert desk.requests == []


def test_what_is_asked_is_json(db: Database) -> None:
    """Approval UIs get it over HTTP."""
    desk = Desk(db, {"send": "always"}, [MAIL])
    assert json.loads(json.dumps(desk.begin())) == desk.asked
