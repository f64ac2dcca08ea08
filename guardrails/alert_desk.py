"""Alerts raised once and carried away: who calls goes on at once, and learns nothing of what fails."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Generic, TypeVar

from ..checkpointing.errors import HoldfastError
from .alerts import AlertRule, BudgetAlert, Past, judge, past
from .notify import LogNotifier, Notifier
from .runway import Unit

M = TypeVar("M")
_log: Final = logging.getLogger("holdfast.budget")
_WAITING: Final = 256
_LAST: Final = 5.0
_GROWN: Final = 10


def _now() -> datetime:
    return datetime.now(UTC)


class AlertDesk:
    """Watches what scopes spend, and tells notifiers once for each scope, unit and hour.

    A second time only if the factor has grown tenfold since. It keeps each scope's past for the hour, so that its
    history has to be read once an hour only: where `knows` says no. For a process; several processes that watch one
    scope each raise its alert, unless whoever calls `weigh` asks a table of theirs before `send`.

    Args:
        notifiers: whom to tell; a `LogNotifier` by default.
        rule: what is unusual; else the usual `AlertRule()`.
        clock: the time, aware; else the system's.
    """

    def __init__(
        self,
        notifiers: Sequence[Notifier] | None = None,
        *,
        rule: AlertRule | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._courier: Courier[BudgetAlert] = Courier([LogNotifier()] if notifiers is None else notifiers)
        self._rule = rule or AlertRule()
        self._clock = clock
        self._lock = threading.Lock()
        self._hour: datetime | None = None
        self._pasts: dict[tuple[str, Unit], Past | None] = {}
        self._raised: dict[tuple[str, Unit], Decimal] = {}
        _desks.add(self)

    def knows(self, scope: str, unit: Unit, *, hour: datetime | None = None) -> bool:
        """Whether the scope's history was given for this hour; if not, `consider` needs it."""
        with self._lock:
            return self._turned(hour or self._clock()) and (scope, unit) in self._pasts

    def consider(
        self,
        scope: str,
        unit: Unit,
        *,
        current: Decimal,
        history: Sequence[Decimal] | None = None,
        hour: datetime | None = None,
    ) -> BudgetAlert | None:
        """`weigh`, then `send`. Never blocks on a notifier, and never raises what one raises."""
        alert = self.weigh(scope, unit, current=current, history=history, hour=hour)
        if alert is not None:
            self.send(alert)
        return alert

    def weigh(
        self,
        scope: str,
        unit: Unit,
        *,
        current: Decimal,
        history: Sequence[Decimal] | None = None,
        hour: datetime | None = None,
    ) -> BudgetAlert | None:
        """The alert that this hour's spending is worth, if it is and was not raised before; it counts as raised then.

        Args:
            scope: as the budget names it.
            unit: of the amounts.
            current: spent and reserved since the hour began.
            history: of each hour before it, oldest first, 0 for one without costs, up to a week; None if `knows`.
                What was given first in an hour counts. Where it was never given, nothing is raised.
            hour: any moment of the hour that `current` is of, if it is not the clock's: a window may have ended
                since it was read. One that is older than another scope's newest raises nothing.
        """
        at = self._clock().astimezone(UTC)
        window = _begun(hour or at)
        key = (scope, unit)
        with self._lock:
            if not self._turned(window):
                return None
            if history is not None and key not in self._pasts:
                self._pasts[key] = past(history, unit, self._rule)
            alert = judge(self._pasts.get(key), current, scope=scope, unit=unit, hour=window, at=at)
            if alert is None or alert.factor < self._raised.get(key, Decimal(0)) * _GROWN:
                return None
            self._raised[key] = alert.factor
            return alert

    def send(self, alert: BudgetAlert) -> None:
        """Have the notifiers told, in a thread of their own."""
        self._courier.carry(alert)

    def flush(self, timeout: float = _LAST) -> bool:
        """Wait, this many seconds at most, until every alert was carried; whether it was."""
        return self._courier.flush(timeout)

    def forked(self) -> None:
        """Called in the child of a fork: locks that the parent's threads held, and alerts that wait, stay there."""
        self._lock = threading.Lock()
        self._courier.forked()

    def _turned(self, moment: datetime) -> bool:
        """Forget what was of an hour before; false if the moment is of such an hour itself."""
        hour = _begun(moment)
        if self._hour is None or hour > self._hour:
            self._hour = hour
            self._pasts.clear()
            self._raised.clear()
        return hour == self._hour


class Courier(Generic[M]):
    """Takes messages to notifiers in one thread of its own, which a program's end waits for a few seconds only.

    Not a thread pool: its exit waits for everything that is queued, and a service that is gone would hold it.
    """

    def __init__(self, notifiers: Sequence[Callable[[M], object]]) -> None:
        self._notifiers = tuple(notifiers)
        self.forked()

    def forked(self) -> None:
        """Begin anew: a parent's thread did not come along, and what it queued is the parent's to send."""
        self._change = threading.Condition()
        self._waiting: deque[M] = deque()
        self._thread: threading.Thread | None = None

    def carry(self, alert: M) -> None:
        """Queue an alert; one too many is dropped, with a line in the log."""
        with self._change:
            room = len(self._waiting) < _WAITING
            if room:
                self._waiting.append(alert)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="holdfast-alerts", daemon=True)
                self._thread.start()
        if not room:
            _log.error("an alert was dropped, as %d are waiting to be sent: %s", _WAITING, alert)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or under way."""
        with self._change:
            return self._thread is None

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued or under way; whether that came to be in so many seconds."""
        with self._change:
            return self._change.wait_for(lambda: self._thread is None, timeout)

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            for notifier in self._notifiers:
                _deliver(notifier, alert)

    def _next(self) -> M | None:
        with self._change:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            self._change.notify_all()
            return None


def _deliver(notifier: Callable[[M], object], alert: M) -> None:
    try:
        notifier(alert)
    except Exception as error:
        # Our own errors are known to hold no address; another's text and traceback may.
        said = f"{type(error).__name__}: {error}" if isinstance(error, HoldfastError) else type(error).__name__
        name = type(notifier).__name__
        _log.error("an alert could not be sent by %s (%s): %s", name, said, alert)


def _begun(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


_desks: Final[weakref.WeakSet[AlertDesk]] = weakref.WeakSet()


def _flush_all() -> None:
    for desk in list(_desks):
        desk.flush()


def _forked() -> None:
    for desk in list(_desks):
        desk.forked()


atexit.register(_flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
