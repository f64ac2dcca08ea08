"""What a checkpoint costs: the stock Postgres saver against `Database.saver`, in one run on one server.

`python benchmarks/checkpointing.py` prints the figures of three shapes, and takes about four minutes on two cores:

- A, one thread of 369 tool calls: model and tools in turn, 738 supersteps, results of 200 B to 12 KB;
- B, 64 threads of 50 supersteps at once in one process, under `ainvoke`;
- C, one thread that grows to ten thousand messages, the saver driven without LangGraph.

With `--check` also the floors, and exits 1 below one; not all are reached yet. `--guard` exits 1 below a part of each
time's floor that holds on a busy machine too, and below the whole floor of what does not depend on the machine: it is
for CI, to notice that something got worse. `--quick` is a tenth of the length, to see that it works.

How it is measured. Every column is a child process with a database of its own, and `durability="sync"` throughout. A
CHECKPOINT goes before each run. Bytes are the growth of every table, its TOAST and indexes included. WAL and
transactions are the server's own counts from before the run until the saver is closed; nobody else works on the
server. Round trips are counted by a proxy in a run of its own. Processor time and memory are the client's; the
server's are not counted. Reads are done by savers that were newly opened.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

from _figures import Figure, say, shown, table
from _growth import Growth, appended, growing
from _runs import Result, Setup, Timed, result
from _server import in_child, new_database, offers_lz4, server

CALLS, THREADS, SUPERSTEPS, MESSAGES = 369, 64, 50, 10_000
MEBIBYTE = 1024 * 1024

STOCK, STOCK_DELTA, STOCK_LZ4 = "stock", "stock, Delta", "stock, lz4"
OURS, OURS_DELTA = "ours", "ours, Delta"


def early(durations: Sequence[float]) -> float:
    return statistics.median(durations[5:55])


def late(durations: Sequence[float]) -> float:
    """Supersteps 690 to 738 of the long run."""
    return statistics.median(durations[-48:])


def p99(durations: Sequence[float]) -> float:
    return statistics.quantiles(durations, n=100)[98]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.3f}"


def timed(read: Timed) -> str:
    return f"{'~' if read.sampled else ''}{read.seconds:.3f}"


def one_long_thread(server_uri: str, quick: bool) -> list[Figure]:
    """Shape A."""
    calls = CALLS // 10 if quick else CALLS
    setups = {
        OURS: Setup(side="ours", channel="add_messages", supersteps=2 * calls),
        OURS_DELTA: Setup(side="ours", channel="DeltaChannel", supersteps=2 * calls),
        STOCK_DELTA: Setup(side="stock", channel="DeltaChannel", supersteps=2 * calls),
        STOCK: Setup(side="stock", channel="add_messages", supersteps=2 * calls),
    }
    found = results("A", server_uri, setups)
    if offers_lz4(server_uri):
        found |= results("A", server_uri, {STOCK_LZ4: setups[STOCK]}, lz4=True)
    found = {name: found[name] for name in (STOCK, STOCK_LZ4, STOCK_DELTA, OURS, OURS_DELTA) if name in found}
    title = f"A. One thread of {2 * calls} supersteps, {calls} tool calls with results of 200 B to 12 KB"
    table(title, found, [*_times(found), *_costs(found)])
    if STOCK_LZ4 not in found:
        print("  stock on lz4: not offered by this server")
    return _figures_of_one(found[STOCK], found[STOCK_DELTA], found[OURS])


def many_threads(server_uri: str, quick: bool) -> list[Figure]:
    """Shape B."""
    supersteps = 6 if quick else SUPERSTEPS
    setups = {
        STOCK: Setup(side="stock", channel="add_messages", supersteps=supersteps, threads=THREADS),
        STOCK_DELTA: Setup(side="stock", channel="DeltaChannel", supersteps=supersteps, threads=THREADS),
        OURS: Setup(side="ours", channel="add_messages", supersteps=supersteps, threads=THREADS),
    }
    found = results("B", server_uri, setups)
    rates = {name: each.run.supersteps / each.run.whole for name, each in found.items()}
    rows = [
        ("supersteps a second", [f"{rate:.0f}" for rate in rates.values()]),
        ("superstep of a thread, median, ms", [milliseconds(statistics.median(d)) for d in _durations(found)]),
    ]
    table(f"B. {THREADS} threads of {supersteps} supersteps at once", found, [*rows, *_costs(found)])
    return [
        Figure("supersteps a second, ours / stock", rates[OURS] / rates[STOCK], least=4.5, guard=2.5),
        Figure("supersteps a second, ours / stock Delta", rates[OURS] / rates[STOCK_DELTA], least=2, guard=0.9),
    ]


def ten_thousand_messages(server_uri: str, quick: bool) -> list[Figure]:
    """Shape C."""
    length, mark = MESSAGES // 10 if quick else MESSAGES, 20 * (CALLS // 10 if quick else CALLS)
    found: dict[str, Growth] = {}
    ours = Setup(side="ours", channel="add_messages", supersteps=length)
    stock = Setup(side="stock", channel="DeltaChannel", supersteps=mark)
    for name, setup in ((OURS, ours), (STOCK_DELTA, stock)):
        say(f"C: {name}")
        with new_database(server_uri) as uri:
            found[name] = in_child(growing, uri, setup, mark, durable=name == OURS)
    say("C: operator.add")
    with new_database(server_uri) as uri:
        new, old = in_child(appended, uri, "ours", length, 100)
    first, last = (statistics.median(part) for part in (found[OURS].durations[:100], found[OURS].durations[-100:]))
    table(f"C. One thread that grows to {length} messages, the saver alone", [OURS], _growth(found[OURS], first, last))
    print(f"  superstep of a graph with an operator.add list, ms: {new * 1000:.2f} new, {old * 1000:.2f} at {length}")
    print(f"  after {mark} supersteps, MB (stock Delta without waiting for its fsyncs, which changes no byte):")
    for name, each in found.items():
        ratio = each.bytes / each.information
        print(f"    {name:<13} bytes {megabytes(each.bytes)}, {ratio:.2f} of the new; WAL {megabytes(each.wal)}")
    return [
        Figure("10,000 messages: last hundred supersteps / first hundred", last / first, most=1.5, guard=2.5),
        Figure("bytes at 7,380 supersteps, stock Delta / ours", found[STOCK_DELTA].bytes / found[OURS].bytes, least=8),
    ]


def results(shape: str, server_uri: str, setups: dict[str, Setup], *, lz4: bool = False) -> dict[str, Result]:
    """Each setup's, from a child with a fresh database."""
    found: dict[str, Result] = {}
    for name, setup in setups.items():
        say(f"{shape}: {name}")
        with new_database(server_uri, lz4=lz4) as uri:
            found[name] = in_child(result, uri, setup)
    return found


