"""Several people, and time: who decides when more than one may, or nobody does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.checkpointing import ApprovalRequest, Database, Terms
from holdfast.guardrails import ApprovalPolicy, Judgement
from tests.support.approvals import APPROVE, MAIL, MODES, PAY, Desk

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def policy(**terms: Any) -> ApprovalPolicy:
    return ApprovalPolicy(terms=Terms(**terms))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_quorum_is_of_different_people(db: Database, mode: str, named: bool) -> None:
    """LangGraph gives a task its old answers again; none of them counts as the vote of who resumes it next."""
    desk = Desk(db, {"pay": policy(quorum=2, deciders=("ada", "bob", "cy"))}, [PAY], mode=mode)
    desk.begin()

    def say(answer: Any, by: str) -> None:
        desk.answer({desk.interrupt_id: answer} if named else answer, by=by)

    say(APPROVE, "ada")
    assert desk.asked["holdfast"]["requests"][0]["votes"] == ["ada"]
    desk.run(by="bob")  # resumed for another reason: that is no approval
    assert desk.requests[0].votes == ("ada",)
    say("yes", "bob")  # what he says is no decision, and so is what she said before
    assert desk.requests[0].votes == ("ada",)
    say(APPROVE, "ada")
    assert "has approved request" in desk.asked["refused"]
    assert desk.done == []
    say(APPROVE, "bob")
    assert desk.done == [PAY]
    assert desk.requests[0].votes == ("ada", "bob")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_who_may_not_decide_decides_nothing_and_his_word_is_not_anothers(
    db: Database, first: bool, second: bool
) -> None:
    """What eve said is kept by LangGraph; when ada answers, it is not taken for hers."""
    desk = Desk(db, {"pay": policy(deciders=("ada",))}, [PAY])
    desk.begin()
    desk.answer({desk.interrupt_id: APPROVE} if first else APPROVE, by="eve")
    assert "'eve' may not decide" in desk.asked["refused"]
    assert desk.done == []
    refuse = {"type": "reject", "message": "No."}
    desk.answer({desk.interrupt_id: refuse} if second else refuse, by="ada")
    assert desk.done == []
    assert (desk.requests[0].state, desk.requests[0].decided_by) == ("rejected", "ada")
    assert ("approval.refused", "eve") in desk.told


def test_nobody_in_particular_is_not_one_of_several(db: Database) -> None:
    """Where nobody is authenticated there are no two people, and no named one."""
    desk = Desk(db, {"pay": policy(quorum=2), "send": policy(deciders=("ada",))}, [PAY, MAIL])
    desk.begin(by=None)
    desk.answer({"decisions": [APPROVE, APPROVE]}, by=None)
    assert desk.asked["refused"].count("nobody is authenticated") == 2
    assert {request.state for request in desk.requests} == {"waiting"}


@pytest.mark.parametrize("mode", MODES)
def test_what_was_decided_elsewhere_holds_and_the_thread_goes_on_at_a_nudge(db: Database, mode: str) -> None:
    desk = Desk(db, {"send": "always"}, [MAIL], mode=mode)
    desk.begin()
    desk.answer({"holdfast": "decided"}, by=None)  # too early: it waits, and is not refused
    assert "refused" not in desk.asked
    desk.decide(desk.requests[0], "bob")
    desk.answer({"holdfast": "decided"}, by=None)
    assert desk.done == [MAIL]
    assert desk.requests[0].decided_by == "bob"


def test_a_resume_without_any_answer_finds_the_decision(db: Database) -> None:
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    desk.decide(desk.requests[0], "bob", type="edit", arguments={"to": "eve"})
    desk.run(by=None)
    assert desk.done == [("send", {"to": "eve", "text": ""})]
    assert "bob changed" in desk.results[0].text
    assert '- text: "Hi." -> not given' in desk.results[0].text


def test_who_comes_second_keeps_the_winners_decision(db: Database) -> None:
    """Of an answer about two, one was decided meanwhile: the other is decided, and the first stays as it is."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL, PAY])
    desk.begin()
    desk.decide(desk.requests[0], "bob", type="reject", message="Not that.")
    desk.answer({"decisions": [APPROVE, APPROVE]}, by="ada")
    assert [(request.state, request.decided_by) for request in desk.requests] == [
        ("rejected", "bob"), ("approved", "ada"),
    ]  # fmt: skip
    assert desk.done == [PAY]
    assert ("approval.refused", "ada") in desk.told


