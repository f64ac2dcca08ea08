"""The line at the end of a tool result: what it says, and where it is put."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage, RemoveMessage, ToolMessage
from langgraph.types import Command

from holdfast.guardrails.runway import Runway
from holdfast.guardrails.steps_text import LEVELS, Context, StepBudget, Thresholds, noted, with_line, without_line

fractions = st.floats(0, 1, exclude_max=True)
thresholds = st.tuples(fractions, fractions).map(lambda two: Thresholds(critical=min(two), low=max(two)))
money = st.none() | st.tuples(st.integers(1, 10**6), st.integers(0, 2 * 10**6)).map(
    lambda two: Runway("s", "usd", "hour", Decimal(two[0]), Decimal(two[1]))
)
contexts = st.none() | st.builds(Context, st.integers(0, 10**6), st.integers(1, 10**6))


@given(thresholds, st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6), money, contexts)
def test_fewer_steps_left_are_never_more_relaxed(
    given: Thresholds, limit: int, step: int, more: int, runway: Runway | None, context: Context | None
) -> None:
    """Whatever else is known, a later step is at least as pressing as an earlier one."""
    budget = StepBudget(limit=limit, thresholds=given)
    earlier, later = (LEVELS.index(budget.level(at, runway, context)) for at in (step, step + more))
    assert earlier <= later


@given(st.integers(1, 10**6), money, contexts)
def test_the_last_step_is_critical(limit: int, runway: Runway | None, context: Context | None) -> None:
    """At the limit the agent is told to wrap up, whatever money it has."""
    assert StepBudget(limit=limit).level(limit, runway, context) == "critical"


@given(st.integers(1, 10**6), st.integers(1, 10**6), money, contexts)
def test_the_line_begins_with_the_number(limit: int, step: int, runway: Runway | None, context: Context | None) -> None:
    """It is one line, and its level is the one of `level`."""
    budget = StepBudget(limit=limit)
    line = budget.status(step, runway, context)
    level = budget.level(step, runway, context)
    assert line.startswith(f"[Step {step}/{limit}]")
    assert "\n" not in line
    assert [word in line for word in (" LOW: ", " CRITICAL: ")] == [level == "low", level == "critical"]
    assert ("wrap up" in line) == (level == "critical")


def test_the_thresholds_of_the_default() -> None:
    """Low at 20 % left, critical at 10 %, both included."""
    levels = [StepBudget(limit=100).level(step) for step in (79, 80, 89, 90)]
    assert levels == ["ample", "low", "low", "critical"]


@pytest.mark.parametrize(
    ("runway", "said"),
    [
        (Runway("s", "usd", "day", Decimal(5), Decimal("1.875")), "[Step 1/10] $3.12 of $5.00 left today"),
        (Runway("s", "usd", "run", Decimal(2), Decimal("1.5")), "[Step 1/10] $0.5000 of $2.00 left in this run"),
        (
            Runway("s", "tokens", "hour", Decimal(50_000), Decimal(47_000)),
            "[Step 1/10] CRITICAL: 9 steps left, 3,000 tokens of 50,000 tokens left this hour, wrap up now",
        ),
        (
            Runway("s", "usd", "hour", Decimal(5), Decimal(6)),
            "[Step 1/10] CRITICAL: 9 steps left, $0.00 of $5.00 left this hour, wrap up now",
        ),
    ],
)
def test_money(runway: Runway, said: str) -> None:
    """Money is said with its window and without its scope, and little of it presses as few steps do."""
    assert StepBudget(limit=10).status(1, runway) == said


def test_a_full_context_window() -> None:
    """What is in it may be more than it holds; there is never less than nothing left."""
    said = StepBudget(limit=10).status(1, context=Context(1_200, 1_000))
    assert said == "[Step 1/10] CRITICAL: 9 steps left, 0% of the context window left, wrap up now"


@pytest.mark.parametrize(("low", "critical"), [(0.1, 0.2), (1.0, 0.1), (0.2, -0.1), (float("nan"), 0.1)])
def test_thresholds_that_are_none(low: float, critical: float) -> None:
    """They are refused where they are set."""
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(low=low, critical=critical)


def test_no_steps_at_all() -> None:
    """A limit below one is refused where it is set."""
    with pytest.raises(ValueError, match="max_steps must be 1 or more, not 0"):
        StepBudget(limit=0)


MINE = ToolMessage("found", tool_call_id="mine", id="1")
OTHER = ToolMessage("another's", tool_call_id="other")
BLOCKS = ToolMessage([{"type": "text", "text": "found"}], tool_call_id="mine")
DICT = {"role": "tool", "content": "found", "tool_call_id": "mine"}
RESULTS: dict[str, Any] = {
    "text": MINE,
    "an error": ToolMessage("found", tool_call_id="mine", status="error"),
    "nothing": ToolMessage("", tool_call_id="mine"),
    "blocks": BLOCKS,
    "no blocks": ToolMessage([], tool_call_id="mine"),
    "a command": Command(update={"messages": [OTHER, MINE, HumanMessage("and")], "count": 3}, goto="x"),
    "a command with a dict": Command(update={"messages": [DICT]}),
    "a command with a tuple": Command(update={"messages": (MINE,)}),
    "a command that writes a list": Command(update=[OTHER, MINE]),
    "a list": [OTHER, Command(update={"count": 3}), MINE],
    "a list with a command": [Command(update={"messages": [BLOCKS]}), OTHER],
}


def answers(result: Any) -> list[ToolMessage]:
    """The tool messages in a result."""
    if isinstance(result, ToolMessage):
        return [result]
    if isinstance(result, Command):
        return answers(result.update)
    items: Any = result
    if isinstance(result, dict):
        return [found for item in items.values() for found in answers(item)]
    return [found for item in items for found in answers(item)] if isinstance(result, list) else []


@pytest.mark.parametrize("name", RESULTS)
def test_only_the_answer_gets_the_line(name: str) -> None:
    """In whatever form, once, at its end, in a copy; nothing else of the result is changed."""
    result = RESULTS[name]
    before = copy.deepcopy(result)
    said = noted(result, "mine", "messages", lambda message: with_line(message, "[Step 3/9]", {"mark": 1}))
    assert result == before
    mine = [message for message in answers(said) if message.tool_call_id == "mine"]
    assert len(mine) == 1
    assert mine[0].text.endswith("[Step 3/9]")
    assert mine[0].text.count("[Step 3/9]") == 1
    assert mine[0].response_metadata == {"mark": 1}
    assert [message.content for message in answers(said) if message.tool_call_id == "other"] in ([], ["another's"])
    if isinstance(result, Command):
        assert (said.goto, type(said.update)) == (before.goto, type(before.update))
    assert isinstance(mine[0].content, list) == ("block" in name or "list with a command" in name)


@given(st.text(), st.integers(1, 500), money, contexts)
def test_who_reads_results_as_data_can_take_the_line_off(
    text: str, step: int, runway: Runway | None, context: Context | None
) -> None:
    """Nothing but it goes, and white space before it."""
    line = StepBudget(limit=500).status(step, runway, context)
    contents: list[Any] = [text, [{"type": "text", "text": text}]]
    for content in contents:
        said = with_line(ToolMessage(content, tool_call_id="1"), line, {})
        assert without_line(said.text) == text.rstrip()
    assert without_line(text) == text


@pytest.mark.parametrize(
    "result", [Command(goto="x"), Command(update={"messages": [RemoveMessage("1")]}), Command(update="text"), 3, "text"]
)
def test_what_writes_no_answer_is_left_alone(result: Any) -> None:
    """There is nothing to put a line on."""
    assert noted(result, "mine", "messages", lambda message: with_line(message, "line", {})) == result


def test_everything_else_of_a_message_stays() -> None:
    """Id, status, artifact and earlier metadata."""
    message = ToolMessage("x", tool_call_id="1", id="a", status="error", artifact=[1], response_metadata={"m": 1})
    said = with_line(message, "line", {"n": 2})
    assert said == message.model_copy(update={"content": "x\n\nline", "response_metadata": {"m": 1, "n": 2}})
