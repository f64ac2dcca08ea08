"""The ledger: what a call may cost is taken from every window before it is made, or from none."""

from __future__ import annotations

import asyncio
import pickle
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.errors import CharacterNotInRepertoire

from holdfast.checkpointing import (
    Budget,
    BudgetExceeded,
    Database,
    DatabaseUnavailable,
    InvalidBudget,
    Reservation,
    SpentWindow,
)
from holdfast.guardrails.watching import hours
from tests.checkpointing.test_journal import gone, kill_connections
from tests.conftest import new_database
from tests.support.ledgers import START, Clock, D, charge, costs, lost_answer, stand, told, wanted

TENANT = Budget("tenant:acme", hourly="10")
AGENT = Budget("agent:outreach", daily="3")


@pytest.fixture
def clock(db: Database) -> Clock:
    """The ledger's clock."""
    db.ledger.clock = clock = Clock()
    return clock


def grouped(db: Database) -> Any:
    """The thread that writes."""
    return db.ledger._grouped  # pyright: ignore[reportPrivateUsage]


def at_once(db: Database, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
    """The answers, or errors, of what is asked in one batch."""

    async def every() -> list[Any]:
        with grouped(db)._arrival:
            tasks = [asyncio.ensure_future(each) for each in asked]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(every())


# Reserving.


def test_all_windows_or_none(db: Database) -> None:
    """What one of the budgets refuses is taken from none of them."""
    db.ledger.reserve(wanted(TENANT, AGENT, usd="2"))
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(TENANT, AGENT, usd="1.5"))
    error = refused.value
    assert (error.scope, error.unit, error.window) == ("agent:outreach", "usd", "day")
    assert (error.limit, error.used, error.needed, error.short) == (3, 2, D("1.5"), D("0.5"))
    for scope in ("tenant:acme", "agent:outreach"):
        for window in ("hour", "day"):
            assert stand(db, scope, window) == (0, 2)


def test_a_window_that_is_new_is_not_left_taken(db: Database) -> None:
    """Refused by the second budget, the first one's window, made for it, is as empty as before."""
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(TENANT, AGENT, usd="3.01"))
    assert stand(db, "tenant:acme") == stand(db, "agent:outreach", "day") == (0, 0)
    assert db.ledger.outstanding() == []


def test_the_whole_limit_can_be_spent(db: Database) -> None:
    """To the last digit, and no further; what costs nothing is not refused."""
    budget = Budget("s", hourly="0.3")
    for _ in range(3):
        db.ledger.settle(db.ledger.reserve(wanted(budget, usd="0.1")), usd=D("0.1"), tokens=1)
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(budget, usd="0.00000000000000000001"))
    assert refused.value.short == D("0.00000000000000000001")
    db.ledger.release(db.ledger.reserve(wanted(budget, usd="0")))


@pytest.mark.parametrize(
    ("limits", "window"),
    [
        ({"per_call": "0.9"}, "call"),
        ({"per_run": "0.9"}, "run"),
        ({"hourly": "0.9"}, "hour"),
        ({"daily": "0.9"}, "day"),
    ],
)
def test_each_limit(limits: dict[str, Any], window: str, db: Database) -> None:
    """Each of the four stands in the way by itself, in dollars and in tokens, of the first call and of a later one."""
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(Budget("s", **limits), run_key="run"))
    assert (refused.value.window, refused.value.used, refused.value.short) == (window, 0, D("0.1"))
    tokens = Budget("s", "tokens", **dict.fromkeys(limits, 150))
    db.ledger.reserve(wanted(tokens, run_key="run"))
    with pytest.raises(BudgetExceeded) as later:
        db.ledger.reserve(wanted(tokens, tokens=151 if window == "call" else 51, run_key="run"))
    assert (later.value.unit, later.value.window, later.value.short) == ("tokens", window, 1)


def test_a_run_has_its_own_window(db: Database) -> None:
    """Another run of the scope begins with its whole limit; without a run, there is no limit of a run."""
    budget = Budget("s", per_run=1)
    db.ledger.reserve(wanted(budget, run_key="one"))
    db.ledger.reserve(wanted(budget, run_key="two"))
    db.ledger.reserve(wanted(budget))
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(budget, usd="0.01", run_key="one"))


