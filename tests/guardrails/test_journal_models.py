"""Model calls in nodes and agents: made once, told apart, and replayed as what they were."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import ModelRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from holdfast.checkpointing import Database
from holdfast.checkpointing.durable import NotResumable
from holdfast.guardrails import AnswerMiddleware, JournalMiddleware, MalformedAnswer
from holdfast.nodes import guarded
from tests.support.calls import ON, Crash, both, crashed, lambda_node, node_graph
from tests.support.scripted import ScriptedModel, calling

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
BEGIN: dict[str, Any] = {"messages": [("user", "hello")]}


class Streaming(BaseChatModel):
    """Says three words, one at a time; counts how often it was asked."""

    asked: list[int]

    @property
    def _llm_type(self) -> str:
        return "streaming"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append(len(messages))
        return ChatResult(generations=[ChatGeneration(message=AIMessage("one two three"))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self.asked.append(len(messages))
        for word in ("one ", "two ", "three"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


def scripted(*answers: str) -> ScriptedModel:
    """A model that gives these answers."""
    return ScriptedModel(script=[AIMessage(answer) for answer in answers])


def calling_node(model: BaseChatModel) -> Any:
    """A node that calls the model once."""

    def node(state: MessagesState) -> Any:
        return {"messages": [guarded(model).invoke(state["messages"])]}

    return node


@MODES
def test_a_streamed_call_replays_as_a_stream(mode: str, db: Database) -> None:
    """The text and the id are the same, whether the model spoke or the record."""
    model = Streaming(asked=[])
    heard: list[tuple[str, set[str | None]]] = []

    def node(state: MessagesState) -> Any:
        chunks = list(guarded(model).stream(state["messages"]))
        return end(chunks)

    async def anode(state: MessagesState) -> Any:
        return end([chunk async for chunk in guarded(model).astream(state["messages"])])

    def end(chunks: list[Any]) -> Any:
        heard.append(("".join(chunk.text for chunk in chunks), {chunk.id for chunk in chunks}))
        if len(heard) == 1:
            raise Crash
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return {"messages": [whole]}

    runner = node_graph(db.saver, lambda_node(node, anode))
    crashed(runner, BEGIN, mode)
    found = both(runner, None, mode)
    assert model.asked == [1]
    assert heard[0] == heard[1]
    assert heard[0][0] == "one two three"
    assert heard[0][1] == {found["messages"][-1].id}


def test_messages_are_streamed_from_a_replayed_call(db: Database) -> None:
    """`stream_mode="messages"` sees the answer of the record with the id that the state has."""
    model, runs = Streaming(asked=[]), 0

    def node(state: MessagesState) -> Any:
        nonlocal runs
        runs += 1
        answer = guarded(model).invoke(state["messages"])
        if runs == 1:
            raise Crash
        return {"messages": [answer]}

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    seen = [message for message, _ in runner.stream(None, ON, stream_mode="messages", durability="sync")]
    assert "".join(message.text for message in seen) == "one two three"
    assert {message.id for message in seen} == {runner.get_state(ON).values["messages"][-1].id}
    assert model.asked == [1]


async def test_two_identical_calls_are_two(db: Database) -> None:
    """Asked twice at once the same, the model is called twice; from the record come both answers."""
    model = scripted("first", "second")
    runs: list[Any] = []

    async def node(state: MessagesState) -> Any:
        found = await asyncio.gather(*(guarded(model).ainvoke(state["messages"]) for _ in range(2)))
        runs.append({message.text for message in found})
        if len(runs) == 1:
            raise Crash
        return {"messages": found}

    runner = node_graph(db.saver, node)
    with pytest.raises(Crash):
        await runner.ainvoke(BEGIN, ON, durability="sync")
    await runner.ainvoke(None, ON, durability="sync")
    assert runs == [{"first", "second"}] * 2
    assert len(model.requests) == 2


@MODES
def test_a_node_that_is_tried_again_replays(mode: str, db: Database) -> None:
    """A retry within the process answers finished calls from the record."""
    model = scripted("first", "second")
    runs: list[Any] = []

    def end(*answers: BaseMessage) -> Any:
        runs.append([answer.text for answer in answers])
        if len(runs) < 3:
            raise OSError("not yet")
        return {"messages": [*answers]}

    def node(state: MessagesState) -> Any:
        return end(guarded(model).invoke("one"), guarded(model).invoke("two"))

    async def anode(state: MessagesState) -> Any:
        return end(await guarded(model).ainvoke("one"), await guarded(model).ainvoke("two"))

    policy = RetryPolicy(max_attempts=3, initial_interval=0, jitter=False, retry_on=OSError)
    runner = node_graph(db.saver, lambda_node(node, anode), retry_policy=policy)
    both(runner, BEGIN, mode)
    assert runs == [["first", "second"]] * 3
    assert len(model.requests) == 2


def test_a_model_that_fails_is_asked_again(db: Database) -> None:
    """A call that ended in an error has no record."""
    model = ScriptedModel(script=[OSError("busy"), AIMessage("at last")])
    runner = node_graph(db.saver, calling_node(model))
    with pytest.raises(OSError, match="busy"):
        both(runner, BEGIN, "sync")
    assert both(runner, None, "sync")["messages"][-1].text == "at last"


class Weather(BaseModel):
    """What is wanted."""

    degrees: int


@MODES
def test_structured_output_from_the_record(mode: str, db: Database) -> None:
    """An agent's structured answer is the same when its model call is replayed."""
    model = ScriptedModel(script=[calling(("Weather", {"degrees": 7}))])
    fail = ["once"]

    class Failing(JournalMiddleware):
        """Fails after the model's call at first."""

        def after_model(self, state: Any, runtime: Any) -> None:
            pass

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            found = super().wrap_model_call(request, handler)
            if fail:
                raise Crash(fail.clear())
            return found

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            found = await super().awrap_model_call(request, handler)
            if fail:
                raise Crash(fail.clear())
            return found

    runner: Any = create_agent(
        model, [], middleware=[Failing()], response_format=ToolStrategy(Weather), checkpointer=db.saver
    )
    crashed(runner, BEGIN, mode)
    found = both(runner, None, mode)
    assert found["structured_response"] == Weather(degrees=7)
    assert len(model.requests) == 1


