"""What the ledger adds to a call: against a durable commit, a naive ledger, and the journal, on one server.

`python benchmarks/budget.py` has workers reserve and settle calls that take no time: 1, 16 and 64 at once, on one scope
and each on its own, all in one event loop; and the same with a ledger that takes its windows' rows with
`SELECT … FOR UPDATE`, one transaction to reserve and one to settle, a connection for each worker. Each column is a
child process with a database of its own. It takes about a minute on two cores. With `--check` also the floors, and
exits 1 below one; `--guard` exits 1 where something got much worse. `--quick` is a tenth of the calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from decimal import Decimal

from _calls import commits
from _figures import Figure, say, shown, table
from _ledgers import COST, ESTIMATE, PAUSE, Spending, Way, journaled, seldom, spend, trips
from _server import in_child, new_database, peak_of_children, server
from _steps import overhead

WORKERS = (1, 16, 64)
CALLS = {1: 1000, 16: 250, 64: 150}
"""Of each worker."""
NAIVE = {1: 300, 16: 30, 64: 15}
WAYS: tuple[Way, ...] = ("journal", "ledger", "both")


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the floors and exit 1 below one")
    parser.add_argument("--guard", action="store_true", help="print the floors and exit 1 where something got worse")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls; its figures have no floors")
    given = parser.parse_args()
    with server() as uri:
        figures = _measured(uri, given.quick)
    print(peak_of_children())
    return shown(figures, check=(given.check or given.guard) and not given.quick, guarded=given.guard)


def _measured(uri: str, quick: bool) -> list[Figure]:
    part = 10 if quick else 1
    with new_database(uri) as one:
        say("a durable commit")
        commit = in_child(commits, one, 1000 // part)
    with new_database(uri) as one:
        rare = in_child(seldom, one, 500 // part)
    alone: dict[str, Spending] = {}
    for name, wait, pause in (
        ("a call between", False, PAUSE), ("at once", False, 0), ("settled, between", True, PAUSE), ("settled", True, 0)
    ):  # fmt: skip
        say(f"one worker, {name}")
        with new_database(uri) as one:
            alone[name] = in_child(spend, one, "ours", 1, CALLS[1] // part, wait=wait, pause=pause)
    ours, naive = _contended(uri, part)
    say("a limit that is reached")
    limit = ESTIMATE * 200
    with new_database(uri) as one:
        reached = in_child(spend, one, "ours", 64, max(CALLS[64] // part, 8), limit=limit)
    say("round trips")
    with new_database(uri) as one:
        round_trips = in_child(trips, one, 300)
    pair: dict[str, list[float]] = {}
    for way in WAYS:
        say(f"journal and ledger: {way}")
        with new_database(uri) as one:
            pair[way] = in_child(journaled, one, way, CALLS[1] // part)
    median, slower = statistics.median(commit), statistics.median(rare)
    say("the step tracker")
    print(f"the step tracker adds {overhead():.0f} microseconds to a tool call")
    print(f"one durable commit: p50 {_ms(median)} ms, p99 {_ms(_p99(commit))} ms")
    print(f"the same in an event loop, with pauses: p50 {_ms(slower)} ms, p99 {_ms(_p99(rare))} ms")
    _print({True: rare, False: commit}, alone, ours, naive, pair)
    middle = {way: statistics.median(durations) for way, durations in pair.items()}
    return [
        Figure("round trips of a call", round_trips, most=2.05),
        Figure(
            "a call waits, p50, in durable commits, with pauses",
            _p50(alone["a call between"]) / slower,
            most=2.5,
            guard=8,
        ),
        Figure("the same, one call after another", _p50(alone["at once"]) / median, most=2.5, guard=8),
        Figure(
            "calls a second / a naive ledger's, 64 workers on one scope",
            ours["64, one scope"].rate / naive["64, one scope"].rate,
            least=10,
            guard=4,
        ),
        Figure(
            "journal and ledger / the dearer alone, p50",
            middle["both"] / max(middle["journal"], middle["ledger"]),
            most=1.2,
            guard=2.5,
        ),
        Figure("spent above a limit that is reached, USD", float(max(reached.spent - limit, Decimal(0))), most=0),
        Figure(
            "left below it that would have been enough for a call, USD",
            float(max(limit - reached.spent - ESTIMATE, Decimal(0))),
            most=0,
        ),
    ]


def _contended(uri: str, part: int) -> tuple[dict[str, Spending], dict[str, Spending]]:
    """Calls of ours and of a naive ledger, by the number of workers and whether they have one scope."""
    ours: dict[str, Spending] = {}
    naive: dict[str, Spending] = {}
    for workers in WORKERS:
        for many in (False, True):
            name = f"{workers}, {'many scopes' if many else 'one scope'}"
            say(f"workers: {name}")
            with new_database(uri) as one:
                each = max(CALLS[workers] // part, 2)
                ours[name] = in_child(spend, one, "ours", workers, each, many=many)
            with new_database(uri) as one:
                each = max(NAIVE[workers] // part, 2)
                naive[name] = in_child(spend, one, "naive", workers, each, many=many)
    return ours, naive


def _print(
    measured: dict[bool, list[float]],
    alone: dict[str, Spending],
    ours: dict[str, Spending],
    naive: dict[str, Spending],
    pair: dict[str, list[float]],
) -> None:
    print(f"each call is reserved at {ESTIMATE} USD and settled at {COST} USD, in an hour's and a day's window")
    print("a call between: the worker makes a call of 3 ms, and pauses as long; settled: it waits for that, too")
    # Against commits with pauses, where there are pauses.
    one = [measured["between" in name] for name in alone]
    rows = [
        ("a call waits, p50, ms", [_ms(_p50(each)) for each in alone.values()]),
        (
            "the same, in commits",
            [f"{_p50(each) / statistics.median(commit):.2f}" for each, commit in zip(alone.values(), one, strict=True)],
        ),
        ("a call waits, p99, ms", [_ms(_p99(each.durations)) for each in alone.values()]),
        (
            "the same, in commits",
            [
                f"{_p99(each.durations) / statistics.median(commit):.2f}"
                for each, commit in zip(alone.values(), one, strict=True)
            ],
        ),
    ]
    table("One worker", alone, rows)
    rows = [
        ("calls a second", [f"{each.rate:.0f}" for each in ours.values()]),
        ("calls a second, naive", [f"{each.rate:.0f}" for each in naive.values()]),
        ("a call waits, p50, ms", [_ms(_p50(each)) for each in ours.values()]),
        ("a call waits, p50, ms, naive", [_ms(_p50(each)) for each in naive.values()]),
        ("a call waits, p99, ms", [_ms(_p99(each.durations)) for each in ours.values()]),
        ("a call waits, p99, ms, naive", [_ms(_p99(each.durations)) for each in naive.values()]),
    ]
    table("Workers at once", ours, rows)
    rows = [
        ("p50, ms", [_ms(statistics.median(each)) for each in pair.values()]),
        ("p99, ms", [_ms(_p99(each)) for each in pair.values()]),
    ]
    table("A call that is claimed, reserved, and ended durably", pair, rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def _p50(spending: Spending) -> float:
    return statistics.median(spending.durations)


def _p99(durations: list[float]) -> float:
    return statistics.quantiles(durations, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
