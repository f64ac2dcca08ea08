"""Budgets where calls end otherwise than they began: cancelled, asked about, cached, wrapped twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, cast

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import MessagesState
from langgraph.types import Command, interrupt

from holdfast.checkpointing import Budget, BudgetExceeded, Database, InvalidBudget
from holdfast.checkpointing.errors import MissingExtra
from holdfast.checkpointing.grouping import Grouped
from holdfast.checkpointing.ledger import Ledger
from holdfast.guardrails import AlertDesk, BudgetMiddleware, JournalMiddleware, UnpricedModel, listing
from holdfast.guardrails.paying import failed
from holdfast.guardrails.watching import Watch
from tests.guardrails.test_budget import HELLO, JOURNALS, MODES, SCOPE, agent, run, spent
from tests.support.calls import ON, node_graph
from tests.support.metered import COST, PRICES, Metered, MeteredStream

THINKS = AIMessage("", tool_calls=[{"name": "think", "args": {"query": "q"}, "id": "c"}])
DEAR = {"think": Decimal(1)}


def thinking(inside: Any, **metadata: Any) -> Any:
    """A tool that returns what `inside` does."""

    @tool
    def think(query: str) -> str:
        """Think."""
        return str(inside())

    think.metadata = metadata
    return think


@MODES
@JOURNALS
def test_what_is_said_of_a_limit_is_no_answer_to_a_tools_own_question(mode: str, journal: bool, db: Database) -> None:
    model = Metered(script=[THINKS, AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, per_call="0.5")], prices=PRICES, tool_prices=DEAR, on_exceeded="interrupt")
    think = thinking(lambda: interrupt("may I?"))
    runner = agent(db, model, budget, think, journal=journal)
    (asked,) = run(runner, HELLO, mode)["__interrupt__"]
    assert asked.value["type"] == "budget_exceeded"
    db.ledger.set(Budget(SCOPE, per_call=5), by="ada")
    (asked,) = run(runner, Command(resume={"type": "retry"}), mode)["__interrupt__"]
    assert asked.value == "may I?"
    found = run(runner, Command(resume={asked.id: "yes"}), mode)
    assert [message.text for message in found["messages"][-2:]] == ["yes", "high"]
    db.journal.close()
    assert spent(db) == (2 * COST + 1, 0)  # it was interrupted once, and called once


@JOURNALS
def test_a_limit_that_was_not_raised_is_asked_about_again(journal: bool, db: Database) -> None:
    """By the question's id, as user interfaces do."""
    model = Metered(script=[THINKS, AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, per_call="0.5")], prices=PRICES, tool_prices=DEAR, on_exceeded="interrupt")
    runner = agent(db, model, budget, thinking(lambda: "thought", on_doubt="retry"), journal=journal)
    found = run(runner, HELLO, "sync")
    for _ in range(2):
        found = run(runner, Command(resume={found["__interrupt__"][0].id: {"type": "retry"}}), "sync")
    assert found["__interrupt__"][0].value["short"] == "0.5"
    found = run(runner, Command(resume={found["__interrupt__"][0].id: {"type": "end"}}), "sync")
    assert "Not called" in found["messages"][2].text


@JOURNALS
def test_two_middlewares_learn_from_what_providers_count(journal: bool, db: Database) -> None:
    usage: Any = {"input_tokens": 90_000, "output_tokens": 10, "total_tokens": 90_010}
    model = Metered(script=[AIMessage("high")], usage=usage)
    runner = _paid_twice(db, model, journal, "0.60")
    run(runner, HELLO, "sync")
    db.ledger.set(Budget(SCOPE, daily=2), by="ada")
    with pytest.raises(BudgetExceeded) as error:
        run(runner, {"messages": [("user", "more")]}, "sync")
    assert error.value.needed > Decimal("0.9")


