"""What `ApprovalMiddleware` promises: who asks, who answers, and which calls run."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.checkpointing import Database
from holdfast.guardrails import ApprovalPolicy
from tests.support.approvals import APPROVE, KINDS, LOOK, MAIL, MODES, PAY, Desk

EVERY = [(kind, mode) for kind in KINDS for mode in MODES]


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_a_gated_call_waits_and_then_runs_once(db: Database, kind: str, mode: str) -> None:
    """The graph pauses with LangChain's request and what Holdfast adds; approved, the call is made as it stood."""
    desk = Desk(db, {"send": "always"}, [MAIL], kind=kind, mode=mode)
    asked = desk.begin()
    (request,) = desk.requests
    assert asked["action_requests"] == [
        {"name": "send", "args": MAIL[1], "arguments": MAIL[1], "description": "Call send?"}
    ]
    (review,) = asked["review_configs"]
    assert review["action_name"] == "send"
    assert review["allowed_decisions"] == ["approve", "edit", "reject", "respond"]
    assert review["args_schema"]["required"] == ["to"]
    (told,) = asked["holdfast"]["requests"]
    assert (told["request_id"], told["digest"]) == (request.request_id, request.digest)
    assert desk.done == []

    desk.answer({"decisions": [APPROVE]})

    assert desk.done == [MAIL]
    assert desk.asked is None
    assert [message.text for message in desk.results] == ["sent to bob@example.com"]
    (request,) = desk.requests
    assert (request.state, request.decided_by) == ("approved", "ada")
    assert [kind for kind, _ in desk.told] == ["approval.requested", "approval.decided"]
    assert desk.told[-1][1] == "ada"


REPLIES: dict[str, tuple[Any, str]] = {
    "decisions": ({"decisions": [APPROVE]}, "approved"),
    "one decision": (APPROVE, "approved"),
    "agent-inbox accept": ([{"type": "accept", "args": {"action": "send", "args": {"to": "eve"}}}], "approved"),
    "agent-inbox accept without args": ([{"type": "accept", "args": None}], "approved"),
    "agent-inbox ignore": ([{"type": "ignore", "args": None}], "rejected"),
    "agent-inbox response": ([{"type": "response", "args": "Not today."}], "responded"),
    "agent-inbox edit": (
        [{"type": "edit", "args": {"action": "send", "args": {"to": "eve", "text": "Hi."}}}],
        "edited",
    ),
    "agent-inbox edit of bare arguments": ([{"type": "edit", "args": {"to": "eve", "text": "Hi."}}], "edited"),
    "reject": ({"decisions": [{"type": "reject", "message": "No."}]}, "rejected"),
    "respond": ({"decisions": [{"type": "respond", "message": "It is done."}]}, "responded"),
    "edit": (
        {"decisions": [{"type": "edit", "edited_action": {"name": "send", "args": {"to": "eve", "text": "Hi."}}}]},
        "edited",
    ),
}


def _named(desk: Desk, answer: Any, named: str) -> Any:
    if named == "by interrupt":
        return {desk.interrupt_id: answer}
    if named == "not named":
        return answer
    bare: Any = answer.get("decisions", [answer]) if "type" in answer or "decisions" in answer else answer
    return {desk.requests[0].request_id: bare[0]}


