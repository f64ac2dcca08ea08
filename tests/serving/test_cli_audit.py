"""What `holdfast audit` promises: the story of a decision in plain words, and a trail that can be checked."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import AuditEvent, Database, NewEvent, Visibility
from holdfast.serving.__main__ import main
from holdfast.serving.telling import Teller, as_json

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]
HOSTILE = "\x1b[2J\x9b2J\u202e\r\nforged: line\x00"


@pytest.fixture
def holdfast(database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process, on this test's database and in an empty folder."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def event(kind: str, details: dict[str, Any] | None = None, *, actor: str = "research", **more: Any) -> NewEvent:
    given: dict[str, Any] = {"thread_id": "t", "correlation_id": "case-7", "details": details or {}}
    return NewEvent(kind=kind, actor=actor, **given | more)


STORY = [
    event("run.started", {"input": "When is high water?"}, actor="worker-1"),
    event("model.called", {"model": "gpt-5", "messages": 2, "shown": "When is high water?"}, effect_id="m1", step=1),
    event(
        "model.answered",
        {"text": "I look it up.", "tool_calls": [{"name": "search", "args": {"query": "tide"}}]},
        effect_id="m1", input_tokens=1200, output_tokens=300, cost=Decimal("0.0123"), duration_ms=4100.0,
    ),
    event("tool.called", {"name": "search", "args": {"query": "tide"}}, actor="tools", effect_id="t1"),
    event("tool.completed", {"result": "at noon"}, actor="tools", effect_id="t1", duration_ms=85.0),
    event("model.replayed", {"text": "I look it up."}, effect_id="m1", input_tokens=1200),
    event("effect.called", {"name": "book", "args": [1]}, effect_id="e1", thread_id="u"),
    event("effect.in_doubt", effect_id="e1", thread_id="u"),
    event("effect.resolved", {"verdict": "happened", "by": "ada"}, actor="ada", effect_id="e1", thread_id="u"),
    event("tool.failed", {"error": "TimeoutError: 30 s"}, actor="tools", effect_id="t9", thread_id="u"),
    event("lease.taken", {"from": "worker-1"}, actor="worker-2", thread_id="u"),
    event("damage.found", {"damage": "a row is missing", "fell_back_to": "1f"}, actor="saver", thread_id="u"),
    event("approval.given", {"decision": "approve"}, actor="ada", thread_id="u"),
    event("run.ended", {"outcome": "failed", "error": "no tide"}, actor="worker-2", thread_id="u"),
]  # fmt: skip
TOLD = """\
thread t
worker-1: started the run
    given: “When is high water?”
research: asked the model gpt-5, showing it 2 messages · step 1
    shown: “When is high water?”
research: the model gpt-5 answered and decided to call search({"query": "tide"}) \
· 1,200 + 300 tokens · $0.0123 · 4.1 s
    said: “I look it up.”
tools: called the tool search
    with: {"query": "tide"}
tools: the tool search came back · 85 ms
    with: “at noon”
research: the model gpt-5 was not called again: the answer is from the record, nothing was paid · 1,200 + 0 tokens
    it was: “I look it up.”
thread u
research: called the function book
    with: [1]
research: the function book was called, and its worker is gone: whether it happened is not known
ada: the doubt about the function book was settled: happened, says ada
tools: the tool failed
    because of: “TimeoutError: 30 s”
worker-2: took the thread over from worker-1, which is gone
saver: found a checkpoint damaged and went back to checkpoint 1f
    a row is missing
ada: approval given
    {"decision": "approve"}
