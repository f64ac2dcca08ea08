"""Budgets: a call is made only if the most that it can cost is left."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from holdfast.checkpointing import Budget, BudgetExceeded, Charge, Database, InvalidBudget, Wanted
from holdfast.guardrails import (
    AlertDesk,
    BudgetAlert,
    BudgetMiddleware,
    BudgetNeedsLedger,
    JournalMiddleware,
    UnknownScope,
    UnpricedModel,
    partial_of,
)
from holdfast.guardrails.runway import runway_of
from tests.support.calls import ON, Crash, crashed, node_graph
from tests.support.metered import COST, PRICES, Metered, MeteredStream

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
JOURNALS = pytest.mark.parametrize("journal", [True, False], ids=["journal", "bare"])
HELLO: dict[str, Any] = {"messages": [("user", "what is the tide")]}
SCOPE = "tenant:acme"


def agent(
    db: Database | None, model: Any, budget: BudgetMiddleware, *tools: Any, journal: bool = True, **more: Any
) -> Any:
    """An agent that pays."""
    middleware = [budget, *([JournalMiddleware()] if journal else [])]
    saver = db.saver if db is not None else InMemorySaver()
    return create_agent(model, list(tools), middleware=middleware, checkpointer=saver, **more)


def run(runner: Any, given: Any, mode: str, **more: Any) -> Any:
    if mode == "async":
        return asyncio.run(runner.ainvoke(given, ON, durability="sync", **more))
    return runner.invoke(given, ON, durability="sync", **more)


def spent(db: Database, window: Any = "day") -> tuple[Decimal, Decimal]:
    """What is spent and reserved today."""
    found = db.ledger.windows(SCOPE, unit="usd", window=window)
    return sum((each.spent for each in found), Decimal(0)), sum((each.reserved for each in found), Decimal(0))


def told(db: Database) -> list[tuple[str, Decimal | None]]:
    return [(event.kind, event.cost) for event in db.audit.read(thread_id="t") if event.cost is not None]


def searching(number: int) -> AIMessage:
    calls = [{"name": "search", "args": {"query": f"q{one}"}, "id": f"call_{one}"} for one in range(number)]
    return AIMessage("", tool_calls=calls)


@tool
def search(query: str) -> str:
    """Look it up."""
    return f"found {query}"


@MODES
@JOURNALS
def test_what_a_call_cost_is_settled_and_told(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[searching(1), AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, daily=1)], prices=PRICES)
    found = run(agent(db, model, budget, search, journal=journal), HELLO, mode)
    assert found["messages"][-1].text == "high"
    db.journal.close()  # what was handed over is written
    assert spent(db) == (2 * COST, 0)
    kind = "model.answered" if journal else "model.charged"
    assert told(db) == [(kind, COST), (kind, COST)]
    assert db.ledger.outstanding() == []
    assert model.asked[0]["max_tokens"] == 4096  # the cap that was priced is the one that holds


@MODES
@JOURNALS
def test_a_call_that_would_exceed_is_not_made(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[AIMessage("high")])
    runner = agent(db, model, BudgetMiddleware([Budget(SCOPE, daily="0.10")], prices=PRICES), journal=journal)
    with pytest.raises(BudgetExceeded, match="holdfast budget set tenant:acme --daily") as error:
        run(runner, HELLO, mode)
    assert error.value.window == "day"
    assert error.value.short > 0
    assert model.asked == []
    assert spent(db) == (0, 0)
    db.ledger.set(Budget(SCOPE, daily=5), by="ada")
    found = run(runner, None, mode)  # raising the limit lets the run go on
    assert found["messages"][-1].text == "high"


@MODES
def test_what_is_answered_from_the_record_is_free(mode: str, db: Database) -> None:
    model, runs = Metered(script=[AIMessage("high")]), 0
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.50")], prices=PRICES)

    def node(state: MessagesState) -> Any:
        nonlocal runs
        runs += 1
        answer = budget.ask(model, lambda model: model.invoke(state["messages"]))
        if runs == 1:
            raise Crash
        return {"messages": [answer]}

    runner = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(checkpointer=db.saver)
    with pytest.raises(Crash):
        run(runner, HELLO, "sync")
    db.ledger.set(Budget(SCOPE, daily="0.003"), by="ada")
    found = run(runner, None, "sync")
    assert found["messages"][-1].text == "high"
    assert len(model.asked) == 1
    assert spent(db) == (COST, 0)


@MODES
def test_a_cheaper_answer_is_not_asked_for_again_of_the_dear_model(mode: str, db: Database) -> None:
    """Killed after the cheap model answered; when it is resumed there would be money for the dear one."""
    dear, cheap = Metered(script=[AIMessage("dear")]), Metered(model="cheap", script=[AIMessage("cheap")])
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.10")], prices=PRICES, on_exceeded="downgrade", cheaper=[cheap])
    runs = 0

    def after(answer: AIMessage) -> Any:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise Crash
        return {"messages": [answer]}

    def node(state: MessagesState) -> Any:
        return after(budget.ask(dear, lambda model: model.invoke(state["messages"])))

    async def anode(state: MessagesState) -> Any:
        return after(await budget.aask(dear, lambda model: model.ainvoke(state["messages"])))

    runner = node_graph(db.saver, anode if mode == "async" else node)
    crashed(runner, HELLO, mode)
    db.ledger.set(Budget(SCOPE, daily=5), by="ada")
    assert run(runner, None, mode)["messages"][-1].text == "cheap"
    assert (len(dear.asked), len(cheap.asked)) == (0, 1)
    assert spent(db) == (Decimal("0.00011"), 0)


def test_what_a_dead_worker_had_reserved_counts_as_spent(db: Database) -> None:
    """Nobody knows whether the provider served it; the events' sum is what was spent all the same."""
    model = Metered(script=[AIMessage("high")], error=Crash())
    runner = agent(db, model, BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES))
    crashed(runner, HELLO)
    (held,) = db.ledger.outstanding()
    assert held.state == "held"
    assert spent(db) == (0, held.usd)
    model.error = None
    run(runner, None, "sync")
    assert spent(db) == (held.usd + COST, 0)
    assert sum(cost for _, cost in told(db) if cost) == held.usd + COST
    (presumed,) = db.ledger.outstanding()
    assert db.ledger.resolve(presumed.reservation_id, usd=None)  # the provider knows nothing of it
    assert spent(db) == (COST, 0)
    assert sum(cost for _, cost in told(db) if cost) == COST


