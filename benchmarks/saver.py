"""What the bridge costs: the official Postgres savers against `Database.saver`, in one run on one server.

`python benchmarks/saver.py` prints the figures; with `--check` also the floors, and exits 1 below one.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from typing_extensions import TypedDict

from holdfast.checkpointing import Database, embedded

STEPS = 60
ROUNDS = 5
OPTIONS: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
FLOORS = {"sync": 2.5, "async": 2.5}
"""At most this many times the official saver's time a superstep. Ours pays twice: a hop to another thread, and the
pool's look whether a connection is alive before each use, without which a restart of the server fails a checkpoint."""


class State(TypedDict):
    """A counter and some text."""

    count: int
    text: str


def compiled(saver: BaseCheckpointSaver[Any]) -> Any:
    """A graph that goes round `STEPS` times."""

    def step(state: State) -> State:
        return {"count": state["count"] + 1, "text": "x" * 500}

    builder = StateGraph(State)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["count"] < STEPS else "__end__")
    return builder.compile(checkpointer=saver)


def config(name: str) -> Any:
    return {"configurable": {"thread_id": name}, "recursion_limit": STEPS + 5}


def sync_run(saver: BaseCheckpointSaver[Any], name: str) -> float:
    began = time.perf_counter()
    compiled(saver).invoke({"count": 0, "text": ""}, config(name), durability="sync")
    return time.perf_counter() - began


async def async_run(saver: BaseCheckpointSaver[Any], name: str) -> float:
    began = time.perf_counter()
    await compiled(saver).ainvoke({"count": 0, "text": ""}, config(name), durability="sync")
    return time.perf_counter() - began


def compare_sync(uri: str, db: Database) -> tuple[float, float]:
    """Milliseconds a superstep, official and ours; rounds alternate so that both see the same machine."""
    with ConnectionPool(uri, kwargs=OPTIONS, max_size=10) as pool:
        stock: Any = PostgresSaver(pool)  # type: ignore[arg-type]  # OPTIONS sets the row factory it asks for
        return alternate(lambda name: sync_run(stock, name), lambda name: sync_run(db.saver, name), "sync")


async def compare_async(uri: str, db: Database) -> tuple[float, float]:
    """`compare_sync` under ainvoke."""
    async with AsyncConnectionPool(uri, kwargs=OPTIONS, max_size=10, open=False) as pool:
        stock: Any = AsyncPostgresSaver(pool)  # type: ignore[arg-type]  # OPTIONS sets the row factory it asks for
        theirs: list[float] = []
        ours: list[float] = []
        for turn in range(ROUNDS + 1):
            theirs.append(await async_run(stock, f"async-stock-{turn}-{id(db)}"))
            ours.append(await async_run(db.saver, f"async-ours-{turn}-{id(db)}"))
        return milliseconds(theirs), milliseconds(ours)


def alternate(stock: Callable[[str], float], ours: Callable[[str], float], kind: str) -> tuple[float, float]:
    times = [(stock(f"{kind}-stock-{turn}"), ours(f"{kind}-ours-{turn}")) for turn in range(ROUNDS + 1)]
    return milliseconds([first for first, _ in times]), milliseconds([second for _, second in times])


def milliseconds(times: list[float]) -> float:
    """The median time a superstep without the first, warming, round."""
    return statistics.median(times[1:]) / STEPS * 1000


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="print the floors and exit 1 below one")
    check = parser.parse_args().check
    with Database.connect() as db:
        uri = db.uri or embedded.start()
        found = {"sync": compare_sync(uri, db), "async": asyncio.run(compare_async(uri, db))}
    held = True
    for kind, (stock, ours) in found.items():
        ratio = ours / stock
        floor = f"  floor: at most {FLOORS[kind]}" if check else ""
        print(f"{kind:<6} superstep: official {stock:6.2f} ms, Holdfast {ours:6.2f} ms, ratio {ratio:.2f}{floor}")
        held = held and ratio <= FLOORS[kind]
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0 if held or not check else 1


if __name__ == "__main__":
    sys.exit(main())
