"""What the `holdfast` command promises: results, one-line errors with exit code 2, threads that can be resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpointing import Database
from holdfast.nodes import DossierNotAllowed
from holdfast.serving.__main__ import main
from tests.support.openai_server import ChatRequest, OpenAIServer, Reply

Run = Callable[..., int]


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
def waiting(holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A thread that waits for a decision."""
    assert start(holdfast, dossier, "--thread", "t") == 0
    capsys.readouterr()
    return "t"


def start(holdfast: Run, dossier: Path, *more: str) -> int:
    return holdfast("run", "outreach", "--company", "Tidewater", "--dossier", str(dossier), *more)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_waits_is_approved_and_sends(
    holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert start(holdfast, dossier, "--thread", "t", "--to", "post@tidewater.example") == 0
    shown = capsys.readouterr()
    for stage in ("index", "research", "plan", "select", "draft", "approve"):
        assert f"\u25b8 {stage}" in shown.err
    assert "8 documents" in shown.err
    assert "step 11" in shown.err
    assert "holdfast approve t" in shown.out
    assert holdfast("approve", "t", "--by", "Ada") == 0
    assert "approved by Ada" in capsys.readouterr().out
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


def test_json_is_one_document_on_stdout_and_nothing_on_stderr(
    holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(holdfast, dossier, "--thread", "t", "--json") == 0
    printed = capsys.readouterr()
    state = json.loads(printed.out)
    assert printed.err == ""
    assert (state["status"], state["node"], state["next_command"]) == ("waiting", "approve", "holdfast approve t")
    assert len(state["values"]["evidence"]) == 5
    for command in (["show", "t"], ["approve", "t"], ["threads"]):
        assert holdfast(*command, "--json") == 0
        json.loads(capsys.readouterr().out)


def test_an_approval_may_change_the_message(
    holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "body.txt").write_text("In my own words.\n", encoding="utf-8")
    assert holdfast("approve", waiting, "--to", "a@b.example", "--subject", "Mine", "--body", "body.txt") == 0
    assert "edited by" in capsys.readouterr().out
    message = next((tmp_path / "outbox").glob("*.eml")).read_text(encoding="utf-8")
    assert "To: a@b.example" in message
    assert "Subject: Mine" in message
    assert "In my own words." in message


def test_a_rejection_ends_the_thread_and_sends_nothing(
    holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert holdfast("reject", waiting, "--reason", "too long", "--by", "Ada") == 0
    assert "rejected by Ada" in capsys.readouterr().out
    assert not (tmp_path / "outbox").exists()
    assert holdfast("approve", waiting) == 2
    assert "NotWaiting" in complaint(capsys)


def test_an_unusable_change_is_refused_and_the_request_stays_open(
    holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert holdfast("approve", waiting, "--to", "nobody") == 2
    assert complaint(capsys).startswith("holdfast: InvalidDecision: to: ")
    assert holdfast("approve", waiting) == 0


def test_threads_lists_the_newest_first_with_where_they_stand(
    holdfast: Run, dossier: Path, waiting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(holdfast, dossier, "--thread", "second", "--json") == 0
    assert holdfast("approve", "second", "--json") == 0
    capsys.readouterr()
    assert holdfast("threads") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split()[:2] == ["second", "finished"]
    assert rows[2].split()[:3] == ["t", "waiting", "approve"]


def test_show_tells_everything_that_was_found(holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert holdfast("show", waiting) == 0
    shown = capsys.readouterr().out
    for heading in ("Brief", "Findings", "Angles", "Evidence", "Message"):
        assert heading in shown.splitlines()
    assert "no language model" in shown


BAD = {
    "no thread": (["show", "nope"], "UnknownThread: no thread 'nope'"),
    "no thread to resume": (["resume", "nope"], "UnknownThread"),
    "no thread to approve": (["approve", "nope"], "UnknownThread"),
    "waiting, not stopped": (["resume", "t"], "ApprovalPending: thread 't' waits for a decision"),
    "no such command": (["fly"], "No such command 'fly'."),
    "missing option": (["run", "outreach"], "Missing option '--company'."),
    "bad number": (["threads", "--limit", "0"], "Invalid value for '--limit'"),
    "empty name": (["show", ""], "InvalidThread"),
    "control characters": (["show", "a\x1b[2J"], "InvalidThread"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = BAD[case]
    assert waiting
    assert holdfast(*arguments) == 2
    line = complaint(capsys)
    assert line.startswith("holdfast: ")
    assert expected in line


BAD_RUNS: dict[str, tuple[list[str], str]] = {
    "missing folder": (["--dossier", "nowhere"], "DossierNotFound: no such folder"),
    "a file": (["--dossier", "file.md"], "DossierNotFound: not a folder"),
    "empty company": (["--dossier", ".", "--company", " "], "InvalidBrief: no company"),
    "bad address": (["--dossier", ".", "--to", "nobody"], "InvalidBrief: 'to' is not an e-mail address"),
    "bad sender": (["--dossier", ".", "--from", "a@b\nBcc: c@d"], "InvalidBrief: 'sender' is not"),
    "unknown provider": (["--dossier", ".", "--model", "nosuch:model"], "UnknownModel: no model 'nosuch:model'"),
    "unknown model": (["--dossier", ".", "--model", "nosuch"], "UnknownModel: no model 'nosuch'"),
    "missing key": (["--dossier", ".", "--model", "openai:gpt-test"], "UnknownModel"),
    "bad timeout": (["--dossier", ".", "--timeout", "0"], "Invalid value for '--timeout'"),
    "free budget": (["--dossier", ".", "--budget", "0"], "'0' is no amount: a decimal above 0"),
    "bad budget": (["--dossier", ".", "--budget", "1e3"], "'1e3' is no amount"),
    "bad price": (["--dossier", ".", "--price", "1"], "'1' is no price: US dollars for a million tokens"),
    "no tenant": (["--dossier", ".", "--tenant", " "], "is no name: 1 to 200 printable characters"),
    "taken name": (["--dossier", ".", "--thread", "t"], "ThreadExists: thread 't' exists already"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_run_that_cannot_get_anywhere_starts_no_thread(
    case: str,
    holdfast: Run,
    waiting: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database_uri: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "file.md").write_text("text")
    arguments, expected = BAD_RUNS[case]
    assert holdfast("run", "outreach", "--company", "Tidewater", *arguments) == 2
    assert expected in complaint(capsys)
    with Database.connect(database_uri) as db:
        assert [record.thread_id for record in db.threads.recent()] == [waiting]


def test_a_thread_delivers_as_it_was_started_whoever_approves(
    holdfast: Run, waiting: str, dossier: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started for the outbox, it goes there though SMTP is set now; started for SMTP, it never goes elsewhere."""
    monkeypatch.setenv("HOLDFAST_SMTP_URL", "smtp://127.0.0.1:1")
    assert start(holdfast, dossier, "--thread", "mail", "--to", "a@b.example", "--json") == 0
    assert holdfast("approve", waiting, "--json") == 0
    monkeypatch.delenv("HOLDFAST_SMTP_URL")
    capsys.readouterr()
    assert holdfast("approve", "mail") == 2
    assert "DeliveryNotConfigured" in complaint(capsys)
    assert holdfast("show", "mail") == 0
    assert "waits for a decision" in capsys.readouterr().out


def test_metadata_that_a_servers_caller_wrote_changes_nothing(
    holdfast: Run,
    dossier: Path,
    capsys: pytest.CaptureFixture[str],
    database_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither where the operator's command writes, nor with which model, nor which dossiers it may read."""
    from holdfast.graphs.outreach import build
    from holdfast.nodes import load_model

    config: Any = {
        "configurable": {"thread_id": "theirs", "graph_id": "outreach", "holdfast_outbox": str(tmp_path / "pwned")},
        "metadata": {"holdfast_model": "openai:gpt-5", "holdfast_timeout": "x", "outbox": str(tmp_path / "pwned")},
    }
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.md").write_text("Nobody from outside may read that we lost four harbours.")
    with Database.connect(database_uri) as db:
        graph = build(load_model(), database=lambda: db, dossiers=dossier.parent).compile(checkpointer=db.saver)
        graph.invoke({"company": "Tidewater", "dossier": str(dossier)}, config)
        config["configurable"]["thread_id"] = "theirs-too"
        with pytest.raises(DossierNotAllowed):
            graph.invoke({"company": "Tidewater", "dossier": str(secret)}, config)
    monkeypatch.setenv("HOLDFAST_DOSSIERS", str(dossier.parent))
    assert holdfast("threads") == 0
    assert holdfast("approve", "theirs", "--json") == 0
    assert list((tmp_path / "outbox").glob("*.eml"))
    assert not (tmp_path / "pwned").exists()
    capsys.readouterr()
    assert holdfast("resume", "theirs-too", "--json") == 2
    assert "DossierNotAllowed" in complaint(capsys)


def test_a_dossier_that_moves_away_after_it_was_read_is_not_missed(
    environment: dict[str, str], dossier: Path, tmp_path: Path
) -> None:
    """Killed inside research and resumed without the folder: the documents are those that were read."""
    shutil.copytree(dossier, tmp_path / "moving")
    run = ["run", "outreach", "--company", "Tidewater", "--dossier", "moving", "--thread", "t"]
    killed = subprocess.run(
        [sys.executable, "-m", "holdfast.chaos", "research:tool_end", "--", *run],
        env=environment,
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "moving")
    resumed = subprocess.run(
        [sys.executable, "-m", "holdfast.serving", "resume", "t", "--json"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(resumed.stdout)["values"]["findings"]["facts"]) == 5


@pytest.mark.parametrize(
    "brief",
    [
        ["--offer", 'We sell 19" racks for field work.'],
        ["--offer", 'We do "more with much less time" for you. See our paper [7].'],
        ["--company", 'The "Four Words And More" {company} [1] Company'],
    ],
)
def test_marks_and_brackets_in_a_brief_do_not_stop_the_draft(
    brief: list[str], holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(holdfast, dossier, *brief, "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "waiting"


def test_what_to_type_next_can_be_pasted_whatever_the_thread_is_called(
    holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(holdfast, dossier, "--thread", "my thread; echo hi") == 0
    assert "holdfast approve 'my thread; echo hi'" in capsys.readouterr().out
    assert start(holdfast, dossier, "--thread=-x") == 2
    assert "InvalidThread" in complaint(capsys)


def test_documents_cannot_write_on_the_terminal(
    holdfast: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Control characters in what was read, or in names, are shown as replacement characters."""
    folder = tmp_path / "mine"
    folder.mkdir()
    text = "The harbour office\x1b[2J keeps a list of every pump that has failed."
    (folder / "a.md").write_text(f"{text}\n\nEvery pump on the pier was replaced after the storms in March.\n")
    (folder / "b\x1b]0;x.pdf").write_bytes(b"no pdf")
    assert start(holdfast, folder, "--thread", "t") == 0
    assert holdfast("show", "t") == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "" not in shown.out + shown.err


def test_delivery_by_smtp_is_refused_without_a_recipient_before_anything_runs(
    holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later would be too late: an approved message without an address could never be sent."""
    monkeypatch.setenv("HOLDFAST_SMTP_URL", "smtp://ada:hunter2@127.0.0.1:1")
    assert start(holdfast, dossier) == 2
    assert "InvalidBrief: no recipient" in complaint(capsys)
    monkeypatch.setenv("HOLDFAST_SMTP_URL", "ftp://ada:hunter2@127.0.0.1")
    assert start(holdfast, dossier) == 2
    line = complaint(capsys)
    assert "HOLDFAST_SMTP_URL is not of the form" in line
    assert "hunter2" not in line


def test_an_empty_dossier_fails_research_and_can_be_filled_and_resumed(
    holdfast: Run, dossier: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A broken document alone is no dossier; with a good one beside it, it is reported and left out."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    assert start(holdfast, folder, "--thread", "t", "--json") == 2
    line = complaint(capsys)
    assert "RunFailed: index failed: DossierEmpty" in line
    assert "broken.pdf" in line
    assert "holdfast resume t" in line
    (folder / "about.md").write_bytes((dossier / "about.md").read_bytes())
    assert holdfast("resume", "t") == 0
    shown = capsys.readouterr()
    assert "left out: broken.pdf" in shown.err
    assert "broken.pdf: a damaged or protected PDF" in shown.out


def test_a_finished_thread_cannot_be_resumed(holdfast: Run, waiting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert holdfast("approve", waiting, "--by", "Ada", "--json") == 0
    capsys.readouterr()
    assert holdfast("resume", waiting) == 2
    assert re.search(r"ThreadFinished: thread 't' is finished \(approved by Ada at 2", complaint(capsys))


def test_a_thread_of_another_graph_is_not_touched(
    holdfast: Run, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.checkpointing.test_database import counting, on

    with Database.connect(database_uri) as db:
        counting().compile(checkpointer=db.saver).invoke({"value": 1}, on("foreign"))
    assert holdfast("resume", "foreign") == 2
    assert "UnknownGraph" in complaint(capsys)
    assert holdfast("threads") == 0
    assert "no threads yet" in capsys.readouterr().out


def test_no_database_is_one_line(
    holdfast: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", "postgresql://ada:hunter2@127.0.0.1:1/none")
    assert holdfast("threads") == 2
    line = complaint(capsys)
    assert "DatabaseUnavailable: cannot connect" in line
    assert "hunter2" not in line
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", "not a uri")
    assert holdfast("threads") == 2
    assert "InvalidDatabaseURI" in complaint(capsys)


def test_two_that_approve_at_once_send_once(environment: dict[str, str], waiting: str, tmp_path: Path) -> None:
    """Eight processes approve the same message; one wins, the others are told by name, one message leaves."""
    command = [sys.executable, "-m", "holdfast.serving", "approve", waiting, "--json"]
    children = [
        subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    ends = [(child.communicate(), child.returncode) for child in children]
    assert sorted(code for _, code in ends) == [0, *[2] * 7]
    losers = [err for (_, err), code in ends if code]
    assert all(re.match(r"holdfast: (ThreadBusy|NotWaiting): .*\n$", err) for err in losers), losers
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


class Gate:
    """A model that answers nothing sensible, and only once it is let through."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()

    def __call__(self, request: ChatRequest) -> Reply:
        self.asked.set()
        self.open.wait()
        return Reply(text="prose")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_step_and_says_how_to_go_on(
    number: signal.Signals, environment: dict[str, str], dossier: Path, tmp_path: Path
) -> None:
    """The step that runs is finished and saved, and no further one begins."""
    from tests.support.brain import extractive

    gate = Gate()

    def slow(request: ChatRequest) -> Reply:
        gate(request)
        return extractive(request)

    with OpenAIServer(slow) as server:
        child = model_run(environment, dossier, tmp_path, server)
        gate.asked.wait()
        child.send_signal(number)
        first = child.stderr.readline() if child.stderr else ""
        while "stopping after this step" not in first:
            first = child.stderr.readline() if child.stderr else ""
        gate.open.set()
        out, _ = child.communicate()
        assert child.returncode == 128 + number
        assert "holdfast resume t" in out
        asked = len(server.requests)
        assert asked == 1
        resumed = subprocess.run(
            [sys.executable, "-m", "holdfast.serving", "resume", "t", "--json"],
            env=with_key(environment, server),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(resumed.stdout)["status"] == "waiting"


def test_a_second_signal_stops_at_once(environment: dict[str, str], dossier: Path, tmp_path: Path) -> None:
    """Even while a model hangs; the thread can still be resumed."""
    gate = Gate()
    with OpenAIServer(gate) as server:
        child = model_run(environment, dossier, tmp_path, server)
        gate.asked.wait()
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        while "stopping after this step" not in child.stderr.readline():
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
        gate.open.set()
    assert child.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "holdfast resume t" in out


def model_run(environment: dict[str, str], dossier: Path, folder: Path, server: OpenAIServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "holdfast.serving", "run", "outreach", "--company", "Tidewater"]
    options = ["--dossier", str(dossier), "--model", "openai:gpt-test", "--price", "1,2", "--thread", "t"]
    return subprocess.Popen(
        [*command, *options],
        env=with_key(environment, server),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def with_key(environment: dict[str, str], server: OpenAIServer) -> dict[str, str]:
    return environment | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test"}


def test_a_database_that_dies_in_mid_run_is_one_line_and_nothing_is_lost(
    environment: dict[str, str], dossier: Path, tmp_path: Path, database_uri: str, server_uri: str
) -> None:
    """The run fails with the database's name for it; when it is back, the thread goes on where it was."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    from tests.checkpointing.test_database import cut_connections
    from tests.support.brain import extractive

    name = sql.Identifier(str(conninfo_to_dict(database_uri)["dbname"]))
    gate = Gate()

    def slow(request: ChatRequest) -> Reply:
        gate(request)
        return extractive(request)

    def allow(connections: bool) -> None:
        with psycopg.connect(server_uri, autocommit=True) as connection:
            query = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            connection.execute(query.format(name, sql.Literal(connections)))

    with OpenAIServer(slow) as server:
        child = model_run(environment, dossier, tmp_path, server)
        gate.asked.wait()
        allow(False)
        cut_connections(server_uri, database_uri)
        gate.open.set()
        _, err = child.communicate()
        assert child.returncode == 2
        assert err.splitlines()[-1].startswith("holdfast: DatabaseUnavailable: "), err
        assert "Traceback" not in err
        allow(True)
        resumed = subprocess.run(
            [sys.executable, "-m", "holdfast.serving", "resume", "t", "--json"],
            env=with_key(environment, server),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(resumed.stdout)["status"] == "waiting"


def test_help_imports_nothing_heavy() -> None:
    """`holdfast --help` answers before LangGraph, LangChain, psycopg or pydantic would have been imported."""
    code = (
        "import sys; sys.argv = ['holdfast', '--help']\n"
        "from holdfast.serving.__main__ import main\n"
        "main()\n"
        "heavy = {'langgraph', 'langchain', 'langchain_core', 'psycopg', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_without_click_the_command_names_its_extra(tmp_path: Path) -> None:
    """A bare install has the command, and the command says what it lacks."""
    (tmp_path / "click.py").write_text("raise ImportError('not installed')")
    ran = subprocess.run(
        [sys.executable, "-m", "holdfast.serving", "threads"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (
        2,
        "holdfast: the command line needs an extra: pip install 'holdfast[cli]'\n",
    )


def test_a_reader_that_goes_away_is_no_error(holdfast: Run, waiting: str, environment: dict[str, str]) -> None:
    """`holdfast show t | head -1` prints no complaint."""
    assert holdfast
    child: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-m", "holdfast.serving", "show", waiting],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    complaints = child.stderr.read()
    child.stderr.close()
    child.wait()
    assert complaints == b""