@MODES
@JOURNALS
def test_end_says_what_is_done_and_what_is_not(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[searching(2), AIMessage("never said")])
    budget = BudgetMiddleware([Budget(SCOPE, per_run="0.4140")], prices=PRICES, on_exceeded="end")
    runner = agent(db, model, budget, search, journal=journal)
    found = run(runner, HELLO, mode)
    last = found["messages"][-1]
    assert len(model.asked) == 1
    assert partial_of(found["messages"])
    assert "search \u00d72" in last.text
    assert "what is the tide" in last.text
    assert "in this run" in last.text
    assert [message.type for message in found["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    db.ledger.set(Budget(SCOPE, per_run=5), by="ada")
    more = run(runner, {"messages": [("user", "go on")]}, mode)
    assert more["messages"][-1].text == "never said"


@MODES
@JOURNALS
def test_interrupt_lets_a_person_raise_the_limit(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[searching(1), AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, per_run="0.4140")], prices=PRICES, on_exceeded="interrupt")
    runner = agent(db, model, budget, search, journal=journal)
    found = run(runner, HELLO, mode)
    (asked,) = found["__interrupt__"]
    assert asked.value["type"] == "budget_exceeded"
    assert asked.value["scope"] == SCOPE
    again = run(runner, Command(resume={"type": "retry"}), mode)  # nobody raised it
    assert again["__interrupt__"][0].value["short"] == asked.value["short"]
    db.ledger.set(Budget(SCOPE, per_run=5), by="ada")
    done = run(runner, Command(resume={"type": "retry"}), mode)
    assert done["messages"][-1].text == "high"
    assert len(model.asked) == 2


@MODES
def test_interrupt_can_be_answered_with_an_end(mode: str, db: Database) -> None:
    model = Metered(script=[AIMessage("never said")])
    budget = BudgetMiddleware([Budget(SCOPE, per_call="0.01")], prices=PRICES, on_exceeded="interrupt")
    runner = agent(db, model, budget)
    run(runner, HELLO, mode)
    found = run(runner, Command(resume={"type": "end"}), mode)
    assert partial_of(found["messages"])
    assert model.asked == []


@MODES
@JOURNALS
def test_downgrade_calls_a_cheaper_model(mode: str, journal: bool, db: Database) -> None:
    dear, cheap = Metered(script=[AIMessage("dear")]), Metered(model="cheap", script=[AIMessage("cheap")])
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.10")], prices=PRICES, on_exceeded="downgrade", cheaper=[cheap])
    found = run(agent(db, dear, budget, journal=journal), HELLO, mode)
    assert found["messages"][-1].text == "cheap"
    assert (len(dear.asked), len(cheap.asked)) == (0, 1)
    db.journal.close()
    assert spent(db) == (Decimal("0.00011"), 0)


def test_an_agent_that_owes_a_typed_answer_cannot_make_one_up(db: Database) -> None:
    class Tide(BaseModel):
        metres: float

    model = Metered(script=[AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.10")], prices=PRICES, on_exceeded="end")
    with pytest.raises(BudgetExceeded):
        run(agent(db, model, budget, response_format=ToolStrategy(Tide)), HELLO, "sync")


@MODES
@JOURNALS
def test_tools_with_a_price_are_paid_for(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[searching(3), AIMessage("high")])
    budget = BudgetMiddleware(
        [Budget(SCOPE, daily=2)],
        prices=PRICES,
        tool_prices={"search": lambda args: Decimal("0.01") if args["query"] == "q0" else Decimal("0.02")},
    )
    run(agent(db, model, budget, search, journal=journal), HELLO, mode)
    db.journal.close()
    assert spent(db) == (2 * COST + Decimal("0.05"), 0)
    assert sum(cost for kind, cost in told(db) if kind.startswith("tool.") and cost) == Decimal("0.05")


@MODES
@JOURNALS
def test_a_tool_that_would_exceed_is_not_called_and_the_model_is_told(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[searching(1), AIMessage("high")])
    budget = BudgetMiddleware(
        [Budget(SCOPE, per_call="0.5")], prices=PRICES, tool_prices={"search": Decimal(1)}, on_exceeded="end"
    )
    found = run(agent(db, model, budget, search, journal=journal), HELLO, mode)
    assert found["messages"][2].status == "error"
    assert "Not called" in found["messages"][2].text
    assert found["messages"][-1].text == "high"
    strict = BudgetMiddleware([Budget(SCOPE, per_call="0.5")], prices=PRICES, tool_prices={"search": Decimal(1)})
    with pytest.raises(BudgetExceeded):
        run(agent(db, Metered(script=[searching(1)]), strict, search, journal=journal), HELLO, mode)


@MODES
@JOURNALS
def test_calls_inside_tools_are_found_charged_and_flagged(mode: str, journal: bool, db: Database) -> None:
    inside = Metered(script=[AIMessage("inner")])

    @tool
    def think(query: str) -> str:
        """Think."""
        return inside.invoke(query).text

    asks = AIMessage("", tool_calls=[{"name": "think", "args": {"query": "q"}, "id": "c"}])
    model = Metered(script=[asks, AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    run(agent(db, model, budget, think, journal=journal), HELLO, mode)
    db.journal.close()
    assert len(inside.asked) == 1
    assert spent(db) == (3 * COST, 0)
    (found,) = [event for event in db.audit.read(thread_id="t") if event.details.get("cost", {}).get("unseen")]
    assert found.details["cost"]["tool"] == "think"
    assert found.cost == COST
    (line,) = [line for line in db.costs.report("tool") if line.key == "think"]
    assert line.cost == COST


@MODES
@JOURNALS
def test_a_stream_settles_however_it_ends(mode: str, journal: bool, db: Database) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=9)], prices=PRICES)

    def first(model: Any) -> Any:
        return AIMessage(next(iter(model.stream("hello"))).text)  # and wants no more

    def streamed(model: Any, take: Any) -> Any:
        def node(state: MessagesState) -> Any:
            return {"messages": [budget.ask(model, take)]}

        async def anode(state: MessagesState) -> Any:
            return {"messages": [await asyncio.to_thread(budget.ask, model, take)]}

        return StateGraph(MessagesState).add_node("node", anode if mode == "async" else node).add_edge(START, "node")

    run(streamed(MeteredStream(script=[]), every).compile(checkpointer=db.saver), HELLO, mode)
    db.journal.close()
    assert spent(db) == (COST, 0)
    run(streamed(MeteredStream(script=[]), first).compile(checkpointer=db.saver), HELLO, mode)
    gc.collect()
    db.journal.close()
    presumed, reserved = spent(db)
    assert reserved == 0
    assert presumed > COST * 2  # what it may have cost
    with pytest.raises(ConnectionResetError):
        run(streamed(MeteredStream(script=[], breaks=True), every).compile(checkpointer=db.saver), HELLO, mode)
    db.journal.close()
    assert spent(db)[1] == 0
    assert sum(cost for _, cost in told(db) if cost) == spent(db)[0]


def every(model: Any) -> Any:
    return AIMessage("".join(chunk.text for chunk in model.stream("hi")))


@MODES
@JOURNALS
def test_a_provider_that_reports_more_is_charged_and_flagged_and_learned_from(
    mode: str, journal: bool, db: Database
) -> None:
    usage: Any = {"input_tokens": 90_000, "output_tokens": 10, "total_tokens": 90_010}
    model = Metered(script=[AIMessage("high")], usage=usage)
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.60")], prices=PRICES)
    runner = agent(db, model, budget, journal=journal)
    run(runner, HELLO, mode)
    db.journal.close()
    assert spent(db) == (Decimal("0.901"), 0)
    (found,) = [event for event in db.audit.read(thread_id="t") if event.cost]
    assert found.details["cost"]["over"]
    db.ledger.set(Budget(SCOPE, daily=2), by="ada")
    with pytest.raises(BudgetExceeded) as error:  # now it is believed capable of it
        run(runner, {"messages": [("user", "more")]}, mode)
    assert error.value.needed > Decimal("0.9")


@MODES
def test_an_answer_without_usage_costs_what_was_reserved(mode: str, db: Database) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    run(agent(db, Metered(script=[AIMessage("high")], usage=None), budget), HELLO, mode)
    assert spent(db)[0] > Decimal("0.4")
    (found,) = [event for event in db.audit.read(thread_id="t") if event.cost]
    assert found.details["cost"]["estimated"]


class Refused(Exception):
    status_code = 429


@MODES
@JOURNALS
def test_what_a_provider_refused_costs_nothing_and_what_is_unknown_counts(
    mode: str, journal: bool, db: Database
) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    with pytest.raises(Refused):
        run(agent(db, Metered(script=[], error=Refused()), budget, journal=journal), HELLO, mode)
    db.journal.close()
    assert spent(db) == (0, 0)
    with pytest.raises(TimeoutError):
        run(agent(db, Metered(script=[], error=TimeoutError()), budget, journal=journal), HELLO, mode)
    db.journal.close()
    assert spent(db)[0] > Decimal("0.4")
    assert spent(db)[1] == 0
    assert sum(cost for _, cost in told(db) if cost) == spent(db)[0]


def test_a_model_without_a_price_is_not_called(db: Database) -> None:
    model = Metered(model="unheard-of", script=[AIMessage("high")])
    with pytest.raises(UnpricedModel, match="unheard-of"):
        run(agent(db, model, BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)), HELLO, "sync")
    assert model.asked == []


def test_scopes_name_what_the_run_says(db: Database) -> None:
    budget = BudgetMiddleware([Budget("tenant:{tenant}", daily=2)], prices=PRICES)
    runner = agent(db, Metered(script=[AIMessage("high")]), budget)
    with pytest.raises(UnknownScope, match="tenant"):
        run(runner, HELLO, "sync")
    runner.invoke(None, {**ON, "metadata": {"tenant": "acme"}}, durability="sync")
    assert spent(db)[0] == COST
    (line,) = db.costs.report("tenant")
    assert (line.key, line.cost) == ("acme", COST)
    assert runway_of("t") is not None


@pytest.mark.parametrize("tenant", ["x" * 300, "a\nb", "a\x00b"])
def test_a_tenants_name_that_is_none_is_refused_before_anything_is_called(tenant: str, db: Database) -> None:
    model = Metered(script=[AIMessage("high")])
    budget = BudgetMiddleware([Budget("tenant:{tenant}", daily=2)], prices=PRICES, ledger=db.ledger)
    runner: Any = create_agent(model, [], middleware=[budget])
    with pytest.raises(InvalidBudget, match="1 to 200 printable characters"):
        runner.invoke(HELLO, {"metadata": {"tenant": tenant}})
    assert model.asked == []


def test_a_limit_of_a_run_holds_over_its_resumes_and_not_over_the_next(db: Database) -> None:
    model = Metered(script=[searching(1), AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, per_run="0.4140")], prices=PRICES)
    runner = agent(db, model, budget, search)
    for _ in range(3):  # as often as it is resumed
        with pytest.raises(BudgetExceeded):
            run(runner, HELLO if not model.asked else None, "sync")
    assert len(model.asked) == 1
    run(runner, {"messages": [("user", "another")]}, "sync")
    assert len(model.asked) == 2


