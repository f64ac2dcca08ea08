"""Processes that run one thread, and stop or wait on their way.

Arguments: thread, `sync` or `async`, the durability, and a point. At a point of `saver_child` the process stops
itself (SIGSTOP); at `node` it waits within its first node for a line of input. It prints what happens to it.
`crowd N` instead: that many processes, forked from one, resume the thread at once, and log what became of each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from holdfast.checkpointing import Database, HoldfastError
from tests.support.leases import TTL
from tests.support.saver_child import arm

INPUT: Any = {"messages": [HumanMessage("begin", id="begin")]}


def two_steps(saver: BaseCheckpointSaver[Any], first: Callable[[], None]) -> Any:
    """A graph of two nodes; what the first is to do is said."""

    def one(state: MessagesState) -> Any:
        first()
        return {"messages": [AIMessage("one", id="one")]}

    def two(state: MessagesState) -> Any:
        return {"messages": [AIMessage("two", id="two")]}

    builder = StateGraph(MessagesState).add_node("one", one).add_node("two", two)
    return builder.add_edge(START, "one").add_edge("one", "two").compile(checkpointer=saver)


def asking(saver: BaseCheckpointSaver[Any], answered: Callable[[], None]) -> Any:
    """A graph that waits for an answer; what it is to do with one is said."""

    def ask(state: MessagesState) -> Any:
        answer = interrupt("well?")
        answered()
        return {"messages": [AIMessage(str(answer), id="answer")]}

    return StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)


def say(text: str) -> None:
    """Tell the parent."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def alone(thread: str, mode: str, durability: Any, point: str) -> None:
    """One run, which stops or waits at the point."""

    def first() -> None:
        say("in node")
        if point == "node":
            sys.stdin.readline()

    if point != "node":
        stops = iter([signal.SIGSTOP])

        def strike() -> None:
            for stop in stops:
                os.kill(os.getpid(), stop)

        arm(point, strike, lambda _: None)
    with Database.connect(lease_ttl=TTL) as db:
        graph, config = two_steps(db.saver, first), {"configurable": {"thread_id": thread}}
        try:
            if mode == "async":
                asyncio.run(graph.ainvoke(INPUT, config, durability=durability))
            else:
                graph.invoke(INPUT, config, durability=durability)
        except HoldfastError as error:
            say(type(error).__name__)
        else:
            say("ended")


def crowd(thread: str, count: int, log: Path) -> None:
    """Many processes that resume the thread at the same moment."""
    begin, go = os.pipe()
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(text: str) -> None:
        os.write(lines, f"{text}\n".encode())

    def answered() -> None:
        note("ran")
        while len(log.read_text(encoding="utf-8").splitlines()) < count:
            time.sleep(0.01)  # until every other has said what became of it

    ready, gone = os.pipe()
    for _ in range(count):
        if os.fork():
            continue
        os.close(go)
        try:
            with Database.connect() as db:
                os.write(gone, b".")
                os.read(begin, 1)
                asking(db.saver, answered).invoke(Command(resume="yes"), {"configurable": {"thread_id": thread}})
        except BaseException as error:
            note(type(error).__name__)
        finally:
            os._exit(0)
    for _ in range(count):
        os.read(ready, 1)
    os.close(go)
    for _ in range(count):
        os.wait()


if __name__ == "__main__":
    if sys.argv[2] == "crowd":
        crowd(sys.argv[1], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        alone(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