@MODES
def test_exit_durability_is_refused(mode: str, db: Database) -> None:
    """Before any call is made."""
    model = scripted("never")
    retry = ModelRetryMiddleware(initial_delay=0)  # which would make an answer of the error
    runner: Any = create_agent(model, [], middleware=[retry, JournalMiddleware()], checkpointer=db.saver)
    with pytest.raises(NotResumable, match="exit"):
        both(runner, BEGIN, mode, durability="exit")
    assert model.requests == []


@MODES
@pytest.mark.parametrize("kept", [None, False])
def test_a_subgraph_that_is_not_saved_is_refused(kept: bool | None, mode: str, db: Database) -> None:
    """Its calls would be made twice after a crash; one that is saved with its parent is fine.

    LangGraph 1.2 itself cannot run such a subgraph under `durability="sync"`.
    """
    model = scripted("done")

    inner = (
        StateGraph(MessagesState).add_node("ask", calling_node(model)).add_edge(START, "ask").compile(checkpointer=kept)
    )
    runner: Any = (
        StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=db.saver)
    )
    if kept is None:
        assert both(runner, BEGIN, mode)["messages"][-1].text == "done"
        return
    with pytest.raises(NotResumable, match="checkpointer=False"):
        both(runner, BEGIN, mode, durability="async")
    assert model.requests == []


