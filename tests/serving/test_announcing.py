"""People are told of requests once, whoever of several workers does it, and a run never waits for that."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import Database, Terms
from holdfast.guardrails import AppriseNotifier, ApprovalNotice, NotDelivered, Webhook
from holdfast.serving.__main__ import main
from holdfast.serving.announcing import MOST, Announcer
from tests.support.deciding import Calls
from tests.support.hooks import Receiver, receiving

# apprise imports a module that Python 3.13 no longer has, where there still is one
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
SECRET = Webhook.new_secret()
INBOX = "https://inbox.example.org/"


@pytest.fixture
def calls(db: Database) -> Calls:
    return Calls(db)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Kept:
    """A notifier that keeps what it is told."""

    def __init__(self, fail: int = 0) -> None:
        self.told: list[ApprovalNotice] = []
        self.fail = fail

    def __call__(self, notice: ApprovalNotice, /) -> None:
        self.told.append(notice)
        if len(self.told) <= self.fail:
            raise NotDelivered("the receiver is out to lunch")

    @property
    def kinds(self) -> list[str]:
        return [notice.kind.removeprefix("approval.") for notice in self.told]


def announced(announcer: Announcer) -> int:
    """Tell all that is due."""
    count = asyncio.run(announcer.announce())
    assert announcer.flush(60)
    return count


def hurry(uri: str) -> None:
    """What is to be tried later is tried now."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("UPDATE holdfast.notices SET due_at = '-infinity'")


def test_a_signed_webhook_tells_of_a_request_without_its_arguments(
    db: Database, calls: Calls, receiver: Receiver
) -> None:
    announcer = Announcer(db, {"ops": Webhook(f"{receiver.url}/hook", SECRET)}, inbox=INBOX)
    assert announced(announcer) == 0
    request = calls.ask(terms=Terms(deciders=("ada", "bob"), expires_in=timedelta(hours=1)), description="nr0@ex…")
    assert announced(announcer) == 1
    (posted,) = receiver.posted
    told = posted.verified(SECRET)
    assert told["type"] == "approval.requested"
    assert told["data"] == {
        "request_id": request.request_id, "change": "requested", "number": 0, "tool": "send", "state": "waiting",
        "digest": request.digest, "thread_id": "t", "correlation_id": None, "deciders": ["ada", "bob"], "quorum": 1,
        "approvals": 0, "requested_at": request.requested_at.isoformat(),
        "expires_at": (request.requested_at + timedelta(hours=1)).isoformat(), "decision": None, "decided_by": None,
        "decided_at": None, "link": f"https://inbox.example.org/requests/{request.request_id}",
    }  # fmt: skip
    assert b"example.org/requests" in posted.body
    assert b"nr0@" not in posted.body
    assert db.notices.outstanding() == []


def test_arguments_are_told_if_that_is_asked_for(db: Database, calls: Calls) -> None:
    kept = Kept()
    announcer = Announcer(db, {"ops": kept}, arguments=True)
    announced(announcer)
    calls.ask(description="Send this?")
    announced(announcer)
    (notice,) = kept.told
    assert notice.details()["arguments"] == {"to": "nr0@example.org"}
    assert str(notice).splitlines() == [
        "send waits to be approved by anybody who may.", "Send this?", "- to: nr0@example.org",
    ]  # fmt: skip


def test_every_change_that_people_care_for_is_told(db: Database, calls: Calls) -> None:
    kept = Kept()
    announcer = Announcer(db, {"ops": kept})
    announced(announcer)
    terms = Terms(
        deciders=("ada",), expires_in=timedelta(hours=1), on_expiry="escalate", escalate_to=("carol", "dave"),
        remind_every=timedelta(minutes=20), quorum=1,
    )  # fmt: skip
    request = calls.ask(terms=terms)
    announced(announcer)
    for hours in (0.5, 2, 4):
        db.approvals.tend(request.requested_at + timedelta(hours=hours))
        announced(announcer)
    calls.decided("approve")
    calls.decided("reject")
    db.approvals.withdraw(calls.ask().request_id, "ada", "secret reason")
    calls.run()
    announced(announcer)
    assert [str(notice).split(", until")[0] for notice in kept.told] == [
        "send waits to be approved by ada",
        "send still waits to be approved by ada",
        "Nobody decided on send in time. It now waits to be approved by carol or dave",
        "Nobody decided on send in time: it counts as rejected.",
        "send was approved by ada.",
        "send was rejected by ada.",
        "The request to approve send was withdrawn.",
    ]
    assert kept.kinds == ["requested", "reminded", "escalated", "expired", "decided", "decided", "withdrawn"]
    assert [notice.urgent for notice in kept.told] == [True, True, True, False, False, False, False]


def test_only_what_is_wanted_is_told(db: Database, calls: Calls) -> None:
    kept = Kept()
    announcer = Announcer(db, {"ops": kept}, kinds=["requested"])
    announced(announcer)
    waiting = calls.ask()
    announced(announcer)
    calls.say(waiting, "approve")
    announced(announcer)
    assert kept.kinds == ["requested"]


