"""What an alarm about spending promises: it rings when a scope leaves its own past behind, once, and leaks nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.checkpointing import Database, MissingExtra
from holdfast.checkpointing.costs import total
from holdfast.guardrails.alert_desk import AlertDesk
from holdfast.guardrails.alerts import AlertRule, BudgetAlert, judge, past
from holdfast.guardrails.notify import AppriseNotifier, InvalidNotifier, LogNotifier, NotDelivered

# apprise imports a module that Python 3.13 no longer has, where there still is one
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
HOUR = datetime(2026, 3, 1, 14, tzinfo=UTC)
BARE = AlertRule(floors={})
SECRET = "s3cr3t-t0ken"
AMOUNTS = st.decimals(min_value=0, max_value=10_000, places=4)
HISTORIES = st.lists(AMOUNTS, max_size=168)
ONES = [Decimal(1)] * 48


def alarms(history: list[Decimal], current: Decimal, rule: AlertRule = BARE) -> bool:
    return judge(past(history, "usd", rule), current, scope="s", unit="usd", hour=HOUR, at=HOUR) is not None


def alert(**more: Any) -> BudgetAlert:
    given: dict[str, Any] = {
        "scope": "tenant:acme", "unit": "usd", "window_start": HOUR, "spent": Decimal("12.30"),
        "usual": Decimal("0.30"), "at": HOUR + timedelta(minutes=3),
    }  # fmt: skip
    return BudgetAlert(**(given | more))


# The decision


@given(hours=st.integers(0, 168), amount=AMOUNTS, share=st.decimals(0, 1, places=3))
def test_constant_spending_never_alarms(hours: int, amount: Decimal, share: Decimal) -> None:
    assert not alarms([amount] * hours, amount * share)


@given(
    usual=st.decimals("0.0001", 10_000, places=4),
    noise=st.lists(st.decimals(1, 2, places=3), min_size=6, max_size=168),
)
def test_a_hundredfold_jump_alarms_within_the_first_tenth_of_the_hour(usual: Decimal, noise: list[Decimal]) -> None:
    assert alarms([usual * times for times in noise], usual * 100 / 10)


@given(history=HISTORIES, current=AMOUNTS, more=AMOUNTS)
def test_who_spends_more_alarms_all_the_more(history: list[Decimal], current: Decimal, more: Decimal) -> None:
    assert alarms(history, current + more) or not alarms(history, current)


@given(history=HISTORIES, current=AMOUNTS, scale=st.integers(-12, 12))
def test_cents_and_millions_are_judged_alike(history: list[Decimal], current: Decimal, scale: int) -> None:
    scaled = [amount.scaleb(scale) for amount in history]
    assert alarms(scaled, current.scaleb(scale)) == alarms(history, current)


@given(history=HISTORIES)
def test_what_every_day_reached_does_not_alarm(history: list[Decimal]) -> None:
    days = [history[max(end - 24, 0) : end] for end in range(len(history), 0, -24)]
    assume(days)
    assert not alarms(history, min(max(day) for day in days))


def test_a_job_that_runs_each_night_does_not_alarm_when_it_runs_and_does_when_it_runs_away() -> None:
    nightly = ([Decimal("0.01")] * 23 + [Decimal(10)]) * 7
    assert not alarms(nightly, Decimal(12))
    assert alarms(nightly, Decimal(31))
    alone = ([Decimal(0)] * 23 + [Decimal(10)]) * 7
    assert not alarms(alone, Decimal(12))
    assert alarms(alone, Decimal(31))


@given(broken=st.integers(0, 72), by=st.integers(1, 10**6))
def test_days_that_ran_away_do_not_hide_the_next(broken: int, by: int) -> None:
    history = [Decimal(1)] * (168 - broken) + [Decimal(by)] * broken
    assert alarms(history, Decimal(100))


def test_days_that_differ_widen_what_is_usual() -> None:
    history = [Decimal(peak) for peak in (1, 9, 1, 9, 5, 5, 20) for _ in range(24)]
    known = past(history, "usd", BARE)
    assert known is not None
    assert known.usual == 5
    assert round(known.limit, 3) == round(5 + Decimal("3.5") * 4 / Decimal("0.6745"), 3)


def test_without_a_past_or_below_the_floor_nothing_alarms() -> None:
    assert past([], "usd") is None
    assert past([Decimal(0)] * 168, "usd") is None
    assert past([Decimal(1)] * 5, "usd") is None
    assert past([Decimal(1)] * 6, "usd") is not None
    pennies = [Decimal("0.001")] * 100
    assert not alarms(pennies, Decimal(1), AlertRule())
    assert alarms(pennies, Decimal("1.01"), AlertRule())
    tokens = past(pennies, "tokens")
    assert tokens is not None
    assert tokens.limit == 250_000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"factor": Decimal(1)}, "factor=1 is not above 1"),
        ({"factor": Decimal("NaN")}, "factor=NaN is not above 1"),
        ({"score": Decimal(-1)}, "score=-1 is not 0 or more"),
        ({"score": Decimal("Infinity")}, "score=Infinity is not 0 or more"),
        ({"hours": 0}, "hours=0 is below 1"),
        ({"floors": {"usd": Decimal(-1)}}, "the floor for usd=-1 is not 0 or more"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"no rule for alerts: {said}"):
        AlertRule(**given)


def test_an_alert_says_what_was_spent_and_what_is_usual() -> None:
    assert str(alert()) == (
        "'tenant:acme' has spent $12.30 since 14:00 UTC, 41 times the $0.30 of its usual dearest hour"
    )
    small = alert(scope="a\nb\x1b[2J", usual=Decimal("0.000000347"), spent=Decimal("0.00000139"))
    assert str(small) == (
        r"'a\nb\x1b[2J' has spent $0.0000014 since 14:00 UTC, 4.0 times the $0.00000035 of its usual dearest hour"
    )
    assert "1,500,000 tokens" in str(alert(unit="tokens", spent=Decimal(1_500_000)))


def test_an_alert_is_an_event_that_costs_nothing(db: Database) -> None:
    db.audit.append(alert().event("t", correlation_id="case-7"))
    (event,) = db.audit.read(correlation_id="case-7")
    assert (event.kind, event.cost, event.details["factor"]) == ("budget.alerted", None, "41.00")
    assert event.details["spent"] == "12.30"
    assert total(db.costs.report()).cost == 0


# Once for each scope and hour


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.alerts: list[BudgetAlert] = []

    def __call__(self, alert: BudgetAlert, /) -> None:
        self.alerts.append(alert)


class Clock:
    def __init__(self) -> None:
        self.now = HOUR + timedelta(minutes=3)

    def __call__(self) -> datetime:
        return self.now


def test_a_scope_is_told_of_once_an_hour_and_again_when_it_is_ten_times_as_bad() -> None:
    told, clock = Told(), Clock()
    desk = AlertDesk([told], clock=clock)
    for spent in ("2", "3", "3.01", "4", "30", "30.1", "31", "300", "301.01"):
        desk.consider("tenant:acme", "usd", history=ONES, current=Decimal(spent))
    desk.consider("tenant:globex", "usd", history=ONES, current=Decimal(5))
    clock.now += timedelta(hours=1)
    desk.consider("tenant:acme", "usd", history=ONES, current=Decimal(5))
    assert desk.flush()
    assert [(each.scope, each.spent, each.window_start) for each in told.alerts] == [
        ("tenant:acme", Decimal("3.01"), HOUR),
        ("tenant:acme", Decimal("30.1"), HOUR),
        ("tenant:acme", Decimal("301.01"), HOUR),
        ("tenant:globex", Decimal(5), HOUR),
        ("tenant:acme", Decimal(5), HOUR + timedelta(hours=1)),
    ]


def test_a_history_is_needed_once_an_hour() -> None:
    clock = Clock()
    desk = AlertDesk([], clock=clock)
    assert not desk.knows("s", "usd")
    assert desk.consider("s", "usd", current=Decimal(100)) is None
    assert desk.consider("s", "usd", current=Decimal(2), history=ONES) is None
    assert desk.knows("s", "usd")
    assert not desk.knows("s", "tokens")
    assert desk.consider("s", "usd", current=Decimal(100)) is not None
    clock.now += timedelta(hours=1)
    assert not desk.knows("s", "usd")


def test_an_hour_that_is_over_raises_nothing() -> None:
    clock = Clock()
    desk = AlertDesk([], clock=clock)
    assert desk.consider("s", "usd", current=Decimal(1), history=ONES) is None
    before = HOUR - timedelta(minutes=1)
    assert not desk.knows("s", "usd", hour=before)
    assert desk.consider("s", "usd", current=Decimal(100), history=ONES, hour=before) is None
    later = desk.consider("s", "usd", current=Decimal(100), history=ONES, hour=HOUR + timedelta(minutes=61))
    assert later is not None
    assert later.window_start == HOUR + timedelta(hours=1)


def test_many_threads_raise_one_alert() -> None:
    told, start = Told(), threading.Barrier(16)
    desk = AlertDesk([told], clock=Clock())

    def work() -> None:
        start.wait()
        for _ in range(50):
            desk.consider("s", "usd", current=Decimal(5), history=ONES)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.flush()
    assert len(told.alerts) == 1


def test_what_was_weighed_is_sent_only_when_it_is_said() -> None:
    told = Told()
    desk = AlertDesk([told], clock=Clock())
    found = desk.weigh("s", "usd", current=Decimal(5), history=ONES)
    assert found is not None
    assert desk.flush()
    assert told.alerts == []
    desk.send(found)
    assert desk.flush()
    assert told.alerts == [found]


# Carrying it


def test_a_notifier_that_fails_harms_neither_the_call_nor_the_next_notifier(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: BudgetAlert) -> None:
        raise RuntimeError(f"https://hooks.example/{SECRET}")

    told = Told()
    desk = AlertDesk([broken, told], clock=Clock())
    assert desk.consider("s", "usd", current=Decimal(5), history=ONES) is not None
    assert desk.flush()
    assert len(told.alerts) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("an alert could not be sent by function (RuntimeError): 's' has spent $5.00")
    assert SECRET not in caplog.text


def test_a_notifier_that_blocks_holds_up_nobody_and_a_flood_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on, told = threading.Event(), threading.Event(), Told()

    def slow(alert: BudgetAlert) -> None:
        begun.set()
        assert go_on.wait(60)

    desk = AlertDesk([slow, told], clock=Clock())
    desk.consider("first", "usd", current=Decimal(5), history=ONES)
    assert begun.wait(60)
    for number in range(300):
        desk.consider(f"s{number}", "usd", current=Decimal(5), history=ONES)
    assert not desk.flush(0)
    go_on.set()
    assert desk.flush(60)
    assert len(told.alerts) == 257
    assert [record.getMessage()[:51] for record in caplog.records] == [
        "an alert was dropped, as 256 are waiting to be sent"
    ] * 44


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_after_a_fork_the_child_tells_its_own_alerts() -> None:
    program = """