def test_a_call_waits_for_its_checkpoint(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `durability="async"` a call is made only when the checkpoint that names it is in the database."""
    committed, made = threading.Event(), []
    committer: Any = db.saver._committer  # pyright: ignore[reportPrivateUsage]
    settle = committer._settle

    def slow(batch: Any, settled: Any) -> None:
        assert made == [] or committed.is_set()
        settle(batch, settled)
        committed.set()

    monkeypatch.setattr(committer, "_settle", slow)

    class Watched(ScriptedModel):
        """Notes whether anything was committed when it was asked."""

        def _generate(self, *arguments: Any, **keywords: Any) -> ChatResult:
            made.append(committed.is_set())
            return super()._generate(*arguments, **keywords)

    model = Watched(script=[AIMessage("done")])
    runner = node_graph(db.saver, calling_node(model))
    both(runner, BEGIN, "sync", durability="async")
    assert made == [True]


class Number(BaseModel):
    """How many."""

    number: int


class Prose(BaseChatModel):
    """Answers in prose, until it is well."""

    well: bool = False
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "prose"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind()

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.calls += 1
        call: Any = {"name": "Number", "args": {"number": 7}, "id": str(self.calls)}
        message = AIMessage("", tool_calls=[call]) if self.well else AIMessage(f"about seven ({self.calls})")
        return ChatResult(generations=[ChatGeneration(message=message)])


def test_an_answer_that_was_refused_for_good_is_asked_for_again_on_resume(db: Database) -> None:
    """From the record would come the same answer for ever; what was asked before it is answered from the record."""
    model = Prose()
    agent: Any = create_agent(
        model,
        response_format=ToolStrategy(Number),
        middleware=[AnswerMiddleware(attempts=2), JournalMiddleware()],
        checkpointer=db.saver,
    )
    with pytest.raises(MalformedAnswer):
        agent.invoke({"messages": [("user", "how many?")]}, ON)
    assert model.calls == 2
    model.well = True
    assert agent.invoke(None, ON)["structured_response"] == Number(number=7)
    assert model.calls == 3
    kinds = [event.kind for event in db.audit.read(thread_id="t") if event.kind.startswith("model.")]
    first, again = ["model.called", "model.answered"], ["model.replayed", "model.called", "model.answered"]
    assert kinds == [*first, *first, "model.refused", *again]


def test_a_stream_that_nobody_ends_holds_up_nobody(db: Database) -> None:
    """An error's traceback may keep a half-read stream for long; the resumed node asks anew."""
    model, kept = Streaming(asked=[]), list[Any]()

    def node(state: MessagesState) -> Any:
        stream = guarded(model).stream(state["messages"])
        if not kept:
            kept.append(stream)
            next(stream)
            raise Crash
        return {"messages": [sum(stream, AIMessageChunk(content=""))]}

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    assert both(runner, None, "sync")["messages"][-1].text == "one two three"
    assert len(model.asked) == 2


def test_a_model_that_is_retried_replays(db: Database) -> None:
    """The answer that came at the second try is the first answer of a re-execution."""
    model, runs = ScriptedModel(script=[OSError("busy"), AIMessage("at last")]), list[str]()

    def node(state: MessagesState) -> Any:
        tried = guarded(model).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
        runs.append(tried.invoke(state["messages"]).text)
        if len(runs) == 1:
            raise Crash
        return {}

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    both(runner, None, "sync")
    assert runs == ["at last", "at last"]


def test_the_models_own_callbacks_are_told(db: Database) -> None:
    """Who listens to a model hears its journaled calls too."""
    heard: list[int] = []

    class Listener(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            heard.append(len(messages))

    model = scripted("done")
    model.callbacks = [Listener()]
    both(node_graph(db.saver, calling_node(model)), BEGIN, "sync")
    assert heard == [1]


def test_looking_at_old_checkpoints_holds_up_no_call(db: Database) -> None:
    """However many others look at the thread, the running task's checkpoint is known to be saved."""

    def node(state: MessagesState) -> Any:
        old = list(runner.get_state_history(ON))[-1].config
        for _ in range(70):
            runner.get_state(old)
        return {"messages": [guarded(scripted("done")).invoke(state["messages"])]}

    runner = node_graph(db.saver, node)
    both(runner, BEGIN, "sync")
    assert both(runner, BEGIN, "sync")["messages"][-1].text == "done"


@pytest.mark.parametrize("include_raw", [False, True])
def test_a_models_own_structured_output_is_journaled(include_raw: bool, db: Database) -> None:
    """It is the other model's way of asking, and the record's answer on the second execution."""
    model, found = Prose(well=True), list[Any]()

    def node(state: MessagesState) -> Any:
        answer: Any = guarded(model).with_structured_output(Number, include_raw=include_raw).invoke(state["messages"])
        found.append(answer["parsed"] if include_raw else answer)
        if len(found) == 1:
            raise Crash
        return {}

    runner = node_graph(db.saver, node)
    crashed(runner, BEGIN)
    both(runner, None, "sync")
    assert found == [Number(number=7)] * 2
    assert model.calls == 1


def test_langchains_cache_does_not_answer_for_the_record(db: Database) -> None:
    """It knows in one process what another does not."""
    model = Prose(well=True)
    set_llm_cache(InMemoryCache())
    try:
        runner = node_graph(db.saver, calling_node(model))
        both(runner, BEGIN, "sync")
        both(runner, BEGIN, "sync")
    finally:
        set_llm_cache(None)
    assert model.calls == 2