def test_the_limit_of_a_call_is_named_before_those_that_time_mends(db: Database) -> None:
    """Where several stand in the way, the one for which no waiting helps."""
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(Budget("s", per_call="0.5", hourly="0.1")))
    assert refused.value.window == "call"


def test_the_nearest_limit(db: Database) -> None:
    """A reservation says which limit is nearest, this call included; alone, and in company."""
    budgets = (Budget("a", hourly=100, per_run=50), Budget("b", daily=4), Budget("c"))
    for number in (1, 2):
        nearest = db.ledger.reserve(wanted(*budgets, run_key="run")).nearest
        assert nearest is not None
        assert (nearest.scope, nearest.window, nearest.limit, nearest.used) == ("b", "day", 4, number)
    assert db.ledger.reserve(wanted(Budget("c"), Budget("d", per_call=9))).nearest is None


def test_what_a_refusal_says(db: Database) -> None:
    """A sentence for people: who, how much, what is left, what to do; and it may be sent between processes."""
    db.ledger.reserve(wanted(TENANT, usd="9.7"))
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(TENANT, usd="0.50"))
    assert str(refused.value) == (
        "budget 'tenant:acme': this call may cost up to 0.50 USD, and 0.30 USD of 10.00 USD are left this hour; it was "
        "not made. Raise the limit (`holdfast budget set tenant:acme --hourly …`), or wait for the next hour (UTC), "
        "and resume"
    )
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301  # our own
    assert (str(again), again.short, again.window) == (str(refused.value), D("0.2"), "hour")
    large = BudgetExceeded("s", "usd", "call", limit=D("1e40"), used=D(0), needed=D("1e41"))
    assert "of a call is 10,000," in str(large)


def test_many_at_once_do_not_overspend(db: Database) -> None:
    """Of those that come at once as many are let through as fit, whatever goes into one statement."""
    budget = Budget("s", hourly=10)

    def one(number: int) -> Reservation | None:
        try:
            return db.ledger.reserve(wanted(budget, Budget(f"other {number % 3}"), usd="0.7"))
        except BudgetExceeded:
            return None

    with ThreadPoolExecutor(40) as pool:
        found = [each for each in pool.map(one, range(40)) if each is not None]
    assert len(found) == 14
    assert stand(db, "s") == (0, D("9.8"))
    with ThreadPoolExecutor(14) as pool:
        for each in found:
            pool.submit(db.ledger.settle, each, usd=D("0.07"), tokens=5)
    assert stand(db, "s") == stand(db, "s", "day") == (D("0.98"), 0)
    assert sum((stand(db, f"other {number}")[0] for number in range(3)), D(0)) == D("0.98")


def test_a_small_one_passes_beside_a_large_one(db: Database) -> None:
    """One that does not fit keeps none of the others of its batch from being let through."""
    found = at_once(db, *(db.ledger.areserve(wanted(Budget("s", hourly=1), usd=usd)) for usd in ("0.6", "5", "0.4")))
    assert [type(each) for each in found] == [Reservation, BudgetExceeded, Reservation]
    assert stand(db, "s") == (0, 1)


# What cannot be said.


@pytest.mark.parametrize(
    "limit", [0, -1, "NaN", "sNaN", "Infinity", "-Infinity", "1e5000", "1e-5000", 1.5, True, "", "a", D("-0.01"), D(0)]
)
def test_a_limit_that_is_none_is_refused_where_it_is_set(limit: Any) -> None:
    """Zero, negative, infinite, no number, or a float; whichever limit it is."""
    for name in ("per_call", "per_run", "hourly", "daily"):
        with pytest.raises(InvalidBudget, match=name):
            Budget("s", **{name: limit})


