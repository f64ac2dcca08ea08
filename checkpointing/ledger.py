"""The ledger: what a call may cost is taken from every budget's windows before it is made, or from none.

All workers share it. A request is one statement in one durable commit, those of many threads together.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, cast

from .arrays import TextArray
from .audit import NewEvent, storable
from .bridge import Bridge
from .budgets import LIMITS, Budget, InvalidBudget, SetBudget, SpentWindow, Unit, Window, distinct, possible
from .connections import Connections, Rows, Steps, run_again
from .errors import DatabaseClosed
from .grouping import Grouped
from .spending import Charge, Closing, Ending, Outcome, Reservation, Wanted
from .sql import queries
from .statements import Clock, Reserving, reserved

SQL: Final = queries("ledger")
AUDITED: Final = "holdfast:budgets"
"""The thread in whose audit trail limits and alerts are told of."""
_HOUR: Final = "%Y-%m-%dT%H"
_DAY: Final = "%Y-%m-%d"
_log: Final = logging.getLogger("holdfast.budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """A reservation that nobody has settled or released."""

    reservation_id: str
    state: str
    """`held`, or `presumed`: it counts as spent, and what it did cost may still be said."""
    usd: Decimal
    tokens: int
    scopes: Sequence[str]
    thread_id: str | None
    effect_id: str | None
    name: str
    worker: str
    made_at: datetime


class Ledger:
    """Got from `Database.ledger`; methods have an async twin `a…`.

    Each limit that was set by `set` goes before that of the `Budget` that a call names; the others hold.
    """

    def __init__(self, bridge: Bridge, connections: Connections, grouped: Grouped, worker: str) -> None:
        self._bridge = bridge
        self._connections = connections
        self._grouped = grouped
        self._worker = worker
        self.clock: Clock = lambda: None
        """The time by which windows are chosen; None: the database's own."""
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    def reserve(self, wanted: Wanted) -> Reservation:
        """Take what a call may cost from every window of every budget, or from none.

        Raises:
            BudgetExceeded: which limit stands in the way, and by how much.
            InvalidBudget: two of the budgets are of one scope and unit, or an amount is negative or no number.
            DatabaseUnavailable: the database is lost; the call must not be made.
        """
        asked = self._asked(wanted)
        return reserved(asked.reservation_id, wanted, self._grouped.ask("reserve", asked))

    async def areserve(self, wanted: Wanted) -> Reservation:
        asked = self._asked(wanted)
        try:
            row = await self._grouped.aask("reserve", asked)
        except asyncio.CancelledError:
            # Who asked is gone: the call is not made, and nobody else would give it back.
            given_back = Ending(
                Reservation(asked.reservation_id, wanted), Closing(outcome="released"), None, self._worker
            )
            with suppress(DatabaseClosed):
                self._grouped.hand_over("withdraw", given_back)
            raise
        return reserved(asked.reservation_id, wanted, row)

    def settle(
        self, reservation: Reservation, *, usd: Decimal, tokens: int, charge: Charge | None = None, wait: bool = True
    ) -> None:
        """Say what a call did cost, in the windows in which it was reserved; more than that is charged, too.

        Args:
            reservation: the call's.
            usd: what it did cost, in US dollars.
            tokens: of input and output.
            charge: what the thread's audit trail tells of it; else nothing.
            wait: return when it is durable. Without that it is durable with the next commit; if this process or
                the server dies before, the reservation stays, and counts as spent.
        """
        self._end(reservation, Closing(outcome="settled", usd=usd, tokens=tokens), charge, wait)

    async def asettle(
        self, reservation: Reservation, *, usd: Decimal, tokens: int, charge: Charge | None = None, wait: bool = True
    ) -> None:
        await self._aend(reservation, Closing(outcome="settled", usd=usd, tokens=tokens), charge, wait)

    def release(self, reservation: Reservation, *, wait: bool = True) -> None:
        """Give back what was reserved: the call was not made, and cost nothing."""
        self._end(reservation, Closing(outcome="released"), None, wait)

    async def arelease(self, reservation: Reservation, *, wait: bool = True) -> None:
        await self._aend(reservation, Closing(outcome="released"), None, wait)

    def presume(self, reservation: Reservation, *, wait: bool = True) -> None:
        """Count what a call may have cost as spent: nobody knows what it did cost; `resolve` may say it later."""
        self._end(reservation, Closing(outcome="presumed"), None, wait)

    async def apresume(self, reservation: Reservation, *, wait: bool = True) -> None:
        await self._aend(reservation, Closing(outcome="presumed"), None, wait)

    def charge(self, wanted: Wanted, charge: Charge) -> None:
        """Count as spent what was spent without a reservation, whatever the limits say."""
        self._bridge.call(self._charge, wanted, charge)

    async def acharge(self, wanted: Wanted, charge: Charge) -> None:
        await self._bridge.acall_to_end(self._charge, wanted, charge)

    def outstanding(self) -> list[Outstanding]:
        """What is reserved, or counts as spent without its cost being known; oldest first."""
        return self._bridge.call(self._outstanding)

    async def aoutstanding(self) -> list[Outstanding]:
        return await self._bridge.acall(self._outstanding)

    def resolve(
        self, reservation_id: str, *, usd: Decimal | None, tokens: int | None = None, by: str | None = None
    ) -> bool:
        """Say of an outstanding reservation what its call did cost; None: it was not made. False if it is not one.

        For who knows it better than we do: the provider's own records. It is audited. Tokens that nobody knows are
        as many as were reserved; `by` is who says so, else this worker.
        """
        return self._bridge.call(self._resolve, reservation_id, usd, tokens, by)

    async def aresolve(
        self, reservation_id: str, *, usd: Decimal | None, tokens: int | None = None, by: str | None = None
    ) -> bool:
        return await self._bridge.acall_to_end(self._resolve, reservation_id, usd, tokens, by)

    def set(self, budget: Budget, *, by: str) -> Budget | None:
        """Set limits of a scope, for all workers from now on, in place of those that the calls name; audited.

        Limits of which it says nothing stay as they are. Returns what was set before; None, if nothing was.

        Raises:
            InvalidBudget: it has no limit.
        """
        return self._bridge.call(self._set, budget, by)

    async def aset(self, budget: Budget, *, by: str) -> Budget | None:
        return await self._bridge.acall_to_end(self._set, budget, by)

    def remove(self, scope: str, unit: Unit = "usd", *, by: str) -> bool:
        """Have the limits that calls name hold again; false if none were set."""
        return self._bridge.call(self._remove, scope, unit, by)

    async def aremove(self, scope: str, unit: Unit = "usd", *, by: str) -> bool:
        return await self._bridge.acall_to_end(self._remove, scope, unit, by)

    def budgets(self) -> list[SetBudget]:
        """The limits that were set."""
        return self._bridge.call(self._budgets)

    async def abudgets(self) -> list[SetBudget]:
        return await self._bridge.acall(self._budgets)

    def windows(
        self,
        scope: str | None = None,
        *,
        unit: Unit | None = None,
        window: Window | None = None,
        since: datetime | None = None,
    ) -> list[SpentWindow]:
        """What a scope, or each, has spent and reserved, newest window first.

        With `since` the hours and days that had not ended by then; a run is of no time.
        """
        return self._bridge.call(self._windows, scope, unit, window, since)

    async def awindows(
        self,
        scope: str | None = None,
        *,
        unit: Unit | None = None,
        window: Window | None = None,
        since: datetime | None = None,
    ) -> list[SpentWindow]:
        return await self._bridge.acall(self._windows, scope, unit, window, since)

    def look(
        self,
        scope: str,
        unit: Unit,
        since: datetime,
        judge: Callable[[list[SpentWindow], datetime], NewEvent | None],
        then: Callable[[], None],
    ) -> None:
        """Look at a scope's hours, without waiting for it.

        Args:
            scope: whose.
            unit: of which amounts.
            since: when the first of them began.
            judge: given the hours and the time, what is to be told of them in the audit trail, if anything. The
                same about the same hour is told once, whichever worker comes first.
            then: called if it was told.
        """
        self._bridge.begin(self._look, scope, unit, since, judge, then)

    async def _look(
        self,
        scope: str,
        unit: Unit,
        since: datetime,
        judge: Callable[[list[SpentWindow], datetime], NewEvent | None],
        then: Callable[[], None],
    ) -> None:
        try:
            windows = await self._windows(scope, unit, "hour", since)
            event = judge(windows, self.clock() or datetime.now(UTC))
            if event is not None and await self._tell_once(event):
                then()
        except Exception:
            _log.warning("what %r spends could not be looked at", scope, exc_info=True)

    async def _tell_once(self, event: NewEvent) -> bool:
        key = {"thread": event.thread_id}
        told = {"actor": event.actor, "kind": event.kind, "details": storable(event.details)}
        same = {name: event.details.get(name) for name in ("scope", "unit", "window_start")}

        def steps() -> Steps[bool]:
            yield SQL["lock_trail"], key
            if (yield SQL["told"], {**key, "kind": event.kind, "same": storable(same)}):
                return False
            yield SQL["tell"], {**key, **told}
            return True

        return await run_again(self._connections, steps, transaction=True)

    def _asked(self, wanted: Wanted) -> Reserving:
        return Reserving(f"{self._name}-{next(self._numbers)}", checked(wanted), self._worker)

    def _ending(self, reservation: Reservation, closing: Closing, charge: Charge | None) -> Ending:
        return Ending(reservation, checked_closing(closing), charge, self._worker)

    def _end(self, reservation: Reservation, closing: Closing, charge: Charge | None, wait: bool) -> None:
        ending = self._ending(reservation, closing, charge)
        if wait:
            self._grouped.ask("close", ending)
        else:
            self._grouped.hand_over("close_soon", ending)

    async def _aend(self, reservation: Reservation, closing: Closing, charge: Charge | None, wait: bool) -> None:
        ending = self._ending(reservation, closing, charge)
        if wait:
            await self._grouped.aask("close", ending)
        else:
            self._grouped.hand_over("close_soon", ending)

    async def _charge(self, wanted: Wanted, charge: Charge) -> None:
        checked(wanted)
        parameters = {
            "at": self.clock(),
            "scope": TextArray(budget.scope for budget in wanted.budgets),
            "unit": TextArray(budget.unit for budget in wanted.budgets),
            "usd": wanted.usd,
            "tokens": wanted.tokens,
            "run_key": wanted.run_key,
            "thread": wanted.thread_id or AUDITED,
            "correlation": wanted.correlation_id,
            "run": charge.run_id,
            "ns": charge.checkpoint_ns,
            "node": wanted.node,
            "step": charge.step,
            "worker": self._worker,
            "event": charge.event,
            "tokens_in": charge.input_tokens,
            "tokens_out": charge.output_tokens,
            "ms": None if charge.duration is None else charge.duration * 1000,
            "details": storable(charge.details),
        }
        # Once: after a lost connection nobody knows whether it was counted.
        await self._connections.run(lambda: _all("charge", parameters))

    async def _outstanding(self) -> list[Outstanding]:
        rows = await run_again(self._connections, lambda: _all("outstanding", {}))
        return [
            Outstanding(
                reservation_id=row[0], state=row[1], usd=row[2], tokens=int(row[3]), scopes=row[4], thread_id=row[5],
                effect_id=row[6], name=row[7], worker=row[8], made_at=row[9].astimezone(UTC),
            )
            for row in rows
        ]  # fmt: skip

    async def _resolve(self, reservation_id: str, usd: Decimal | None, tokens: int | None, by: str | None) -> bool:
        outcome: Outcome = "released" if usd is None else "settled"
        checked_closing(Closing(outcome=outcome, usd=usd, tokens=tokens))
        parameters = {
            "at": self.clock(), "id": reservation_id, "closing": outcome, "usd": usd, "tokens": tokens,
            "actor": by or self._worker, "thread": AUDITED,
        }  # fmt: skip
        return bool(await run_again(self._connections, lambda: _all("resolve", parameters)))

    async def _set(self, budget: Budget, by: str) -> Budget | None:
        if budget.unlimited:
            raise InvalidBudget(f"budget {budget.scope!r}: no limit is given; `remove` takes those away that were set")
        before = await self._change("set_budget", budget.scope, budget.unit, by, _limits(budget))
        return Budget(budget.scope, budget.unit, **before) if before else None

    async def _remove(self, scope: str, unit: Unit, by: str) -> bool:
        return bool(await self._change("remove_budget", scope, unit, by, {}))

    async def _change(
        self, query: str, scope: str, unit: Unit, by: str, limits: Mapping[str, Decimal | None]
    ) -> dict[str, Decimal]:
        """Change what is set; the limits that were, of which a budget that is set has one at least."""
        key = {"scope": scope, "unit": unit}
        details = {**key, "limits": {name: str(limit) for name, limit in limits.items() if limit is not None}}

        def steps() -> Steps[dict[str, Decimal]]:
            rows = yield SQL["lock_budget"], key
            if query == "remove_budget" and not rows:
                return {}
            known = zip(LIMITS.values(), rows[0], strict=True) if rows else ()
            before: dict[str, Decimal] = {name: limit for name, limit in known if limit is not None}
            details["before"] = {name: str(limit) for name, limit in before.items()}
            yield SQL[query], {**key, **limits, "by": by}
            yield SQL["tell"], {"thread": AUDITED, "actor": by, "kind": "budget.set", "details": storable(details)}
            return before

        return await run_again(self._connections, steps, transaction=True)

    async def _budgets(self) -> list[SetBudget]:
        rows = await run_again(self._connections, lambda: _all("budgets", {}))
        return [
            SetBudget(
                budget=Budget(scope, unit, per_call=per_call, per_run=per_run, hourly=hourly, daily=daily),
                by=by,
                at=at.astimezone(UTC),
            )
            for scope, unit, per_call, per_run, hourly, daily, by, at in rows
        ]

    async def _windows(
        self, scope: str | None, unit: Unit | None, window: Window | None, since: datetime | None
    ) -> list[SpentWindow]:
        parameters = {
            "scope": scope,
            "unit": unit,
            "kind": window,
            "since_hour": since.astimezone(UTC).strftime(_HOUR) if since is not None else None,
            "since_day": since.astimezone(UTC).strftime(_DAY) if since is not None else None,
        }
        rows = await run_again(self._connections, lambda: _all("windows", parameters))
        return [
            SpentWindow(scope=row[0], unit=row[1], window=row[2], start=row[3], spent=row[4], reserved=row[5])
            for row in rows
        ]


def checked(wanted: Wanted) -> Wanted:
    """What is wanted, if it can be.

    Raises:
        InvalidBudget: two budgets are of one scope and unit, or an amount is negative or no number.
    """
    distinct(wanted.budgets)
    _checked(wanted.usd, wanted.tokens)
    return wanted


def checked_closing(closing: Closing) -> Closing:
    """What is said of a reservation, if it can be.

    Raises:
        InvalidBudget: an amount is negative or no number.
    """
    _checked(closing.usd if closing.usd is not None else Decimal(0), 0 if closing.tokens is None else closing.tokens)
    return closing


def _checked(usd: object, tokens: object) -> None:
    money = isinstance(usd, Decimal) and possible(usd) and usd >= 0
    count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    if not money or not count:
        raise InvalidBudget(f"a call costs nothing or more, not {usd!s} USD and {tokens!s} tokens")


def _limits(budget: Budget) -> dict[str, Decimal | None]:
    return {name: cast("Decimal | None", getattr(budget, name)) for name in LIMITS.values()}


def _all(name: str, parameters: Mapping[str, Any]) -> Steps[Rows]:
    return (yield SQL[name], parameters)