def test_what_was_decided_meanwhile_is_not_asked_for_any_more(db: Database, calls: Calls) -> None:
    kept = Kept()
    announcer = Announcer(db, {"ops": kept})
    announced(announcer)
    calls.decided("approve")
    gone = Calls(db, "gone")
    gone.ask()
    db.saver.delete_thread("gone")
    announced(announcer)
    assert kept.kinds == ["decided"]
    assert db.notices.outstanding() == []


def test_without_a_receiver_nothing_is_noted(db: Database, calls: Calls) -> None:
    calls.decided("approve")
    assert db.notices.outstanding() == []
    announcer = Announcer(db, {"ops": Kept()})
    announced(announcer)
    calls.ask()
    assert len(db.notices.outstanding()) == 1
    db.notices.forget("ops")
    calls.ask()
    assert db.notices.outstanding() == []


def test_a_receiver_that_nobody_looks_after_is_forgotten(db: Database, calls: Calls, database_uri: str) -> None:
    announced(Announcer(db, {"ops": Kept()}))
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute("UPDATE holdfast.receivers SET seen_at = seen_at - interval '8 days'")
    calls.ask()
    assert db.notices.outstanding() == []


def test_of_several_workers_one_tells(database_uri: str) -> None:
    """Eight at once, each with connections of its own, of twenty requests; each request is told once."""
    kept = [Kept() for _ in range(8)]
    with ExitStack() as stack:
        databases = [stack.enter_context(Database.connect(database_uri)) for _ in kept]
        announcers = [Announcer(database, {"ops": one}) for database, one in zip(databases, kept, strict=True)]
        announced(announcers[0])
        calls = Calls(databases[0])
        requests = [calls.ask() for _ in range(20)]

        async def all_at_once() -> list[int]:
            return list(await asyncio.gather(*(announcer.announce() for announcer in announcers)))

        handed = asyncio.run(all_at_once())
        assert all(announcer.flush(60) for announcer in announcers)
        assert sum(handed) == 20
        told = sorted(notice.request.request_id for one in kept for notice in one.told)
        assert told == sorted(request.request_id for request in requests)
        assert databases[0].notices.outstanding() == []


