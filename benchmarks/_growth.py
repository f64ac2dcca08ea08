"""A thread that grows to ten thousand messages, with the saver called as LangGraph calls it but without LangGraph.

Its reducer and its loop copy and index every message at every superstep; driven directly, what is left is the saver's.
The shape of the calls is that of `langgraph.pregel._loop`: a superstep saves its writes, from
another thread, while it saves a checkpoint that holds the whole list, or with a DeltaChannel nothing of it but a
snapshot every hundredth time.
"""

from __future__ import annotations

import statistics
import time
import uuid
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
from _conversations import EVERY, Clock, Script, compiled, config, information, script
from _runs import THREAD, Setup
from _server import Saver, Side, counts, growth, opened, peak_memory, set_up, sizes
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import ChannelVersions
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import (
    _DeltaSnapshot,  # pyright: ignore[reportPrivateUsage] - what LangGraph hands to the saver
)
from psycopg.conninfo import make_conninfo

NODES = ("model", "tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Seconds of each `put_writes` and `put` together, and what was stored after `mark` supersteps of them."""

    setup: Setup
    mark: int
    durations: list[float]
    bytes: int
    wal: int
    information: int
    peak: int


@dataclass(slots=True)
class Driver:
    """Calls a saver as LangGraph would for a loop of two nodes."""

    pool: Executor
    saver: Saver
    delta: bool
    messages: list[AnyMessage]
    versions: dict[str, Any]
    seen: dict[str, dict[str, Any]]
    config: Any
    step: int = -1
    counters: tuple[int, int] = (0, 0)

    @classmethod
    def begun(cls, pool: Executor, saver: Saver, question: AnyMessage, *, delta: bool) -> Driver:
        """One that has saved the input."""
        first = {"thread_id": THREAD, "checkpoint_ns": "", "__pregel_durability": "sync"}
        config = {"configurable": first, "metadata": {"thread_id": THREAD}}
        driver = cls(pool, saver, delta, [], {}, {"__input__": {}}, config)
        driver._put({"__start__": {"messages": [question]}}, ["__start__"], [], "input")
        driver.superstep("__start__", question, "model")
        return driver

    def superstep(self, node: str, message: AnyMessage, following: str) -> None:
        """The node has said the message and calls for the following one."""
        trigger, wake = (node if node == "__start__" else f"branch:to:{node}"), f"branch:to:{following}"
        writes = [("messages", [message]), (wake, None)]
        saved = self.pool.submit(
            self.saver.put_writes, self.config, writes, str(uuid.uuid4()), f"~__pregel_pull, {node}"
        )
        self.messages = [*self.messages, message]
        self.seen = {**self.seen, node: {trigger: self.versions[trigger]}}
        self._put({wake: None}, ["messages", wake], [trigger], "loop")
        saved.result()

    def _put(self, values: dict[str, Any], updated: list[str], consumed: list[str], source: str) -> None:
        now = cast("str", self.saver.get_next_version(max(self.versions.values(), default=None), None))
        fresh: ChannelVersions = dict.fromkeys(consumed + updated, now)
        self.versions = {**self.versions, **fresh}
        checkpoint: Any = {
            "v": 4,
            "ts": datetime.now(UTC).isoformat(),
            "id": str(uuid6(clock_seq=self.step)),
            "channel_values": {**self._listed("messages" in fresh), **values},
            "channel_versions": self.versions,
            "versions_seen": self.seen,
            "updated_channels": sorted(updated),
        }
        metadata: Any = {"source": source, "step": self.step, "parents": {}}
        if self.delta and self.counters != (0, 0):
            metadata["counters_since_delta_snapshot"] = {"messages": self.counters}
        put: Any = self.saver.put(self.config, checkpoint, metadata, fresh)
        self.config = {**self.config, "configurable": {**self.config["configurable"], **put["configurable"]}}
        self.step += 1

    def _listed(self, updated: bool) -> dict[str, Any]:
        """What the checkpoint holds of the messages."""
        if not self.delta:
            return {"messages": self.messages} if self.messages else {}
        self.counters = (self.counters[0] + updated, self.counters[1] + 1)
        if self.counters[0] < EVERY:
            return {}
        self.counters = (0, 0)
        return {"messages": _DeltaSnapshot(self.messages)}


def growing(uri: str, setup: Setup, mark: int, *, durable: bool = True) -> Growth:
    """A thread of so many supersteps, driven directly; its bytes are those of the first `mark` of them.

    Not `durable`: nothing waits for the disk, where only the bytes are asked for.
    """
    set_up(uri, setup.side)
    said, before = script(THREAD, setup.supersteps), sizes(uri)
    way = uri if durable else make_conninfo(uri, options="-c synchronous_commit=off")
    with (
        psycopg.connect(uri, autocommit=True) as admin,
        opened(way, setup.side) as saver,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        admin.execute("CHECKPOINT")
        start = counts(admin)
        driver = Driver.begun(pool, saver, said[0], delta=setup.channel == "DeltaChannel")
        durations = _driven(driver, said[1 : mark + 1], 1)
        wal, tables = (counts(admin) - start).wal, growth(sizes(uri), before)
        durations += _driven(driver, said[mark + 1 :], mark + 1)
        return Growth(
            setup=setup,
            mark=mark,
            durations=durations,
            bytes=sum(tables.values()),
            wal=wal,
            information=information(saver.serde, said[: mark + 1]),
            peak=peak_memory(),
        )


def _driven(driver: Driver, said: Script, position: int) -> list[float]:
    """Seconds of each superstep; the copy of the list that a reducer would make is in them, and takes microseconds."""
    durations: list[float] = []
    for at, message in enumerate(said, position):
        began = time.perf_counter()
        driver.superstep(NODES[(at + 1) % 2], message, NODES[at % 2])
        durations.append(time.perf_counter() - began)
    return durations


def appended(uri: str, side: Side, length: int, supersteps: int) -> tuple[float, float]:
    """The median superstep of a graph with an `operator.add` list: of a new thread, and of one of that length.

    The long one comes by its messages in one input, for LangGraph's own share of ten thousand supersteps is a minute.
    """
    set_up(uri, side)
    medians: list[float] = []
    for start in (1, length - supersteps):
        said = script(THREAD, start + supersteps - 1)
        clock = Clock(time.perf_counter)
        with opened(uri, side) as saver:
            graph = compiled(saver, "operator.add", {f"from-{start}": said}, clock)
            graph.invoke({"messages": list(said[:start])}, config(f"from-{start}", supersteps), durability="sync")
        medians.append(statistics.median(clock.durations()))
    return medians[0], medians[1]