@MODES
@JOURNALS
def test_two_middlewares_pay_for_tools_and_for_what_nobody_saw(mode: str, journal: bool, db: Database) -> None:
    inside = Metered(script=[AIMessage("inner")])
    think = thinking(lambda: inside.invoke("why").text, price_usd=Decimal("0.1"))
    runner = _paid_twice(db, Metered(script=[THINKS, AIMessage("high")]), journal, "2", think)
    run(runner, HELLO, mode)
    db.journal.close()
    whole = 3 * COST + Decimal("0.1")
    assert spent(db) == (whole, 0)
    assert [(each.spent, each.reserved) for each in db.ledger.windows("agent:tide", window="day")] == [(whole, 0)]


def test_a_model_that_is_paid_for_is_not_paid_for_again_by_the_same(db: Database) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    run(agent(db, budget.paid(Metered(script=[AIMessage("high")])), budget), HELLO, "sync")
    assert spent(db) == (COST, 0)


def _paid_twice(db: Database, model: Any, journal: bool, daily: str, *tools: Any) -> Any:
    middleware: list[Any] = [
        BudgetMiddleware([Budget(SCOPE, daily=daily)], prices=PRICES),
        BudgetMiddleware([Budget("agent:tide", daily=2)], prices=PRICES, name="the agent's"),
        *([JournalMiddleware()] if journal else []),
    ]
    return create_agent(model, list(tools), middleware=middleware, checkpointer=db.saver)