def test_a_receiver_that_is_down_is_tried_again_and_holds_up_nobody(
    db: Database, calls: Calls, database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    down = Webhook("http://127.0.0.1:1/t0ps3cret", SECRET, pauses=())
    kept = Kept()
    announcer = Announcer(db, {"down": down, "ops": kept})
    announced(announcer)
    request = calls.ask()
    assert announced(announcer) == 2
    calls.say(request, "approve")
    assert announced(announcer) == 2
    assert kept.kinds == ["requested", "decided"]
    (left,) = db.notices.outstanding()
    assert (left.receiver, left.kind, left.tries) == ("down", "decided", 1)
    assert announced(announcer) == 0  # not before its time
    assert "'down' was not told of request" in caplog.text
    assert "could not be reached (ConnectError)); again in 30 s" in caplog.text
    for hidden in ("t0ps3cret", SECRET):
        assert hidden not in caplog.text

    for _ in range(MOST - 1):
        hurry(database_uri)
        assert announced(announcer) == 1
    assert db.notices.outstanding() == []
    untold = [event for event in db.audit.read(thread_id="t") if event.kind == "approval.untold"]
    assert [(event.details["receiver"], event.details["told"], event.details["tries"]) for event in untold] == [
        ("down", "decided", MOST)
    ]


def test_a_receiver_that_comes_back_is_told(db: Database, calls: Calls, database_uri: str) -> None:
    kept = Kept(fail=2)
    announcer = Announcer(db, {"ops": kept})
    announced(announcer)
    calls.ask()
    for _ in range(3):
        hurry(database_uri)
        assert announced(announcer) == 1
    assert db.notices.outstanding() == []
    assert len({notice.identity for notice in kept.told}) == 1


def test_any_error_of_a_notifier_is_contained_and_not_shown(
    db: Database, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: ApprovalNotice) -> None:
        raise RuntimeError("https://hooks.example/t0ps3cret")

    announcer = Announcer(db, {"ops": broken})
    announced(announcer)
    calls.ask()
    announced(announcer)
    assert "RuntimeError" in caplog.text
    assert "t0ps3cret" not in caplog.text


def test_who_is_killed_while_it_tells_is_followed_by_another(db: Database, calls: Calls, database_uri: str) -> None:
    """What it has claimed is due again after a while; what it is still telling then is told by one."""
    announced(Announcer(db, {"ops": Kept()}))
    calls.ask()
    (claimed,) = db.notices.claim(["ops"])
    kept = Kept()
    announcer = Announcer(db, {"ops": kept})
    assert announced(announcer) == 0
    hurry(database_uri)
    assert announced(announcer) == 1
    assert kept.kinds == ["requested"]
    assert not db.notices.begin(claimed)


def test_a_slow_receiver_gets_nothing_more_until_it_is_done(db: Database, calls: Calls) -> None:
    hold, entered = threading.Event(), threading.Event()

    def slow(_: ApprovalNotice) -> None:
        entered.set()
        assert hold.wait(60)

    kept = Kept()
    announcer = Announcer(db, {"slow": slow, "ops": kept})
    announced(announcer)
    calls.ask()
    asyncio.run(announcer.announce())
    assert entered.wait(60)
    calls.ask()
    while not (handed := asyncio.run(announcer.announce())):  # until the other is ready for more
        pass
    hold.set()
    assert announcer.flush(60)
    assert (handed, len(kept.told)) == (1, 2)
    assert announced(announcer) == 1


def test_apprise_is_told_as_well(db: Database, calls: Calls, receiver: Receiver) -> None:
    announcer = Announcer(db, {"chat": AppriseNotifier([f"json://{receiver.url.removeprefix('http://')}/"])})
    announced(announcer)
    calls.decided("reject")
    announced(announcer)
    (posted,) = receiver.posted
    body = json.loads(posted.body)
    assert (body["title"], body["message"], body["type"]) == ("Decided: send", "send was rejected by ada.", "info")


def test_hostile_names_do_not_reach_a_message(db: Database, calls: Calls) -> None:
    kept = Kept()
    announcer = Announcer(db, {"ops": kept}, arguments=True)
    announced(announcer)
    calls.ask("send\nApproved: \u202eall\x1b[0m", description="a\nb")
    announced(announcer)
    (notice,) = kept.told
    assert notice.title == "Approval wanted: send Approved: all [0m"
    assert str(notice).splitlines()[1] == "a b"
    assert str(notice).isprintable() is False  # line ends, and nothing else
    assert all(line.isprintable() for line in str(notice).splitlines())


# The command


@pytest.fixture
def holdfast(database_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command in this process, on this test's database."""
    for name in ("WEBHOOK_URL", "WEBHOOK_SECRET", "NOTIFY", "INBOX_URL", "NOTIFY_ARGUMENTS"):
        monkeypatch.delenv(f"HOLDFAST_{name}", raising=False)
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        return main()

    return run


def test_the_command_tells_by_its_environment(
    holdfast: Callable[..., int], calls: Calls, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HOLDFAST_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("HOLDFAST_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("HOLDFAST_INBOX_URL", INBOX)
    assert holdfast("notify", "--once") == 0
    calls.decided("approve")
    request = calls.ask()
    assert holdfast("notify", "--waiting") == 0
    assert holdfast("notify", "--once") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 notices handed to webhook"
    assert [line.split()[1] for line in lines[1:4]] == ["requested", "decided", "requested"]
    assert lines[4:] == ["2 notices handed to webhook"]
    told = [posted.verified(SECRET) for posted in receiver.posted]
    assert [each["type"] for each in told] == ["approval.decided", "approval.requested"]
    assert told[1]["data"]["link"] == f"https://inbox.example.org/requests/{request.request_id}"
    assert holdfast("notify", "--waiting", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "nobody is named whom to tell"),
        ({"HOLDFAST_WEBHOOK_URL": "https://example.org/t0ps3cret"}, "a webhook needs a secret"),
        ({"HOLDFAST_WEBHOOK_URL": "https://example.org/t0ps3cret", "HOLDFAST_WEBHOOK_SECRET": "hunter2"}, "it is not"),
        ({"HOLDFAST_NOTIFY": "nonsense"}, "address 1 of 1"),
    ],
)
def test_what_cannot_be_told_is_refused_without_secrets(
    holdfast: Callable[..., int], environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert holdfast("notify", "--once") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not any(hidden in lines[0] for hidden in ("t0ps3cret", "hunter2"))


def test_the_command_runs_until_it_is_killed(
    environment: dict[str, str], calls: Calls, db: Database, receiver: Receiver
) -> None:
    """In a process of its own."""
    announced(Announcer(db, {"webhook": Kept()}))
    calls.ask()
    given = environment | {"HOLDFAST_WEBHOOK_URL": receiver.url, "HOLDFAST_WEBHOOK_SECRET": SECRET}
    with subprocess.Popen([sys.executable, "-m", "holdfast.serving", "notify"], env=given) as process:
        try:
            assert receiver.answered.wait(60)
        finally:
            process.kill()
    assert receiver.posted[0].verified(SECRET)["type"] == "approval.requested"


def test_log_lines_are_on_a_logger_of_their_own(db: Database, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    from holdfast.guardrails import LogNotifier

    announcer = Announcer(db, {"log": LogNotifier()})
    announced(announcer)
    with caplog.at_level(logging.INFO, "holdfast.approval"):
        calls.ask()
        announced(announcer)
        calls.decided("approve")
        announced(announcer)
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("holdfast.approval", logging.WARNING), ("holdfast.approval", logging.INFO),
    ]  # fmt: skip
    assert vars(caplog.records[0])["approval_tool"] == "send"
