"""Budgets in the outreach graph: what is done is kept, the end says why, and a raised limit lets the run go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command

from holdfast.checkpointing import Budget, BudgetExceeded, Database
from holdfast.graphs.outreach import build
from holdfast.guardrails import BudgetMiddleware, JournalMiddleware, is_transient
from holdfast.nodes import load_model
from tests.support.calls import ON, both
from tests.support.openai_server import OpenAIServer
from tests.support.outreach_child import StartLog
from tests.support.till import OWN, Till

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
SCOPE = "agent:outreach"
UP_TO_SELECT = Budget(SCOPE, per_run="0.82")
"""Four answers at 0.10 dollars leave 0.42; the fifth may cost 0.41 and what its request does."""
RAISED = Budget(SCOPE, per_run=5)
ALL = Counter(research=3, plan=1, select=1, draft=1)


@pytest.fixture
def till(monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """What the server that the models are asked of has served."""
    counting = Till()
    with OpenAIServer(counting) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        yield counting


def outreach(db: Database, tmp_path: Path, *, budget: Budget = UP_TO_SELECT, **choices: Any) -> Any:
    paying = BudgetMiddleware([budget], prices=OWN, **choices)
    builder = build(
        load_model("openai:gpt-test"),
        database=lambda: db,
        outbox=tmp_path / "outbox",
        guardrails=[paying, JournalMiddleware()],
    )
    return builder.compile(checkpointer=db.saver)


def brief(dossier: Path) -> dict[str, Any]:
    return {"company": "Tidewater Instruments", "dossier": str(dossier), "to": "desk@tidewater.example"}


def assert_paid(db: Database, till: Till) -> None:
    """The trail's costs by node and by model are what was served, to the last digit, and so is the day."""
    by_node = {line.key: line.cost for line in db.costs.report("node") if line.cost}
    by_model = {line.key: line.cost for line in db.costs.report("model") if line.cost}
    (day,) = db.ledger.windows(SCOPE, window="day")
    assert by_node == till.by_node
    assert by_model == till.by_model
    assert (day.spent, day.reserved) == (till.total, 0)


@MODES
@pytest.mark.parametrize("choice", ["error", "end"])
def test_a_stage_stops_with_the_error_is_not_tried_again_and_goes_on_when_the_limit_is_raised(
    choice: Any, mode: str, till: Till, db: Database, dossier: Path, tmp_path: Path
) -> None:
    """A stage owes a typed answer, so "end" has nothing to end with, and is "error"."""
    graph, log = outreach(db, tmp_path, on_exceeded=choice), StartLog(tmp_path / "log")
    graph = graph.with_config(callbacks=[log])
    with pytest.raises(BudgetExceeded, match=r"budget 'agent:outreach': this call may cost up to .* it was not made"):
        both(graph, brief(dossier), mode)
    stands = graph.get_state(ON)
    assert stands.next == ("select",)
    assert stands.values["findings"]["facts"]
    assert stands.values["angles"]
    assert "BudgetExceeded" in str(stands.tasks[0].error)
    assert log.log.read_text().split() == ["index", "research", "plan", "select"]
    assert till.asked == Counter(research=3, plan=1)

    db.ledger.set(RAISED, by="ada")
    assert both(graph, None, mode)["__interrupt__"][0].value["action_requests"]
    assert till.asked == ALL
    assert_paid(db, till)


@MODES
def test_a_person_may_raise_the_limit_and_the_run_goes_on_where_it_stood(
    mode: str, till: Till, db: Database, dossier: Path, tmp_path: Path
) -> None:
    graph = outreach(db, tmp_path, on_exceeded="interrupt")
    (question,) = both(graph, brief(dossier), mode)["__interrupt__"]
    assert question.value["type"] == "budget_exceeded"
    assert question.value["text"].startswith("budget 'agent:outreach': this call may cost up to")
    assert graph.get_state(ON).next == ("select",)
    (again,) = both(graph, Command(resume={"type": "retry"}), mode)["__interrupt__"]  # nobody has raised it
    assert again.value["short"] == question.value["short"]
    with pytest.raises(BudgetExceeded):  # there is no typed answer to end with
        both(graph, Command(resume={"type": "end"}), mode)
    assert graph.get_state(ON).values["angles"]

    db.ledger.set(RAISED, by="ada")
    assert both(graph, None, mode)["__interrupt__"][0].value["action_requests"]
    assert till.asked == ALL
    assert_paid(db, till)


@MODES
def test_a_cheaper_model_goes_on(mode: str, till: Till, db: Database, dossier: Path, tmp_path: Path) -> None:
    cheap = load_model("openai:gpt-cheap")
    graph = outreach(db, tmp_path, on_exceeded="downgrade", cheaper=[cheap])
    assert both(graph, brief(dossier), mode)["__interrupt__"][0].value["action_requests"]
    assert till.asked == ALL
    assert set(till.by_model) == {"gpt-test", "gpt-cheap"}
    assert till.by_model["gpt-cheap"] < Decimal("0.001")
    assert_paid(db, till)


@MODES
def test_where_the_cheapest_model_is_too_dear_the_stage_stops(
    mode: str, till: Till, db: Database, dossier: Path, tmp_path: Path
) -> None:
    limit = Budget(SCOPE, per_call="0.0001")
    graph = outreach(db, tmp_path, budget=limit, on_exceeded="downgrade", cheaper=[load_model("openai:gpt-cheap")])
    with pytest.raises(BudgetExceeded, match="the limit of a call is"):
        both(graph, brief(dossier), mode)
    assert graph.get_state(ON).values["documents"]
    assert not till.asked
    db.ledger.set(Budget(SCOPE, per_call=1), by="ada")
    assert both(graph, None, mode)["__interrupt__"][0].value["action_requests"]
    assert set(till.by_model) == {"gpt-test"}


def test_a_call_that_is_too_dear_is_no_passing_fault() -> None:
    error = BudgetExceeded("s", "usd", "day", limit=Decimal(1), used=Decimal(1), needed=Decimal(1))
    assert not is_transient(error)
