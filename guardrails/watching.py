"""Watches what scopes spend while agents spend it, and raises the alarm once for all workers."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from ..checkpointing.audit import NewEvent
from ..checkpointing.budgets import Budget, SpentWindow
from ..checkpointing.ledger import AUDITED, Ledger
from .alert_desk import AlertDesk
from .alerts import BudgetAlert

WEEK: Final = 168
"""Hours of a scope's past that count."""
_SCOPES: Final = 4096
_HOUR: Final = "%Y-%m-%dT%H"
PAUSE: Final = 15.0
"""Seconds between two looks at a scope, at the least."""


def hours(windows: Iterable[SpentWindow], now: datetime, number: int) -> tuple[list[Decimal], Decimal]:
    """Of a scope's hours what was spent in each of the last `number`, oldest first, and in this one, with reserved.

    Hours without a window are 0; those before the first one that is known are left out.
    """
    found = {each.start: each for each in windows if each.window == "hour"}
    this = now.astimezone(UTC).strftime(_HOUR)
    starts = [(now.astimezone(UTC) - timedelta(hours=back)).strftime(_HOUR) for back in range(number, 0, -1)]
    while starts and starts[0] not in found:
        starts.pop(0)
    current = found.get(this)
    spent = [found[start].spent if start in found else Decimal(0) for start in starts]
    return spent, current.spent + current.reserved if current is not None else Decimal(0)


class Watch:
    """Looks at the scopes of calls that are made, each now and then, without keeping the calls waiting."""

    def __init__(self, desk: AlertDesk, *, clock: Callable[[], float] = time.monotonic, pause: float = PAUSE) -> None:
        self.desk: Final = desk
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._looked: OrderedDict[tuple[str, str], float] = OrderedDict()

    def called(self, ledger: Ledger, budgets: Sequence[Budget]) -> None:
        """A call is about to be made that these pay for."""
        for budget in budgets:
            if self._due(budget):
                self._look(ledger, budget)

    def _due(self, budget: Budget) -> bool:
        key, now = (budget.scope, budget.unit), self._clock()
        with self._lock:
            if now - self._looked.get(key, -self._pause) < self._pause:
                return False
            self._looked[key] = now
            self._looked.move_to_end(key)
            while len(self._looked) > _SCOPES:  # a scope of each thread's is soon done with
                self._looked.popitem(last=False)
            return True

    def _look(self, ledger: Ledger, budget: Budget) -> None:
        raised: list[BudgetAlert] = []

        def judge(windows: Sequence[SpentWindow], now: datetime) -> NewEvent | None:
            history, current = hours(windows, now, WEEK)
            alert = self.desk.weigh(budget.scope, budget.unit, current=current, history=history, hour=now)
            if alert is None:
                return None
            raised.append(alert)
            return alert.event(AUDITED)

        since = (ledger.clock() or datetime.now(UTC)) - timedelta(hours=WEEK + 1)
        ledger.look(budget.scope, budget.unit, since, judge, lambda: self.desk.send(raised[0]))