def test_a_limit_that_is_none_is_refused_by_the_database(db: Database, database_uri: str) -> None:
    """Whoever writes it there, and however."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        for column in ("per_call", "per_run", "hourly", "daily"):
            for limit in ("0", "-1", "NaN", "Infinity"):
                with pytest.raises(psycopg.errors.CheckViolation):
                    connection.execute(
                        f"INSERT INTO holdfast.budgets (scope, unit, {column}, set_by) VALUES ('s', 'usd', %s, 'me')",  # noqa: S608  # names of ours
                        [limit],
                    )
        for column in ("spent", "reserved"):
            for amount in ("-1", "NaN", "Infinity"):
                with pytest.raises(psycopg.errors.CheckViolation):
                    connection.execute(
                        f"INSERT INTO holdfast.windows (scope, unit, kind, start, {column}) "  # noqa: S608  # names of ours
                        "VALUES ('s', 'usd', 'hour', '2026-11-21T18', %s)",
                        [amount],
                    )


@pytest.mark.parametrize(
    ("scope", "unit"), [("", "usd"), ("a\0", "usd"), ("a\ud800", "usd"), ("a" * 201, "usd"), ("s", "euro")]
)
def test_a_scope_and_unit_that_are_none(scope: str, unit: Any) -> None:
    with pytest.raises(InvalidBudget):
        Budget(scope, unit, hourly=1)


def test_a_budget_without_a_limit_is_not_set(db: Database) -> None:
    with pytest.raises(InvalidBudget, match="no limit"):
        db.ledger.set(Budget("s"), by="ada")


def test_a_call_that_cannot_be_reserved_harms_no_other_of_its_batch(db: Database) -> None:
    """A run's name that no index can keep is the fault of that call alone."""
    run = Budget("tenant:acme", per_run=5)
    named = [secrets.token_hex(4000), "r1", "r2"]
    bad, *good = at_once(db, *(db.ledger.areserve(wanted(run, run_key=name)) for name in named))
    assert isinstance(bad, psycopg.errors.ProgramLimitExceeded)
    assert all(isinstance(each, Reservation) for each in good)
    assert stand(db, "tenant:acme") == (0, 2)


@pytest.mark.parametrize("usd", [D("-0.01"), D("NaN"), D("Infinity"), D("1e5000"), 0.1])
def test_an_amount_that_is_none(usd: Any, db: Database) -> None:
    """Negative, infinite, no number, or a float: it is neither reserved nor settled."""
    with pytest.raises(InvalidBudget):
        db.ledger.reserve(replace(wanted(TENANT), usd=usd))
    with pytest.raises(InvalidBudget):
        db.ledger.charge(replace(wanted(TENANT), usd=usd), charge())
    reservation = db.ledger.reserve(wanted(TENANT))
    with pytest.raises(InvalidBudget):
        db.ledger.settle(reservation, usd=usd, tokens=0)
    with pytest.raises(InvalidBudget):
        db.ledger.resolve(reservation.reservation_id, usd=usd)
    assert stand(db, "tenant:acme") == (0, 1)


@pytest.mark.parametrize("tokens", [-1, float("nan"), 1.5, True])
def test_a_number_of_tokens_that_is_none(tokens: Any, db: Database) -> None:
    with pytest.raises(InvalidBudget):
        db.ledger.reserve(replace(wanted(TENANT), tokens=tokens))


def test_two_budgets_of_one_scope(db: Database) -> None:
    """They would be one window that is taken from twice; of two units they are two."""
    with pytest.raises(InvalidBudget, match="two budgets"):
        db.ledger.reserve(wanted(TENANT, Budget("tenant:acme", daily=1)))
    db.ledger.reserve(wanted(TENANT, Budget("tenant:acme", "tokens", daily=1000)))
    assert stand(db, "tenant:acme", "day", "tokens") == (0, 100)


# Limits that are set.