@pytest.mark.parametrize("priced", [True, False], ids=["tool", "model"])
def test_who_is_cancelled_while_reserving_has_nothing_reserved(
    priced: bool, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, aask = asyncio.Event(), Grouped.aask
    model = Metered(script=[THINKS])
    budget = BudgetMiddleware([Budget(SCOPE, daily=5)], prices=PRICES, tool_prices=DEAR if priced else None)
    runner = agent(db, model, budget, thinking(lambda: "thought"), journal=False)

    async def asked(self: Grouped, kind: str, given: Any) -> Any:
        if kind == "reserve" and len(model.asked) == int(priced):
            reached.set()
        return await aask(self, kind, given)

    monkeypatch.setattr(Grouped, "aask", asked)

    async def cancelled() -> None:
        going = asyncio.ensure_future(runner.ainvoke(HELLO, ON, durability="sync"))
        await reached.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    asyncio.run(cancelled())
    db.journal.close()
    assert len(model.asked) == int(priced)
    assert spent(db) == (COST * int(priced), 0)


def test_a_servers_caller_cannot_spend_anothers_budget(db: Database) -> None:
    """The server writes who it is into `configurable`, and lets the caller write metadata."""
    budget = BudgetMiddleware([Budget("user:{langgraph_auth_user_id}", daily=2)], prices=PRICES)
    config = cast(
        "RunnableConfig",
        {
            "configurable": {"thread_id": "t", "langgraph_auth_user_id": "eve"},
            "metadata": {"langgraph_auth_user_id": "ada"},
        },
    )
    agent(db, Metered(script=[AIMessage("high")]), budget).invoke(HELLO, config, durability="sync")
    assert [each.scope for each in db.ledger.windows(window="day")] == ["user:eve"]


@pytest.mark.parametrize("scope", ["a:{}", "a:{0}", "a:{", "a:}", "a:{x[0]}", "a:{x.y}", "a:{x!r}", "a:{x:>99}"])
def test_a_scope_that_cannot_be_filled_in_is_refused_where_it_is_set(scope: str) -> None:
    with pytest.raises(InvalidBudget, match="braces"):
        BudgetMiddleware([Budget(scope, daily=2)])


@JOURNALS
def test_an_answer_by_an_unknown_name_is_paid_without_the_price_data(
    journal: bool, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gateways answer with names of their own; it is too late to say that these have no price."""

    def missing() -> Any:
        raise MissingExtra("budgets", "the price list of models")

    monkeypatch.setattr(listing, "_snapshot", missing)
    model = Metered(script=[AIMessage("high", response_metadata={"model_name": "our-deployment"})])
    run(agent(db, model, BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES), journal=journal), HELLO, "sync")
    db.journal.close()
    assert spent(db) == (COST, 0)


def test_no_event_loop_waits_for_the_price_data(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """LangGraph's development server makes an error of that."""
    waited, snapshot = list[bool](), listing._snapshot  # pyright: ignore[reportPrivateUsage]

    @cache
    def read() -> Any:
        waited.append(asyncio._get_running_loop() is not None)  # pyright: ignore[reportPrivateUsage]
        return snapshot()

    monkeypatch.setattr(listing, "_snapshot", read)
    listing.load.cache_clear()
    with pytest.raises(UnpricedModel):
        run(agent(db, Metered(script=[]), BudgetMiddleware([Budget(SCOPE, daily=2)])), HELLO, "async")
    assert waited == [False]


def test_a_limit_of_a_run_does_not_go_unheeded_where_there_is_no_run(db: Database) -> None:
    model = Metered(script=[AIMessage("high")])
    budget = BudgetMiddleware([Budget(SCOPE, per_run="0.1")], prices=PRICES, ledger=db.ledger)
    runner: Any = create_agent(model, [], middleware=[budget])
    with pytest.raises(InvalidBudget, match="thread_id"):
        runner.invoke(HELLO)
    assert model.asked == []


@MODES
def test_what_langchains_cache_answers_is_free(mode: str, db: Database) -> None:
    inside = Metered(script=[AIMessage("inner")], cache=InMemoryCache())
    think = thinking(lambda: [inside.invoke("why").text for _ in range(3)])
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    run(agent(db, Metered(script=[THINKS, AIMessage("high")]), budget, think), HELLO, mode)
    db.journal.close()
    assert len(inside.asked) == 1
    assert spent(db) == (3 * COST, 0)


class Asking(MeteredStream):
    """Asks another model, and tells what that used as its own."""

    another: Any

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.another.invoke(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in self.another.stream(messages):
            yield ChatGenerationChunk(message=chunk)


@MODES
@JOURNALS
def test_a_model_that_asks_another_is_paid_once(mode: str, journal: bool, db: Database) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    model = Asking(script=[], another=MeteredStream(script=[AIMessage("high")]))
    run(agent(db, model, budget, journal=journal), HELLO, mode)
    db.journal.close()
    assert spent(db) == (COST, 0)


@MODES
def test_a_stream_that_asks_another_model_is_paid_once_and_its_readers_calls_beside_it(mode: str, db: Database) -> None:
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    model = Asking(script=[], another=MeteredStream(script=[]))
    beside = Metered(script=[AIMessage("beside")])

    def take(model: Any) -> Any:
        said = [beside.invoke("and?") for _ in model.stream("why")]
        return said[0]

    async def atake(model: Any) -> Any:
        said = [await beside.ainvoke("and?") async for _ in model.astream("why")]
        return said[0]

    def node(state: MessagesState) -> Any:
        return {"messages": [budget.ask(model, take)]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await budget.aask(model, atake)]}

    run(node_graph(db.saver, anode if mode == "async" else node), HELLO, mode)
    db.journal.close()
    assert spent(db) == ((1 + len(beside.asked)) * COST, 0)


@MODES
def test_a_call_of_generate_itself_is_found(mode: str, db: Database) -> None:
    inside = Metered(script=[AIMessage("inner")])
    think = thinking(lambda: inside.generate([[HumanMessage("one")], [HumanMessage("two")]]))
    budget = BudgetMiddleware([Budget(SCOPE, daily=2)], prices=PRICES)
    run(agent(db, Metered(script=[THINKS, AIMessage("high")]), budget, think), HELLO, mode)
    db.journal.close()
    assert spent(db) == (4 * COST, 0)


class _Unreadable(Exception):
    """What openai raises about an answer of another shape."""

    status_code = 200


def test_an_answer_that_cannot_be_read_may_have_been_billed() -> None:
    assert failed(_Unreadable()).outcome == "presumed"


def test_a_scope_of_each_thread_does_not_fill_the_memory() -> None:
    class Deaf(Ledger):
        def __init__(self) -> None:
            self.clock = lambda: datetime(2026, 3, 4, tzinfo=UTC)

        def look(self, *args: Any, **kwargs: Any) -> None:
            pass

    watch = Watch(AlertDesk([]))
    watch.called(Deaf(), [Budget(f"thread:{number}", daily=1) for number in range(10_000)])
    assert len(watch._looked) < 10_000  # pyright: ignore[reportPrivateUsage] - its size alone shows it
