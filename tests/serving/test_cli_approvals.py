"""What `holdfast approvals` promises: what waits, decided by whoever may, and one line for what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpointing import ApprovalRequest, Database, NewRequest, Terms
from holdfast.serving.__main__ import main
from tests.support.queues import jobs

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
SCHEMA = {"type": "object", "properties": {"usd": {"type": "number", "maximum": 100}}, "required": ["usd"]}


@pytest.fixture
def holdfast(database_uri: str, db: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process, on this test's database."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def ask(db: Database, call: str = "c", thread: str = "t", **more: Any) -> ApprovalRequest:
    given: dict[str, Any] = {"name": "pay", "arguments": {"usd": 5, "to": "ada"}, "graph_id": "two", **more}
    (request,) = db.approvals.open([NewRequest(thread_id=thread, task_id=f"task-{call}", call_id=call, **given)])
    return request


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# list and show


def test_what_waits_is_listed_oldest_deadline_first(holdfast: Run, db: Database, capsys: Out) -> None:
    late = ask(db, "late", terms=Terms(expires_in=timedelta(days=2), deciders=("ada", "bob")))
    soon = ask(db, "soon", thread="u", terms=Terms(expires_in=timedelta(hours=2), quorum=2))
    never = ask(db, "never")
    for arguments in (("approvals",), ("approvals", "list")):
        assert holdfast(*arguments) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert head.split("  ")[0] == "request"
        assert [row.split()[0] for row in rows] == [soon.request_id, late.request_id, never.request_id]
        assert 'pay {"usd": 5, "to": "ada"}' in rows[0]
        assert "waiting, 0 of 2 approvals" in rows[0]
        assert "ada, bob" in rows[1]
        assert "no end" in rows[2]
    assert holdfast("approvals", "--thread", "u", "--json") == 0
    assert [one["request_id"] for one in json.loads(capsys.readouterr().out)] == [soon.request_id]
    assert holdfast("approvals", "--for", "eve", "--json") == 0
    assert {one["request_id"] for one in json.loads(capsys.readouterr().out)} == {soon.request_id, never.request_id}


def test_what_is_decided_is_listed_when_asked_for(holdfast: Run, db: Database, capsys: Out) -> None:
    request = ask(db)
    assert holdfast("approvals", "approve", request.request_id, "--by", "ada") == 0
    capsys.readouterr()
    assert holdfast("approvals") == 0
    assert capsys.readouterr().out == "nothing waits for a decision\n"
    for state in ("approved", "all"):
        assert holdfast("approvals", "list", "--state", state, "--json") == 0
        (one,) = json.loads(capsys.readouterr().out)
        assert (one["state"], one["decided_by"]) == ("approved", "ada")
    assert holdfast("approvals", "list", "--state", "rejected") == 0
    assert capsys.readouterr().out == "there is no such request\n"


def test_one_is_shown_with_what_the_agent_knew(holdfast: Run, db: Database, capsys: Out) -> None:
    request = ask(
        db,
        description="Pay the invoice?",
        context={"confidence": 0.7, "evidence": ["invoice.pdf"]},
        node="agent",
        step=3,
        correlation_id="why",
        terms=Terms(expires_in=timedelta(days=1), deciders=("ada",)),
    )
    assert holdfast("approvals", "show", request.request_id) == 0
    said = capsys.readouterr().out
    for part in ("pay: waiting", "Pay the invoice?", "invoice.pdf", "0.7", "why", request.digest, "then reject"):
        assert part in said
    assert said.endswith(f"decide: holdfast approvals approve {request.request_id}\n")
    assert holdfast("approvals", "show", request.request_id, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["context"] == {"confidence": 0.7, "evidence": ["invoice.pdf"]}
    assert shown["digest"] == request.digest
    assert datetime.fromisoformat(shown["expires_at"]) > datetime.now(UTC)


def test_no_argument_reaches_the_terminal_or_makes_a_line_of_its_own(holdfast: Run, db: Database, capsys: Out) -> None:
    hostile = "\x1b[2J\r\nforged: [bold]line[/]"
    request = ask(db, name=hostile, arguments={"x": hostile}, description=hostile, context={hostile: hostile})
    assert holdfast("approvals") == 0
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines())
    assert len(said.splitlines()) == 2
    assert holdfast("approvals", "show", request.request_id) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


# deciding


@pytest.mark.parametrize(
    ("words", "state", "more"),
    [
        (("approve",), "approved", {}),
        (("reject", "--reason", "too much"), "rejected", {"message": "too much"}),
        (("respond", "--message", "paid already"), "responded", {"message": "paid already"}),
        (("edit", "--args", '{"usd": 7}'), "edited", {"edited": {"usd": 7}}),
        (("edit", "--set", "usd=7", "--set", "to=bob"), "edited", {"edited": {"usd": 7, "to": "bob"}}),
    ],
)
def test_a_decision_is_recorded_and_lets_the_thread_go_on(
    holdfast: Run,
    db: Database,
    database_uri: str,
    capsys: Out,
    words: tuple[str, ...],
    state: str,
    more: dict[str, Any],
) -> None:
    request = ask(db, schema=SCHEMA)
    kind, *options = words
    assert holdfast("approvals", kind, request.request_id, *options, "--by", "ada") == 0
    said = f"{request.request_id} (pay) {state}; a worker goes on with thread t (`holdfast worker`)\n"
    assert capsys.readouterr().out == said
    decided = db.approvals.get(request.request_id)
    assert (decided.state, decided.decided_by) == (state, "ada")
    for name, value in more.items():
        assert getattr(decided, name) == value
    assert [job["lock"] for job in jobs(database_uri)] == ["t"]


def test_who_decides_is_the_user_of_this_machine_unless_said(
    holdfast: Run, db: Database, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    request = ask(db)
    assert holdfast("approvals", "approve", request.request_id, "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["decided_by"], one["state"]) == ("grace", "approved")


def test_below_the_quorum_others_are_still_needed(holdfast: Run, db: Database, capsys: Out) -> None:
    request = ask(db, terms=Terms(quorum=3))
    for name, said in (
        ("ada", "waits for 2 more approvals"),
        ("bob", "waits for 1 more approval"),
        ("eve", "approved"),
    ):
        assert holdfast("approvals", "approve", request.request_id, "--by", name) == 0
        assert said in capsys.readouterr().out


def test_several_are_decided_at_once_where_each_allows_it(
    holdfast: Run, db: Database, database_uri: str, capsys: Out
) -> None:
    bulk = [ask(db, f"bulk{number}", thread=f"t{number}", terms=Terms(bulk=True)) for number in range(3)]
    alone = ask(db, "alone")
    ids = [request.request_id for request in bulk]
    assert holdfast("approvals", "approve", *ids, alone.request_id, "--by", "ada") == 2
    assert f"request '{alone.request_id}' (pay) may not be decided together with others" in complaint(capsys)
    assert not any(db.approvals.get(request_id).settled for request_id in ids)
    assert holdfast("approvals", "approve", *ids, ids[0], "--by", "ada") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(jobs(database_uri)) == 3


def test_what_a_thread_waits_for_is_decided_by_its_name(holdfast: Run, db: Database, capsys: Out) -> None:
    request, other = ask(db), ask(db, thread="u")
    assert holdfast("approvals", "approve", "--thread", "t", "--by", "ada") == 0
    assert capsys.readouterr().out.startswith(f"{request.request_id} (pay) approved")
    assert not db.approvals.get(other.request_id).settled
    ask(db, "second", thread="u")
    assert holdfast("approvals", "reject", "--thread", "u", "--reason", "no") == 2
    assert "may not be decided together with others" in complaint(capsys)


def test_of_several_those_that_are_refused_do_not_undo_the_others(holdfast: Run, db: Database, capsys: Out) -> None:
    first, second, third = (ask(db, call, terms=Terms(bulk=True)) for call in ("a", "b", "c"))
    assert holdfast("approvals", "reject", first.request_id, third.request_id, "--reason", "no", "--by", "bob") == 0
    capsys.readouterr()
    ids = (first.request_id, second.request_id, third.request_id)
    assert holdfast("approvals", "approve", *ids, "--by", "ada") == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{second.request_id} (pay) approved")
    assert printed.err.count("was rejected by bob") == 2
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("approve", "apr-nothing"), "UnknownRequest"),
        (("show", "apr-nothing"), "UnknownRequest"),
        (("approve",), "name the requests, or say --thread ID"),
        (("approve", "ID", "--thread", "t"), "name the requests, or say --thread ID"),
        (("approve", "--thread", "nobody"), "NothingAsked"),
        (("reject", "ID"), "Missing option '--reason'"),
        (("respond", "ID"), "Missing option '--message'"),
        (("edit", "ID"), "say --args JSON, or --set KEY=VALUE"),
        (("edit", "ID", "--args", "{}", "--set", "a=b"), "say --args JSON, or --set KEY=VALUE"),
        (("edit", "ID", "--args", "[]"), "it is no JSON object"),
        (("edit", "ID", "--args", "{"), "it is no JSON"),
        (("edit", "ID", "--set", "usd"), "is not KEY=VALUE"),
        (("edit", "ID", "--set", "usd=400"), "maximum of 100"),
        (("approve", "ID", "--by", "mallory"), "'mallory' may not decide on request"),
        (("approve", "ID", "--by", "holdfast:expiry"), "holdfast:"),
        (("respond", "ID", "--message", "no", "--by", "ada"), "cannot be answered by 'respond'"),
        (("list", "--state", "nothing"), "--state"),
        (("nothing",), "No such command 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2_and_nothing_is_decided(
    holdfast: Run, db: Database, capsys: Out, arguments: tuple[str, ...], problem: str
) -> None:
    request = ask(db, schema=SCHEMA, terms=Terms(deciders=("ada",), allowed=("approve", "edit", "reject")))
    words = [request.request_id if word == "ID" else word for word in arguments]
    if words[0] == "edit" and "--by" not in words:
        words += ["--by", "ada"]
    assert holdfast("approvals", *words) == 2
    assert problem in complaint(capsys)
    assert not db.approvals.get(request.request_id).settled


def test_who_comes_second_is_told_who_was_first(holdfast: Run, db: Database, capsys: Out) -> None:
    request = ask(db)
    assert holdfast("approvals", "approve", request.request_id, "--by", "ada") == 0
    capsys.readouterr()
    assert holdfast("approvals", "reject", request.request_id, "--reason", "no", "--by", "bob") == 2
    assert "was approved by ada at" in complaint(capsys)


def test_without_a_queue_the_decision_stands_and_the_way_on_is_named(
    holdfast: Run, db: Database, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    for name in [name for name in sys.modules if name.startswith("procrastinate") or name.endswith("serving.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    request = ask(db)
    assert holdfast("approvals", "approve", request.request_id, "--by", "ada") == 0
    assert "approved; go on with: holdfast resume t" in capsys.readouterr().out
    own = ask(db, "own", graph_id=None)
    assert holdfast("approvals", "approve", own.request_id, "--by", "ada") == 0
    assert "approved; the program that runs thread t goes on with it" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "list", "show", "approve", "edit", "reject", "respond"])
def test_help_says_what_is_to_be_known(holdfast: Run, capsys: Out, command: str) -> None:
    assert holdfast("approvals", *([command] if command else []), "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith("Usage: holdfast approvals")
    if not command:
        for name in ("list", "show", "approve", "edit", "reject", "respond"):
            assert f"  {name} " in said
    else:
        assert "--json" in said
