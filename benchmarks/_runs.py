"""The shapes that go through a graph, each a function for a child process with a fresh database."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from _conversations import Channel, Clock, Script, compiled, config, information, script
from _proxy import CountingProxy
from _server import (
    Counts,
    Saver,
    Side,
    Sizes,
    aopened,
    counts,
    growth,
    opened,
    peak_memory,
    set_up,
    sizes,
    wal_syncs,
)

THREAD = "thread-0"
SAMPLE, PATIENCE = 60, 60.0
"""A history is read to its end if its newest `SAMPLE` states promise that it takes at most `PATIENCE` seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One column of a report."""

    side: Side
    channel: Channel
    supersteps: int
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run cost: seconds and bytes; `counts` are the whole server's during it."""

    setup: Setup
    durations: list[float]
    whole: float
    processor: float
    counts: Counts
    tables: Sizes
    information: int
    peak: int

    @property
    def supersteps(self) -> int:
        return self.setup.supersteps * self.setup.threads

    @property
    def bytes(self) -> int:
        return sum(self.tables.values())

    @property
    def commits(self) -> float:
        """Write transactions a superstep, those of the input included."""
        return self.counts.commits / self.supersteps


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Per superstep, counted in a run of its own behind the proxy."""

    trips: float
    syncs: float | None


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds; `sampled` if they are extrapolated from the newest `SAMPLE` states."""

    seconds: float
    sampled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Seconds to read a thread back, each on a newly opened saver whose connection is warm."""

    load: float
    again: float
    state: float
    listed: Timed
    history: Timed
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that is known of one setup."""

    run: Run
    reads: Reads
    traffic: Traffic


def result(uri: str, setup: Setup) -> Result:
    """Run it, read one of its threads back, and count the traffic of a shorter run.

    One thread runs under `invoke`; many run at once under `ainvoke`, in one process.
    """
    set_up(uri, setup.side)
    runs = sync_runs if setup.threads == 1 else async_runs
    return Result(run=measured(uri, setup, runs), reads=_reads(uri, setup), traffic=_traffic(uri, setup, runs))


def scripts_of(setup: Setup) -> dict[str, Script]:
    return {name: script(name, setup.supersteps) for name in (f"thread-{turn}" for turn in range(setup.threads))}


def measured(uri: str, setup: Setup, runs: Callable[..., None]) -> Run:
    """Runs of that setup and their costs.

    A CHECKPOINT goes before the first count, so that every page that a run changes costs each side one full-page
    image alike; the last count follows when the saver is closed, so that nothing it may have put off is missed.
    """
    scripts, clock, before = scripts_of(setup), Clock(time.perf_counter), sizes(uri)
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute("CHECKPOINT")
        start = counts(admin)
        spent: list[tuple[float, float]] = []
        runs(uri, setup, scripts, clock, lambda: spent.append((time.perf_counter(), time.process_time())))
        peak, counted = peak_memory(), counts(admin) - start
    (began, idle), (ended, busy) = spent
    with opened(uri, setup.side) as saver:
        stored = sum(information(saver.serde, said) for said in scripts.values())
    return Run(
        setup=setup,
        durations=clock.durations(),
        whole=ended - began,
        processor=busy - idle,
        counts=counted,
        tables=growth(sizes(uri), before),
        information=stored,
        peak=peak,
    )


def sync_runs(uri: str, setup: Setup, scripts: dict[str, Script], clock: Clock, mark: Callable[[], None]) -> None:
    """Each script from its question to its end, under `invoke`; marks begin and end with the saver open."""
    with opened(uri, setup.side) as saver:
        graph = compiled(saver, setup.channel, scripts, clock)
        mark()
        for thread, said in scripts.items():
            graph.invoke({"messages": [said[0]]}, config(thread, len(said)), durability="sync")
            clock(thread)
        mark()