def test_a_limit_that_is_set_holds_from_the_next_reservation(db: Database, database_uri: str) -> None:
    """For those that run, whatever they declare; and who set it can be read."""
    with Database.connect(database_uri) as other:
        other.ledger.reserve(wanted(TENANT, usd="9"))
        db.ledger.set(Budget("tenant:acme", hourly=5, per_call=2), by="ada")
        for amount in ("0.01", "3"):
            with pytest.raises(BudgetExceeded) as refused:
                other.ledger.reserve(wanted(TENANT, usd=amount))
        assert refused.value.window == "call"
        db.ledger.set(Budget("tenant:acme", hourly=30), by="ben")
        with pytest.raises(BudgetExceeded) as kept:
            other.ledger.reserve(wanted(TENANT, usd="3"))
        assert kept.value.window == "call"  # of which nothing was said
        db.ledger.set(Budget("tenant:acme", per_call=20), by="ben")
        other.ledger.reserve(wanted(TENANT, usd="11"))
        assert db.ledger.remove("tenant:acme", by="ada")
        assert not db.ledger.remove("tenant:acme", by="ada")
        with pytest.raises(BudgetExceeded) as declared:
            other.ledger.reserve(wanted(TENANT, usd="0.01"))
        assert declared.value.limit == 10
    with psycopg.connect(database_uri) as connection:
        events = connection.execute(
            "SELECT actor, details -> 'before', details -> 'limits' FROM holdfast.events "
            "WHERE thread_id = 'holdfast:budgets' AND kind = 'budget.set' ORDER BY number"
        ).fetchall()
    assert events == [
        ("ada", {}, {"per_call": "2", "hourly": "5"}),
        ("ben", {"per_call": "2", "hourly": "5"}, {"hourly": "30"}),
        ("ben", {"per_call": "2", "hourly": "30"}, {"per_call": "20"}),
        ("ada", {"per_call": "20", "hourly": "30"}, {}),
    ]


def test_a_limit_that_is_set_later_knows_what_was_spent_before(db: Database) -> None:
    """Hours and days are counted from the beginning, limits or none."""
    db.ledger.reserve(wanted(Budget("s")))
    db.ledger.set(Budget("s", hourly="1.5"), by="ada")
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(Budget("s")))
    (found,) = db.ledger.budgets()
    assert (found.budget, found.by) == (Budget("s", hourly="1.5"), "ada")


# Windows.


def test_windows_follow_the_clock(db: Database, clock: Clock) -> None:
    """At the next hour and the next day the limit is whole again, in UTC."""
    hourly, daily = Budget("h", hourly=1), Budget("d", daily=1)
    db.ledger.reserve(wanted(hourly, daily))
    clock.move(seconds=29)
    for budget in (hourly, daily):
        with pytest.raises(BudgetExceeded):
            db.ledger.reserve(wanted(budget))
    clock.move(seconds=1)
    db.ledger.reserve(wanted(hourly))
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(daily))
    clock.move(hours=5)
    db.ledger.reserve(wanted(daily))
    assert [each.start for each in db.ledger.windows("d", window="day")] == ["2026-11-22", "2026-11-21"]


@pytest.mark.parametrize("together", [1, 3])
def test_a_reservation_belongs_to_the_window_in_which_it_was_made(together: int, db: Database, clock: Clock) -> None:
    """Settled after the hour's and the day's end, it is settled there; alone and in company."""
    made = [db.ledger.reserve(wanted(Budget("s", hourly=9, per_run=9), run_key="run")) for _ in range(together)]
    clock.move(days=2)
    with grouped(db)._arrival:
        for each in made:
            db.ledger.settle(each, usd=D("0.25"), tokens=7, wait=False)
    db.ledger.release(db.ledger.reserve(wanted(Budget("s", hourly=9))))
    found = {(each.window, each.start): (each.spent, each.reserved) for each in db.ledger.windows("s")}
    assert found == {
        ("hour", "2026-11-21T18"): (D("0.25") * together, 0),
        ("day", "2026-11-21"): (D("0.25") * together, 0),
        ("run", "run"): (D("0.25") * together, 0),
        ("hour", "2026-11-23T18"): (0, 0),
        ("day", "2026-11-23"): (0, 0),
    }


def test_a_clock_that_jumps_back(db: Database, clock: Clock) -> None:
    """The earlier hour's window is what it was: nothing is spent twice, and nothing is given back."""
    budget = Budget("s", hourly=1)
    db.ledger.reserve(wanted(budget))
    clock.move(hours=1)
    db.ledger.reserve(wanted(budget))
    clock.move(hours=-1)
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(budget, usd="0.01"))


