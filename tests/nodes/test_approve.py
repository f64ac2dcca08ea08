"""What the approval promises, in a graph with a checkpointer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NotRequired

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import ValidationError
from typing_extensions import TypedDict

from holdfast.nodes import Approval, Email, approve_node

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
EMAIL = Email(sender="Me <me@example.com>", to="ada@example.com", subject="Hello", body="Hi.\n", drafted_by="offline")
APPROVE = {"type": "approve"}


class State(TypedDict):
    """As much of the outreach state as the approval sees."""

    company: str
    email: Email
    approval: NotRequired[Approval]


class Thread:
    """One run that waits for its approval; `decide` answers it."""

    def __init__(self, email: Email = EMAIL, /, **configurable: Any) -> None:
        graph = StateGraph(State)
        graph.add_node("approve", approve_node(clock=lambda: AT))
        graph.add_edge(START, "approve")
        self.graph = graph.compile(checkpointer=InMemorySaver())
        self.config: Any = {"configurable": {"thread_id": "t", **configurable}}
        given = State(company="Acme", email=email)
        self.request: Any = self.graph.invoke(given, self.config)["__interrupt__"][0].value  # pyright: ignore[reportUnknownMemberType]

    def decide(self, *decisions: Any, answer: Any = None) -> Any:
        resume = answer if answer is not None else {"decisions": list(decisions)}
        return self.graph.invoke(Command(resume=resume), self.config)  # pyright: ignore[reportUnknownMemberType]

    @property
    def waits(self) -> bool:
        state = self.graph.get_state(self.config)
        return state.next == ("approve",) and "approval" not in state.values


def edit(**args: Any) -> dict[str, Any]:
    return {
        "type": "edit",
        "edited_action": {"name": "send_email", "args": {"subject": "Hello", "body": "Hi.\n", **args}},
    }


def test_the_graph_pauses_and_shows_the_message() -> None:
    thread = Thread()
    (action,) = thread.request["action_requests"]
    assert action["name"] == "send_email"
    assert action["args"] == {"to": "ada@example.com", "subject": "Hello", "body": "Hi.\n"}
    assert action["arguments"] == action["args"]
    assert action["description"] == "Send this message to Acme?"
    assert thread.request["review_configs"] == [
        {"action_name": "send_email", "allowed_decisions": ["approve", "edit", "reject"]}
    ]
    assert thread.waits


def test_an_approval_keeps_the_message_and_says_when_and_by_whom() -> None:
    state = Thread(actor="ada").decide(APPROVE)
    assert state["approval"] == {"decision": "approved", "by": "ada", "at": "2026-03-01T12:30:00+00:00"}
    assert state["email"] == EMAIL


@pytest.mark.parametrize(
    ("configurable", "by"),
    [
        ({}, "unknown"),
        ({"actor": "ada"}, "ada"),
        ({"actor": "eve", "langgraph_auth_user_id": "ada"}, "ada"),
        ({"actor": "eve", "langgraph_request_id": "r-1"}, "unknown"),
    ],
)
def test_whoever_the_server_has_checked_counts_more_than_who_the_caller_says(
    configurable: dict[str, Any], by: str
) -> None:
    assert Thread(**configurable).decide(APPROVE)["approval"]["by"] == by


def test_an_edit_changes_what_a_reviewer_may_change_and_nothing_else() -> None:
    state = Thread().decide(edit(to="Eve <eve@example.com>", subject="Other", body="Bye.\n"))
    assert state["approval"]["decision"] == "edited"
    assert state["email"] == {**EMAIL, "to": "Eve <eve@example.com>", "subject": "Other", "body": "Bye.\n"}


def test_an_edit_without_an_address_keeps_the_address() -> None:
    assert Thread().decide(edit(body="Bye.\n"))["email"] == {**EMAIL, "body": "Bye.\n"}


def test_an_address_can_be_edited_into_a_message_that_has_none() -> None:
    unaddressed = EMAIL.copy()
    del unaddressed["to"]
    thread = Thread(unaddressed)
    assert "to" not in thread.request["action_requests"][0]["args"]
    assert thread.decide(edit(to="eve@example.com"))["email"]["to"] == "eve@example.com"


@pytest.mark.parametrize("reason", ["too long", ""])
def test_a_rejection_is_an_outcome_with_its_reason_not_an_error(reason: str) -> None:
    thread = Thread(actor="ada")
    state = thread.decide({"type": "reject", "message": reason})
    assert (state["approval"]["decision"], state["approval"]["reason"]) == ("rejected", reason)
    assert state["email"] == EMAIL
    assert thread.graph.get_state(thread.config).next == ()


INVALID: dict[str, Any] = {
    "text": "yes",
    "true": True,
    "list": [APPROVE],
    "no decision": {"decisions": []},
    "two decisions": {"decisions": [APPROVE, APPROVE]},
    "unknown type": {"decisions": [{"type": "accept"}]},
    "capital letters": {"decisions": [{"type": "Approve"}]},
    "no type": {"decisions": [{}]},
    "more than asked": {"decisions": [APPROVE], "sender": "eve@example.com"},
    "more in a decision": {"decisions": [{**APPROVE, "message": "fine"}]},
    "edit without the message": {"decisions": [{"type": "edit"}]},
    "edit of another action": {
        "decisions": [{"type": "edit", "edited_action": {"name": "delete", "args": {"subject": "a", "body": "b"}}}]
    },
    "edit of the sender": {"decisions": [edit(sender="eve@example.com")]},
    "edit to no subject": {"decisions": [edit(subject="")]},
    "edit to no body": {"decisions": [edit(body="")]},
    "edit to no address": {"decisions": [edit(to="")]},
    "edit to half an address": {"decisions": [edit(to="ada")]},
    "edit to two addresses": {"decisions": [edit(to="ada@example.com, eve@example.com")]},
    "header in the address": {"decisions": [edit(to="ada@example.com\r\nBcc: eve@example.com")]},
    "header in the name": {"decisions": [edit(to="=?utf-8?q?x=0ABcc:_eve=40example.com?= <ada@example.com>")]},
    "header in the subject": {"decisions": [edit(subject="Hello\r\nBcc: eve@example.com")]},
    "line end in the subject": {"decisions": [edit(subject="Hello\n")]},
    "separator in the subject": {"decisions": [edit(subject="Hello\u2028there")]},
    "header in an encoded word": {"decisions": [edit(subject="=?utf-8?q?a=0D=0ABcc:_eve=40example.com?=")]},
    "subject beyond a line": {"decisions": [edit(subject="x" * 999)]},
}


@pytest.mark.parametrize("answer", INVALID.values(), ids=INVALID.keys())
def test_an_answer_that_is_no_decision_is_refused_and_the_request_stays_open(answer: Any) -> None:
    thread = Thread()
    with pytest.raises(ValidationError):
        thread.decide(answer=answer)
    assert thread.waits
    assert thread.decide(APPROVE)["approval"]["decision"] == "approved"


def test_a_refused_answer_leaves_no_trace_in_the_thread() -> None:
    thread = Thread()
    before = thread.graph.get_state(thread.config)
    with pytest.raises(ValidationError):
        thread.decide(answer="yes")
    after = thread.graph.get_state(thread.config)
    assert after.values == before.values
    assert [found.value for found in after.interrupts] == [thread.request]


async def test_the_async_graph_pauses_and_goes_on_alike() -> None:
    thread = Thread()
    with pytest.raises(ValidationError):
        await thread.graph.ainvoke(Command(resume="yes"), thread.config)  # pyright: ignore[reportUnknownMemberType]
    state = await thread.graph.ainvoke(Command(resume={"decisions": [APPROVE]}), thread.config)  # pyright: ignore[reportUnknownMemberType]
    assert state["approval"]["decision"] == "approved"


def test_the_default_clock_is_the_present_in_utc() -> None:
    graph = StateGraph(State)
    graph.add_node("approve", approve_node())
    graph.add_edge(START, "approve")
    compiled: Any = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    compiled.invoke({"company": "Acme", "email": EMAIL}, config)
    before = datetime.now(UTC).replace(microsecond=0)
    approval = compiled.invoke(Command(resume={"decisions": [APPROVE]}), config)["approval"]
    assert before <= datetime.fromisoformat(approval["at"]) <= datetime.now(UTC)