worker-2: the run failed
    because of: “no tide”"""


@pytest.fixture
def story(db: Database) -> Database:
    for each in STORY:
        db.audit.append(each)
    return db


def without_times(text: str) -> list[str]:
    """The lines without their times; second lines are indented by four."""
    lines = text.splitlines()
    return [line[21:] if line[:4] == "20" + line[2:4] else line.replace(" " * 21, "    ") for line in lines]


def test_the_story_of_a_decision_is_told_in_plain_words(holdfast: Run, story: Database, capsys: Out) -> None:
    assert holdfast("audit", "case-7") == 0
    *told, total = without_times(capsys.readouterr().out)
    assert told == TOLD.splitlines()
    assert total.startswith(
        "total: 1 model call, 1 tool call, 1 function call, 1 answered from the record, 1 in doubt, "
        "1,500 tokens (1,200 in, 300 out), $0.0123, "
    )
    assert total.endswith(" from first to last")


def test_one_thread_of_it(holdfast: Run, story: Database, capsys: Out) -> None:
    story.audit.append(event("note", correlation_id="another"))
    assert holdfast("audit", "case-7", "--thread", "t") == 0
    assert without_times(capsys.readouterr().out)[:-1] == TOLD.split("\nthread u", maxsplit=1)[0].splitlines()
    assert holdfast("audit", "--thread", "t") == 0
    assert without_times(capsys.readouterr().out)[-2] == "research: note"
    assert holdfast("audit", "show", "another") == 0
    assert "cost unknown" in capsys.readouterr().out


def test_as_json_it_is_one_object_a_line(holdfast: Run, story: Database, capsys: Out) -> None:
    assert holdfast("audit", "--json", "case-7") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["kind"] for each in printed] == [each.kind for each in STORY]
    answered = printed[2]
    assert (answered["cost"], answered["input_tokens"], answered["number"]) == ("0.012300"[:6], 1200, 3)
    assert answered["details"]["tool_calls"] == [{"name": "search", "args": {"query": "tide"}}]
    assert datetime.datetime.fromisoformat(answered["at"]).tzinfo is not None
    assert len(bytes.fromhex(answered["digest"])) == 32


def test_details_are_withheld_by_audience(holdfast: Run, db: Database, capsys: Out) -> None:
    for visibility in Visibility:
        db.audit.append(event("note", {"text": f"secret-{visibility}"}, visibility=visibility))
    seen = {
        "user": {"visible"},
        "operator": {"visible", "user_hidden"},
        "auditor": {"visible", "user_hidden", "always_hidden"},
    }
    for audience, shown in seen.items():
        assert holdfast("audit", "case-7", "--as", audience) == 0
        printed = capsys.readouterr().out
        assert {name for name in Visibility if f"secret-{name}" in printed} == shown
        assert {name for name in Visibility if f"(details are {name}: withheld)" in printed} == set(Visibility) - shown
        assert holdfast("audit", "case-7", "--as", audience, "--json") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {row["visibility"] for row in rows if not row["withheld"]} == shown
        assert all(row["details"] == {} for row in rows if row["withheld"])


KINDS = [
    *("run.started", "run.ended", "model.answered", "lease.taken", "damage.found", "odd", "", HOSTILE),
    *(f"{what}.{verb}" for what in ("model", "tool", "effect", "run")
      for verb in ("called", "completed", "failed", "replayed", "in_doubt", "resolved")),
]  # fmt: skip
KEYS = [
    *("model", "messages", "shown", "text", "tool_calls", "name", "args", "result", "error", "outcome", "verdict"),
    *("by", "from", "damage", "fell_back_to", "input", HOSTILE),
]
VALUES: list[Any] = [HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}, [{"name": HOSTILE, "args": HOSTILE}], None, 0, [[]]]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_an_event_reaches_the_terminal_unescaped_or_makes_a_line_of_its_own(kind: str) -> None:
    for value in VALUES:
        hostile = AuditEvent(
            thread_id=f"t{HOSTILE}", number=1, at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), kind=kind,
            actor=HOSTILE, node=HOSTILE, effect_id=HOSTILE, visibility=Visibility.VISIBLE, withheld=False, digest=b"",
            details=dict.fromkeys(KEYS, value),
        )  # fmt: skip
        lines = Teller().tell(hostile).split("\n")
        assert 2 <= len(lines) <= 3
        assert lines[0].startswith("thread t")
        assert lines[1].startswith("2026-01-02 00:00:00  ")
        assert all(line.startswith(" " * 21) for line in lines[2:])
        assert all(line.isprintable() for line in lines)
        assert as_json(hostile).isprintable()
        assert as_json(hostile).isascii()


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_following_prints_what_is_added_until_ctrl_c(
    story: Database, environment: dict[str, str], options: list[str]
) -> None:
    command = [sys.executable, "-m", "holdfast.serving", "audit", "case-7", "--follow", "--interval", "0.01", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert any("no tide" in line for line in iter(child.stdout.readline, ""))
        story.audit.append(event("something.new"))
        assert any("something" in line for line in iter(child.stdout.readline, ""))
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        assert child.stdout.read()[:7] == ("" if options else "total: ")
        assert child.stderr.read().strip() == "holdfast: stopped"


# Is the trail what was written?


def tamper(database_uri: str, statement: str) -> None:
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute("ALTER TABLE holdfast.events DISABLE TRIGGER events_are_added_only")
        owner.execute(statement.encode())


def test_a_sound_trail_is_said_to_be_sound(holdfast: Run, story: Database, capsys: Out) -> None:
    assert holdfast("audit", "verify", "t") == 0
    assert capsys.readouterr().out == "the trail of thread t is sound\n"
    assert holdfast("audit", "verify", "--all") == 0
    assert capsys.readouterr().out == "the trail of every thread is sound\n"
    assert holdfast("audit", "verify", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"sound": True, "findings": []}


def test_each_finding_is_a_line_and_the_code_is_1(
    holdfast: Run, story: Database, database_uri: str, capsys: Out
) -> None:
    tamper(database_uri, "UPDATE holdfast.events SET actor = 'nobody' WHERE thread_id = 't' AND number = 3")
    tamper(database_uri, "DELETE FROM holdfast.events WHERE thread_id = 'u' AND number = 8")
    changed = "was changed or replaced, or what was before it"
    assert holdfast("audit", "verify", "--all") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"thread t event 3: {changed}",
        "thread u event 8: is missing (the newest ones)",
    ]
    assert holdfast("audit", "verify", "t", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "sound": False,
        "findings": [{"thread_id": "t", "number": 3, "what": changed}],
    }


def test_a_trail_is_checked_against_heads_that_were_printed_before(
    holdfast: Run, story: Database, database_uri: str, capsys: Out
) -> None:
    assert holdfast("audit", "head", "--json") == 0
    Path("heads.json").write_text(capsys.readouterr().out, encoding="utf-8")
    assert holdfast("audit", "head") == 0
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()] == [["6", "t"], ["8", "u"]]
    story.audit.append(event("note", thread_id="new"))
    assert holdfast("audit", "verify", "--all", "--against", "heads.json") == 0
    capsys.readouterr()
    tamper(database_uri, "DELETE FROM holdfast.events WHERE thread_id = 'u' AND number = 8")
    tamper(
        database_uri,
        "UPDATE holdfast.chains SET number = 7, digest = (SELECT digest FROM holdfast.events WHERE number = 7)"
        " WHERE thread_id = 'u'",
    )
    assert holdfast("audit", "verify", "u") == 0
    capsys.readouterr()
    assert holdfast("audit", "verify", "u", "--against", "heads.json") == 1
    said = capsys.readouterr().out
    assert holdfast("audit", "verify", "new", "--against", "heads.json") == 0
    assert capsys.readouterr().err == "heads.json does not know thread new: it is not compared\n"
    assert said == "thread u event 8: is missing, and was there when heads were exported\n"


DIGEST = "ab" * 32
HEADS: dict[str, str] = {
    "empty": "",
    "not JSON": "thread t 3",
    "another document": "[]",
    "no heads": "{}",
    "heads of no kind": '{"heads": 3}',
    "a head of no kind": '{"heads": [3]}',
    "too little": '{"heads": [{"thread_id": "t"}]}',
    "too much": f'{{"heads": [{{"thread_id": "t", "number": 1, "digest": "{DIGEST}", "x\\u001b": 1}}]}}',
    "no number": f'{{"heads": [{{"thread_id": "t", "number": true, "digest": "{DIGEST}"}}]}}',
    "number 0": f'{{"heads": [{{"thread_id": "t", "number": 0, "digest": "{DIGEST}"}}]}}',
    "no digest": '{"heads": [{"thread_id": "t", "number": 1, "digest": "xyz\\u001b"}]}',
    "half a digest": '{"heads": [{"thread_id": "t", "number": 1, "digest": "abab"}]}',
    "no thread": f'{{"heads": [{{"thread_id": "", "number": 1, "digest": "{DIGEST}"}}]}}',
    "half a character": f'{{"heads": [{{"thread_id": "\\ud800", "number": 1, "digest": "{DIGEST}"}}]}}',
    "a thread twice": json.dumps({"heads": [{"thread_id": "t", "number": 1, "digest": DIGEST}] * 2}),
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", HEADS.values(), ids=HEADS)
def test_malformed_heads_are_one_line_and_exit_code_2(holdfast: Run, story: Database, capsys: Out, text: str) -> None:
    Path("heads.json").write_text(text, encoding="utf-8")
    assert holdfast("audit", "verify", "--all", "--against", "heads.json") == 2
    said = complaint(capsys)
    assert said.startswith("holdfast: UnreadableHeads: 'heads.json' holds no heads as `holdfast audit head --json`")
    assert said.isprintable()


BAD = {
    "nothing asked": (["audit"], "name a correlation id, or a --thread"),
    "unknown id": (["audit", "nope"], "NothingAudited: nothing is recorded for correlation id 'nope'"),
    "unknown id followed": (["audit", "nope", "--follow"], "NothingAudited: nothing is recorded for correlation id"),
    "unknown thread": (["audit", "--thread", "nope"], "NothingAudited: nothing is recorded for thread 'nope'"),
    "both": (["audit", "case-7", "--thread", "x"], "for correlation id 'case-7' on thread 'x'"),
    "escapes": (["audit", "a\x1b[2J"], "nothing is recorded for correlation id 'a\\x1b[2J'"),
    "no text": (["audit", "a\udcff"], "'a\\udcff' is no text that a database holds"),
    "no such audience": (["audit", "case-7", "--as", "me"], "'me' is not one of"),
    "no thread to verify": (["audit", "verify", "nope"], "NothingAudited: nothing is recorded for thread 'nope'"),
    "neither a thread nor all": (["audit", "verify"], "name a thread, or say --all"),
    "both to verify": (["audit", "verify", "t", "--all"], "name a thread, or say --all"),
    "no file": (["audit", "verify", "--all", "--against", "nope.json"], "'nope.json' does not exist"),
}


@pytest.mark.parametrize(("command", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    holdfast: Run, story: Database, capsys: Out, command: list[str], expected: str
) -> None:
    assert holdfast(*command) == 2
    assert expected in complaint(capsys)


ASKED = [
    event("approval.requested", {
        "request": "apr-1", "name": "send_email", "arguments": {"to": "ada"}, "digest": "ab",
        "deciders": ["ada", "bob"], "quorum": 2, "expires_at": "2026-11-24T12:00:00Z",
    }, actor="approve"),
    event("approval.requested", {"request": "apr-2", "name": "pay", "arguments": {"usd": 9}, "deciders": []}),
    event("approval.waived", {"request": "apr-3", "name": "pay", "arguments": {"usd": 1}, "why": "low"}),
    event("approval.refused", {"request": "apr-1", "name": "send_email", "tried": "approve", "why": "no decider"},
          actor="eve"),
    event("approval.voted", {"request": "apr-1", "name": "send_email", "decision": "approve", "approvals": 1,
                             "quorum": 2, "message": "fine"}, actor="ada"),
    event("approval.reminded", {"request": "apr-1", "name": "send_email", "times": 2}, actor="worker-1"),
    event("approval.escalated", {"request": "apr-1", "name": "send_email", "to": ["dan"],
                                 "expires_at": "2026-11-27T12:00:00Z"}, actor="worker-1"),
    event("approval.decided", {"request": "apr-1", "name": "send_email", "decision": "edit",
                               "arguments": {"to": "bob"}}, actor="dan"),
    event("approval.decided", {"request": "apr-2", "name": "pay", "decision": "reject", "message": "too much"},
          actor="bob"),
    event("approval.refused", {"request": "apr-2", "name": "pay", "tried": "withdraw", "why": "decided"}, actor="eve"),
    event("approval.expired", {"request": "apr-4", "name": "pay", "then": "reject", "expired_at": "2026"},
          actor="worker-1"),
    event("approval.withdrawn", {"request": "apr-5", "name": "pay", "message": "the thread was removed"},
          actor="holdfast:thread"),
    event("approval.requested", {}, visibility=Visibility.ALWAYS_HIDDEN),
]  # fmt: skip
ASKED_TOLD = """\
thread t
approve: asked 2 of ada, bob to approve send_email, until 2026-11-24T12:00:00Z
    with: {"to": "ada"}; request apr-1
