"""Processes that run a graph and are killed inside the saver, forked from one that has imported everything.

Each says in its log, a line each, which nodes ran and which were told that they are saved.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import os
import signal
from collections.abc import Callable, Generator
from typing import Annotated, Any, Final, cast

import psycopg
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph, add_messages
from langgraph.types import Send
from psycopg import waiting
from psycopg.waiting import Wait
from typing_extensions import TypedDict

from holdfast.checkpointing import Database, HoldfastSaver, committer
from tests.support.leases import TTL, when_free
from tests.support.zygote import serve

METHODS: Final = ("put", "put_writes")
COMMIT: Final = ("before", "sent", "committed")
"""Of a commit: before its statement is sent, before its answer is read, before the callers are told."""
POINTS: Final = (*(f"{method}:{moment}" for method in METHODS for moment in ("enter", "exit")), *COMMIT)
INPUT: Final = {"messages": [HumanMessage("begin", id="begin")]}

Note = Callable[[str], None]


class Work(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]
    inner: list[str]


class Inner(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]


class Outer(TypedDict, total=False):
    inner: list[str]


def graph(saver: BaseCheckpointSaver[Any] | None, note: Note) -> Any:
    """Parallel branches, a fan-out by Send, a subgraph of two steps, an end."""

    def node(name: str) -> Any:
        def run(state: Any) -> Any:
            note(f"ran {name}")
            return {"messages": [AIMessage(f"by {name}", id=name)], "log": [name]}

        return run

    def work(given: Any) -> Any:
        name = f"work{given['number']}"
        note(f"ran {name}")
        return {"messages": [AIMessage([given["message"].content, name], id=name)], "log": [name]}

    def spread(state: Any) -> list[Send]:
        return [Send("work", {"number": number, "message": state["messages"][-1]}) for number in range(3)]

    inner = StateGraph(Inner, output_schema=Outer)
    inner.add_node("x", node("x")).add_node("y", node("y")).add_edge(START, "x").add_edge("x", "y")
    builder = StateGraph(Work)
    for name in ("a", "b", "c", "end"):
        builder.add_node(name, node(name))
    builder.add_node("work", cast("Any", work)).add_node("sub", inner.compile())
    builder.add_edge(START, "a").add_edge(START, "b").add_edge(["a", "b"], "c")
    builder.add_conditional_edges("c", spread, ["work"])
    return builder.add_edge("work", "sub").add_edge("sub", "end").compile(checkpointer=saver)


def kill(note: Note) -> None:
    """End, as if the power failed."""
    note("killed")
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Strikes at the n-th time."""

    def __init__(self, count: int, note: Note) -> None:
        self._count = count
        self._note = note

    def __call__(self) -> None:
        self._count -= 1
        if not self._count:
            kill(self._note)


def arm(point: str, strike: Callable[[], None], note: Note) -> None:
    """Make the saver of this process strike when it passes the point, and note what it was told is saved."""
    for method in METHODS:
        moment = point.removeprefix(f"{method}:")
        for name, wrap in ((method, _wrapped), (f"a{method}", _awrapped)):
            wrapped = wrap(getattr(HoldfastSaver, name), moment, strike, note)
            setattr(HoldfastSaver, name, wrapped)
    if point in COMMIT:
        _arm_commit(point, strike)


def _saved(note: Note, arguments: tuple[Any, ...]) -> None:
    """Note the nodes whose work a call that has returned is to have saved: the writes of one, or a whole state."""
    saved = arguments[1]
    written: Any = saved["channel_values"].get("log", ()) if "channel_values" in saved else _logged(saved)
    for name in written:
        note(f"saved {name}")


def _logged(writes: Any) -> list[str]:
    return [name for channel, value in writes if channel == "log" for name in value]


def _wrapped(method: Any, moment: str, strike: Callable[[], None], note: Note) -> Any:
    @functools.wraps(method)
    def call(self: HoldfastSaver, *arguments: Any, **keywords: Any) -> Any:
        if moment == "enter":
            strike()
        result = method(self, *arguments, **keywords)
        _saved(note, arguments)
        if moment == "exit":
            strike()
        return result

    return call


def _awrapped(method: Any, moment: str, strike: Callable[[], None], note: Note) -> Any:
    @functools.wraps(method)
    async def call(self: HoldfastSaver, *arguments: Any, **keywords: Any) -> Any:
        if moment == "enter":
            strike()
        result = await method(self, *arguments, **keywords)
        _saved(note, arguments)
        if moment == "exit":
            strike()
        return result

    return call


def _arm_commit(point: str, strike: Callable[[], None]) -> None:
    module: Any = committer
    commit = module.run_again_blocking
    committing = sent = False

    def run(*arguments: Any) -> Any:
        nonlocal committing, sent
        if point == "before":
            strike()
        committing = True
        result = commit(*arguments)
        committing = sent = False
        if point == "committed":
            strike()
        return result

    def send(*arguments: Any, **keywords: Any) -> Any:
        nonlocal sent
        sent = committing
        return send_prepared(*arguments, **keywords)

    def wait(steps: Generator[Any, Any, Any], *arguments: Any, **keywords: Any) -> Any:
        return psycopg_wait(struck(steps), *arguments, **keywords)

    def struck(steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same steps of talk with the server, but that the first wait for an answer alone strikes."""
        try:
            wanted = next(steps)
            while True:
                if sent and wanted == Wait.R:
                    strike()
                wanted = steps.send((yield wanted))
        except StopIteration as end:
            return end.value

    module.run_again_blocking = run
    if point == "sent":
        send_prepared = psycopg.Cursor._send_query_prepared  # pyright: ignore[reportPrivateUsage]
        psycopg.Cursor._send_query_prepared = send  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
        psycopg_wait = waiting.wait
        waiting.wait = wait  # type: ignore[assignment]


def run(job: dict[str, str]) -> None:
    """Run or resume the job's thread, with its kill point armed."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    if point := job.get("point"):
        arm(point, Countdown(int(job["count"]), note), note)
    config: Any = {"configurable": {"thread_id": job["thread"]}}
    with Database.connect(job["uri"], lease_ttl=TTL) as db:
        runner = graph(db.saver, note)
        given = INPUT if db.saver.get_tuple(config) is None else None

        def advance() -> Any:
            if job["mode"] == "async":
                return asyncio.run(runner.ainvoke(given, config, durability="sync"))
            return runner.invoke(given, config, durability="sync")

        when_free(advance)


if __name__ == "__main__":
    serve(run)
