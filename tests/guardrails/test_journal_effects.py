"""`@effect`: a function that is called once, in nodes, in tools and in tasks."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import MessagesState
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from holdfast.checkpointing import Database, JournalMismatch
from holdfast.checkpointing.durable import NotResumable
from holdfast.checkpointing.journal import Journal
from holdfast.checkpointing.records import Claim, Effect
from holdfast.guardrails import (
    CallAbandoned,
    JournalMiddleware,
    JournalNeedsSaver,
    NotDone,
    effect,
    effects,
    idempotency_key,
)
from tests.support.calls import (
    ON,
    ONE,
    Crash,
    acting,
    answered,
    asking,
    both,
    crashed,
    lambda_node,
    node_graph,
    questions,
    results,
)

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
BEGIN: dict[str, Any] = {"messages": [("user", "hello")]}


@dataclass
class Order:
    """What is ordered."""

    number: int


def order(what: Any) -> str:
    """A key that does not tell one thing from another."""
    return "order 1"


class Model(BaseModel):
    """A class that has `model_dump`, which only its instances can be asked."""


class Outside:
    """What is done, and with which keys; and a crash after it, once."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.keys: list[str] = []
        self.fail: list[BaseException] = []

    def do(self, what: Any) -> Any:
        """Do it; perhaps be gone before anybody knows."""
        self.done.append(what)
        self.keys.append(idempotency_key())
        if self.fail:
            raise self.fail.pop()
        return {"did": what if isinstance(what, str) else None, "as": (len(self.done),)}

    def node(self, once: Any, aonce: Any, runs: list[Any], *given: Any) -> Any:
        """A node that calls it, and is gone after it at first."""

        def end(found: Any) -> Any:
            runs.append(found)
            if len(runs) == 1:
                raise Crash
            return {"messages": [("ai", str(found))]}

        async def anode(state: MessagesState) -> Any:
            return end(await aonce(*given))

        def node(state: MessagesState) -> Any:
            return end(once(*given))

        return lambda_node(node, anode)

    def functions(self, **options: Any) -> tuple[Any, Any]:
        """It, sync and async."""

        @effect(name="do", **options)
        def once(what: Any) -> Any:
            return self.do(what)

        @effect(name="do", **options)
        async def aonce(what: Any) -> Any:
            await asyncio.sleep(0)
            return self.do(what)

        return once, aonce


@MODES
def test_in_a_node(mode: str, db: Database) -> None:
    """Called once, it answers from the record with the same, tuples and all."""
    outside = Outside()
    runs: list[Any] = []
    runner = node_graph(db.saver, outside.node(*outside.functions(), runs, "a"))
    crashed(runner, BEGIN, mode)
    both(runner, None, mode)
    assert outside.done == ["a"]
    assert runs == [{"did": "a", "as": (1,)}] * 2


@MODES
def test_in_a_tool(mode: str, db: Database) -> None:
    """A tool that is called again does again only what is no effect."""
    outside = Outside()
    tries: list[Any] = []
    once, aonce = outside.functions()

    def end(found: Any) -> str:
        tries.append(found)
        if len(tries) == 1:
            raise Crash
        return str(found["did"])

    def act(what: str) -> str:
        """Act."""
        return end(once(what))

    async def soon(what: str) -> str:
        return end(await aonce(what))

    acted = StructuredTool.from_function(act, soon, name="act", metadata={"idempotentHint": True})
    runner = acting(db.saver, acted)
    crashed(runner, asking(ONE), mode)
    found = both(runner, None, mode)
    assert (outside.done, len(tries)) == (["a"], 2)
    assert results(found)[0].text == "a"


