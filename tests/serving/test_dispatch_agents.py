"""Agents behind `ApprovalMiddleware` are run by workers: paused, decided anywhere, gone on with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from holdfast.checkpointing import Database
from holdfast.guardrails import ApprovalMiddleware, JournalMiddleware
from holdfast.serving.dispatch import Dispatcher
from holdfast.serving.registry import Opener
from holdfast.serving.segments import Prepared
from holdfast.serving.worker import Worker
from tests.support.queue_graphs import TABLE, outside
from tests.support.queues import QUICK, approval, at_rest, did, running, until
from tests.support.scripted import ScriptedModel, calling

INPUT = {"messages": [{"role": "user", "content": "pay twice"}]}


@tool
async def pay(what: str) -> str:
    """Pay for something."""
    return f"paid {await outside(what)}"


def agent(kind: str) -> tuple[Any, ScriptedModel]:
    """An agent that pays in two turns, two at once in the first; by itself, or inside of a node."""
    script = [
        calling(("pay", {"what": "a"}), ("pay", {"what": "b"})),
        AIMessage("", tool_calls=[{"name": "pay", "args": {"what": "c"}, "id": "call_c"}]),
        AIMessage("done"),
    ]
    model = ScriptedModel(script=script)
    made: Any = create_agent(model, [pay], middleware=[ApprovalMiddleware({"pay": "always"}), JournalMiddleware()])
    if kind == "agent":
        return made, model
    builder = StateGraph(MessagesState).add_node("inner", made).add_edge(START, "inner").add_edge("inner", END)
    return builder.compile(), model


def opener(graph: Any) -> Opener:
    async def opened(database: Database, thread_id: str, _: Any) -> Prepared:
        config: Any = {"configurable": {"thread_id": thread_id, "graph_id": "agent"}}
        return Prepared(graph=graph.copy({"checkpointer": database.saver}), config=config)

    return opened


@pytest.mark.parametrize("told", [True, False], ids=["enqueued", "overlooked"])
@pytest.mark.parametrize("kind", ["agent", "nested"])
async def test_each_turn_waits_for_all_of_its_decisions_and_is_gone_on_with_once(
    database_uri: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, told: bool
) -> None:
    """Whether who decides enqueues what follows, or a worker has to find it."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    graph, model = agent(kind)
    dispatcher = await Dispatcher.aattach(db)
    await dispatcher.asubmit("agent", INPUT, "t")
    async with Database.open(database_uri) as other, running(Worker(db, {"agent": opener(graph)}, timing=QUICK)):
        by = db if told else other
        for turn in (["a", "b"], ["c"]):
            found = await until(partial(_open, db, len(turn)))
            assert sorted(request.arguments["what"] for request in found) == turn
            await at_rest(db)
            for request in found:
                await by.approvals.adecide(request.request_id, approval(request))
        await until(lambda: _finished(db, graph))
        await at_rest(db)
    assert did(database_uri) == {("t", what): 1 for what in ("a", "b", "c")}
    assert len(model.requests) == 3
    state = await graph.copy({"checkpointer": db.saver}).aget_state({"configurable": {"thread_id": "t"}})
    paid = [message.text for message in state.values["messages"] if isinstance(message, ToolMessage)]
    assert sorted(paid) == ["paid a", "paid b", "paid c"]


async def _open(db: Database, count: int) -> Any:
    found = await db.approvals.afind(thread_id="t")
    return found if len(found) == count else None


async def _finished(db: Database, graph: Any) -> bool:
    state = await graph.copy({"checkpointer": db.saver}).aget_state({"configurable": {"thread_id": "t"}})
    return not state.tasks