def test_windows_since(db: Database, clock: Clock) -> None:
    """Those that had not ended by then."""
    for _ in range(3):
        db.ledger.reserve(wanted(Budget("s", per_run=9), run_key="run"))
        clock.move(hours=8)
    starts = [each.start for each in db.ledger.windows("s", since=START + timedelta(hours=8))]
    assert starts == ["2026-11-22", "2026-11-22T10", "2026-11-22T02"]


def test_the_last_hours() -> None:
    """Oldest first, without those before the first that is known, and this one with what is reserved."""

    def hour(start: str, spent: str, reserved: str = "0") -> SpentWindow:
        return SpentWindow(scope="s", unit="usd", window="hour", start=start, spent=D(spent), reserved=D(reserved))

    found = [hour("2026-11-21T15", "2"), hour("2026-11-21T17", "3"), hour("2026-11-21T18", "1", "0.5")]
    assert hours(found, START, 10) == ([2, 0, 3], D("1.5"))
    assert hours([], START, 10) == ([], 0)


# Ends.


def test_more_than_was_reserved_is_charged(db: Database) -> None:
    """A provider that bills more than it said is paid, and the window says so."""
    reservation = db.ledger.reserve(wanted(TENANT, usd="10"))
    db.ledger.settle(reservation, usd=D("25"), tokens=1)
    assert stand(db, "tenant:acme") == (25, 0)
    with pytest.raises(BudgetExceeded) as refused:
        db.ledger.reserve(wanted(TENANT, usd="0.01"))
    assert (refused.value.used, refused.value.short) == (25, D("15.01"))
    assert "0.00 USD of 10.00 USD are left" in str(refused.value)


ENDS: dict[str, Callable[[Database, Reservation], Coroutine[Any, Any, None]]] = {
    "settle": lambda db, each: db.ledger.asettle(each, usd=D("0.25"), tokens=7, charge=charge()),
    "release": lambda db, each: db.ledger.arelease(each),
    "presume": lambda db, each: db.ledger.apresume(each),
}
SPENT = {"settle": D("0.25"), "release": D(0), "presume": D(1)}


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_two_ends(first: str, second: str, db: Database, database_uri: str) -> None:
    """The surest holds: a settlement before all, a release before a presumption; in one batch as one by one."""
    both = {first, second}
    spent = SPENT["settle" if "settle" in both else "release" if "release" in both else "presume"]
    one, other = (db.ledger.reserve(wanted(Budget(scope), thread_id="t")) for scope in ("one", "other"))
    at_once(db, ENDS[first](db, one))
    at_once(db, ENDS[second](db, one))
    assert stand(db, "one") == (spent, 0)
    assert at_once(db, ENDS[first](db, other), ENDS[second](db, other)) == [None, None]
    assert stand(db, "other") == (spent, 0)
    assert costs(database_uri) == 2 * spent


def test_what_is_presumed_may_be_known_later(db: Database, database_uri: str) -> None:
    """It counts as spent, is outstanding, and what it did cost corrects it; the events' sum is right at each step."""
    reservation = db.ledger.reserve(wanted(TENANT, thread_id="t", node="ask"))
    db.ledger.presume(reservation)
    assert stand(db, "tenant:acme") == (1, 0)
    (outstanding,) = db.ledger.outstanding()
    assert (outstanding.state, outstanding.usd, outstanding.tokens) == ("presumed", 1, 100)
    assert (outstanding.scopes, outstanding.thread_id, outstanding.name) == (["tenant:acme"], "t", "model")
    assert db.ledger.resolve(reservation.reservation_id, usd=D("0.4"), tokens=3)
    assert not db.ledger.resolve(reservation.reservation_id, usd=D("0.5"), tokens=3)
    assert not db.ledger.resolve("no such reservation", usd=None)
    assert told(database_uri, "t") == [("cost.presumed", 1), ("cost.corrected", D("-0.6")), ("cost.resolved", None)]
    assert stand(db, "tenant:acme") == (D("0.4"), 0)
    assert db.ledger.outstanding() == []


