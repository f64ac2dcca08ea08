"""What `holdfast budget` promises: limits that hold from the next call on, exact figures, and who said what."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.checkpointing import Budget, BudgetExceeded, Database, InvalidBudget
from holdfast.checkpointing.budgets import SetBudget, SpentWindow
from holdfast.checkpointing.ledger import AUDITED
from holdfast.checkpointing.spending import Reservation, Wanted
from holdfast.serving import accounts
from holdfast.serving import budget as commands
from holdfast.serving.__main__ import main

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
NOW = datetime(2026, 3, 1, 14, 59, 59, tzinfo=UTC)
ACME = Budget("tenant:acme")


@pytest.fixture
def holdfast(database_uri: str, db: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process, on this test's database, at one moment."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_now", lambda: NOW)
    db.ledger.clock = lambda: NOW

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def reserve(db: Database, usd: str, budget: Budget = ACME, thread: str | None = "t") -> Reservation:
    wanted = Wanted(budgets=(budget,), usd=Decimal(usd), tokens=1000, name="gpt-5", thread_id=thread, node="plan")
    return db.ledger.reserve(wanted)


def spend(db: Database, usd: str, budget: Budget = ACME) -> None:
    db.ledger.settle(reserve(db, usd, budget), usd=Decimal(usd), tokens=10)


def rows(capsys: Out) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in capsys.readouterr().out.splitlines()]


# list


def test_limits_and_what_is_left_of_them_are_listed_with_scopes_that_have_none(
    holdfast: Run, db: Database, capsys: Out
) -> None:
    spend(db, "0.0123")
    reserve(db, "0.50")
    spend(db, "1", Budget("agent:outreach"))
    db.ledger.set(Budget("tenant:acme", per_call=2, daily="5.00"), by="ada")
    db.ledger.set(Budget("tenant:acme", "tokens", hourly=400_000), by="ada")
    assert holdfast("budget", "list") == 0
    head, *listed = rows(capsys)
    assert head == ["scope", "window", "limit", "spent", "reserved", "left", "set by"]
    assert [row for row in listed if "UTC" not in row[-1]] == [
        ["agent:outreach", "hour", "1.00 USD", "0.00 USD"],
        ["day", "1.00 USD", "0.00 USD"],
        ["day", "0 tokens", "0 tokens"],
        ["hour", "0.0123 USD", "0.50 USD"],
        ["day", "5.00 USD", "0.0123 USD", "0.50 USD", "4.4877 USD"],
    ]
    named = {row[0]: row[1:-1] for row in listed if "UTC" in row[-1]}
    assert named == {"tenant:acme": ["call", "2.00 USD"]}
    assert ["tenant:acme", "hour", "400,000 tokens", "0 tokens", "0 tokens", "400,000 tokens"] in [
        row[:-1] for row in listed
    ]


def test_as_json_amounts_are_text_and_exact(holdfast: Run, db: Database, capsys: Out) -> None:
    spend(db, "0.000000000000123")
    db.ledger.set(Budget("tenant:acme", hourly="2.50"), by="ada")
    assert holdfast("budget", "list", "--json") == 0
    (printed,) = json.loads(capsys.readouterr().out)
    hour, day = printed["windows"]
    assert (printed["scope"], printed["unit"], printed["set_by"]) == ("tenant:acme", "usd", "ada")
    assert hour == {
        "window": "hour",
        "limit": "2.50",
        "spent": "0.000000000000123",
        "reserved": "0.000000000000000",
        "left": "2.499999999999877",
    }
    assert (day["limit"], day["left"]) == (None, None)


def test_windows_that_are_over_are_not_listed(holdfast: Run, db: Database, capsys: Out) -> None:
    db.ledger.clock = lambda: NOW - timedelta(hours=1)
    spend(db, "1")
    db.ledger.clock = lambda: NOW - timedelta(days=1)
    spend(db, "2", Budget("yesterday"))
    assert holdfast("budget", "list", "--json") == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert [(line["window"], Decimal(line["spent"])) for line in printed["windows"]] == [("hour", 0), ("day", 1)]


def test_where_there_is_nothing_it_says_so(holdfast: Run, capsys: Out) -> None:
    assert holdfast("budget", "list") == 0
    assert capsys.readouterr().out == "no limit was set, and nothing was spent today\n"
    assert holdfast("budget", "outstanding") == 0
    assert capsys.readouterr().out == "nothing is outstanding\n"
    for command in ("list", "outstanding"):
        assert holdfast("budget", command, "--json") == 0
        assert json.loads(capsys.readouterr().out) == []


def test_no_scope_reaches_the_terminal_or_makes_a_line_of_its_own(
    holdfast: Run, db: Database, database_uri: str, capsys: Out
) -> None:
    """`Budget` takes names only; the tables may have been written by something else."""
    hostile = "\x1b[2J\r\nforged: [bold]line[/]"
    with pytest.raises(InvalidBudget, match=r"not '\\x1b\[2J"):
        Budget(hostile)
    reserve(db, "1")
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute("UPDATE holdfast.windows SET scope = %s", [hostile])
        owner.execute("UPDATE holdfast.reservations SET scopes = ARRAY[%s]", [hostile])
    for command in ("list", "outstanding"):
        assert holdfast("budget", command) == 0
        printed = capsys.readouterr().out
        assert all(line.isprintable() for line in printed.splitlines())
        assert "forged: [bold]line[/]" in printed
        assert len(printed.splitlines()) == (3 if command == "list" else 1)


@given(
    limit=st.none() | st.decimals("0.01", 100, places=2),
    spent=st.decimals(0, 200, places=4),
    reserved=st.decimals(0, 200, places=4),
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - as hypothesis wants them
)
def test_what_is_left_is_what_the_ledger_would_give_and_never_below_zero(
    limit: Decimal | None, spent: Decimal, reserved: Decimal, now: datetime
) -> None:
    def window(kind: str, start: str) -> SpentWindow:
        return SpentWindow(scope="s", unit="usd", window=kind, start=start, spent=spent, reserved=reserved)  # type: ignore[arg-type]  # one of the two

    windows = [window("hour", f"{now:%Y-%m-%dT%H}"), window("day", f"{now - timedelta(days=1):%Y-%m-%d}")]
    budgets = [] if limit is None else [SetBudget(budget=Budget("s", hourly=limit), by="ada", at=now)]
    (account,) = accounts.accounts(budgets, windows, now)
    hour, day = account.lines
    assert (hour.spent, hour.reserved, hour.limit) == (spent, reserved, limit)
    assert hour.left == (None if limit is None else max(limit - spent - reserved, 0))
    assert (day.spent, day.left) == (0, None)


# set and remove


def test_a_limit_holds_from_the_next_call_on_and_what_it_replaces_is_shown(
    holdfast: Run, db: Database, capsys: Out
) -> None:
    reserve(db, "1")
    assert holdfast("budget", "set", "tenant:acme", "--hourly", "2.50", "--daily", "20", "--by", "ada") == 0
    assert capsys.readouterr().out == ("tenant:acme: hourly 2.50 USD, daily 20.00 USD (none was set before)\n")
    with pytest.raises(BudgetExceeded):
        reserve(db, "2")
    assert holdfast("budget", "set", "tenant:acme", "--per-run", "0.00001", "--per-call", "3", "--by", "eve") == 0
    assert capsys.readouterr().out == (
        "tenant:acme: per call 3.00 USD, per run 0.00001 USD (before: hourly 2.50 USD, daily 20.00 USD)\n"
    )
    with pytest.raises(BudgetExceeded, match="this hour"):  # of which nothing was said
        reserve(db, "2")
    first, second = db.audit.read(thread_id=AUDITED)
    assert (first.actor, second.actor) == ("ada", "eve")
    assert second.details["before"] == {"hourly": "2.50", "daily": "20"}


def test_limits_of_tokens_are_limits_of_their_own(holdfast: Run, db: Database, capsys: Out) -> None:
    tokens = Budget("tenant:acme", "tokens")
    assert holdfast("budget", "set", "tenant:acme", "--unit", "tokens", "--per-call", "999") == 0
    assert capsys.readouterr().out.startswith("tenant:acme: per call 999 tokens (")
    with pytest.raises(BudgetExceeded, match="holdfast budget set tenant:acme --unit tokens --per-call"):
        reserve(db, "1", tokens)
    reserve(db, "1")
    assert holdfast("budget", "remove", "tenant:acme") == 2
    assert "NoSuchBudget: no limit in usd is set for 'tenant:acme'" in complaint(capsys)
    assert holdfast("budget", "remove", "tenant:acme", "--unit", "tokens", "--by", "ada") == 0
    assert capsys.readouterr().out == "tenant:acme: no limit in tokens is set any more\n"
    reserve(db, "1", tokens)
    assert [event.actor for event in db.audit.read(thread_id=AUDITED)][-1] == "ada"


def test_a_command_that_an_error_names_can_be_pasted(holdfast: Run, db: Database) -> None:
    scope = "thread:my thread; echo hi"
    with pytest.raises(BudgetExceeded) as error:
        reserve(db, "2", Budget(scope, per_call=1))
    assert "`holdfast budget set 'thread:my thread; echo hi' --per-call …`" in str(error.value)
    assert holdfast("budget", "set", scope, "--per-call", "2") == 0
    reserve(db, "2", Budget(scope, per_call=1))


# outstanding and resolve


def test_what_nobody_settled_is_listed(holdfast: Run, db: Database, capsys: Out) -> None:
    held, presumed = reserve(db, "1"), reserve(db, "0.25", thread=None)
    db.ledger.presume(presumed)
    spend(db, "3")
    assert holdfast("budget", "outstanding") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"{held.reservation_id} held: gpt-5 on thread t, up to 1.00 USD and 1,000 tokens of tenant:acme, since "
    )
    assert second.startswith(f"{presumed.reservation_id} presumed: gpt-5, up to 0.25 USD")
    assert holdfast("budget", "outstanding", "--json") == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["reservation"], one["usd"], one["scopes"]) == (held.reservation_id, "1", ["tenant:acme"])
    assert (two["state"], two["thread_id"]) == ("presumed", None)


@pytest.mark.parametrize("presumed", [False, True])
@pytest.mark.parametrize(("said", "cost"), [(("--cost", "0.30", "--tokens", "7"), "0.30"), (("--not-made",), "0")])
def test_who_knows_it_better_may_say_what_a_call_did_cost(
    presumed: bool, said: tuple[str, ...], cost: str, holdfast: Run, db: Database, capsys: Out
) -> None:
    """Windows and trail come to the same, and the trail says who said so."""
    reservation = reserve(db, "1")
    if presumed:
        db.ledger.presume(reservation)
    assert holdfast("budget", "resolve", reservation.reservation_id, *said, "--by", "ada") == 0
    assert reservation.reservation_id in capsys.readouterr().out
    (hour,) = db.ledger.windows("tenant:acme", window="hour")
    assert (hour.spent, hour.reserved) == (Decimal(cost), 0)
    assert sum(line.cost for line in db.costs.report("node")) == Decimal(cost)
    (event,) = [event for event in db.audit.read(thread_id="t") if event.kind == "cost.resolved"]
    assert (event.actor, event.details["reservation"]) == ("ada", reservation.reservation_id)
    assert db.ledger.outstanding() == []
    assert holdfast("budget", "resolve", reservation.reservation_id, "--cost", "1") == 2
    assert "NotOutstanding" in complaint(capsys)


BAD = {
    "no limit": (["set", "s"], "say one of --per-call, --per-run, --hourly, --daily"),
    "zero": (["set", "s", "--daily", "0"], "'0' is no amount: a decimal above 0"),
    "zero with places": (["set", "s", "--daily", "0.00"], "'0.00' is no amount"),
    "negative": (["set", "s", "--daily=-1"], "'-1' is no amount"),
    "not a number": (["set", "s", "--hourly", "NaN"], "'NaN' is no amount"),
    "infinite": (["set", "s", "--per-call", "inf"], "'inf' is no amount"),
    "in powers": (["set", "s", "--per-run", "1e3"], "'1e3' is no amount"),
    "with a sign": (["set", "s", "--per-run", "$5"], "'$5' is no amount"),
    "grouped": (["set", "s", "--per-run", "1_000"], "'1_000' is no amount"),
    "other digits": (["set", "s", "--per-run", "\u0665"], "is no amount"),
    "no unit": (["set", "s", "--unit", "eur", "--daily", "1"], "'eur' is not one of"),
    "no scope": (["set", "", "--daily", "1"], "is no name: 1 to 200 printable characters"),
    "a scope with escapes": (["set", "a\x1b[2J", "--daily", "1"], "is no name"),
    "a scope that is not there": (["remove", "s"], "NoSuchBudget"),
    "no verdict": (["resolve", "r"], "say --cost USD"),
    "two verdicts": (["resolve", "r", "--cost", "1", "--not-made"], "say --cost USD"),
    "tokens of nothing": (["resolve", "r", "--not-made", "--tokens", "1"], "say --cost USD"),
    "a negative cost": (["resolve", "r", "--cost=-1"], "'-1' is no amount: a decimal of 0 or more"),
    "no reservation": (["resolve", "r", "--cost", "0"], "NotOutstanding: no reservation 'r' is outstanding"),
    "no text": (["resolve", "a\udcff", "--cost", "0"], "is no text that a database holds"),
}


@pytest.mark.parametrize(("arguments", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    holdfast: Run, db: Database, capsys: Out, arguments: list[str], expected: str
) -> None:
    assert holdfast("budget", *arguments) == 2
    assert expected in complaint(capsys)
    assert db.ledger.budgets() == []
