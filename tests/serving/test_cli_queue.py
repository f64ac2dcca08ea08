"""What `holdfast submit` and `holdfast worker` promise: the same options as a run, queued, and worked off elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import Database
from holdfast.serving.__main__ import main
from tests.support.queue_graphs import SAID, TABLE, graphs_file
from tests.support.queues import did, jobs

Run = Callable[..., int]
Out = pytest.CaptureFixture[str]


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


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Any:
    """`holdfast worker` in a process of its own, for the length of a block."""

    @contextmanager
    def working(*more: str) -> Generator[None]:
        command = [sys.executable, "-m", "holdfast.serving", "worker", *more]
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 0, errors
        finally:
            process.kill()
            process.communicate()

    return working


def until(found: Callable[[], Any]) -> Any:
    """What it finds, as soon as it finds anything."""
    while not (value := found()):
        time.sleep(0.05)
    return value


def submit(holdfast: Run, dossier: Path, *more: str) -> int:
    return holdfast("submit", "outreach", "--company", "Tidewater", "--dossier", str(dossier), *more)


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def shown(holdfast: Run, capsys: Out, thread: str = "t") -> dict[str, Any]:
    capsys.readouterr()
    assert holdfast("show", thread, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_outreach_run_is_submitted_worked_off_approved_and_sent(
    holdfast: Run, worker: Any, dossier: Path, db: Database, tmp_path: Path, capsys: Out
) -> None:
    assert submit(holdfast, dossier, "--thread", "t", "--to", "a@b.example", "--outbox", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out == "thread t is queued; `holdfast worker` runs it\n"
    assert shown(holdfast, capsys)["status"] == "queued"
    assert holdfast("threads") == 0
    assert "thread t (outreach): it waits for a worker" in capsys.readouterr().out
    with worker():
        (request,) = until(lambda: db.approvals.find(thread_id="t"))
        assert (request.name, request.graph_id) == ("send_email", "outreach")
        until(lambda: shown(holdfast, capsys).get("queue", "") is None)
        assert shown(holdfast, capsys)["status"] == "waiting"
        assert holdfast("approvals", "edit", request.request_id, "--set", "subject=Hello", "--by", "ada") == 0
        assert "edited; a worker goes on with thread t" in capsys.readouterr().out
        until(lambda: shown(holdfast, capsys)["status"] == "finished")
        until(lambda: shown(holdfast, capsys)["queue"] is None)
    state = shown(holdfast, capsys)
    assert (state["values"]["approval"]["decision"], state["values"]["approval"]["by"]) == ("edited", "ada")
    (message,) = (tmp_path / "out").iterdir()
    assert "Subject: Hello" in message.read_text()


def test_a_decided_thread_is_resumed_here_where_no_worker_runs(
    holdfast: Run, dossier: Path, db: Database, capsys: Out
) -> None:
    arguments = ("--company", "Tidewater", "--dossier", str(dossier), "--to", "a@b.example", "--thread", "t")
    assert holdfast("run", "outreach", *arguments) == 0
    assert holdfast("resume", "t") == 2
    assert "waits for a decision" in capsys.readouterr().err
    (request,) = db.approvals.find(thread_id="t")
    assert holdfast("approvals", "approve", request.request_id, "--by", "ada") == 0
    assert shown(holdfast, capsys)["queue"]["status"] == "queued"
    assert holdfast("resume", "t") == 0
    assert "finished" in capsys.readouterr().out
    assert shown(holdfast, capsys)["values"]["approval"]["by"] == "ada"


def test_submit_takes_the_options_of_run(holdfast: Run, capsys: Out) -> None:
    assert holdfast("run", "outreach", "--help") == 0
    of_run = capsys.readouterr().out
    assert holdfast("submit", "outreach", "--help") == 0
    of_submit = capsys.readouterr().out
    assert of_run[of_run.index("Options:") :] == of_submit[of_submit.index("Options:") :]


def test_a_brief_that_leads_nowhere_is_refused_before_it_is_queued(
    holdfast: Run, dossier: Path, capsys: Out, database_uri: str
) -> None:
    assert submit(holdfast, Path("nowhere")) == 2
    assert "DossierNotFound" in complaint(capsys)
    assert submit(holdfast, dossier, "--thread", "-x") == 2
    assert "cannot name a thread" in complaint(capsys)
    assert submit(holdfast, dossier, "--thread", "t") == 0
    assert submit(holdfast, dossier, "--thread", "t") == 2
    assert "ThreadExists: thread 't' exists already" in complaint(capsys)
    assert len(jobs(database_uri)) == 1


def test_any_graph_of_a_langgraph_json_is_submitted_and_worked_off(
    holdfast: Run, worker: Any, db: Database, database_uri: str, tmp_path: Path, capsys: Out
) -> None:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    file = graphs_file(tmp_path)
    assert holdfast("submit", "two", "--input", '{"said": []}', "--thread", "t", "--tenant", "acme", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"thread_id": "t", "graph": "two", "status": "queued"}
    with worker("--graphs", str(file), "--concurrency", "2", "--poll"):
        for name in ("first", "second"):
            (request,) = until(lambda name=name: [one for one in db.approvals.find(thread_id="t") if one.name == name])
            assert holdfast("approvals", "approve", request.request_id) == 0
        until(lambda: did(database_uri).get(("t", "after")))
    found = db.saver.get_tuple({"configurable": {"thread_id": "t"}})
    assert found is not None
    assert found.checkpoint["channel_values"]["said"] == SAID
    assert found.metadata.get("tenant") == "acme"


def test_what_a_worker_could_not_go_on_with_is_shown_and_queued_again(
    holdfast: Run, worker: Any, db: Database, database_uri: str, tmp_path: Path, capsys: Out
) -> None:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(TABLE)
    file = graphs_file(tmp_path)
    given = json.dumps({"said": [], "folder": str(tmp_path)})
    assert holdfast("submit", "failing", "--input", given, "--thread", "t") == 0
    with worker("--graphs", str(file)):
        until(lambda: shown(holdfast, capsys)["status"] == "failed")
    assert holdfast("show", "t") == 0
    said = "thread t (failing): a worker could not go on with it: broken failed: ZeroDivisionError: for good\n"
    assert capsys.readouterr().out == said
    assert holdfast("threads") == 0
    assert capsys.readouterr().out == said
    assert holdfast("threads", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["attempts"], row["graph"]) == ("failed", 1, "failing")
    (tmp_path / "open").touch()
    assert holdfast("submit", "failing", "--thread", "t") == 0
    assert holdfast("submit", "failing", "--thread", "t") == 2
    assert "AlreadyQueued" in capsys.readouterr().err
    with worker("--graphs", str(file)):
        until(lambda: holdfast("show", "t", "--json") == 2)
    assert "mended" in str(db.saver.get_tuple({"configurable": {"thread_id": "t"}}))


def test_an_outreach_run_that_fails_at_a_worker_says_so(holdfast: Run, worker: Any, dossier: Path, capsys: Out) -> None:
    assert submit(holdfast, dossier, "--thread", "t", "--model", "nobody:nothing") == 0
    with worker():
        until(lambda: shown(holdfast, capsys)["status"] == "failed")
    assert "nobody:nothing" in shown(holdfast, capsys)["error"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("two",), "say --input JSON"),
        (("two", "--input", "{"), "it is no JSON"),
        (("two", "--input", "[]"), "it is no JSON object"),
        (("three", "--input", "{}"), "names no graph 'three'; it names failing, gate, side, two"),
        (("two", "--input", "{}", "--graphs", "nowhere.json"), "cannot be read as JSON"),
        (("two", "--thread", "nobody"), "no thread 'nobody'"),
        (("two", "--input", "{}", "--thread", ""), "cannot name a thread"),
    ],
)
def test_what_cannot_be_submitted_is_one_line_and_code_2(
    holdfast: Run, tmp_path: Path, capsys: Out, arguments: tuple[str, ...], problem: str
) -> None:
    graphs_file(tmp_path)
    assert holdfast("submit", *arguments) == 2
    assert problem in complaint(capsys)


def test_a_worker_is_told_what_is_wrong_with_its_graphs(holdfast: Run, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "g.json").write_text('{"graphs": {"a": "nowhere_at_all:graph"}}')
    assert holdfast("worker", "--graphs", "g.json") == 2
    assert "UnusableGraphs: graph 'a': nowhere_at_all:graph cannot be loaded" in complaint(capsys)
    assert holdfast("worker", "--concurrency", "0") == 2
    assert "--concurrency" in complaint(capsys)


def test_a_worker_that_is_to_end_when_nothing_is_left_does(
    holdfast: Run, environment: dict[str, str], dossier: Path, tmp_path: Path, capsys: Out
) -> None:
    for name in ("t", "u"):
        assert submit(holdfast, dossier, "--thread", name) == 0
    assert holdfast("submit", "two", "--input", "{}", "--graphs", str(graphs_file(tmp_path))) == 0
    command = [sys.executable, "-m", "holdfast.serving", "worker", "--until-idle"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, check=False, timeout=60, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert {shown(holdfast, capsys, name)["status"] for name in ("t", "u")} == {"waiting"}


@pytest.mark.parametrize("words", [("submit",), ("submit", "two"), ("worker",)])
def test_help_says_what_is_to_be_known(holdfast: Run, capsys: Out, words: tuple[str, ...]) -> None:
    assert holdfast(*words, "--help") == 0
    said = capsys.readouterr().out
    assert "Usage: holdfast" in said
    assert {"submit": "langgraph.json", "worker": "SIGTERM"}[words[0]] in said


def test_without_the_extra_the_error_names_it(
    holdfast: Run, dossier: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    for name in [name for name in sys.modules if name.startswith("procrastinate") or name.endswith("serving.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    for arguments in (("worker",), ("submit", "outreach", "--company", "T", "--dossier", str(dossier))):
        assert holdfast(*arguments) == 2
        assert "pip install 'holdfast[worker]'" in complaint(capsys)