@MODES
def test_in_tasks(mode: str, db: Database) -> None:
    """In the functional API, in a task and in the entrypoint itself."""
    outside = Outside()
    tries: list[Any] = []
    once, aonce = outside.functions()

    def end() -> None:
        tries.append("try")
        if len(tries) == 1:
            raise Crash

    if mode == "sync":

        @task
        def step(what: str) -> Any:
            found = once(what)
            end()
            return found

        @entrypoint(checkpointer=db.saver)
        def flow(given: str) -> Any:
            return [once("before")["did"], step(given).result()["did"]]

        runner: Any = flow  # pyright: ignore[reportUnknownVariableType] - upstream's type
    else:

        @task
        async def astep(what: str) -> Any:
            found = await aonce(what)
            end()
            return found

        @entrypoint(checkpointer=db.saver)
        async def aflow(given: str) -> Any:
            return [(await aonce("before"))["did"], (await astep(given))["did"]]

        runner = aflow  # pyright: ignore[reportUnknownVariableType] - upstream's type
    crashed(runner, "within", mode)
    assert both(runner, None, mode) == ["before", "within"]
    assert (outside.done, len(tries)) == (["before", "within"], 2)


@MODES
@pytest.mark.parametrize("verdict", ["happened", "did not happen", "abandoned"])
def test_in_doubt(verdict: str, mode: str, db: Database) -> None:
    """A person says what became of it; tried again, it has the same key."""
    outside = Outside()
    runs: list[Any] = ["once"]
    outside.fail.append(Crash())
    runner = node_graph(db.saver, outside.node(*outside.functions(), runs, "a"))
    crashed(runner, BEGIN, mode)
    both(runner, None, mode)
    assert questions(runner)[0].value["effects"][0]["asked"] == {"args": {"what": "a"}}
    if verdict == "abandoned":
        with pytest.raises(CallAbandoned):
            answered(runner, mode, lambda effect: {"verdict": verdict})
        assert outside.done == ["a"]
        return
    answered(runner, mode, lambda effect: {"verdict": verdict, "result": "as said"})
    assert runs[1:] == (["as said"] if verdict == "happened" else [{"did": "a", "as": (2,)}])
    assert len(outside.keys) == (1 if verdict == "happened" else 2)
    assert len({*outside.keys}) == 1


@MODES
@pytest.mark.parametrize("on_doubt", ["retry", "idempotent"])
def test_harmless_ones_are_called_again(on_doubt: str, mode: str, db: Database) -> None:
    """Nobody is asked; the key is the same."""
    outside = Outside()
    runs: list[Any] = ["once"]
    outside.fail.append(Crash())
    runner = node_graph(db.saver, outside.node(*outside.functions(on_doubt=on_doubt), runs, "a"))
    crashed(runner, BEGIN, mode)
    both(runner, None, mode)
    assert outside.done == ["a", "a"]
    assert len({*outside.keys}) == 1


@MODES
def test_what_says_that_it_was_not_done_is_tried_again(mode: str, db: Database) -> None:
    """`NotDone` leaves no doubt."""
    outside = Outside()
    runs: list[Any] = ["once"]
    outside.fail.append(NotDone("busy"))
    runner = node_graph(db.saver, outside.node(*outside.functions(), runs, "a"))
    with pytest.raises(NotDone):
        both(runner, BEGIN, mode)
    both(runner, None, mode)
    assert outside.done == ["a", "a"]


@MODES
def test_a_key_with_other_arguments(mode: str, db: Database) -> None:
    """The same key with other arguments is another call under a known name: it is refused, and nothing is done."""
    outside, given = Outside(), ["a"]
    once, aonce = outside.functions(key=order)

    async def anode(state: MessagesState) -> Any:
        await aonce(given[0])
        raise Crash

    def node(state: MessagesState) -> Any:
        once(given[0])
        raise Crash

    runner = node_graph(db.saver, lambda_node(node, anode))
    crashed(runner, BEGIN, mode)
    given[0] = "b"
    with pytest.raises(JournalMismatch, match="the graph was changed"):
        both(runner, None, mode)
    assert outside.done == ["a"]
    given[0] = "a"
    crashed(runner, None, mode)
    assert outside.done == ["a"]