@pytest.mark.parametrize("named", ["by interrupt", "not named", "by request"])
@pytest.mark.parametrize("reply", REPLIES)
def test_every_shape_of_a_reply_is_understood(db: Database, reply: str, named: str) -> None:
    """LangChain's, agent-inbox's and our own, with and without the id of what is answered."""
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    answer, state = REPLIES[reply]
    desk.answer(_named(desk, answer, named))

    assert desk.requests[0].state == state
    assert desk.asked is None
    to = {"approved": "bob@example.com", "edited": "eve"}.get(state)
    assert desk.done == ([("send", {"to": to, "text": "Hi."})] if to else [])
    assert desk.results[0].status == ("error" if state == "rejected" else "success")
    assert len(desk.model.requests) == 2


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_of_a_turn_only_gated_calls_are_asked_about_and_all_wait(db: Database, kind: str, mode: str) -> None:
    """Two of three: none runs before both are settled, and each runs at most once."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL, LOOK, PAY], kind=kind, mode=mode)
    asked = desk.begin()
    assert [action["name"] for action in asked["action_requests"]] == ["send", "pay"]
    assert [request.state for request in desk.requests] == ["waiting", "waived", "waiting"]

    desk.answer({desk.requests[0].request_id: APPROVE})
    assert desk.done == []
    assert [action["name"] for action in desk.asked["action_requests"]] == ["pay"]

    desk.answer({"decisions": [{"type": "reject", "message": "Too much."}]})
    assert sorted(desk.done) == [LOOK, MAIL]
    assert [message.text for message in desk.results if message.status == "error"] == [
        "Not called: ada rejected this call. The reason: Too much."
    ]
    assert len(desk.results) == 3


def test_what_was_asked_names_what_the_agent_knew(db: Database) -> None:
    """The record has the newest messages, the turn's calls and the steps; the interrupt has no messages."""
    desk = Desk(db, {"send": "always"}, [LOOK], [MAIL, LOOK])
    asked = desk.begin()
    request = next(request for request in desk.requests if request.name == "send")
    assert [message["text"] for message in request.context["messages"]] == [
        "Do it.", "Let me.", "gauge is a word", "Let me.",
    ]  # fmt: skip
    assert [call["name"] for call in request.context["calls"]] == ["send", "look"]
    assert "messages" not in asked["holdfast"]["requests"][0]["context"]
    assert request.node == "ApprovalMiddleware.after_model"
    assert request.correlation_id is not None
    assert request.step is not None


def test_a_turn_that_needs_nobody_leaves_no_record(db: Database) -> None:
    desk = Desk(db, {"send": "always"}, [LOOK])
    assert desk.begin() is None
    assert desk.done == [LOOK]
    assert desk.requests == []


@pytest.mark.parametrize("mode", MODES)
def test_an_edit_is_made_and_shown_to_the_model_as_one(db: Database, mode: str) -> None:
    """The tool gets the edited arguments; the model reads who changed what, before the result."""
    desk = Desk(db, {"pay": "always"}, [PAY], mode=mode)
    desk.begin()
    edit = {"type": "edit", "edited_action": {"name": "pay", "args": {"to": "bob", "usd": 50}}, "message": "Half now."}
    desk.answer({"decisions": [edit]})
    assert desk.done == [("pay", {"to": "bob", "usd": 50})]
    (result,) = desk.results
    assert result.text == (
        "Note: ada changed the arguments of this call before it was made; what you asked for was not done. This is "
        "intended: do not make your own call again. The reason: Half now.\n"
        "- usd: 500 -> 50\n\n"
        "The result:\n"
        "paid 50.0 to bob"
    )
    newest = desk.model.requests[-1]
    assert [call["args"] for message in newest for call in getattr(message, "tool_calls", [])] == [
        {"to": "bob", "usd": 50}
    ]


