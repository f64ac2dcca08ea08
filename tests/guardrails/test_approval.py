"""What `ApprovalMiddleware` promises: who asks, who answers, and which calls run."""

from __future__ import annotations

import pytest

from holdfast.checkpointing import Database
from tests.support.approvals import APPROVE, KINDS, MAIL, MODES, Desk

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