@MODES
def test_without_our_saver_a_ledger_is_given(mode: str, db: Database) -> None:
    model = Metered(script=[AIMessage("high")])
    with pytest.raises(BudgetNeedsLedger):
        run(agent(None, model, BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES), journal=False), HELLO, mode)
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES, ledger=db.ledger)
    run(agent(None, model, budget, journal=False), HELLO, mode)
    db.journal.close()
    assert spent(db) == (COST, 0)


@MODES
@JOURNALS
def test_an_agent_inside_a_tool_is_paid_for_by_the_outer_one_too(mode: str, journal: bool, db: Database) -> None:
    """Its own budgets do not take it out of its tenant's, and the lower limit of one scope holds."""
    inside = BudgetMiddleware([Budget("agent:inner", daily=2), Budget(SCOPE, daily=9)], prices=PRICES)
    inner: Any = create_agent(Metered(script=[AIMessage("inner")]), [], middleware=[inside])

    @tool
    def think(query: str) -> str:
        """Think."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].text)

    asks = AIMessage("", tool_calls=[{"name": "think", "args": {"query": "q"}, "id": "c"}])
    model = Metered(script=[asks, AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, daily="0.42")], prices=PRICES)
    run(agent(db, model, budget, think, journal=journal), HELLO, mode)
    db.journal.close()
    assert spent(db) == (3 * COST, 0)
    assert [each.spent for each in db.ledger.windows("agent:inner", unit="usd", window="day")] == [COST]
    strict = BudgetMiddleware([Budget(SCOPE, daily="0.4195")], prices=PRICES)
    with pytest.raises(BudgetExceeded) as error:
        run(agent(db, Metered(script=[asks]), strict, think, journal=journal), HELLO, mode)
    assert error.value.limit == Decimal("0.4195")


def test_two_middlewares_pay_in_one_reservation(db: Database) -> None:
    one = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    two = BudgetMiddleware([Budget("agent:tide", daily=2)], prices=PRICES, name="the agent's")
    runner = create_agent(
        Metered(script=[AIMessage("high")]), [], middleware=[one, two, JournalMiddleware()], checkpointer=db.saver
    )
    run(runner, HELLO, "sync")
    assert spent(db) == (COST, 0)
    assert [(each.spent, each.reserved) for each in db.ledger.windows("agent:tide", window="day")] == [(COST, 0)]
    assert told(db) == [("model.answered", COST)]


def test_a_scope_that_spends_faster_than_its_past_is_told_of_once(database_uri: str) -> None:
    """Whichever worker sees it first."""
    now, told_of = datetime(2026, 3, 4, 12, 30, tzinfo=UTC), list[BudgetAlert]()
    wanted = Wanted(budgets=(Budget(SCOPE, daily=1000),), usd=Decimal("0.05"), tokens=1, name="m")
    with Database.connect(database_uri) as before:
        for back in range(30, 0, -1):
            before.ledger.clock = partial(now.__sub__, timedelta(hours=back))
            before.ledger.settle(before.ledger.reserve(wanted), usd=Decimal("0.05"), tokens=1)
        before.ledger.clock = lambda: now
        before.ledger.charge(replace(wanted, usd=Decimal(50)), Charge())
    for _ in range(2):
        desk = AlertDesk([told_of.append], clock=lambda: now)
        budget = BudgetMiddleware([Budget(SCOPE, daily=1000)], prices=PRICES, alerts=desk)
        with Database.connect(database_uri) as worker:
            worker.ledger.clock = lambda: now
            run(agent(worker, Metered(script=[AIMessage("high")]), budget), HELLO, "sync")
        assert desk.flush()
    with Database.connect(database_uri) as after:
        events = [event for event in after.audit.read(thread_id="holdfast:budgets") if event.kind == "budget.alerted"]
    assert [alert.scope for alert in told_of] == [SCOPE]
    assert [event.details["scope"] for event in events] == [SCOPE]


@pytest.mark.parametrize("wrong", [{"on_exceeded": "stop"}, {"on_exceeded": "downgrade"}, {"cheaper": ["x"]}])
def test_wrong_choices_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="on_exceeded"):
        BudgetMiddleware([], **wrong)
