"""What answers mean, and what models are told of them, without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage

from holdfast.checkpointing import ApprovalRequest
from holdfast.checkpointing.requests import action_digest
from holdfast.guardrails import InvalidReply
from holdfast.guardrails.knowing import LARGEST, fitting
from holdfast.guardrails.replies import NUDGE, understood
from holdfast.guardrails.verdicts import edited, with_note
from tests.support.approvals import APPROVE
from tests.support.messages import plain

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def request(number: int, settled_at: int | None = None) -> ApprovalRequest:
    """One of a turn's requests, which was settled so many seconds after the first."""
    settled = settled_at is not None
    return ApprovalRequest(
        thread_id="t", task_id="1", call_id=str(number), name="send", arguments={"to": "ada"},
        request_id=f"apr-{number}", digest=action_digest("send", {"to": "ada"}), requested_at=NOW,
        state="rejected" if settled else "waiting",
        decided_at=NOW + timedelta(seconds=settled_at) if settled_at is not None else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settled", "count", "about"),
    [
        ([None, None, None], 3, [0, 1, 2]),
        ([None, 1, None], 2, [0, 2]),
        ([None, 1, None], 3, [0, 1, 2]),
        ([2, 1, None], 1, [2]),
        ([2, 1, None], 2, [0, 2]),
        ([1, 2, 3], 1, [2]),
        ([1, 2, 3], 2, [1, 2]),
        ([3, 2, 1], 1, [0]),
        ([1, 1, 2], 1, [2]),
    ],
)
def test_decisions_are_about_what_was_open_when_they_were_asked_for(
    settled: Sequence[int | None], count: int, about: Sequence[int]
) -> None:
    requests = [request(number, at) for number, at in enumerate(settled)]
    said = understood({"decisions": [APPROVE] * count}, requests)
    assert [*said] == [f"apr-{number}" for number in about]


@pytest.mark.parametrize(
    ("settled", "count"), [([None, None], 1), ([None, None], 3), ([1, 1, None], 2), ([], 1), ([1], 0)]
)
def test_decisions_that_could_be_about_others_are_refused(settled: Sequence[int | None], count: int) -> None:
    requests = [request(number, at) for number, at in enumerate(settled)]
    with pytest.raises(InvalidReply):
        understood({"decisions": [APPROVE] * count}, requests)


def test_a_nudge_says_nothing() -> None:
    assert understood(dict(NUDGE), [request(0)]) == {}


@given(plain)
def test_whatever_is_answered_is_understood_or_refused(answer: Any) -> None:
    """Answers come from outside; nothing else is raised, and nothing is decided that was not asked."""
    requests = [request(0), request(1)]
    try:
        said = understood(answer, requests)
    except InvalidReply:
        return
    assert {*said} <= {"apr-0", "apr-1"}


def test_an_edited_turn_is_edited_wherever_a_provider_looks() -> None:
    """Anthropic's blocks, LangChain's, OpenAI's, and the raw calls beside them; other calls stay as they are."""
    before, after = {"to": "ada"}, {"to": "bob"}
    turn = AIMessage(
        content=[
            {"type": "text", "text": "Let me."},
            {"type": "tool_use", "id": "1", "name": "send", "input": before},
            {"type": "tool_call", "id": "1", "name": "send", "args": before},
            {"type": "function_call", "call_id": "1", "id": "fc", "name": "send", "arguments": '{"to": "ada"}'},
            {"type": "tool_use", "id": "2", "name": "send", "input": before},
        ],
        tool_calls=[{"name": "send", "args": before, "id": "1"}, {"name": "send", "args": before, "id": "2"}],
        additional_kwargs={
            "tool_calls": [{"id": "1", "function": {"name": "send", "arguments": '{"to": "ada"}'}, "type": "function"}]
        },
        id="turn",
    )
    found = edited(turn, {"1": after})
    blocks: Any = found.content
    assert [blocks[1]["input"], blocks[2]["args"], blocks[3]["arguments"]] == [after, after, '{"to": "bob"}']
    assert blocks[4] == turn.content[4]
    assert [call["args"] for call in found.tool_calls] == [after, before]
    assert found.additional_kwargs["tool_calls"][0]["function"]["arguments"] == '{"to": "bob"}'
    assert turn.tool_calls[0]["args"] == before
    assert found.id == "turn"


@pytest.mark.parametrize("content", ["done", "", [{"type": "text", "text": "done"}]])
def test_a_note_comes_before_the_result(content: Any) -> None:
    assert with_note(ToolMessage(content, tool_call_id="1"), "NOTE").text.startswith("NOTE")


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=30_000), max_size=4))
def test_what_is_told_has_an_end(context: dict[str, str]) -> None:
    assert len(str(fitting({**context, "messages": [{"text": "x" * 2000}] * 20}))) <= LARGEST * 2
