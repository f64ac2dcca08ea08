"""`holdfast doubts` and `holdfast resolve`: a person says what became of a call, and the thread goes on."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from holdfast.checkpointing import Database
from holdfast.guardrails import effect
from holdfast.serving.__main__ import main


class State(TypedDict):
    paid: str


calls: list[str] = []


@effect(name="pay")
def pay(to: str) -> str:
    """Pay somebody; the first time the line goes dead, and nobody knows."""
    calls.append(to)
    if len(calls) == 1:
        raise ConnectionError("the line went dead")
    return f"paid {to}"


def graph(database: Database) -> Any:
    def node(state: State) -> State:
        return {"paid": pay("ada")}

    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(checkpointer=database.saver)


ON: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def in_doubt(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A thread whose payment may have happened; its effect's id."""
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    calls.clear()
    with Database.connect(database_uri) as database:
        with pytest.raises(ConnectionError):
            graph(database).invoke({"paid": ""}, ON)
        (doubt,) = database.journal.doubts("t")
    return doubt.effect_id


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["holdfast", *arguments])
        code = main()
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_in_doubt_is_listed(in_doubt: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "doubts")
    assert code == 0
    assert f"t {in_doubt}" in out
    assert 'effect pay {"args": {"to": "ada"}}' in out
    code, out, _ = said(capsys, "doubts", "t", "--json")
    (row,) = json.loads(out)
    assert (row["name"], row["state"], row["asked"]) == ("pay", "raised", {"args": {"to": "ada"}})
    assert said(capsys, "doubts", "another")[1] == "nothing is in doubt\n"


@pytest.mark.parametrize(
    ("verdict", "paid", "times"),
    [(("--happened", "paid by hand"), "paid by hand", 1), (("--did-not-happen",), "paid ada", 2)],
)
def test_a_verdict_lets_the_thread_go_on(
    verdict: tuple[str, ...],
    paid: str,
    times: int,
    in_doubt: str,
    database_uri: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = said(capsys, "resolve", "t", in_doubt, *verdict, "--as", "grace")
    assert (code, out.startswith(in_doubt)) == (0, True)
    with Database.connect(database_uri) as database:
        assert graph(database).invoke(None, ON) == {"paid": paid}
        assert len(calls) == times
        (event,) = [event for event in database.audit.read(thread_id="t") if event.kind == "effect.resolved"]
        assert event.actor == "grace"
    code, _, err = said(capsys, "resolve", "t", in_doubt, "--abandon")
    assert code == 2
    assert err.count("\n") == 1
    assert "holdfast doubts t" in err


def test_one_verdict_is_to_be_given(in_doubt: str, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ((), ("--abandon", "--did-not-happen")):
        code, _, err = said(capsys, "resolve", "t", in_doubt, *wrong)
        assert (code, err.count("\n")) == (2, 1)
