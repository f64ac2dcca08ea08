"""Whatever a tool returns, raises or is given: it is done once, and comes back as it was."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from holdfast.checkpointing import Database
from holdfast.checkpointing.errors import HoldfastError
from holdfast.guardrails import (
    DID_NOT_HAPPEN,
    JournalMiddleware,
    JournalNeedsSaver,
    NotDone,
    ResultNotKept,
    idempotency_key,
)
from tests.support.calls import ON, ONE, TWO, Crash, acting, answered, asking, both, crashed, questions, results
from tests.support.scripted import ScriptedModel

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
LIST: list[Any] = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


LARGE = "x" * 50_000_000


class Paired(MessagesState):
    """A state that holds a tuple, too."""

    pair: Any


class Foreign:
    """What no serializer knows."""


def returned(kind: str) -> Any:
    """A tool's result of some kind."""
    message = ToolMessage("told", tool_call_id="call_a")
    kinds: dict[str, Any] = {
        "text": "told",
        "list": LIST,
        "artifact": ToolMessage("told", tool_call_id="call_a", artifact=(1, ("two", {"three": (3,)}))),
        "command": Command(update={"messages": [message]}, goto="after"),
        "tuples": Command(update={"messages": [message], "pair": (1, (2,))}, goto=[Send("after", {"messages": []})]),
        "large": LARGE,
        "parent": Command(update={"messages": [message]}, goto="after", graph=Command.PARENT),
    }
    return kinds[kind]


def returning(db: Database, kind: str, made: list[str]) -> Any:
    """A tool that returns it, beside a call that crashes at first; for a parent, within a subgraph."""
    fail = ["once"]

    @tool("act")
    def act(what: str) -> Any:
        """Act."""
        if what == "b" and fail:
            done.wait()
            fail.clear()
            raise Crash
        made.append(what)
        return returned(kind) if what == "a" else "beside"

    done = threading.Event()
    settle = db.journal.settle

    def settled(settlement: Any) -> None:
        settle(settlement)
        done.set()

    db.journal.settle = settled  # type: ignore[method-assign]
    node = acting_stock(act)
    builder = StateGraph(Paired).add_node("after", lambda state: {"messages": [("ai", "after")]})
    if kind == "parent":
        inner = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
        return builder.add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=db.saver)
    return builder.add_node("tools", node).add_edge(START, "tools").compile(checkpointer=db.saver)


def acting_stock(*tools: Any) -> ToolNode:
    """LangGraph's own tool node, with our wrapper."""
    journal = JournalMiddleware(on_doubt={"act": "retry"})
    return ToolNode(tools, wrap_tool_call=journal.wrap_tool_call, awrap_tool_call=journal.awrap_tool_call)


@pytest.mark.parametrize("kind", ["text", "list", "artifact", "command", "tuples", "parent", "large"])
def test_a_result_comes_back_as_it_was(kind: str, db: Database) -> None:
    """What a finished call returned is the same from the record as it was from the tool."""
    made: list[str] = []
    runner = returning(db, kind, made)
    crashed(runner, asking(ONE, TWO))
    assert made == ["a"]
    found = both(runner, None, "sync")
    assert made == ["a", "b"]
    first = results(found)[0]
    assert first.content == {"list": LIST, "large": LARGE}.get(kind, "told")
    assert found.get("pair") == ((1, (2,)) if kind == "tuples" else None)
    assert first.artifact == ((1, ("two", {"three": (3,)})) if kind == "artifact" else None)
    assert [message.text for message in found["messages"] if message.type == "ai"][1:] == (
        ["after"] if kind in ("command", "tuples", "parent") else []
    )


@MODES
def test_a_result_that_cannot_be_kept(mode: str, db: Database) -> None:
    """The call is made once; its result is refused, and a person is asked what became of it."""
    made: list[str] = []

    @tool("act", response_format="content_and_artifact")
    def act(what: str) -> Any:
        """Act."""
        made.append(what)
        return "told", Foreign()

    runner = acting(db.saver, act, handle=True)
    with pytest.raises(ResultNotKept, match="'act' was called"):
        both(runner, asking(ONE), mode)
    both(runner, None, mode)
    assert made == ["a"]
    found = answered(runner, mode, lambda effect: {"verdict": "happened", "result": "told"})
    assert (made, results(found)[0].content) == (["a"], "told")


