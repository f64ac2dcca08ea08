"""What the journal adds to a call: against a durable commit, no journal, and DBOS's steps, on one server.

`python benchmarks/journal.py` runs calls of a function that does nothing in the node of a graph: with `@effect`, and
without, on the same saver; and the same function as a step of a DBOS workflow. Each column is a child process with a
database of its own, all calls of it awaited in one event loop; 1, 16 and 64 threads (workflows) at once. It takes
about two minutes on two cores. With `--check` also the floors, and exits 1 below one; `--guard` exits 1 where
something got much worse. `--quick` is a tenth of the calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from _calls import Calls, commits, dbos, ours, trips
from _figures import Figure, say, shown, table
from _server import in_child, new_database, peak_of_children, server

THREADS = (1, 16, 64)
CALLS = {1: 600, 16: 60, 64: 30}
"""Of each thread."""
LONG = 4000


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the floors and exit 1 below one")
    parser.add_argument("--guard", action="store_true", help="print the floors and exit 1 where something got worse")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls; its figures have no floors")
    given = parser.parse_args()
    with server() as uri:
        figures = [*_measured(uri, given.quick), _long(uri, given.quick)]
    print(peak_of_children())
    return shown(figures, check=(given.check or given.guard) and not given.quick, guarded=given.guard)


def _measured(uri: str, quick: bool) -> list[Figure]:
    part = 10 if quick else 1
    with new_database(uri) as one:
        say("a durable commit")
        commit = in_child(commits, one, CALLS[1] // part)
    columns: dict[str, Calls] = {}
    for threads in THREADS:
        each = max(CALLS[threads] // part, 2)
        for name, measure in (("effect", ours), ("DBOS step", dbos)):
            say(f"{name}, {threads} threads")
            with new_database(uri) as one:
                columns[f"{name}, {threads}"] = in_child(measure, one, threads, each)
    say("no journal, 1 thread")
    with new_database(uri) as one:
        bare = in_child(ours, one, 1, CALLS[1] // part, journal=False)
    say("round trips")
    with new_database(uri) as one:
        round_trips = in_child(trips, one, 300)
    median = statistics.median(commit)
    _print(commit, bare, columns)
    alone = columns["effect, 1"]
    # The run's own commits are those of the graph without a journal.
    written = (alone.counts.commits - bare.counts.commits) / alone.number
    added = statistics.median(alone.durations) - statistics.median(bare.durations)
    rates = {name: each.rate for name, each in columns.items()}
    return [
        Figure("commits of an effect", written, most=2.05),
        Figure("round trips of an effect", round_trips, most=2.05),
        Figure("added by the journal, p50, in durable commits", added / median, most=2.5, guard=15),
        Figure(
            "effects a second / DBOS steps a second, 1 thread",
            rates["effect, 1"] / rates["DBOS step, 1"],
            least=1,
            guard=0.4,
        ),
        Figure("the same, 16 threads", rates["effect, 16"] / rates["DBOS step, 16"], least=1, guard=0.6),
        Figure("the same, 64 threads", rates["effect, 64"] / rates["DBOS step, 64"], least=5, guard=2),
    ]


def _long(uri: str, quick: bool) -> Figure:
    say("one long thread")
    with new_database(uri) as one:
        durations = in_child(ours, one, 1, LONG // 10 if quick else LONG).durations
    first, last = statistics.median(durations[:100]), statistics.median(durations[-100:])
    print(
        f"the calls of a thread of {len(durations)}: p50 of the first hundred {_ms(first)} ms, the last {_ms(last)} ms"
    )
    return Figure(f"{LONG} calls: last hundred / first hundred", last / first, most=1.3, guard=1.8)


def _print(commit: list[float], bare: Calls, columns: dict[str, Calls]) -> None:
    print(f"one durable commit: p50 {_ms(statistics.median(commit))} ms, p99 {_ms(_p99(commit))} ms")
    print(f"a call without a journal: p50 {_ms(statistics.median(bare.durations))} ms")
    rows = [
        ("calls a second", [f"{each.rate:.0f}" for each in columns.values()]),
        ("a call, p50, ms", [_ms(statistics.median(each.durations)) for each in columns.values()]),
        ("a call, p99, ms", [_ms(_p99(each.durations)) for each in columns.values()]),
        ("bytes of a call, in all tables", [f"{each.bytes / each.number:.0f}" for each in columns.values()]),
        ("write transactions of a call", [f"{each.counts.commits / each.number:.2f}" for each in columns.values()]),
        ("WAL bytes of a call", [f"{each.counts.wal / each.number:.0f}" for each in columns.values()]),
    ]
    table("Calls of a function that does nothing", columns, rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def _p99(durations: list[float]) -> float:
    return statistics.quantiles(durations, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
