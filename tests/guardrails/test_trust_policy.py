"""As a policy for approvals, trust asks about what was not earned, and puts up for review what it lets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from holdfast.checkpointing import Database, Terms
from holdfast.guardrails import ApprovalPolicy, EarnedTrust, InvalidPolicy, TrustRule
from holdfast.guardrails.trust import Bar
from tests.support.approvals import APPROVE, KINDS, MAIL, MODES, PAY, Desk
from tests.support.deciding import Calls

RULE = TrustRule(window=20, reviewed=Bar(0.3, 2), automatic=Bar(0.6, 4), unreviewed=2)
EVERY = [(kind, mode) for kind in KINDS for mode in MODES]


def inside(arguments: Mapping[str, Any]) -> bool | str:
    """Only to our own people."""
    return arguments["to"].endswith("@example.com") or f"{arguments['to']} is not one of us"


def small(arguments: Mapping[str, Any]) -> str:
    return "pay: small" if arguments["usd"] < 100 else "pay: large"


def trust(**options: Any) -> EarnedTrust:
    given: dict[str, Any] = {"rule": RULE, "checks": [inside], "spot_check": 0, **options}
    return EarnedTrust(**given)


def record(db: Database, good: int, tool: str = "send", **options: Any) -> Calls:
    calls = Calls(db, "past")
    for _ in range(good):
        calls.decided("approve", tool, **options)
    return calls


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_in_ring_0_every_call_is_asked_about_with_the_numbers(db: Database, kind: str, mode: str) -> None:
    desk = Desk(db, {"send": ApprovalPolicy(trust(), terms=Terms(deciders=("ada",)))}, [MAIL], kind=kind, mode=mode)
    asked = desk.begin()
    (told,) = asked["holdfast"]["requests"]
    assert told["context"]["why"] == "ring 0, 0 of 0 good, bound 0.000, 2 good cases short of the next ring"
    found = told["context"]["trust"]
    assert (found["ring"], found["cases"], found["checks"], found["review"]) == (0, 0, "passed", False)
    desk.answer({"decisions": [APPROVE]})
    assert [case.outcome for case in db.trust.evidence("send").cases] == ["approved"]
    assert desk.done == [MAIL]


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_in_ring_1_a_call_whose_checks_pass_is_made_and_put_up_for_review(db: Database, kind: str, mode: str) -> None:
    record(db, 3)
    desk = Desk(db, {"send": trust()}, [MAIL], kind=kind, mode=mode)
    assert desk.begin() is None
    assert desk.done == [MAIL]
    (run,) = db.trust.to_review()
    assert (run.thread_id, run.tool, run.ring) == ("t", "send", 1)
    assert run.why == "ring 1, 3 of 3 good, bound 0.438"
    assert [request.state for request in desk.requests] == ["waived"]
    db.trust.review(run.request_id, by="ada")
    assert [case.outcome for case in db.trust.evidence("send").cases] == ["fine", *["approved"] * 3]


@pytest.mark.parametrize("good", [3, 20])
def test_a_call_whose_check_fails_is_asked_about_in_every_ring_and_counts(db: Database, good: int) -> None:
    record(db, good)
    other = ("send", {"to": "eve@example.net", "text": "Hi."})
    desk = Desk(db, {"send": trust()}, [other])
    asked = desk.begin()
    found = asked["holdfast"]["requests"][0]["context"]["trust"]
    assert (found["checks"], found["why"]) == ("failed", "inside: eve@example.net is not one of us")
    assert desk.done == []
    assert db.trust.evidence("send").cases[0].outcome == "failed"
    desk.answer({"decisions": [APPROVE]})
    assert desk.done == [other]
    assert [case.outcome for case in db.trust.evidence("send", window=2).cases] == ["failed", "approved"]


def test_a_check_that_breaks_did_not_pass(db: Database) -> None:
    def broken(arguments: Mapping[str, Any]) -> bool:
        return bool(arguments["nothing"])

    def silent(arguments: Mapping[str, Any]) -> Any:
        return None

    record(db, 20)
    desk = Desk(db, {"send": trust(checks=[broken, silent])}, [MAIL])
    found = desk.begin()["holdfast"]["requests"][0]["context"]["trust"]
    assert found["why"] == "broken: KeyError: 'nothing'; silent: did not pass"


def test_in_ring_1_without_checks_a_call_is_asked_about(db: Database) -> None:
    record(db, 3)
    desk = Desk(db, {"send": trust(checks=[])}, [MAIL])
    assert "no check is declared" in desk.begin()["holdfast"]["requests"][0]["context"]["why"]


def test_in_ring_1_calls_are_asked_about_while_too_many_wait_for_review(db: Database) -> None:
    calls = record(db, 3)
    runs = [calls.run() for _ in range(2)]
    desk = Desk(db, {"send": trust()}, [MAIL], [MAIL])
    why = desk.begin()["holdfast"]["requests"][0]["context"]["why"]
    assert why.endswith("2 runs wait for their review, of at most 2")
    db.trust.review(runs[0].request_id, by="ada")
    desk.answer({"decisions": [APPROVE]})
    assert desk.asked is None
    assert desk.done == [MAIL, MAIL]


@pytest.mark.parametrize(("chance", "reviewed"), [(0.04, 1), (0.05, 0)])
def test_in_ring_2_calls_are_made_and_some_put_up_for_review(db: Database, chance: float, reviewed: int) -> None:
    record(db, 10)
    desk = Desk(db, {"send": trust(checks=[], spot_check=0.05, chance=lambda: chance)}, [MAIL])
    assert desk.begin() is None
    assert desk.done == [MAIL]
    assert len(db.trust.to_review()) == reviewed


def test_automatic_runs_earn_nothing(db: Database) -> None:
    """However many: a record is what people have said."""
    record(db, 3)
    turns = [[MAIL] for _ in range(5)]
    desk = Desk(db, {"send": trust(rule=TrustRule(window=20, reviewed=Bar(0.3, 2), automatic=Bar(0.6, 4)))}, *turns)
    assert desk.begin() is None
    assert len(desk.done) == 5
    evidence = db.trust.evidence("send", tally=True)
    assert (len(evidence.cases), evidence.automatic, evidence.unreviewed) == (3, 5, 5)
    assert db.trust.judge("send", RULE).ring == 1


def test_a_rejection_in_ring_2_has_the_next_call_asked_about(db: Database) -> None:
    """Decided on another thread, by the next call here."""
    calls = record(db, 10)
    waiting = calls.ask("send")
    desk = Desk(db, {"send": trust()}, [MAIL])
    assert desk.begin() is None
    calls.say(waiting, "reject", message="no")
    other = Desk(db, {"send": trust()}, [MAIL])
    other.run({"messages": [("user", "again")]}, thread_id="t2")
    assert other.done == []
    (request,) = db.approvals.find(thread_id="t2")
    assert request.context["trust"]["ring"] == 0
    assert [event.details["to"] for event in db.audit.read(thread_id="holdfast:trust")] == [2, 0]


def test_each_kind_of_action_earns_for_itself(db: Database) -> None:
    record(db, 10, "pay", context={"trust": {"pattern": "pay: small"}})
    policy = trust(pattern=small, checks=[])
    cheap, dear = ("pay", {"to": "bob", "usd": 5}), PAY
    desk = Desk(db, {"pay": policy}, [cheap, dear])
    asked = desk.begin()
    assert [action["arguments"] for action in asked["action_requests"]] == [dear[1]]
    assert asked["holdfast"]["requests"][0]["context"]["trust"]["pattern"] == "pay: large"
    desk.answer({"decisions": [APPROVE]})
    assert [case.outcome for case in db.trust.evidence("pay", pattern="pay: large").cases] == ["approved"]


def missing(arguments: Mapping[str, Any]) -> str:
    return str(arguments["nothing"])


def always(what: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda arguments: what


@pytest.mark.parametrize("pattern", [missing, always(5), always(""), always("a\nb")])
def test_a_kind_that_cannot_be_told_is_asked_about(db: Database, pattern: Any) -> None:
    record(db, 10)
    desk = Desk(db, {"send": trust(pattern=pattern)}, [MAIL])
    assert "its kind of action cannot be told" in desk.begin()["holdfast"]["requests"][0]["context"]["why"]


def test_what_a_policy_adds_does_not_stand_in_for_the_record(db: Database) -> None:
    """A context function of the graph's own, in which a model's arguments may be, says nothing of trust."""
    policy = ApprovalPolicy(trust(), context=lambda call, state: {"trust": {"pattern": "other"}, "note": "n"})
    desk = Desk(db, {"send": policy}, [MAIL])
    context = desk.begin()["holdfast"]["requests"][0]["context"]
    assert (context["note"], context["trust"]["pattern"]) == ("n", "send")


def test_the_verdict_is_kept_while_the_record_changes(db: Database) -> None:
    """Evaluated once: a call that was asked about stays so, whatever was earned meanwhile."""
    desk = Desk(db, {"send": trust()}, [MAIL])
    desk.begin()
    record(db, 10)
    desk.run()
    assert desk.asked is not None
    assert desk.done == []


async def a_check(arguments: Mapping[str, Any]) -> bool:
    return True


@pytest.mark.parametrize(
    "options", [{"spot_check": 1.1}, {"spot_check": -0.1}, {"checks": [a_check]}, {"checks": ["x"]}, {"pattern": 5}]
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidPolicy):
        EarnedTrust(**options)