research: asked anybody to approve pay
    with: {"usd": 9}; request apr-2
research: pay needs no approval
    because: “low”; with: {"usd": 1}
eve: tried to approve send_email and was refused: others are asked
    request apr-1
ada: approved send_email, 1 of 2 approvals; it waits for others
    said: “fine”; request apr-1
worker-1: reminded those who have to decide on send_email, time 2
    request apr-1
worker-1: nobody decided on send_email in time: dan may now, until 2026-11-27T12:00:00Z
    request apr-1
dan: approved send_email with other arguments
    with: {"to": "bob"}; request apr-1
bob: rejected pay
    said: “too much”; request apr-2
eve: tried to withdraw the request to approve pay and was refused: somebody else had decided
    request apr-2
worker-1: nobody decided on pay in time: it counts as rejected
    request apr-4
holdfast:thread: withdrew the request to approve pay
    because: “the thread was removed”; request apr-5
research: asked somebody to approve an action
    (details are always_hidden: withheld)"""


def test_who_approved_what_is_told_in_plain_words(holdfast: Run, db: Database, capsys: Out) -> None:
    for each in ASKED:
        db.audit.append(each)
    assert holdfast("audit", "case-7") == 0
    *told, _ = without_times(capsys.readouterr().out)
    assert told == ASKED_TOLD.splitlines()
