"""Processes that spend from one budget, each call served by a provider that bills it; some are killed on the way.

Arguments: how many, a seed, the provider's book. They are forked from one that has imported everything, and begin at
the same moment; how many were killed and how many failed is printed. Each has one connection, and two threads that
make calls. The provider has served a call when its line is in the book. Half of the processes kill themselves (SIGKILL)
at a random point of a random call.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Final

from psycopg_pool import ConnectionPool

from holdfast.checkpointing import Budget, BudgetExceeded, Charge, HoldfastSaver, Ledger, Wanted
from tests.support.ledgers import START

BUDGET: Final = Budget("tenant:acme", hourly="90")
ESTIMATE: Final = Decimal("0.25")
_CALLS: Final = 8
_THREADS: Final = 2
_POINTS: Final = ("before", "reserved", "served", "settled")


def _spend(ledger: Ledger, name: str, seed: str, book: int, doomed: tuple[int, str] | None) -> None:
    """Some calls, each reserved, served and settled."""
    drawn = random.Random(f"{seed} {name}")  # noqa: S311  # no secret

    def at(turn: int, point: str) -> None:
        if doomed == (turn, point):
            os.kill(os.getpid(), signal.SIGKILL)

    for turn in range(_CALLS):
        cost = ESTIMATE * drawn.randrange(1, 1000) / 1000
        want = Wanted(
            budgets=(BUDGET, Budget(f"agent:{turn % 3}")), usd=ESTIMATE, tokens=100, name="model", thread_id=name
        )
        at(turn, "before")
        try:
            reservation = ledger.reserve(want)
        except BudgetExceeded:
            continue
        at(turn, "reserved")
        os.write(book, f"{reservation.reservation_id} {cost}\n".encode())
        at(turn, "served")
        ledger.settle(reservation, usd=cost, tokens=50, charge=Charge(), wait=turn % 2 == 0)
        at(turn, "settled")


def _process(number: int, uri: str, seed: str, book: int) -> None:
    drawn = random.Random(f"{seed} {number}")  # noqa: S311  # no secret
    doomed = (drawn.randrange(_CALLS), drawn.choice(_POINTS)) if drawn.random() < 0.5 else None
    options = {"autocommit": True, "prepare_threshold": 0, "application_name": "holdfast"}
    with ConnectionPool(uri, kwargs=options, min_size=1, max_size=1, timeout=120) as pool:
        saver = HoldfastSaver(pool)
        # One hour for all of them, whatever time it is.
        saver.ledger.clock = lambda: START
        with ThreadPoolExecutor(_THREADS) as threads:
            calls = [
                threads.submit(_spend, saver.ledger, f"{number} {thread}", seed, book, None if thread else doomed)
                for thread in range(_THREADS)
            ]
        for each in calls:
            each.result()
        saver.close()


def crowd(count: int, uri: str, seed: str, book: Path) -> tuple[int, int]:
    """All of them at once; how many were killed, and how many failed."""
    begin, go = os.pipe()
    lines = os.open(book, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(count):
        if os.fork():
            continue
        code = 1
        try:
            os.close(go)
            os.read(begin, 1)
            _process(number, uri, seed, lines)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count)]
    killed = codes.count(-signal.SIGKILL)
    return killed, count - killed - codes.count(0)


if __name__ == "__main__":
    ended = crowd(int(sys.argv[1]), os.environ["HOLDFAST_DATABASE_URI"], sys.argv[2], Path(sys.argv[3]))
    sys.stdout.write(" ".join(map(str, ended)))
