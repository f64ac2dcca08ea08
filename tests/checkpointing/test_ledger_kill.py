"""64 processes spend from one budget, and some are killed: no moment sees it overspent, and no cent is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Final

import psycopg
import pytest

from holdfast.checkpointing import Database
from tests.conftest import child_environment
from tests.support.ledger_child import BUDGET
from tests.support.ledgers import costs

PROCESSES: Final = 64
LIMIT: Final = BUDGET.hourly or Decimal(0)


class Monitor:
    """Looks at the books again and again, over a connection of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks = 0
        self.highest = Decimal(0)
        """What the window, or the reservations, had as spent and outstanding at the most."""
        self.differed = 0
        """Moments in which the two said different things."""

    def _watch(self) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            while not self._over.is_set():
                self._look(connection)

    def _look(self, connection: psycopg.Connection) -> None:
        """One statement is one moment."""
        ((window, calls),) = connection.execute(
            "SELECT (SELECT coalesce(sum(spent + reserved), 0) FROM holdfast.windows"
            " WHERE scope = %s AND kind = 'hour'),"
            " (SELECT coalesce(sum(CASE state WHEN 'held' THEN usd ELSE spent_usd END), 0) FROM holdfast.reservations)",
            [BUDGET.scope],
        ).fetchall()
        self.looks += 1
        self.highest = max(self.highest, window, calls)
        self.differed += window != calls

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.slow
def test_a_crowd_that_is_killed(db: Database, database_uri: str, tmp_path: Path) -> None:
    """Settled and outstanding are never above the limit; recovered, the ledger says what the provider served."""
    book = tmp_path / "served"
    with Monitor(database_uri) as monitor:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.ledger_child", str(PROCESSES), "seed", str(book)],
            env=child_environment(database_uri, tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
    killed, failed = map(int, done.stdout.split())
    assert (failed, done.stderr) == (0, "")
    assert PROCESSES / 4 < killed < PROCESSES
    assert monitor.looks > 100
    assert monitor.differed == 0
    assert LIMIT / 2 < monitor.highest <= LIMIT

    served = {name: Decimal(cost) for name, cost in map(str.split, book.read_text(encoding="utf-8").splitlines())}
    left = db.ledger.outstanding()
    assert len(left) > killed / 8
    assert {each.reservation_id in served for each in left} == {True, False}
    for each in left:
        assert db.ledger.resolve(each.reservation_id, usd=served.get(each.reservation_id), tokens=50)
    total = sum(served.values(), Decimal(0))
    assert total > LIMIT / 4
    found = {(each.scope, each.window): (each.spent, each.reserved) for each in db.ledger.windows()}
    assert found[BUDGET.scope, "hour"] == found[BUDGET.scope, "day"] == (total, 0)
    agents = [spent for (scope, window), (spent, _) in found.items() if scope != BUDGET.scope and window == "hour"]
    assert sum(agents, Decimal(0)) == total
    assert costs(database_uri) == total
    with psycopg.connect(database_uri) as connection:
        rows = connection.execute(
            "SELECT reservation_id, spent_usd FROM holdfast.reservations WHERE state = 'settled'"
        ).fetchall()
    assert dict(rows) == served