def _durations(found: dict[str, Result]) -> list[list[float]]:
    return [each.run.durations for each in found.values()]


def _times(found: dict[str, Result]) -> list[tuple[str, list[str]]]:
    return [
        ("superstep, 5 to 55, median, ms", [milliseconds(early(durations)) for durations in _durations(found)]),
        (
            "superstep, last 48 (690 to 738), median, ms",
            [milliseconds(late(durations)) for durations in _durations(found)],
        ),
    ]


def _costs(found: dict[str, Result]) -> list[tuple[str, list[str]]]:
    """The rows that shapes A and B share."""

    def row(label: str, cell: Callable[[Result], str]) -> tuple[str, list[str]]:
        return label, [cell(each) for each in found.values()]

    names = sorted({name for each in found.values() for name in each.run.tables})
    return [
        row("superstep, p99, ms", lambda each: milliseconds(p99(each.run.durations))),
        row("whole run, s", lambda each: f"{each.run.whole:.2f}"),
        row("processor time of the client, s", lambda each: f"{each.run.processor:.2f}"),
        row("peak memory of the run, MiB", lambda each: f"{each.run.peak / MEBIBYTE:.0f}"),
        row("database bytes, MB", lambda each: megabytes(each.run.bytes)),
        *((f"  {name}", [megabytes(each.run.tables.get(name, 0)) for each in found.values()]) for name in names),
        row("WAL, MB", lambda each: megabytes(each.run.counts.wal)),
        row("new information, MB", lambda each: megabytes(each.run.information)),
        row("database bytes / new information", lambda each: f"{each.run.bytes / each.run.information:.2f}"),
        row("write transactions a superstep", lambda each: f"{each.run.commits:.3f}"),
        row("WAL fsyncs a superstep, short run", lambda each: _optional(each.traffic.syncs)),
        row("round trips a superstep, short run", lambda each: f"{each.traffic.trips:.2f}"),
        row("latest get_tuple, median of 9, ms", lambda each: milliseconds(each.reads.load)),
        row("  and again with the same saver, ms", lambda each: milliseconds(each.reads.again)),
        row("latest graph.get_state, median of 9, ms", lambda each: milliseconds(each.reads.state)),
        row("full history, saver.list, s", lambda each: timed(each.reads.listed)),
        row("full history, graph.get_state_history, s", lambda each: timed(each.reads.history)),
        row("peak memory with these reads, MiB", lambda each: f"{each.reads.peak / MEBIBYTE:.0f}"),
    ]