def test_the_same_twice_is_two(db: Database) -> None:
    """Called twice with the same arguments it is done twice, and twice from the record."""
    outside = Outside()
    runs: list[Any] = []
    once, _ = outside.functions()

    def node(state: MessagesState) -> Any:
        runs.append([once("a")["as"], once("a")["as"]])
        if len(runs) == 1:
            raise Crash
        return {}

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    both(runner, None, "sync")
    assert outside.done == ["a", "a"]
    assert runs == [[(1,), (2,)]] * 2


def test_a_copied_thread_has_the_record(db: Database) -> None:
    """What was done is not done again in a copy, and what is in doubt is in doubt there too."""
    outside = Outside()
    once, _ = outside.functions()

    def node(state: MessagesState) -> Any:
        once("a")
        once("b")
        return {}

    runner = node_graph(db.saver, node)
    outside.fail += [Crash(), NotDone()]
    with pytest.raises(NotDone):
        both(runner, BEGIN, "sync")
    crashed(runner, None)
    both(runner, None, "sync")
    answered(runner, "sync", lambda effect: {"verdict": "did not happen"})
    db.saver.copy_thread("t", "copy")
    assert outside.done == ["a", "a", "a", "b"]
    with psycopg.connect(db.uri) as connection:
        rows = (
            "SELECT effect_id, on_doubt, state, answers, result FROM holdfast.effects WHERE thread_id = %s ORDER BY 1"
        )
        assert connection.execute(rows, ("copy",)).fetchall() == connection.execute(rows, ("t",)).fetchall()


def test_odd_arguments(db: Database) -> None:
    """Whatever it is given, a call is told from another one."""
    outside = Outside()
    once, _ = outside.functions()
    found: list[Any] = []
    odd: list[Any] = [
        *({1: "a", "b": (2,)}, {(1, 2): "pair"}, b"\0", float("nan"), "\0\ud800", {3, 4}, None),
        *(date(2026, 1, day) for day in (1, 2)),
        *(Decimal(number) for number in (1, 2)),
        *(Order(number) for number in (1, 2)),
        *(Order, Outside, Model),
    ]

    def node(state: MessagesState) -> Any:
        found.extend(once(what) for what in odd)
        raise Crash

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    assert len(outside.done) == len(odd)
    odd.reverse()  # each is known by what it is given, not by its turn
    found.clear()
    crashed(runner, None)
    assert len(outside.done) == len(odd)
    assert [one["as"] for one in found] == [(number,) for number in range(len(odd), 0, -1)]


@MODES
def test_a_graph_that_holdfast_does_not_save(mode: str) -> None:
    """There it is refused before anything is done; the plain function is still there."""
    outside = Outside()
    once, aonce = outside.functions()

    async def anode(state: MessagesState) -> Any:
        await aonce("a")

    def node(state: MessagesState) -> Any:
        once("a")

    runner = node_graph(InMemorySaver(), lambda_node(node, anode))
    with pytest.raises(JournalNeedsSaver):
        both(runner, BEGIN, mode)
    with pytest.raises(RuntimeError):
        once("a")
    with pytest.raises(LookupError):
        idempotency_key()
    assert outside.done == []


@MODES
def test_a_tool_in_doubt_that_asks_for_leave(mode: str, db: Database) -> None:
    """An answer about a doubt is not taken for the answer to the tool's own question."""
    made: list[str] = []

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        made.append("begun")
        if len(made) == 1:
            raise Crash
        said = interrupt("may I?")
        made.append("done")
        return f"done: {said}"

    runner = acting(db.saver, act)
    crashed(runner, asking(ONE), "sync")
    both(runner, None, mode)
    answered(runner, mode, lambda effect: {"verdict": "did not happen"})
    (question,) = questions(runner)
    assert question.value == "may I?"
    found = both(runner, Command(resume={question.id: "yes"}), mode)
    assert results(found)[0].text == "done: yes"
    assert made.count("done") == 1


