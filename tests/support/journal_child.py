"""Processes that run a graph whose calls are journaled, and are killed around a call.

What the calls do outside is rows of the table `outside`, written over connections of their own. Each process says in
its log, a line each, of which effects a person was asked.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command

from holdfast.checkpointing import Database, HoldfastSaver, grouping
from holdfast.checkpointing.errors import ThreadBusy
from holdfast.checkpointing.journal import Journal
from holdfast.guardrails import JournalMiddleware, idempotency_key
from holdfast.nodes import each_call, guarded, tool_node
from tests.support.zygote import Job, serve

TABLE: Final = "CREATE TABLE outside (thread text, kind text, what text, key text, UNIQUE (thread, kind, key))"
GRAPHS: Final = ("agent", "hand-made", "stock")
INPUT: Final = {"messages": [HumanMessage("charge a and b, tell c", id="begin")]}
CALLS: Final = (("charge", "a"), ("charge", "b"), ("tell", "c"))
"""What the model asks for in its only turn with tool calls; `tell` is idempotent."""

Record = Callable[[str, str, str | None], None]


class Strikes:
    """Kills the process when it comes by a point for the n-th time."""

    def __init__(
        self,
        point: str = "",
        count: int = 1,
        note: Callable[[str], None] = lambda text: None,
        settled: frozenset[str] = frozenset(),
    ) -> None:
        """`settled`: the calls that have been settled before, by what they are of."""
        self._point = point
        self._count = count
        self._note = note
        self._lock = threading.Condition()
        self._settled = {*settled}

    def __call__(self, point: str) -> None:
        if point != self._point:
            return
        with self._lock:
            self._count -= 1
            if not self._count:
                self._note("killed")
                os.kill(os.getpid(), signal.SIGKILL)

    def settled(self, what: str) -> None:
        """A call has been settled."""
        with self._lock:
            self._settled.add(what)
            self._lock.notify_all()

    def inside(self, what: str, moment: str) -> None:
        """Before and after what a tool does; where a kill is meant for one call, the others are settled by then."""
        of, others = ("b", {"a"}) if self._point == "between" else (self._point[:1], {"b", "c"})
        if what == of and self._point in ("between", f"{what}:{moment}"):
            with self._lock:
                self._lock.wait_for(lambda: others <= self._settled)
            self(self._point)
        self(f"tool:{moment}")


class CountedModel(BaseChatModel):
    """Asks for three calls at once, and answers when it has their results; each call of it is a row outside."""

    record: Any
    strike: Any

    @property
    def _llm_type(self) -> str:
        return "counted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[tool.name for tool in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.strike("model:enter")
        self.record("model", str(len(messages)), None)
        done = sorted(message.text for message in messages if isinstance(message, ToolMessage))
        calls = [{"name": name, "args": {"what": what}, "id": f"call_{what}"} for name, what in CALLS]
        answer = AIMessage(f"done: {', '.join(done)}") if done else AIMessage("", tool_calls=calls)
        self.strike("model:exit")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def graph(kind: str, saver: HoldfastSaver | None, record: Record, strike: Strikes) -> Any:
    """A graph of one of three makes: a model, its three calls, its answer."""

    def charge(what: str) -> str:
        """Charge once."""
        strike.inside(what, "before")
        record("charge", what, None)
        strike.inside(what, "after")
        return f"charged {what}"

    def tell(what: str) -> str:
        """Tell, any number of times."""
        strike.inside(what, "before")
        record("tell", what, idempotency_key())
        strike.inside(what, "after")
        return f"told {what}"

    def tool(func: Callable[[str], str], **metadata: Any) -> BaseTool:
        async def soon(what: str) -> str:
            return await asyncio.to_thread(func, what)

        return StructuredTool.from_function(func, soon, metadata=metadata)

    tools = [tool(charge), tool(tell, idempotentHint=True)]
    model = CountedModel(record=record, strike=strike)
    if kind == "agent":
        return create_agent(model, tools, middleware=[JournalMiddleware()], checkpointer=saver)
    bound = guarded(model).bind_tools(tools)

    def ask(state: MessagesState) -> Any:
        return {"messages": [bound.invoke(state["messages"])]}

    async def aask(state: MessagesState) -> Any:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("model", RunnableLambda(ask, aask)).add_edge(START, "model")
    if kind == "hand-made":
        builder.add_node("tools", tool_node(tools)).add_conditional_edges("model", each_call())
    else:
        journal = JournalMiddleware()
        node = ToolNode(tools, wrap_tool_call=journal.wrap_tool_call, awrap_tool_call=journal.awrap_tool_call)
        builder.add_node("tools", node).add_conditional_edges("model", tools_condition)
    return builder.add_edge("tools", "model").compile(checkpointer=saver)


def recording(uri: str, thread: str) -> Record:
    """Writes rows of a thread into the outside table."""

    def record(kind: str, what: str, key: str | None) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            row = "INSERT INTO outside VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
            connection.execute(row, (thread, kind, what, key))

    return record


def arm(strike: Strikes) -> None:
    """Make the saver and the journal of this process strike as they are entered and left."""
    for of, method in (
        (Journal, "claim"),
        (Journal, "settle"),
        (HoldfastSaver, "put"),
        (HoldfastSaver, "put_writes"),
    ):
        for name, wrap in ((method, _wrapped), (f"a{method}", _awrapped)):
            setattr(of, name, wrap(getattr(of, name), method, strike))
    module: Any = grouping
    module.run_again_blocking = _wrapped(module.run_again_blocking, "statement", strike)


def _wrapped(method: Any, name: str, strike: Strikes) -> Any:
    @functools.wraps(method)
    def call(*arguments: Any, **keywords: Any) -> Any:
        strike(f"{name}:enter")
        result = method(*arguments, **keywords)
        _settled(name, arguments, strike)
        strike(f"{name}:exit")
        return result

    return call


def _awrapped(method: Any, name: str, strike: Strikes) -> Any:
    @functools.wraps(method)
    async def call(*arguments: Any, **keywords: Any) -> Any:
        strike(f"{name}:enter")
        result = await method(*arguments, **keywords)
        _settled(name, arguments, strike)
        strike(f"{name}:exit")
        return result

    return call


def _settled(name: str, arguments: tuple[Any, ...], strike: Strikes) -> None:
    if name == "settle" and (args := arguments[1].claim.effect.asked.get("args")):
        strike.settled(args["what"])


def run(job: Job) -> None:
    """Run or resume the job's thread to its end, with its kill point armed."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    strike = Strikes(job.get("point", ""), int(job.get("count", 1)), note, frozenset(job.get("settled", "")))
    arm(strike)
    config: Any = {"configurable": {"thread_id": job["thread"]}}
    with Database.connect(job["uri"]) as db:
        runner = graph(job["graph"], db.saver, recording(job["uri"], job["thread"]), strike)
        given: Any = INPUT if db.saver.get_tuple(config) is None else None
        while True:
            ran(runner, given, config, job)
            if not (waiting := runner.get_state(config).interrupts):
                return
            answers = {one.id: truly(one.value, job, note) for one in waiting}
            # One question may be answered without its id, too; LangGraph saves such an answer for the next process.
            given = Command(resume=answers if len(answers) > 1 or "by id" in job else answers.popitem()[1])


def ran(runner: Any, given: Any, config: Any, job: Job) -> None:
    """Run it, as soon as nobody else does."""
    while True:
        try:
            if job["mode"] == "async":
                asyncio.run(runner.ainvoke(given, config, durability=job["durability"]))
            else:
                runner.invoke(given, config, durability=job["durability"])
        except ThreadBusy:
            time.sleep(0.05)
        else:
            return


def truly(question: Any, job: Job, note: Callable[[str], None]) -> Any:
    """What became of the effects, as the outside world shows it."""
    answer: dict[str, Any] = {}
    with psycopg.connect(job["uri"]) as connection:
        for effect in question["effects"]:
            note(f"doubt {effect['effect_id']}")
            what = effect["asked"]["args"]["what"]
            row = "SELECT 1 FROM outside WHERE thread = %s AND kind = %s AND what = %s"
            happened = connection.execute(row, (job["thread"], effect["name"], what)).fetchall()
            verdict = (
                {"verdict": "happened", "result": f"charged {what}"} if happened else {"verdict": "did not happen"}
            )
            answer[effect["effect_id"]] = verdict
    return answer


if __name__ == "__main__":
    serve(run)