def _optional(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _growth(ours: Growth, first: float, last: float) -> list[tuple[str, list[str]]]:
    return [
        ("put_writes and put, first hundred, median, ms", [milliseconds(first)]),
        ("put_writes and put, last hundred, median, ms", [milliseconds(last)]),
        ("put_writes and put, p99, ms", [milliseconds(p99(ours.durations))]),
        ("all of them, s", [f"{sum(ours.durations):.2f}"]),
        ("peak memory, MiB", [f"{ours.peak / MEBIBYTE:.0f}"]),
    ]


def _figures_of_one(stock: Result, delta: Result, ours: Result) -> list[Figure]:
    theirs, deltas, mine = stock.run, delta.run, ours.run
    return [
        Figure("superstep at 700, stock / ours", late(theirs.durations) / late(mine.durations), least=28, guard=12),
        Figure("whole run, stock / ours", theirs.whole / mine.whole, least=15, guard=8),
        Figure("database bytes, stock / ours", theirs.bytes / mine.bytes, least=90),
        Figure("WAL, stock / ours", theirs.counts.wal / mine.counts.wal, least=90),
        Figure("saver.list, stock / ours", stock.reads.listed.seconds / ours.reads.listed.seconds, least=100, guard=40),
        Figure(
            "get_state_history, stock / ours",
            stock.reads.history.seconds / ours.reads.history.seconds,
            least=100,
            guard=15,
        ),
        Figure("latest get_tuple, stock / ours", stock.reads.load / ours.reads.load, least=1.4, guard=0.8),
        Figure(
            "superstep at 700, stock Delta / ours", late(deltas.durations) / late(mine.durations), least=1, guard=0.35
        ),
        Figure("superstep p99, stock Delta / ours", p99(deltas.durations) / p99(mine.durations), least=2, guard=1),
        Figure("database bytes, stock Delta / ours", deltas.bytes / mine.bytes, least=1.9),
        Figure(
            "get_state_history, stock Delta / ours",
            delta.reads.history.seconds / ours.reads.history.seconds,
            least=100,
            guard=20,
        ),
        Figure("round trips a superstep, ours", ours.traffic.trips, most=1.1),
        Figure("write transactions a superstep, ours", mine.commits, most=1.05),
        Figure("database bytes / new information, ours", mine.bytes / mine.information, most=1.8),
    ]


SHAPES = {"A": one_long_thread, "B": many_threads, "C": ten_thousand_messages}


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the floors and exit 1 below one")
    parser.add_argument("--guard", action="store_true", help="print the floors and exit 1 where something got worse")
    parser.add_argument("--quick", action="store_true", help="a tenth of the length; its figures have no floors")
    parser.add_argument("--only", choices=sorted(SHAPES), help="only that shape")
    given = parser.parse_args()
    with server() as uri:
        figures = [figure for name in given.only or "ABC" for figure in SHAPES[name](uri, given.quick)]
    check = (given.check or given.guard) and not given.quick
    print("\nOurs (the add_messages graph) against stock")
    return shown(figures, check=check, guarded=given.guard)


if __name__ == "__main__":
    sys.exit(main())
