"""What `holdfast trust` promises: numbers, what they come from, and what people say, with who said it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpointing import Database
from holdfast.guardrails import TrustRule
from holdfast.guardrails.trust import Bar
from holdfast.serving.__main__ import main
from tests.support.deciding import Calls

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
QUICK = TrustRule(window=20, reviewed=Bar(0.3, 2), automatic=Bar(0.6, 4))


@pytest.fixture
def holdfast(database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process, on this test's database."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


@pytest.fixture
def calls(db: Database) -> Calls:
    return Calls(db)


def printed(capsys: Out) -> list[str]:
    return capsys.readouterr().out.splitlines()


def loaded(capsys: Out) -> Any:
    return json.loads(capsys.readouterr().out)


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_an_empty_database_says_so(holdfast: Run, capsys: Out) -> None:
    assert holdfast("trust", "list") == 0
    assert printed(capsys) == ["nobody was asked about any call yet"]
    assert holdfast("trust", "review") == 0
    assert printed(capsys) == ["no run waits for a review"]


def test_every_kind_of_action_is_listed_with_its_numbers(holdfast: Run, calls: Calls, capsys: Out) -> None:
    for _ in range(12):
        calls.decided("approve")
    calls.decided("edit")
    calls.decided("reject", "pay", context={"trust": {"pattern": "pay: large"}})
    assert holdfast("trust", "list") == 0
    head, *rows = [" ".join(line.split()) for line in printed(capsys)]
    assert head == (
        "tool pattern ring cases approved fine edited rejected incidents other bound missing to review pinned"
    )
    assert rows == [
        "pay pay: large 0 1 0 0 0 1 0 0 0.000 of 0.70 14 to ring 1 0",
        "send 0 13 12 0 1 0 0 0 0.667 of 0.70 2 to ring 1 0",
    ]


def test_one_kind_is_shown_with_what_its_ring_follows_from(
    holdfast: Run, db: Database, calls: Calls, capsys: Out
) -> None:
    for _ in range(9):
        calls.decided("approve")
    run = calls.run()
    db.trust.judge("send", QUICK)
    db.trust.pin("send", 1, by="ada", why="for now")
    assert holdfast("trust", "show", "send") == 0
    lines = printed(capsys)
    assert lines[:10] == [
        "send: ring 1 (pinned by ada; earned: 2)",
        "  cases         9 of the newest 20: 9 approved, 0 found fine, 0 edited, 0 answered instead, 0 failed a check, "
        "0 rejected, 0 incidents",
        "  good          9, of them 9 since the newest rejection or incident",
        "  bound         0.7008 (Wilson, lower, z 1.96)",
        "  ring 1 needs  a bound of 0.3 and 2 good cases since the newest setback",
        "  ring 2 needs  a bound of 0.6 and 4 good cases since the newest setback",
        lines[6],
        "  automatic     1 runs, 1 of them wait for a review",
        "  checks        1 passed, 0 failed",
        lines[9],
    ]
    assert lines[6].startswith("  pinned        ring 1 at the most, by ada, 2026-11-21")
    assert lines[6].endswith("UTC: for now")
    assert lines[10].split()[0] == "approved"
    assert run.request_id not in "".join(lines)


def test_the_same_as_json(holdfast: Run, calls: Calls, capsys: Out) -> None:
    calls.decided("approve")
    calls.decided("reject")
    assert holdfast("trust", "show", "send", "--json") == 0
    found = loaded(capsys)
    assert (found["tool"], found["ring"], found["cases"], found["good"], found["bound"]) == ("send", 0, 2, 1, 0.0945)
    assert (found["next_ring"], found["next_bound"], found["missing"]) == (1, 0.7, 13)
    assert found["rule"]["automatic"] == {"bound": 0.9, "clean": 20}
    assert [case["outcome"] for case in found["newest"]] == ["rejected", "approved"]
    assert holdfast("trust", "list", "--json") == 0
    (listed,) = loaded(capsys)
    assert "newest" not in listed
    assert listed["rejected"] == 1


def test_a_pin_is_set_and_taken_away(holdfast: Run, db: Database, calls: Calls, capsys: Out) -> None:
    calls.decided("approve")
    assert holdfast("trust", "pin", "send", "--ring", "2", "--exact", "--why", "harmless", "--by", "ada") == 0
    assert printed(capsys) == [
        "send: pinned to ring 2; ring 2 (pinned by ada; earned: 0), 1 of 1 good, bound 0.207 of 0.70, 8 good cases to "
        "ring 1"
    ]
    assert db.trust.places("send")[0].ring == 2
    assert holdfast("trust", "unpin", "send", "--by", "bob") == 0
    assert printed(capsys)[0].startswith("send: no longer pinned; ring 0, 1 of 1 good")
    assert holdfast("trust", "unpin", "send") == 2
    assert complaint(capsys) == "holdfast: NotPinned: 'send' is not pinned; `holdfast trust list` shows what is"


def test_an_incident_takes_the_ring_at_once(holdfast: Run, db: Database, calls: Calls, capsys: Out) -> None:
    for _ in range(10):
        calls.decided("approve")
    assert db.trust.judge("send", QUICK).ring == 2
    assert holdfast("trust", "incident", "send", "--why", "spam", "--by", "ada") == 0
    assert printed(capsys)[0].startswith("send: an incident is on record; ring 0, 10 of 11 good")
    assert db.trust.places("send")[0].ring == 0
    run = calls.run()
    assert holdfast("trust", "incident", "--request", run.request_id, "--why", "worse") == 0
    assert [case.outcome for case in db.trust.evidence("send", window=2).cases] == ["incident", "incident"]


def test_runs_are_listed_for_review_and_reviewed(holdfast: Run, db: Database, calls: Calls, capsys: Out) -> None:
    first, second = calls.run(), calls.run("pay", pattern="pay: small")
    assert holdfast("trust", "review") == 0
    rows = [line.split() for line in printed(capsys)]
    assert [row[0] for row in rows] == ["request", first.request_id, second.request_id]
    assert holdfast("trust", "review", "--tool", "pay", "--json") == 0
    (run,) = loaded(capsys)
    assert (run["request"], run["pattern"], run["ring"]) == (second.request_id, "pay: small", 1)
    assert holdfast("trust", "review", first.request_id, "--fine", "--by", "ada") == 0
    assert printed(capsys)[0].startswith("send: one more run was fine; ring 0, 1 of 1 good")
    assert holdfast("trust", "review", first.request_id, "--fine") == 2
    assert "was reviewed before" in complaint(capsys)
    assert [run.request_id for run in db.trust.to_review()] == [second.request_id]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "\n"), "is no name"),
        (("pin", "send", "--ring", "3"), "3 is not in the range"),
        (("pin", "send"), "--ring"),
        (("incident", "send"), "--why"),
        (("incident", "--why", "x"), "name a TOOL"),
        (("incident", "send", "--request", "apr-1", "--why", "x"), "name a TOOL"),
        (("incident", "send", "--why", " "), "an incident needs a reason"),
        (("incident", "--request", "apr-none", "--why", "x"), "there is no request 'apr-none'"),
        (("review", "apr-none"), "say --fine"),
        (("review", "--fine"), "say --fine"),
        (("review", "apr-none", "--fine"), "there is no request 'apr-none'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    holdfast: Run, capsys: Out, arguments: tuple[str, ...], said: str
) -> None:
    assert holdfast("trust", *arguments) == 2
    assert said in capsys.readouterr().err


def test_hostile_names_are_shown_inert(holdfast: Run, db: Database, calls: Calls, capsys: Out) -> None:
    hostile = "send\x1b[31m[bold]\u202e"
    calls.decided("approve", hostile)
    assert holdfast("trust", "list") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]" in out


def test_the_audit_trail_tells_of_it_in_plain_words(holdfast: Run, db: Database, calls: Calls, capsys: Out) -> None:
    run = calls.run(pattern="send: inside")
    db.trust.judge("send", QUICK)
    for _ in range(10):
        calls.decided("approve")
    db.trust.judge("send", QUICK, by="worker")
    db.trust.pin("send", 1, by="ada", why="for now", exact=True)
    db.trust.unpin("send", by="bob")
    db.trust.incident("send", by="ada", why="spam")
    db.trust.verified(run.request_id, passed=False, by="smoke test")
    db.trust.review(run.request_id, by="ada", why="still right")
    db.trust.incident(request_id=run.request_id, by="bob", why="no")
    assert holdfast("audit", "--thread", "holdfast:trust") == 0
    text = capsys.readouterr().out
    for line in (
        "worker: send went from ring 0 to ring 2",
        "10 of 10 cases good, bound 0.7225",
        "ada: pinned send to ring 1",
        "because: \u201cfor now\u201d",
        "bob: let the evidence decide on send again",
        "ada: reported an incident with send",
    ):
        assert line in text
    assert holdfast("audit", "--thread", "t") == 0
    text = capsys.readouterr().out
    for line in (
        "smoke test: a call of send (send: inside) failed its verification",
        "ada: reviewed a call of send (send: inside), and found it fine",
        "bob: reported an incident with send (send: inside)",
        f"request {run.request_id}",
    ):
        assert line in text
    assert "rule" not in text