def test_a_reservation_survives_its_worker(db: Database, database_uri: str) -> None:
    """It counts as spent until somebody says what became of the call."""
    with Database.connect(database_uri) as other:
        settled = other.ledger.reserve(wanted(TENANT, thread_id="t", usd="4"))
        unmade = other.ledger.reserve(wanted(TENANT, usd="6"))
    assert [each.state for each in db.ledger.outstanding()] == ["held", "held"]
    with pytest.raises(BudgetExceeded):
        db.ledger.reserve(wanted(TENANT))
    assert db.ledger.resolve(settled.reservation_id, usd=D("0.5"), tokens=2)
    assert db.ledger.resolve(unmade.reservation_id, usd=None)
    assert stand(db, "tenant:acme") == (D("0.5"), 0)
    assert [each for each in told(database_uri) if each[1] is not None] == [("cost.corrected", D("0.5"))]


def test_a_worker_that_was_thought_dead(db: Database, database_uri: str) -> None:
    """Somebody said that its call was not made; it was, and its cost is not lost."""
    reservation = db.ledger.reserve(wanted(TENANT, thread_id="t"))
    db.ledger.resolve(reservation.reservation_id, usd=None)
    db.ledger.settle(reservation, usd=D("0.5"), tokens=2, charge=charge())
    assert stand(db, "tenant:acme") == (D("0.5"), 0)
    assert costs(database_uri) == D("0.5")


def test_a_call_that_no_budget_is_on(db: Database, database_uri: str) -> None:
    """It is reserved, and told of, all the same."""
    for number in (1, 2):
        reservation = db.ledger.reserve(wanted(thread_id="t"))
        assert [each.scopes for each in db.ledger.outstanding()] == [[]]
        db.ledger.settle(reservation, usd=D("0.5"), tokens=2, charge=charge())
        assert costs(database_uri) == D("0.5") * number


def test_room_that_an_end_makes(db: Database) -> None:
    """It is there for a call that is asked for at once with it, even before it."""
    budget = Budget("s", hourly=1)
    first = db.ledger.reserve(wanted(budget))
    found = at_once(db, db.ledger.areserve(wanted(budget)), db.ledger.asettle(first, usd=D(0), tokens=0))
    assert [type(each) for each in found] == [Reservation, type(None)]


def test_one_bad_request_harms_no_other(db: Database) -> None:
    """Asked beside one that the database cannot take, each gets its own answer."""
    first = db.ledger.reserve(wanted(TENANT))
    bad = replace(wanted(TENANT), name="\0")
    found = at_once(
        db, db.ledger.areserve(bad), db.ledger.areserve(wanted(TENANT)), db.ledger.asettle(first, usd=D(2), tokens=0)
    )
    assert [type(each) for each in found] == [CharacterNotInRepertoire, Reservation, type(None)]
    assert stand(db, "tenant:acme") == (2, 1)


def test_what_was_spent_without_a_reservation(db: Database, database_uri: str, clock: Clock) -> None:
    """It is counted whatever the limits say, and told of; without a thread, where limits are told of."""
    db.ledger.charge(wanted(TENANT, AGENT, usd="11", run_key="run"), charge(unseen=True))
    db.ledger.charge(wanted(TENANT, usd="1", thread_id="t"), charge())
    assert stand(db, "tenant:acme") == (12, 0)
    assert stand(db, "agent:outreach", "day") == stand(db, "agent:outreach", "run") == (11, 0)
    assert told(database_uri) == [("model.charged", 11), ("model.charged", 1)]


def test_an_end_that_nobody_waits_for(db: Database, database_uri: str) -> None:
    """It is written, at the latest when the database is closed."""
    with Database.connect(database_uri) as other:
        other.ledger.settle(other.ledger.reserve(wanted(TENANT)), usd=D("0.5"), tokens=2, wait=False)
    assert stand(db, "tenant:acme") == (D("0.5"), 0)