def test_an_answer_is_about_what_was_open_when_it_was_asked_for(db: Database) -> None:
    """One decision for the one request that was shown as open, although it was settled since."""
    three = [MAIL, PAY, ("send", {"to": "cy", "text": ""})]
    desk = Desk(db, {"send": "always", "pay": "always"}, three)
    desk.begin()
    desk.decide(desk.requests[1], "bob", type="reject")
    desk.run()
    assert len(desk.asked["action_requests"]) == 2
    desk.decide(desk.requests[0], "bob", type="reject")
    desk.answer({"decisions": [APPROVE, APPROVE]}, by="ada")
    assert [request.state for request in desk.requests] == ["rejected", "rejected", "approved"]
    assert desk.done == [three[2]]


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_to_the_first_of_two_is_not_taken_for_the_others(db: Database, mode: str) -> None:
    """A UI that answers one action of several; somebody has decided on that one meanwhile, and nobody on the other."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL, PAY], mode=mode)
    desk.begin()
    desk.decide(desk.requests[0], "bob")
    desk.answer([{"type": "accept", "args": None}], by="ada")
    assert [request.state for request in desk.requests] == ["approved", "waiting"]
    assert desk.asked["refused"].startswith("1 decision for 2 actions that were shown")
    desk.answer([{"type": "accept", "args": None}], by="ada")  # now the other alone was shown
    assert sorted(desk.done) == [PAY, MAIL]


@pytest.mark.parametrize("mode", MODES)
def test_what_nobody_decides_in_time_is_not_done(db: Database, mode: str) -> None:
    """The model is told by when; and an answer that comes later decides nothing."""
    now = NOW
    db.approvals.clock = lambda: now
    desk = Desk(db, {"send": policy(expires_in=HOUR)}, [MAIL], mode=mode)
    assert desk.begin()["holdfast"]["requests"][0]["expires_at"] == "2026-03-01T13:30:00+00:00"
    now += 2 * HOUR
    desk.answer(APPROVE)
    assert desk.done == []
    assert desk.requests[0].state == "expired"
    assert desk.results[0].text == (
        "Not called: nobody approved this call by 2026-03-01 13:30 UTC. Do not make this call again unless you are "
        "asked to."
    )
    assert desk.results[0].status == "error"


def test_what_cannot_be_done_about_others_stops_no_thread(db: Database) -> None:
    """The time of another thread's request is over, too, and what is to be done besides fails of it."""
    now = NOW
    db.approvals.clock = lambda: now
    ours, other = (Desk(db, {"send": policy(expires_in=HOUR)}, [MAIL], thread=thread) for thread in ("t", "u"))
    other.begin()
    ours.begin()

    async def fails(connection: Any, request: ApprovalRequest, done: str) -> None:
        if request.thread_id == "u":
            raise ConnectionError(done)

    db.approvals.also = fails
    now += 2 * HOUR
    ours.run()
    assert [request.state for request in (*ours.requests, *other.requests)] == ["expired", "waiting"]


def test_what_is_harmless_may_be_approved_by_time(db: Database) -> None:
    now = NOW
    db.approvals.clock = lambda: now
    desk = Desk(db, {"send": policy(expires_in=HOUR, on_expiry="approve")}, [MAIL])
    desk.begin()
    now += 2 * HOUR
    desk.run(by=None)
    assert desk.done == [MAIL]
    assert ("approval.expired", desk.told[-1][1]) == desk.told[-1]


def test_an_escalated_request_waits_for_others(db: Database) -> None:
    now = NOW
    db.approvals.clock = lambda: now
    terms = {"deciders": ("ada",), "expires_in": HOUR, "on_expiry": "escalate", "escalate_to": ("cy",)}
    desk = Desk(db, {"send": policy(**terms)}, [MAIL])
    desk.begin()
    now += HOUR
    desk.answer(APPROVE, by="ada")
    assert desk.asked["holdfast"]["requests"][0]["deciders"] == ["cy"]
    assert desk.done == []
    desk.answer(APPROVE, by="cy")
    assert desk.done == [MAIL]


def test_a_withdrawn_request_is_told_to_the_model(db: Database) -> None:
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    db.approvals.withdraw(desk.requests[0].request_id, "ops", "the account is closed")
    desk.run()
    assert desk.done == []
    assert desk.results[0].text.endswith("was withdrawn by ops: the account is closed")


def test_a_policy_says_what_it_knows_and_under_which_terms(db: Database) -> None:
    """Evidence and confidence are for who decides; a judgement may bring terms of its own."""

    def judge(arguments: dict[str, Any]) -> Judgement:
        return Judgement(
            ask=True, why="above 100", terms=Terms(deciders=("cfo",)), context={"limit": arguments["usd"] / 5}
        )

    given = ApprovalPolicy(
        judge,
        description=lambda call: f"Pay {call['args']['usd']} USD",
        context=lambda call, state: {"evidence": ["invoice 7"], "confidence": 0.8, "messages": len(state["messages"])},
    )
    desk = Desk(db, {"pay": given}, [PAY])
    asked = desk.begin()
    (request,) = desk.requests
    assert request.deciders == ("cfo",)
    assert asked["action_requests"][0]["description"] == "Pay 500 USD"
    assert request.context["why"] == "above 100"
    assert (request.context["limit"], request.context["confidence"]) == (100, 0.8)
    assert request.context["evidence"] == ["invoice 7"]
