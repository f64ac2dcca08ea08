"""What the commands for threads of any graph promise: verify, rollback, prune, messages."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import Database
from holdfast.checkpointing.messages import LoggedMessage
from holdfast.checkpointing.visibility import Visibility
from holdfast.serving.__main__ import main
from holdfast.serving.transcript import text

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
def talk(db: Database) -> Callable[[str], Any]:
    """Runs a graph of two nodes on a thread, with tools, an instruction and a tool's answer; gives the graph."""

    def look(state: MessagesState) -> Any:
        call = {"name": "search", "args": {"query": "tide\x1b[2J"}, "id": "1"}
        return {
            "messages": [
                SystemMessage("be brief", id="1"),
                AIMessage("", tool_calls=[call], id="2"),
                ToolMessage("found it", tool_call_id="1", name="search", id="3"),
            ]
        }

    def answer(state: MessagesState) -> Any:
        return {"messages": [AIMessage("high water\nat noon", id="4")]}

    builder = StateGraph(MessagesState).add_node("look", look).add_node("answer", answer)
    graph = builder.add_edge(START, "look").add_edge("look", "answer").compile(checkpointer=db.saver)

    def run(thread: str) -> Any:
        graph.invoke({"messages": [HumanMessage("when?", id="0")]}, on(thread), durability="sync")
        return graph

    return run


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def before(graph: Any, node: str, thread: str = "t") -> str:
    """The checkpoint at which this node is next."""
    found = next(state for state in graph.get_state_history(on(thread)) if state.next == (node,))
    return str(found.config["configurable"]["checkpoint_id"])


def complaint(capsys: Out) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def spoil(database_uri: str, thread: str) -> None:
    with psycopg.connect(database_uri) as connection:
        connection.execute("UPDATE checkpoints SET metadata = '{}' WHERE thread_id = %s", [thread])


def test_verify_of_a_sound_thread_says_so(holdfast: Run, talk: Any, capsys: Out) -> None:
    talk("t")
    assert holdfast("verify", "t") == 0
    assert capsys.readouterr().out == "thread t is sound\n"
    assert holdfast("verify", "--all") == 0
    assert capsys.readouterr().out == "every thread is sound\n"


def test_verify_prints_each_finding_and_ends_with_1(holdfast: Run, talk: Any, database_uri: str, capsys: Out) -> None:
    talk("a")
    talk("b")
    spoil(database_uri, "a")
    assert holdfast("verify", "--all") == 1
    *findings, last = capsys.readouterr().out.splitlines()
    assert len(findings) == 4
    assert all(line.startswith("damage: thread a checkpoint 1") for line in findings)
    assert all("a checkpoint does not match its digest in checkpoints" in line for line in findings)
    assert last == "damaged: a"
    assert holdfast("verify", "b") == 0