async def test_on_a_loop(db: Database, database_uri: str) -> None:
    """The asynchronous methods do the same."""
    ledger = db.ledger
    await ledger.aset(Budget("s", hourly=3), by="ada")
    one, two, three = await asyncio.gather(*(ledger.areserve(wanted(Budget("s"), thread_id="t")) for _ in range(3)))
    with pytest.raises(BudgetExceeded):
        await ledger.areserve(wanted(Budget("s")))
    await ledger.asettle(one, usd=D("0.5"), tokens=1, charge=charge())
    await ledger.arelease(two)
    await ledger.apresume(three)
    assert [each.reservation_id for each in await ledger.aoutstanding()] == [three.reservation_id]
    assert await ledger.aresolve(three.reservation_id, usd=D("0.2"))
    await ledger.acharge(wanted(Budget("s"), usd="0.1", thread_id="t"), charge())
    assert [each.budget.hourly for each in await ledger.abudgets()] == [3]
    assert [(each.spent, each.reserved) for each in await ledger.awindows("s")] == [(D("0.8"), 0)] * 2
    assert await ledger.aremove("s", by="ada")
    assert costs(database_uri) == D("0.8")


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_reservation_that_nobody_waits_for_any_more(under_way: bool, db: Database) -> None:
    """Cancelled while it is made, or before, it is given back."""
    if under_way:
        task = asyncio.ensure_future(db.ledger.areserve(wanted(TENANT)))
        await asyncio.sleep(0)
        task.cancel()
    else:
        with grouped(db)._arrival:
            task = asyncio.ensure_future(db.ledger.areserve(wanted(TENANT)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await db.ledger.arelease(await db.ledger.areserve(wanted(TENANT)))
    assert await db.ledger.aoutstanding() == []
    assert stand(db, "tenant:acme") == (0, 0)


# Without a database.


@pytest.mark.parametrize("together", [1, 3])
def test_an_answer_that_was_lost(together: int, db: Database, database_uri: str, monkeypatch: Any) -> None:
    """Committed and not answered, it is sent again, and counts once."""
    with lost_answer(grouped(db), monkeypatch):
        made = at_once(db, *(db.ledger.areserve(wanted(TENANT, thread_id="t")) for _ in range(together)))
    assert stand(db, "tenant:acme") == (0, together)
    with lost_answer(grouped(db), monkeypatch):
        at_once(db, *(db.ledger.asettle(each, usd=D("0.5"), tokens=1, charge=charge()) for each in made))
    assert stand(db, "tenant:acme") == (D("0.5") * together, 0)
    assert costs(database_uri) == D("0.5") * together


def test_connections_that_are_cut(db: Database, database_uri: str) -> None:
    """Before, between and after: nothing is lost, and nothing counts twice."""
    db.ledger.release(db.ledger.reserve(wanted(TENANT)))
    kill_connections(database_uri)
    reservation = db.ledger.reserve(wanted(TENANT))
    kill_connections(database_uri)
    db.ledger.settle(reservation, usd=D("0.5"), tokens=2)
    assert stand(db, "tenant:acme") == (D("0.5"), 0)


def test_no_database(server_uri: str, template: str) -> None:
    """There is no reservation without it; one whose end cannot be written counts as spent, and the end can be told."""
    with new_database(server_uri, template) as uri, Database.connect(uri) as db:
        reservation = db.ledger.reserve(wanted(TENANT, usd="7"))
        with gone(server_uri, uri):
            with pytest.raises(DatabaseUnavailable):
                db.ledger.reserve(wanted(TENANT))
            with pytest.raises(DatabaseUnavailable):
                db.ledger.settle(reservation, usd=D("0.5"), tokens=2)
        assert stand(db, "tenant:acme") == (0, 7)
        with pytest.raises(BudgetExceeded):
            db.ledger.reserve(wanted(TENANT, usd="4"))
        db.ledger.settle(reservation, usd=D("0.5"), tokens=2)
        assert stand(db, "tenant:acme") == (D("0.5"), 0)


def test_money_is_exact(db: Database) -> None:
    """To the last digit, however small or large."""
    amounts = [D("0.1"), D("0.0000000000000000000000000000000001"), D("123456789012345678901234567890.12"), D("1E+20")]
    for amount in amounts:
        reservation = db.ledger.reserve(replace(wanted(Budget("s")), usd=amount))
        db.ledger.settle(reservation, usd=amount, tokens=1)
    with psycopg.connect(db.uri) as connection:
        rows = connection.execute("SELECT spent::text FROM holdfast.windows WHERE kind = 'hour'").fetchall()
    assert [Decimal(spent) for (spent,) in rows] == [
        D("123456789112345678901234567890.2200000000000000000000000000000001")
    ]