def async_runs(uri: str, setup: Setup, scripts: dict[str, Script], clock: Clock, mark: Callable[[], None]) -> None:
    """`sync_runs` under `ainvoke`, all scripts at once."""

    async def one(graph: Any, thread: str, said: Script) -> None:
        await graph.ainvoke({"messages": [said[0]]}, config(thread, len(said)), durability="sync")
        clock(thread)

    async def every() -> None:
        async with aopened(uri, setup.side) as saver:
            graph = compiled(saver, setup.channel, scripts, clock, asynchronous=True)
            mark()
            await asyncio.gather(*(one(graph, thread, said) for thread, said in scripts.items()))
            mark()

    asyncio.run(every())


def _traffic(uri: str, setup: Setup, runs: Callable[..., None]) -> Traffic:
    """Of a short run behind the proxy; `trips` are those from the first superstep to the end of the last."""
    short = min(setup.supersteps, 100 if setup.threads == 1 else 24)
    threads = [f"counted-{turn}" for turn in range(min(setup.threads, 8))]
    scripts = {name: script(name, short) for name in threads}
    with CountingProxy(uri) as proxy, psycopg.connect(uri, autocommit=True) as admin:
        # A clock whose time is the number of round trips so far.
        trips, syncs = Clock(lambda: float(proxy.trips)), wal_syncs(admin)
        runs(proxy.uri, setup, scripts, trips, lambda: None)
        time.sleep(0.3)  # a session adds its numbers to the statistics when it ends
        synced = wal_syncs(admin)
    steps = short * len(threads)
    first, last = trips.span()
    return Traffic(
        trips=(last - first) / steps, syncs=None if syncs is None or synced is None else (synced - syncs) / steps
    )


def _reads(uri: str, setup: Setup) -> Reads:
    scripts = scripts_of(setup)
    plain = setup.side == "stock" and setup.channel == "add_messages"

    def state(saver: Saver) -> object:
        return compiled(saver, setup.channel, scripts, print).get_state(config(THREAD))

    def listed(saver: Saver, limit: int | None) -> Iterable[object]:
        return saver.list(config(THREAD), limit=limit)

    def history(saver: Saver, limit: int | None) -> Iterable[object]:
        graph = compiled(saver, setup.channel, scripts, print)
        states: Iterable[object] = graph.get_state_history(config(THREAD), limit=limit)
        return states

    load, again = _load(uri, setup.side, lambda saver: saver.get_tuple(config(THREAD)))
    return Reads(
        load=load,
        again=again,
        state=_load(uri, setup.side, state)[0],
        listed=_whole(uri, setup, listed, growing=plain),
        history=_whole(uri, setup, history, growing=plain),
        peak=peak_memory(),
    )


def _load(uri: str, side: Side, read: Callable[[Saver], object]) -> tuple[float, float]:
    """The medians of the first and of the second such read of nine savers."""
    times: list[tuple[float, float]] = []
    for _ in range(9):
        with opened(uri, side) as saver:
            saver.get_tuple(config("nobody"))
            times.append((_seconds(lambda: read(saver)), _seconds(lambda: read(saver))))
    return statistics.median(first for first, _ in times), statistics.median(second for _, second in times)


def _whole(uri: str, setup: Setup, read: Callable[[Saver, int | None], Iterable[object]], *, growing: bool) -> Timed:
    """How long it takes to read every state there is, as one list.

    `growing`: each state costs in proportion to its messages, else all cost the same; only for an extrapolation.
    """
    states = setup.supersteps + 2  # the input's own two
    newest = min(SAMPLE, states)
    with opened(uri, setup.side) as saver:
        sample = _seconds(lambda: list(read(saver, newest)))
    share = newest * (states - newest / 2) / (states * states / 2) if growing else newest / states
    if sample / share > PATIENCE:
        return Timed(sample / share, sampled=True)
    with opened(uri, setup.side) as saver:
        return Timed(_seconds(lambda: list(read(saver, None))))


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