def test_verify_as_json(holdfast: Run, talk: Any, database_uri: str, capsys: Out) -> None:
    talk("t")
    assert holdfast("verify", "t", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"sound": True, "findings": []}
    spoil(database_uri, "t")
    assert holdfast("verify", "t", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["sound"] is False
    assert {finding["severity"] for finding in printed["findings"]} == {"damage"}


def test_verify_of_many_threads_tells_how_far_it_is(
    holdfast: Run, db: Database, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty: Any = {
        "id": "1",
        "v": 4,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {},
        "channel_versions": {},
        "versions_seen": {},
    }
    for number in range(102):
        db.saver.put(on(f"{number}"), empty, {"step": -1}, {})
    assert holdfast("verify", "--all") == 0
    assert capsys.readouterr().err == "verified 100 of 102 threads\n"


def test_rollback_says_where_the_thread_is_now(holdfast: Run, talk: Any, capsys: Out) -> None:
    graph = talk("t")
    target = before(graph, "answer")
    assert holdfast("rollback", "t", "--to", target) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"thread t is back at {target}; its newest checkpoint is now 1")
    assert graph.get_state(on("t")).next == ("answer",)
    newest = graph.get_state(on("t")).config["configurable"]["checkpoint_id"]
    assert holdfast("rollback", "t", "--to", newest) == 0
    assert capsys.readouterr().out == f"thread t stands at {newest} already; nothing was changed\n"
    assert holdfast("rollback", "t", "--to", target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True


def test_rollback_of_an_outreach_thread_says_what_comes_next(
    holdfast: Run, db: Database, dossier: Path, capsys: Out
) -> None:
    """The approval is asked for again, and given."""
    assert holdfast("run", "outreach", "--company", "T", "--dossier", str(dossier), "--thread", "t") == 0
    target = db.saver.get_tuple(on("t"))
    assert target is not None
    assert holdfast("reject", "t", "--reason", "too soon") == 0
    capsys.readouterr()
    assert holdfast("rollback", "t", "--to", target.checkpoint["id"]) == 0
    assert "holdfast resume t" in capsys.readouterr().out
    assert holdfast("resume", "t") == 0
    assert "holdfast approve t" in capsys.readouterr().out
    assert holdfast("approve", "t", "--to", "a@b.example") == 0


async def test_rollback_of_a_thread_that_runs_is_refused(holdfast: Run, talk: Any, db: Database, capsys: Out) -> None:
    target = before(talk("t"), "answer")
    async with db.threads.hold("t"):
        assert await asyncio.to_thread(holdfast, "rollback", "t", "--to", target) == 2
    assert complaint(capsys).startswith("holdfast: ThreadBusy: ")


def is_there(db: Database, thread: str) -> bool:
    return thread in {record.thread_id for record in db.threads.recent()}


def age(database_uri: str, thread: str) -> None:
    """Make a thread old; its digests are not asked for when it is removed."""
    with psycopg.connect(database_uri) as connection:
        connection.execute(
            'UPDATE checkpoints SET checkpoint = checkpoint || \'{"ts": "2020-01-01T00:00:00+00:00"}\''
            " WHERE thread_id = %s",
            [thread],
        )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_prune_removes_what_is_old_enough(
    holdfast: Run, talk: Any, db: Database, database_uri: str, capsys: Out
) -> None:
    talk("old")
    talk("new")
    age(database_uri, "old")
    assert holdfast("prune", "--older-than", "30d", "--dry-run") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("old\n", "1 thread would be removed\n")
    assert is_there(db, "old")
    assert holdfast("prune", "--older-than", "30d", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": True, "threads": ["old"]}
    assert not is_there(db, "old")
    assert is_there(db, "new")
    assert holdfast("prune", "--older-than", "8w", "--yes") == 0
    assert capsys.readouterr().out == "0 threads removed\n"


def test_prune_can_keep_what_an_audience_may_see(holdfast: Run, talk: Any, database_uri: str, capsys: Out) -> None:
    talk("old")
    age(database_uri, "old")
    assert holdfast("prune", "--older-than", "12h", "--yes", "--keep", "user") == 0
    capsys.readouterr()
    assert holdfast("messages", "old", "--as", "auditor", "--json") == 0
    assert [message["text"] for message in json.loads(capsys.readouterr().out)] == ["when?", "high water\nat noon"]


@pytest.mark.parametrize(("answer", "left"), [("n\n", True), ("y\n", False)])
def test_prune_asks_on_a_terminal(
    holdfast: Run,
    talk: Any,
    db: Database,
    database_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Out,
    answer: str,
    left: bool,
) -> None:
    talk("old")
    age(database_uri, "old")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert holdfast("prune", "--older-than", "30d") == 0
    assert "remove 1 thread for good?" in capsys.readouterr().err
    assert is_there(db, "old") is left


def test_prune_without_a_terminal_wants_a_yes(holdfast: Run, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert holdfast("prune", "--older-than", "30d") == 2
    assert complaint(capsys).startswith("holdfast: NotConfirmed: prune removes threads for good")


def test_messages_are_a_users_unless_somebody_else_asks(holdfast: Run, talk: Any, capsys: Out) -> None:
    talk("t")
    assert holdfast("messages", "t") == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("  ")] == ["  when?", "  high water", "  at noon"]
    assert said.startswith("human \u00b7 ")
    assert "\n\nai \u00b7 in answer \u00b7 step 1 \u00b7 2" in said
    assert holdfast("messages", "t", "--as", "operator") == 0
    said = capsys.readouterr().out
    assert '  calls search({"query": "tide\\u001b[2J"})\n' in said
    assert "tool search \u00b7 in look" in said
    assert "be brief" not in said
    assert holdfast("messages", "t", "--as", "auditor") == 0
    assert "be brief" in capsys.readouterr().out


def test_messages_as_json(holdfast: Run, talk: Any, capsys: Out) -> None:
    talk("t")
    assert holdfast("messages", "t", "--as", "operator", "--json") == 0
    first, *_, last = json.loads(capsys.readouterr().out)
    assert (first["role"], first["text"], first["visibility"]) == ("human", "when?", "visible")
    assert (last["role"], last["node"], last["message"]["content"]) == ("ai", "answer", "high water\nat noon")


def test_a_thread_without_messages_for_an_audience_is_no_error(holdfast: Run, db: Database, capsys: Out) -> None:
    builder = StateGraph(MessagesState).add_node("a", lambda state: {"messages": [SystemMessage("x")]})
    builder.add_edge(START, "a").compile(checkpointer=db.saver).invoke({"messages": []}, on("t"))
    assert holdfast("messages", "t") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "nothing on thread t that this audience (user) may see\n")


BAD = {
    "no thread to verify": (["verify", "nope"], "NothingStored: nothing of thread 'nope' is stored"),
    "neither a thread nor all": (["verify"], "name a thread, or say --all"),
    "both": (["verify", "t", "--all"], "name a thread, or say --all"),
    "no such checkpoint": (["rollback", "t", "--to", "nope"], "UnknownCheckpoint: thread 't' has no checkpoint 'nope'"),
    "no thread to roll back": (
        ["rollback", "nope", "--to", "1"],
        "UnknownCheckpoint: thread 'nope' has no checkpoint '1'",
    ),
    "nowhere to go back to": (["rollback", "t"], "Missing option '--to'"),
    "no length of time": (["prune", "--older-than", "soon"], "'soon' is no length of time"),
    "no time at all": (["prune", "--older-than", "0d"], "'0d' is no length of time"),
    "no such audience to keep for": (["prune", "--older-than", "1d", "--keep", "me"], "'me' is not one of"),
    "no thread to read": (["messages", "nope"], "UnknownThread: no thread 'nope'"),
    "no such audience": (["messages", "t", "--as", "me"], "'me' is not one of"),
    "control characters": (["verify", "a\x1b[2J"], "InvalidThread"),
}


@pytest.mark.parametrize(("command", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    holdfast: Run, talk: Any, capsys: Out, command: list[str], expected: str
) -> None:
    talk("t")
    capsys.readouterr()
    assert holdfast(*command) == 2
    assert expected in complaint(capsys)


CONTENTS: dict[str, tuple[Any, str]] = {
    "text": ([{"type": "text", "text": "hello"}, "you"], "  hello\n  you"),
    "reasoning": ([{"type": "reasoning", "reasoning": "hm"}], "  (reasoning) hm"),
    "an image's data": ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "  [image_url]"),
    "an image's address": ([{"type": "image", "url": "https://a.example/b.png"}], "  [image: https://a.example/b.png]"),
    "a file": ([{"type": "file", "mime_type": "text/csv", "base64": "AAAA"}], "  [file: text/csv]"),
    "something new": ([{"type": "hologram"}], "  [hologram]"),
    "a provider's call": ([{"type": "tool_use", "name": "f", "input": {"x": 1}, "id": "1"}], '  calls f({"x": 1})'),
    "control characters": ("a\x1b[2Jb", "  a\ufffd[2Jb"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize(("content", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_content_of_every_kind_is_readable(content: Any, expected: str) -> None:
    logged = LoggedMessage(
        message=AIMessage(content), visibility=Visibility.USER_HIDDEN, correlation_id=None, checkpoint_ns="",
        node="a\nb", step=3, tokens=1200, created_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    )  # fmt: skip
    heading, *body = text(logged).splitlines()
    assert (
        heading
        == "ai \u00b7 in a b \u00b7 step 3 \u00b7 1,200 tokens \u00b7 2026-01-02 00:00:00 UTC \u00b7 user_hidden"
    )
    assert "\n".join(body) == expected