WRONG: dict[str, tuple[Any, str]] = {
    "text": ("yes", "is no answer"),
    "true": (True, "is no answer"),
    "nothing": ([], "nothing is decided"),
    "no decisions": ({"decisions": []}, "nothing is decided"),
    "decisions that are no list": ({"decisions": APPROVE}, "must be a list"),
    "too many": ({"decisions": [APPROVE, APPROVE]}, "2 decisions for 1 open request"),
    "unknown type": ({"type": "maybe"}, "must be of the type"),
    "no type": ({"decisions": [{}]}, "must be of the type"),
    "capital letters": ({"type": "Approve"}, "must be of the type"),
    "a decision that is a text": ({"decisions": ["approve"]}, "must be a mapping"),
    "an unknown request": ({"apr-1": APPROVE}, "nothing was asked under 'apr-1'"),
    "edit of nothing": ({"type": "edit"}, "has no edited_action"),
    "edit of another tool": ({"type": "edit", "edited_action": {"name": "pay", "args": {}}}, "keeps the action"),
    "edit without an argument": (
        {"type": "edit", "edited_action": {"name": "send", "args": {"text": "x"}}},
        "'to' is a required property",
    ),
    "edit to another type": (
        {"type": "edit", "edited_action": {"name": "send", "args": {"to": 4}}},
        "4 is not of type 'string'",
    ),
    "edit to no mapping": ({"type": "edit", "edited_action": {"name": "send", "args": "x"}}, "no mapping"),
    "empty response": ({"type": "respond", "message": " "}, "has no message"),
    "message that is no text": ({"type": "reject", "message": 4}, "no text"),
    "message that is a book": ({"type": "reject", "message": "x" * 10_001}, "more than 10,000"),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_an_invalid_answer_is_refused_and_the_request_stays_open(db: Database, wrong: str, named: bool) -> None:
    """Nothing is decided by it, the interrupt says what was wrong, and a proper answer still works."""
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    answer, said = WRONG[wrong]
    desk.answer({desk.interrupt_id: answer} if named else answer)
    assert said in desk.asked["refused"]
    assert desk.requests[0].state == "waiting"
    assert desk.told == [("approval.requested", desk.told[0][1])]

    assert desk.run() is not None  # resumed without an answer: it waits, and has forgotten the old one
    assert "refused" not in desk.asked

    desk.answer({desk.interrupt_id: {"decisions": [APPROVE]}} if named else {"decisions": [APPROVE]})
    assert desk.done == [MAIL]


def test_one_invalid_decision_leaves_the_others_undone(db: Database) -> None:
    """All of an answer is looked at before any of it is done."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL, PAY])
    desk.begin()
    desk.answer({"decisions": [APPROVE, {"type": "maybe"}]})
    assert {request.state for request in desk.requests} == {"waiting"}
    assert "the decision on pay" in desk.asked["refused"]


@pytest.mark.parametrize("mode", MODES)
def test_a_predicate_is_asked_once_and_never_on_resume(db: Database, mode: str) -> None:
    """Whatever it would say later: what was asked stays asked, what was waived stays waived."""
    asked: list[str] = []

    def once(says: bool) -> Any:
        def predicate(arguments: dict[str, Any], call: Any) -> bool:
            asked.append(call["name"])
            return says

        return predicate

    desk = Desk(db, {"send": once(True), "pay": once(False)}, [MAIL, PAY], mode=mode)
    desk.begin()
    assert asked == ["send", "pay"]
    flipped = desk.again({"send": once(False), "pay": once(True)})
    flipped.answer({"decisions": [{"type": "reject"}]})
    assert asked == ["send", "pay"]
    assert desk.done == [PAY]
    assert [request.state for request in desk.requests] == ["rejected", "waived"]


def _above_5(arguments: dict[str, Any]) -> bool:
    return bool(arguments["usd"] > 5)


def test_a_predicate_that_fails_asks(db: Database) -> None:
    """A model's arguments must not get past a policy by breaking it."""
    desk = Desk(db, {"look": _above_5}, [LOOK])
    assert desk.begin()["action_requests"][0]["name"] == "look"
    assert "KeyError" in desk.requests[0].context["why"]


def test_a_policy_that_cannot_say_what_it_knows_asks_all_the_same(db: Database) -> None:
    def fails(*given: Any) -> Any:
        raise LookupError("no invoice")

    desk = Desk(db, {"look": ApprovalPolicy(description=fails, context=fails)}, [LOOK])
    assert desk.begin()["action_requests"][0]["description"] == "Call look?"
    assert desk.requests[0].context["no context"] == "it cannot be told: LookupError: no invoice"


def test_the_decider_is_who_resumes_never_who_the_answer_names(db: Database) -> None:
    desk = Desk(db, {"send": "always"}, [MAIL])
    desk.begin()
    desk.answer({"decisions": [{**APPROVE, "by": "eve", "actor": "eve"}], "by": "eve"}, by="ada")
    assert desk.requests[0].decided_by == "ada"


def test_on_a_server_a_callers_own_word_for_who_he_is_does_not_count(db: Database) -> None:
    """There only the authenticated user does; `actor` is whatever the caller has sent."""
    desk = Desk(db, {"send": "always", "pay": "always"}, [MAIL], [PAY])
    desk.begin()
    desk.answer(APPROVE, by="eve", langgraph_auth_user_id="ada", langgraph_request_id="1")
    desk.answer(APPROVE, by="eve", langgraph_request_id="2")
    assert [request.decided_by for request in desk.requests] == ["ada", "unknown"]