def test_a_sync_call_on_the_runs_own_loop(db: Database) -> None:
    """It is refused, where the loop has yet to save the checkpoint: else both would wait for ever."""
    outside = Outside()
    once, _ = outside.functions()

    async def node(state: MessagesState) -> Any:
        once("a")
        return {}

    runner = node_graph(db.saver, node)
    with pytest.raises(NotResumable, match="to_thread"):
        both(runner, BEGIN, "async", durability="async")
    assert outside.done == []
    both(runner, None, "async")
    assert outside.done == ["a"]


@MODES
@pytest.mark.parametrize("thread_id", [7, UUID(int=7)])
def test_a_thread_id_that_is_no_text(thread_id: Any, mode: str, db: Database) -> None:
    """LangGraph takes any; so do calls."""
    outside = Outside()
    once, aonce = outside.functions()
    runner = node_graph(db.saver, outside.node(once, aonce, ["before"], "a"))
    config: Any = {"configurable": {"thread_id": thread_id}}
    if mode == "async":
        asyncio.run(runner.ainvoke(BEGIN, config))
    else:
        runner.invoke(BEGIN, config)
    assert outside.done == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_during_a_call(db: Database) -> None:
    """The child does not wait for calls that only its parent makes."""
    ends: list[int] = []

    @effect
    def fork() -> None:
        if (child := os.fork()) == 0:
            os._exit(len(effects._running))  # pyright: ignore[reportPrivateUsage]
        ends.append(os.waitpid(child, 0)[1])

    def node(state: MessagesState) -> Any:
        fork()
        return {}

    both(node_graph(db.saver, node), BEGIN, "sync")
    assert ends == [0]


async def test_a_call_that_is_cancelled_while_it_is_claimed_was_not_made(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is known, so nobody is asked about it: the next run simply makes it."""
    made: list[str] = []
    claimed, answer = asyncio.Event(), asyncio.Event()
    real = Journal.aclaim

    async def held_back(journal: Journal, asked: Effect, *, again: bool = False) -> Claim:
        claim = await real(journal, asked, again=again)
        claimed.set()
        await answer.wait()
        return claim

    @effect
    async def act(what: str) -> str:
        made.append(what)
        return what

    async def node(state: MessagesState) -> Any:
        return {"messages": [("ai", await act("a"))]}

    runner = node_graph(db.saver, node)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "aclaim", held_back)
        run = asyncio.ensure_future(runner.ainvoke(BEGIN, ON, durability="sync"))
        await claimed.wait()
        run.cancel()
        await asyncio.sleep(0)  # the cancellation is on its way
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert (made, await db.journal.adoubts("t")) == ([], [])
    assert (await runner.ainvoke(None, ON))["messages"][-1].text == "a"
    assert made == ["a"]


def test_a_name_that_no_database_takes_harms_no_call(db: Database) -> None:
    """A model makes up the names of tools."""

    @effect(name="pay\0\ud800")
    def act(what: str) -> str:
        return what

    def node(state: MessagesState) -> Any:
        return {"messages": [("ai", act("a"))]}

    assert both(node_graph(db.saver, node), BEGIN, "sync")["messages"][-1].text == "a"
    assert "pay?" in {event.details.get("name") for event in db.audit.read(thread_id="t")}


def test_a_collector_that_fails_harms_no_call(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def broken(*_: Any) -> Any:
        asked.append("metadata")
        raise ConnectionError("no collector")

    @effect
    def act(what: str) -> str:
        return what

    def node(state: MessagesState) -> Any:
        return {"messages": [("ai", act("a"))]}

    monkeypatch.setattr("holdfast.guardrails.tracing._metadata", broken)
    assert both(node_graph(db.saver, node), BEGIN, "sync")["messages"][-1].text == "a"
    assert (asked, db.journal.doubts("t")) == (["metadata"], [])


def test_a_way_that_there_is_not_is_refused_where_it_is_given() -> None:
    wrong: Any = "sometimes"
    with pytest.raises(ValueError, match="on_doubt must be"):
        effect(on_doubt=wrong)(str)
    with pytest.raises(ValueError, match="not 'sometimes'"):
        JournalMiddleware({"pay": wrong})
