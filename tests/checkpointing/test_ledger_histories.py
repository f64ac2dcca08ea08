"""Whatever happens in whatever order: no window is overspent or negative, and the events' sum is what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_histories

from holdfast.checkpointing import Budget, BudgetExceeded, Database, Reservation
from tests.support.ledgers import Clock, charge, wanted

SCOPES: Final = ("tenant", "agent")
LIMITS: Final[tuple[str | None, ...]] = (None, None, "0.5", "3", "6")
LIMIT: Final = {"run": "per_run", "hour": "hourly", "day": "daily"}
amounts: Final = st.integers(0, 80).map(lambda cents: Decimal(cents) / 100)
Key = tuple[str, str, str]
"""Scope, kind and start of a window."""


@dataclass(slots=True)
class Held:
    """A reservation, as who watched knows it."""

    reservation: Reservation
    usd: Decimal
    windows: list[Key]
    state: str = "held"
    cost: Decimal = Decimal(0)
    """What counts as spent for it."""
    forgotten: bool = False
    """Whether its worker is gone."""


def over(budget: Budget | None, other: Budget) -> Budget:
    """The limits of one, and where it has none the other's."""
    if budget is None:
        return other
    names = ("per_call", "per_run", "hourly", "daily")
    limits: dict[str, Any] = {name: getattr(budget, name) or getattr(other, name) for name in names}
    return Budget(other.scope, other.unit, **limits)


