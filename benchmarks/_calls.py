"""The same calls of a function, journaled by us, by DBOS's steps, and not at all; each in a child process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
from _proxy import CountingProxy
from _server import Counts, counts, growth, sizes
from langgraph.graph import START, StateGraph
from psycopg.conninfo import conninfo_to_dict
from typing_extensions import TypedDict

from holdfast.checkpointing import Database
from holdfast.guardrails import effect

ANSWER = "the tool's answer " * 20
"""What each call returns: 360 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What some threads' calls took."""

    durations: list[float]
    """Seconds, of each call."""
    whole: float
    """Seconds, all threads together."""
    number: int
    counts: Counts
    bytes: int

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.number / self.whole


class State(TypedDict):
    count: int


async def plain(number: int) -> str:
    return f"{number} {ANSWER}"


journaled = effect(name="plain")(plain)


def commits(uri: str, number: int) -> list[float]:
    """Seconds of one durable commit of a row as large as an answer."""
    durations: list[float] = []
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE answers (number bigint PRIMARY KEY, body text)")
        for turn in range(number):
            began = time.perf_counter()
            connection.execute("INSERT INTO answers VALUES (%s, %s)", (turn, ANSWER), prepare=True)
            durations.append(time.perf_counter() - began)
    return durations


def ours(uri: str, threads: int, each: int, *, journal: bool = True) -> Calls:
    """Calls in the one node of a graph on our saver."""
    call = journaled if journal else plain
    durations: list[float] = []
    with Database.connect(uri) as database:

        async def node(state: State) -> State:
            return {"count": await _timed(call, each, durations)}

        graph: Any = (
            StateGraph(State).add_node("node", node).add_edge(START, "node").compile(checkpointer=database.saver)
        )

        async def run(name: str, durations_wanted: bool = True) -> None:
            await graph.ainvoke({"count": 0}, {"configurable": {"thread_id": name}}, durability="sync")

        async def every() -> tuple[float, Counts, int]:
            await run("warm")
            durations.clear()
            return await _counted(uri, lambda: _gathered(run, threads))

        whole, counted, grown = asyncio.run(every())
    return Calls(durations=durations, whole=whole, number=threads * each, counts=counted, bytes=grown)


def trips(uri: str, each: int) -> float:
    """Round trips of a call: those of a graph with so many calls without those of one with none."""
    with Database.connect(uri):
        pass
    found: list[int] = []
    for number in (0, each):
        with CountingProxy(uri) as proxy:
            ours(proxy.uri, 1, number)
            time.sleep(0.2)  # the proxy counts an answer after it has passed it on
            found.append(proxy.trips)
    # The graph ran twice, once to warm up.
    return (found[1] - found[0]) / (2 * each)


def dbos(uri: str, threads: int, each: int) -> Calls:
    """Calls as steps of workflows, with the engine's own settings."""
    from dbos import DBOS

    given = conninfo_to_dict(uri)
    user, host, name = (quote(str(given.get(part) or "")) for part in ("user", "host", "dbname"))
    port = f"&port={given['port']}" if given.get("port") else ""
    password = f":{quote(str(given['password']))}" if given.get("password") else ""
    url = f"postgresql://{user}{password}@/{name}?host={host}{port}"
    durations: list[float] = []
    DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "ERROR", "enable_otlp": False})
    step = DBOS.step()(plain)

    @DBOS.workflow()
    async def workflow(number: int) -> int:
        return await _timed(step, number, durations)

    DBOS.launch()

    async def run(_: str) -> None:
        await workflow(each)

    async def every() -> tuple[float, Counts, int]:
        await workflow(2)
        durations.clear()
        return await _counted(uri, lambda: _gathered(run, threads))

    try:
        whole, counted, grown = asyncio.run(every())
    finally:
        DBOS.destroy()
    return Calls(durations=durations, whole=whole, number=threads * each, counts=counted, bytes=grown)


async def _timed(call: Callable[[int], Awaitable[str]], each: int, durations: list[float]) -> int:
    for number in range(each):
        began = time.perf_counter()
        await call(number)
        durations.append(time.perf_counter() - began)
    return each


async def _gathered(run: Callable[[str], Awaitable[None]], threads: int) -> None:
    await asyncio.gather(*(run(f"thread-{turn}") for turn in range(threads)))


async def _counted(uri: str, act: Callable[[], Awaitable[None]]) -> tuple[float, Counts, int]:
    before = sizes(uri)
    with psycopg.connect(uri, autocommit=True) as admin:
        start = counts(admin)
        began = time.perf_counter()
        await act()
        whole = time.perf_counter() - began
        counted = counts(admin) - start
    return whole, counted, sum(growth(sizes(uri), before).values())