@MODES
@pytest.mark.parametrize("on_doubt", ["ask", "idempotent", "not done"])
def test_a_tool_that_raises(mode: str, on_doubt: str, db: Database) -> None:
    """Of an error that does not say whether it happened a person is asked; any other is tried again."""
    keys: list[str] = []

    @tool("act", extras={})
    def act(what: str) -> str:
        """Act."""
        keys.append(idempotency_key())
        if len(keys) == 1:
            raise NotDone("the line was busy") if on_doubt == "not done" else ValueError("broken")
        return "done"

    act.metadata = {"idempotentHint": on_doubt == "idempotent"}
    runner = acting(db.saver, act)
    with pytest.raises((ValueError, NotDone)):
        both(runner, asking(ONE), mode)
    both(runner, None, mode)
    if on_doubt == "ask":
        assert len(keys) == 1
        answered(runner, mode, lambda effect: {"verdict": "did not happen"})
    assert len(keys) == 2
    assert len({*keys}) == 1
    assert results(runner.get_state(ON).values)[0].content == "done"


@MODES
@pytest.mark.parametrize("stock", [False, True])
def test_a_tool_that_asks_itself(mode: str, stock: bool, db: Database) -> None:
    """Its own question is no doubt: the answer goes to it, and what was done beside it stays done."""
    made: list[str] = []

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        said = interrupt("may I?") if what == "a" else "unasked"
        made.append(what)
        return f"{what}: {said}"

    runner = acting(db.saver, act, stock=stock)
    both(runner, asking(ONE, TWO), mode)
    (question,) = questions(runner)
    assert question.value == "may I?"
    found = both(runner, Command(resume={question.id: "yes"}), mode)
    assert sorted(message.text for message in results(found)) == ["a: yes", "b: unasked"]
    assert sorted(made) == ["a", "b"]


@pytest.mark.parametrize("threaded", [True, False])
async def test_a_cancelled_run(threaded: bool, db: Database) -> None:
    """A thread is waited for, and what it did is recorded; a coroutine ends at once, and nobody knows what it did."""
    made: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def act(what: str) -> str:
        """Act."""
        inside.set()
        go_on.wait()
        made.append(what)
        return "done"

    async def soon(what: str) -> str:
        inside.set()
        await asyncio.Event().wait()
        return "never"

    acted = StructuredTool.from_function(act, None if threaded else soon, name="act")
    runner = acting(db.saver, acted)
    run = asyncio.ensure_future(runner.ainvoke(asking(ONE), ON, durability="sync"))
    await asyncio.to_thread(inside.wait)
    run.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(await db.journal.adoubts("t")) == (0 if threaded else 1)
    found = await runner.ainvoke(None, ON, durability="sync")
    if threaded:
        assert (made, results(found)[0].text) == (["a"], "done")
    else:
        assert len((await runner.aget_state(ON)).interrupts) == 1


@MODES
@pytest.mark.parametrize("happened", [True, False])
@pytest.mark.parametrize("soon", [True, False])
def test_the_outside_world_is_asked(mode: str, happened: bool, soon: bool, db: Database) -> None:
    """`reconcile` says what became of a call, so that nobody has to be asked."""
    made: list[str] = []

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        made.append(what)
        if len(made) == 1:
            raise Crash
        return "done"

    def reconcile(asked: Any) -> Any:
        assert asked == {"args": {"what": "a"}}
        return "found outside" if happened else DID_NOT_HAPPEN

    async def areconcile(asked: Any) -> Any:
        return reconcile(asked)

    runner = acting(db.saver, act, journal=JournalMiddleware({"act": areconcile if soon else reconcile}))
    crashed(runner, asking(ONE))
    found = both(runner, None, mode)
    assert made == (["a"] if happened else ["a", "a"])
    assert results(found)[0].text == ("found outside" if happened else "done")