class Spending(RuleBasedStateMachine):
    """Workers that reserve, settle, and are killed; persons who set limits and who know what was served."""

    db: Database
    numbers: Iterator[int]

    @initialize()
    def begin(self) -> None:
        self.name = f"{next(self.numbers)}"
        self.clock = Clock()
        self.db.ledger.clock = self.clock
        self.held: list[Held] = []
        self.set: dict[str, Budget] = {}
        self.declared = {scope: Budget(f"{scope} {self.name}", hourly=2, daily=5) for scope in SCOPES}
        self.charged: defaultdict[Key, Decimal] = defaultdict(Decimal)
        self.excused: set[Key] = set()
        """Windows that may be above their limit: more was served than reserved, or the limit was lowered."""

    def budget(self, scope: str) -> Budget:
        return over(self.set.get(scope), self.declared[scope])

    def windows(self, scopes: list[str], run: str | None) -> list[Key]:
        """The windows of a call that is made now."""
        found = [
            (scope, kind, self.clock.at.strftime(form))
            for scope in scopes
            for kind, form in (("hour", "%Y-%m-%dT%H"), ("day", "%Y-%m-%d"))
        ]
        found += [(scope, "run", run) for scope in scopes if run is not None and self.budget(scope).per_run is not None]
        return found

    def limit(self, key: Key) -> Decimal | None:
        found: Decimal | None = getattr(self.budget(key[0]), LIMIT[key[1]])
        return found

    def sums(self) -> dict[Key, list[Decimal]]:
        """What each window should have as spent and as reserved."""
        found: defaultdict[Key, list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])
        for one in self.held:
            for key in one.windows:
                found[key][0] += one.cost
                found[key][1] += one.usd if one.state == "held" else 0
        for key, cost in self.charged.items():
            found[key][0] += cost
        return found

    def end(self, one: Held, state: str, cost: Decimal) -> None:
        """The end that the model gives it; late ones, and larger ones, may break a limit."""
        order = ("held", "presumed", "released", "settled")
        if order.index(state) <= order.index(one.state):
            return
        if cost > one.usd or one.state == "released":
            self.excused.update(one.windows)
        one.state, one.cost = state, cost

    def one(self, data: st.DataObject, *, forgotten: bool) -> Held | None:
        known = [each for each in self.held if each.forgotten == forgotten]
        return data.draw(st.sampled_from(known)) if known else None

    @rule(
        needs=st.lists(amounts, min_size=1, max_size=5),
        scopes=st.lists(st.sampled_from(SCOPES), unique=True, max_size=2),
        run=st.sampled_from([None, "run 1", "run 2"]),
    )
    def reserve(self, needs: list[Decimal], scopes: list[str], run: str | None) -> None:
        """One after another, each is had exactly if there is room in every window."""
        for usd in needs:
            self.reserve_one(usd, scopes, run)

    def reserve_one(self, usd: Decimal, scopes: list[str], run: str | None) -> None:
        run_key = f"{run} {self.name}" if run else None
        windows, sums = self.windows(scopes, run_key), self.sums()
        limits = [(self.limit(key), sum(sums.get(key, (0, 0)))) for key in windows]
        fits = all(usd <= (budget.per_call or usd) for budget in map(self.budget, scopes)) and all(
            limit is None or usd == 0 or used + usd <= limit for limit, used in limits
        )
        asked = wanted(
            *(self.declared[scope] for scope in scopes), usd=str(usd), run_key=run_key, thread_id=f"t {self.name}"
        )
        if fits:
            self.held.append(Held(self.db.ledger.reserve(asked), usd, windows))
        else:
            with pytest.raises(BudgetExceeded) as refused:
                self.db.ledger.reserve(asked)
            assert refused.value.short > 0

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ends=st.lists(st.sampled_from(("settled", "released", "presumed")), min_size=1, max_size=3))
    def end_it(self, data: st.DataObject, ends: list[str]) -> None:
        """Its worker says what became of it, and perhaps says something else after."""
        if one := self.one(data, forgotten=False):
            for state in ends:
                cost = {"settled": data.draw(amounts), "released": Decimal(0), "presumed": one.usd}[state]
                if state == "settled":
                    self.db.ledger.settle(one.reservation, usd=cost, tokens=1, charge=charge())
                elif state == "released":
                    self.db.ledger.release(one.reservation)
                else:
                    self.db.ledger.presume(one.reservation)
                self.end(one, state, cost)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Its worker is gone, and will not say what became of it."""
        if one := self.one(data, forgotten=False):
            one.forgotten = True

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cost=st.none() | amounts)
    def resolve(self, data: st.DataObject, cost: Decimal | None) -> None:
        """Somebody else says it; also of a worker that is not gone at all."""
        if one := self.one(data, forgotten=data.draw(st.booleans())):
            done = self.db.ledger.resolve(one.reservation.reservation_id, usd=cost, tokens=1)
            assert done == (one.state in ("held", "presumed"))
            if done:
                self.end(one, "released" if cost is None else "settled", cost or Decimal(0))

    @rule(scope=st.sampled_from(SCOPES), cost=amounts)
    def charge(self, scope: str, cost: Decimal) -> None:
        """Spent without a reservation."""
        asked = wanted(self.declared[scope], usd=str(cost), thread_id=f"t {self.name}")
        self.db.ledger.charge(asked, charge())
        for key in self.windows([scope], None):
            self.charged[key] += cost
            self.excused.add(key)

    @rule(scope=st.sampled_from(SCOPES), limits=st.tuples(*[st.sampled_from(LIMITS)] * 4))
    def set_limits(self, scope: str, limits: tuple[Any, ...]) -> None:
        if all(limit is None for limit in limits):
            self.db.ledger.remove(f"{scope} {self.name}", by="ada")
            self.set.pop(scope, None)
        else:
            per_call, per_run, hourly, daily = limits
            given = Budget(f"{scope} {self.name}", per_call=per_call, per_run=per_run, hourly=hourly, daily=daily)
            self.db.ledger.set(given, by="ada")
            self.set[scope] = over(given, self.set[scope]) if scope in self.set else given
        for key, (spent, reserved) in self.sums().items():
            limit = self.limit(key)
            if key[0] == scope and limit is not None and spent + reserved > limit:
                self.excused.add(key)

    @rule(minutes=st.sampled_from([1, 29, 30, 60, 600, -60]))
    def time_passes(self, minutes: int) -> None:
        """Or jumps back."""
        self.clock.move(minutes=minutes)

    @precondition(lambda self: hasattr(self, "held"))
    @invariant()
    def books_balance(self) -> None:
        found = {
            (each.scope.removesuffix(f" {self.name}"), each.window, each.start): [each.spent, each.reserved]
            for scope in SCOPES
            for each in self.db.ledger.windows(f"{scope} {self.name}")
        }
        expected = self.sums()
        assert {key: sums for key, sums in found.items() if any(sums)} == {
            key: sums for key, sums in expected.items() if any(sums)
        }
        for key, (spent, reserved) in found.items():
            assert spent >= 0
            assert reserved >= 0
            limit = self.limit(key)
            assert limit is None or spent + reserved <= limit or key in self.excused
        mine = {one.reservation.reservation_id: one.state for one in self.held if one.state in ("held", "presumed")}
        thread = f"t {self.name}"
        assert {
            each.reservation_id: each.state for each in self.db.ledger.outstanding() if each.thread_id == thread
        } == mine
        with psycopg.connect(self.db.uri) as connection:
            rows = connection.execute(
                "SELECT coalesce(sum(cost), 0) FROM holdfast.events WHERE thread_id = %s", [thread]
            ).fetchall()
        assert rows == [(sum((one.cost for one in self.held), sum(self.charged_once(), Decimal(0))),)]

    def charged_once(self) -> list[Decimal]:
        return [cost for (_, kind, _), cost in self.charged.items() if kind == "day"]


@pytest.mark.slow
def test_every_history_of_spending(db: Database) -> None:
    """Any interleaving of reservations, ends, crashes, limits and hours keeps the books."""
    Spending.db, Spending.numbers = db, iter(range(10**9))
    run_histories(
        cast("Any", Spending),
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
