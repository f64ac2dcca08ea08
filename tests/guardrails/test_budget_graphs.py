"""Budgets in a hand-made graph: a node that asks a model, and a tool node whose calls have prices."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from holdfast.checkpointing import Budget, BudgetExceeded, Database
from holdfast.guardrails import BudgetMiddleware, partial_of
from holdfast.nodes import each_call, guarded, tool_node
from tests.support.calls import ON, Crash, both, lambda_node
from tests.support.metered import COST, PRICES, Metered

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
HELLO: dict[str, Any] = {"messages": [("user", "what is the tide")]}
SCOPE = "agent:tide"
LOOK = Decimal("0.10")
TIGHT = Budget(SCOPE, per_run="0.50")
"""A call of the model may cost 0.41, as an answer may have 4,096 tokens: after two tools no other one has room."""
ENOUGH: Any = Budget(SCOPE, per_run=9)
RAISED: dict[str, Any] = {"type": "retry"}


def calling(*queries: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "look", "args": {"at": at}, "id": f"call_{at}"} for at in queries])


class Tide:
    """A graph of a model and a tool, which counts who is called."""

    def __init__(self, db: Database, *limits: Budget, crash: str | None = None, **choices: Any) -> None:
        self.looked: list[str] = []
        self.model = Metered(script=[calling("a", "b"), AIMessage("high")])
        self.budget = BudgetMiddleware(limits or [Budget(SCOPE)], prices=PRICES, **choices)
        self.db = db

        @tool
        def look(at: str) -> str:
            """Look at a gauge."""
            self.looked.append(at)
            if at == crash and self.looked.count(at) == 1:
                raise Crash
            return f"{at} is high"

        look.metadata = {"price_usd": LOOK, "readOnlyHint": True}

        def ask(state: MessagesState) -> Any:
            messages = state["messages"]
            return {"messages": [self.budget.ask(self.model, lambda model: model.invoke(messages), messages)]}

        async def asoon(state: MessagesState) -> Any:
            messages = state["messages"]
            return {"messages": [await self.budget.aask(self.model, lambda model: model.ainvoke(messages), messages)]}

        builder = StateGraph(MessagesState)
        builder.add_node("model", lambda_node(ask, asoon)).add_node("tools", tool_node([look], around=[self.budget]))
        builder.add_edge(START, "model").add_conditional_edges("model", each_call()).add_edge("tools", "model")
        self.graph: Any = builder.compile(checkpointer=db.saver)

    def run(self, given: Any, mode: str) -> list[Any]:
        messages: list[Any] = both(self.graph, given, mode)["messages"]
        return messages

    @property
    def asked(self) -> int:
        return len(self.model.asked)

    @property
    def waits_for(self) -> list[Any]:
        return [question.value for question in self.graph.get_state(ON).interrupts]


def spent(db: Database) -> Decimal:
    """What is charged to the scope today; nothing of it is reserved any more."""
    (day,) = db.ledger.windows(SCOPE, unit="usd", window="day")
    assert day.reserved == 0
    return day.spent


@MODES
def test_models_and_tools_are_paid_for_and_told_by_node(mode: str, db: Database) -> None:
    tide = Tide(db)
    assert tide.run(HELLO, mode)[-1].text == "high"
    assert spent(db) == 2 * COST + 2 * LOOK
    costs = {line.key: line.cost for line in db.costs.report("node")}
    assert costs == {"model": 2 * COST, "tools": 2 * LOOK}


@MODES
def test_error_keeps_what_was_done_and_the_raised_limit_lets_it_go_on(mode: str, db: Database) -> None:
    tide = Tide(db, TIGHT)
    for given in (HELLO, None):  # a resume alone changes nothing
        with pytest.raises(BudgetExceeded, match="are left in this run; it was not made"):
            tide.run(given, mode)
    assert (tide.asked, sorted(tide.looked)) == (1, ["a", "b"])
    db.ledger.set(ENOUGH, by="ada")
    assert tide.run(None, mode)[-1].text == "high"
    assert (tide.asked, sorted(tide.looked)) == (2, ["a", "b"])
    assert spent(db) == 2 * COST + 2 * LOOK


@MODES
def test_end_is_a_last_answer_and_the_thread_can_be_asked_again(mode: str, db: Database) -> None:
    tide = Tide(db, TIGHT, on_exceeded="end")
    found = tide.run(HELLO, mode)
    assert [message.type for message in found] == ["human", "ai", "tool", "tool", "ai"]
    assert found[-1].text.startswith("I have to stop here, before this is finished:")
    assert "look \u00d72" in found[-1].text
    assert "what is the tide" in found[-1].text
    assert partial_of(found)
    db.ledger.set(ENOUGH, by="ada")
    assert tide.run({"messages": [("user", "go on")]}, mode)[-1].text == "high"
    assert sorted(tide.looked) == ["a", "b"]


@MODES
def test_interrupt_waits_for_a_person_at_the_model(mode: str, db: Database) -> None:
    tide = Tide(db, TIGHT, on_exceeded="interrupt")
    tide.run(HELLO, mode)
    (question,) = tide.waits_for
    assert (question["type"], question["scope"], question["window"]) == ("budget_exceeded", SCOPE, "run")
    tide.run(Command(resume=RAISED), mode)
    assert tide.waits_for == [question]  # nobody has raised it
    db.ledger.set(ENOUGH, by="ada")
    assert tide.run(Command(resume=RAISED), mode)[-1].text == "high"
    assert (tide.asked, sorted(tide.looked)) == (2, ["a", "b"])
    assert spent(db) == 2 * COST + 2 * LOOK


@MODES
def test_interrupt_waits_for_a_person_at_each_tool_call_alone(mode: str, db: Database) -> None:
    tide = Tide(db, TIGHT, on_exceeded="interrupt")
    tide.budget = BudgetMiddleware([], prices=PRICES)  # the model's calls are not limited
    db.ledger.set(Budget(SCOPE, per_run="0.15"), by="ada")
    tide.run(HELLO, mode)
    assert len(tide.looked) == 1  # one of the two fitted, and is done
    (question,) = tide.waits_for
    assert question["short"] == "0.05"
    tide.run(Command(resume={"type": "end"}), mode)
    messages = tide.graph.get_state(ON).values["messages"]
    refused = [message for message in messages if isinstance(message, ToolMessage) and message.status == "error"]
    assert [message.text.startswith("Not called: ") for message in refused] == [True]
    assert messages[-1].text == "high"
    assert len(tide.looked) == 1


@MODES
def test_downgrade_asks_a_cheaper_model(mode: str, db: Database) -> None:
    cheap = Metered(model="cheap", script=[AIMessage("low")])
    tide = Tide(db, TIGHT, on_exceeded="downgrade", cheaper=[cheap])
    assert tide.run(HELLO, mode)[-1].text == "low"
    assert (tide.asked, len(cheap.asked)) == (1, 1)
    assert {line.key: line.cost for line in db.costs.report("model")} == {
        "metered": COST, "cheap": Decimal("0.00011"), None: 2 * LOOK,
    }  # fmt: skip


@MODES
def test_a_crash_in_one_tool_call_pays_for_the_others_once(mode: str, db: Database) -> None:
    """What the call that was under way did cost, nobody knows: it counts, until somebody says it."""
    tide = Tide(db, crash="b")
    with pytest.raises(Crash):
        tide.run(HELLO, mode)
    assert tide.run(None, mode)[-1].text == "high"
    assert (tide.asked, sorted(tide.looked)) == (2, ["a", "b", "b"])
    assert spent(db) == 2 * COST + 3 * LOOK
    (presumed,) = db.ledger.outstanding()
    assert db.ledger.resolve(presumed.reservation_id, usd=None, by="ada")
    assert spent(db) == 2 * COST + 2 * LOOK == sum(line.cost for line in db.costs.report("node"))


@MODES
def test_a_guarded_model_is_paid_for_and_its_replays_are_free(mode: str, db: Database) -> None:
    model, runs = Metered(script=[AIMessage("high")]), 0
    budget = BudgetMiddleware([Budget(SCOPE, per_call="0.50")], prices=PRICES, on_exceeded="end")
    asked = guarded(model, budget=budget)

    def crash() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise Crash

    def ask(state: MessagesState) -> Any:
        answer = asked.bind_tools([]).invoke(state["messages"])
        crash()
        return {"messages": [answer]}

    async def asoon(state: MessagesState) -> Any:
        answer = await asked.bind_tools([]).ainvoke(state["messages"])
        await asyncio.sleep(0)
        crash()
        return {"messages": [answer]}

    builder = StateGraph(MessagesState).add_node("node", lambda_node(ask, asoon)).add_edge(START, "node")
    graph = builder.compile(checkpointer=db.saver)
    with pytest.raises(Crash):
        both(graph, HELLO, mode)
    assert both(graph, None, mode)["messages"][-1].text == "high"
    assert len(model.asked) == 1
    assert spent(db) == COST
    db.ledger.set(Budget(SCOPE, per_call="0.01"), by="ada")
    with pytest.raises(BudgetExceeded):
        both(graph, {"messages": [("user", "again")]}, mode)