@MODES
def test_two_calls_in_doubt_in_one_task(mode: str, db: Database) -> None:
    """One question for both; each gets its own answer, and an answer that cannot be understood is asked for again."""
    made: list[str] = []
    together = threading.Barrier(2)

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        made.append(what)
        if len(made) <= 2:
            together.wait()
            raise Crash
        return f"{what} now"

    runner = acting(db.saver, act, stock=True)
    crashed(runner, asking(ONE, TWO))
    both(runner, None, mode)
    (question,) = questions(runner)
    assert [effect["asked"]["args"]["what"] for effect in question.value["effects"]] in (["a", "b"], ["b", "a"])
    for wrong in ("yes", {}, {effect["effect_id"]: {"verdict": "maybe"} for effect in question.value["effects"]}):
        (question,) = questions(runner)
        both(runner, Command(resume={question.id: wrong}), mode)
        assert questions(runner)[0].value["refused"]

    def say(effect: Any) -> Any:
        if effect["asked"]["args"]["what"] == "a":
            return {"verdict": "happened", "result": "a before"}
        return {"verdict": "did not happen"}

    found = answered(runner, mode, say)
    assert [message.text for message in results(found)] == ["a before", "b now"]
    assert sorted(made) == ["a", "b", "b"]


@MODES
def test_a_call_that_is_given_up(mode: str, db: Database) -> None:
    """The model is told that nobody knows."""

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        raise Crash

    runner = acting(db.saver, act)
    crashed(runner, asking(ONE))
    both(runner, None, mode)
    found = answered(runner, mode, lambda effect: {"verdict": "abandoned"})
    assert results(found)[0].status == "error"


@MODES
def test_errors_of_holdfast_end_the_run(mode: str) -> None:
    """A tool node that tells the model of errors does not tell it of Holdfast's."""

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        raise AssertionError("it is not called")

    for saver in (None, InMemorySaver()):
        runner = acting(saver, act, handle=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(JournalNeedsSaver) as raised:
            both(runner, asking(ONE), mode)
        assert isinstance(raised.value, HoldfastError)


@MODES
def test_errors_of_tools_may_be_told(mode: str, db: Database) -> None:
    """What a tool raises is told to the model, if that is asked for."""

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        raise ValueError("broken")

    found = both(acting(db.saver, act, handle=True), asking(ONE), mode)
    assert "broken" in results(found)[0].text


class Dying(AgentMiddleware[Any, Any, Any]):
    """A process that is gone once the first call is made."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = True

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        result = handler(request)
        if self.alive:
            self.alive = False
            raise Crash
        return result


def retrying(db: Database, act: Any, *outer: Any) -> Any:
    """An agent that calls the tool, and tries it again if it raises."""
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)
    model = ScriptedModel(script=[AIMessage("", tool_calls=[ONE]), AIMessage("done")])
    return create_agent(model, [act], middleware=[*outer, retry, JournalMiddleware()], checkpointer=db.saver)


def test_a_retried_call_is_one_call(db: Database) -> None:
    """What was done at the second try is not done again by the first try of a re-execution."""
    tries: list[str] = []

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        tries.append(idempotency_key())
        if len(tries) == 1:
            raise NotDone
        return "done"

    runner = retrying(db, act, Dying())
    crashed(runner, {"messages": [("user", "go")]})
    found = both(runner, None, "sync")
    assert (len(tries), len({*tries})) == (2, 1)
    assert results(found)[0].content == "done"


def test_a_retry_asks_what_became_of_the_first_try(db: Database) -> None:
    """Who retries does not know whether it happened: a person is asked, and the tool is not called meanwhile."""
    tries: list[str] = []

    @tool("act")
    def act(what: str) -> str:
        """Act."""
        tries.append(what)
        raise TimeoutError

    runner = retrying(db, act)
    both(runner, {"messages": [("user", "go")]}, "sync")
    assert len(tries) == 1
    found = answered(runner, "sync", lambda effect: {"verdict": "happened", "result": "told"})
    assert (len(tries), results(found)[0].content) == (1, "told")
