"""The outreach approval in a graph that Holdfast saves: on record, decided once, by whoever is first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import ValidationError

from holdfast.checkpointing import ApprovalRequest, Database, Decided, Terms
from holdfast.checkpointing.refusals import InvalidDecision
from holdfast.checkpointing.requests import STATES, InvalidTerms
from holdfast.nodes import Email, approve_node
from tests.nodes.test_approve import APPROVE, EMAIL, INVALID, State

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SHAPES: dict[str, Any] = {
    "decisions": {"decisions": [APPROVE]},
    "one decision": APPROVE,
    "agent-inbox": [{"type": "accept", "args": None}],
}

UNDERSTOOD = {"list", "unknown type", "more than asked", "more in a decision"}
"""Refused without the record, where only LangChain's own shape is known, and nothing beside it."""


class Thread:
    """A run that waits for its approval, on a real database."""

    def __init__(self, db: Database, email: Email = EMAIL, *, mode: str = "sync", terms: Terms | None = None) -> None:
        graph = StateGraph(State)
        graph.add_node("approve", approve_node(terms=terms))
        graph.add_edge(START, "approve")
        self.db = db
        self.mode = mode
        self.graph: Any = graph.compile(checkpointer=db.saver)
        self.run(State(company="Acme", email=email))

    def run(self, given: Any, by: str | None = "ada") -> Any:
        config: Any = {"configurable": {"thread_id": "t", **({"actor": by} if by else {})}}
        if self.mode == "async":
            return asyncio.run(self.graph.ainvoke(given, config))
        return self.graph.invoke(given, config)

    def say(self, answer: Any, by: str | None = "ada") -> Any:
        return self.run(Command(resume=answer), by)

    @property
    def asked(self) -> Any:
        interrupts = self.graph.get_state({"configurable": {"thread_id": "t"}}).interrupts
        return interrupts[0].value if interrupts else None

    @property
    def request(self) -> ApprovalRequest:
        (request,) = self.db.approvals.find(thread_id="t", states=STATES)
        return request

    def decide(self, by: str = "bob", **given: Any) -> ApprovalRequest:
        said: dict[str, Any] = {"type": "approve", "by": by, "digest": self.request.digest, **given}
        return self.db.approvals.decide(self.request.request_id, Decided(**said))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_decides_the_record(db: Database, shape: str, mode: str) -> None:
    """The payload is the one of always and names the request; the verdict is the record's."""
    thread = Thread(db, mode=mode)
    assert [*thread.asked] == ["action_requests", "review_configs", "evidence", "problems", "holdfast"]
    assert thread.asked["holdfast"]["requests"][0]["request_id"] == thread.request.request_id
    assert thread.request.context["company"] == "Acme"
    state = thread.say(SHAPES[shape])
    assert (thread.request.state, thread.request.decided_by) == ("approved", "ada")
    assert state["approval"]["by"] == "ada"
    assert thread.request.decided_at is not None
    assert state["approval"]["at"] == thread.request.decided_at.isoformat(timespec="seconds")


def test_a_decision_beside_the_graph_holds(db: Database) -> None:
    thread = Thread(db)
    thread.say({"holdfast": "decided"}, by=None)
    assert thread.asked is not None
    thread.decide("bob", type="edit", arguments={**thread.request.arguments, "subject": "Other"})
    state = thread.say({"holdfast": "decided"}, by=None)
    assert state["approval"]["decision"] == "edited"
    assert state["approval"]["by"] == "bob"
    assert state["email"] == {**EMAIL, "subject": "Other"}


def test_who_answers_second_keeps_the_first_decision(db: Database) -> None:
    thread = Thread(db)
    thread.decide("bob", type="reject", message="Not now.")
    approval = thread.say({"decisions": [APPROVE]}, by="ada")["approval"]
    assert (approval["decision"], approval["by"], approval["reason"]) == ("rejected", "bob", "Not now.")


@pytest.mark.parametrize("name", sorted(INVALID.keys() - UNDERSTOOD))
def test_an_answer_that_is_no_decision_is_refused_and_the_request_stays_open(db: Database, name: str) -> None:
    """By name, as without the record."""
    answer = INVALID[name]
    thread = Thread(db)
    with pytest.raises(ValidationError):
        thread.say(answer)
    assert thread.request.state == "waiting"
    assert thread.run(None)["__interrupt__"]
    assert thread.say({"decisions": [APPROVE]})["approval"]["decision"] == "approved"


@pytest.mark.parametrize(
    "changes",
    [{"subject": "a\r\nBcc: eve@example.com"}, {"to": "ada\nBcc: eve@example.com"}, {"subject": "=?utf-8?q?x?="},
     {"body": ""}, {"sender": "eve@example.com"}],
)  # fmt: skip
def test_an_edit_beside_the_graph_cannot_write_headers(db: Database, changes: dict[str, str]) -> None:
    thread = Thread(db)
    with pytest.raises(InvalidDecision):
        thread.decide(type="edit", arguments={**thread.request.arguments, **changes})
    assert thread.request.state == "waiting"


def test_an_edit_beside_the_graph_that_cannot_be_sent_is_not(db: Database) -> None:
    """What the JSON schema does not say about addresses."""
    thread = Thread(db)
    thread.decide(type="edit", arguments={**thread.request.arguments, "to": "ada at home"})
    state = thread.run(None)
    assert state["approval"]["decision"] == "rejected"
    assert "lacks an @" in state["approval"]["reason"]
    assert state["email"] == EMAIL


def test_who_may_not_decide_decides_nothing(db: Database) -> None:
    thread = Thread(db, terms=Terms(deciders=("ada",)))
    thread.say({"decisions": [APPROVE]}, by="eve")
    assert "'eve' may not decide" in thread.asked["refused"]
    assert thread.say({"decisions": [{"type": "reject", "message": "No."}]}, by="ada")["approval"]["by"] == "ada"


def test_what_nobody_decides_in_time_is_not_sent(db: Database) -> None:
    now = NOW
    db.approvals.clock = lambda: now
    thread = Thread(db, terms=Terms(expires_in=timedelta(days=1)))
    now += timedelta(days=2)
    approval = thread.run(None)["approval"]
    assert approval["decision"] == "rejected"
    assert "nobody approved" in approval["reason"]


def test_terms_that_allow_nothing_of_this_are_refused_at_once() -> None:
    with pytest.raises(InvalidTerms):
        approve_node(terms=Terms(allowed=("respond",)))