import os, sys, threading
from decimal import Decimal
from holdfast.guardrails.alert_desk import AlertDesk
hold = threading.Event()
desk = AlertDesk([lambda alert: (hold.wait() if alert.scope == "parent" else os.write(1, alert.scope.encode()))])
desk.consider("parent", "usd", current=Decimal(5), history=[Decimal(1)] * 9)
if os.fork() == 0:
    desk.consider("child", "usd", current=Decimal(5), history=[Decimal(1)] * 9)
    os._exit(0 if desk.flush(60) else 3)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) or hold.set())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"child"), done.stderr


def test_a_program_that_ends_sends_what_waits_first() -> None:
    program = """
from decimal import Decimal
from holdfast.guardrails.alert_desk import AlertDesk
AlertDesk([lambda alert: print(alert.scope, flush=True)])  # gone at once
desk = AlertDesk([lambda alert: print(alert.scope, flush=True)])
for number in range(3):
    desk.consider(f"s{number}", "usd", current=Decimal(5), history=[Decimal(1)] * 9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=120)
    assert done.stdout.split() == [b"s0", b"s1", b"s2"], done.stderr


def test_the_log_gets_a_line_with_the_values_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    desk = AlertDesk(clock=Clock())
    desk.consider("tenant:acme", "usd", current=Decimal(5), history=ONES)
    assert desk.flush()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("holdfast.budget", logging.WARNING)
    assert record.getMessage() == (
        "'tenant:acme' has spent $5.00 since 14:00 UTC, 5.0 times the $1.00 of its usual dearest hour"
    )
    fields = {name: value for name, value in vars(record).items() if name.startswith("budget_")}
    assert fields == {
        "budget_scope": "tenant:acme",
        "budget_unit": "usd",
        "budget_window_start": "2026-03-01T14:00:00+00:00",
        "budget_spent": "5",
        "budget_usual": "1",
        "budget_factor": "5.00",
        "budget_at": "2026-03-01T14:03:00+00:00",
    }
    LogNotifier()(alert())
    assert len(caplog.records) == 2


# Services, over a real server


class Hook:
    """A server that takes what is posted to it, answering with a status by the path."""

    def __init__(self) -> None:
        taken: list[dict[str, Any]] = []
        self.taken = taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append({"path": self.path, "thread": threading.current_thread(), **json.loads(body)})
                self.send_response(500 if "broken" in self.path else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://user:{SECRET}@127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_service_is_told(hook: Hook) -> None:
    AppriseNotifier([f"{hook.url}/alerts"])(alert())
    (taken,) = hook.taken
    assert (taken["path"], taken["title"], taken["type"]) == ("/alerts", "Spending alert", "warning")
    assert taken["message"] == str(alert())


def test_the_desk_tells_a_service_in_another_thread(hook: Hook) -> None:
    desk = AlertDesk([AppriseNotifier([hook.url])], clock=Clock())
    desk.consider("s", "usd", current=Decimal(5), history=ONES)
    assert desk.flush(60)
    assert len(hook.taken) == 1


def test_a_service_that_fails_is_named_and_the_others_are_told(hook: Hook) -> None:
    notifier = AppriseNotifier([f"{hook.url}/broken", f"{hook.url}/sound"])
    with pytest.raises(NotDelivered) as raised:
        notifier(alert())
    assert str(raised.value) == "service 1 of 2 (JSON) did not take the alert"
    assert [taken["path"] for taken in hook.taken] == ["/broken", "/sound"]


def gone(_: Hook) -> str:
    return f"json://user:{SECRET}@127.0.0.1:1/{SECRET}"


def broken(hook: Hook) -> str:
    return f"{hook.url}/broken-{SECRET}?+x-key={SECRET}"


@pytest.mark.parametrize("where", [gone, broken])
def test_an_address_is_never_shown(
    hook: Hook, where: Callable[[Hook], str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.NOTSET), caplog.at_level(0, "apprise"), caplog.at_level(0, "urllib3"):
        notifier = AppriseNotifier([where(hook)])
        desk = AlertDesk([notifier], clock=Clock())
        desk.consider("s", "usd", current=Decimal(5), history=ONES)
        assert desk.flush(60)
    assert "AppriseNotifier (NotDelivered: service 1 of 1 (JSON) did not take the alert)" in caplog.text
    shown = [caplog.text, *map(str, map(vars, caplog.records)), repr(notifier), *capfd.readouterr()]
    assert not any(SECRET in text for text in shown)


def test_what_others_send_by_apprise_is_logged_as_ever(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    from apprise import Apprise

    AppriseNotifier([hook.url])
    with caplog.at_level(logging.INFO, "apprise"):
        other = Apprise()
        other.add(hook.url)
        other.notify(body="x")
    assert "Sent JSON" in caplog.text


@pytest.mark.parametrize("urls", [["nonsense"], ["json://ok", f"slack://{SECRET}"], [f"{SECRET}://x"], []])
def test_an_address_that_is_none_is_refused_without_showing_it(
    urls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(0, "apprise"), pytest.raises(InvalidNotifier) as raised:
        AppriseNotifier(urls)
    assert SECRET not in str(raised.value) + caplog.text
    assert str(raised.value).startswith("address" if urls else "no address")


def test_without_apprise_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[notify\]"):
        AppriseNotifier(["json://localhost"])
