"""What an agent knew when it asked: so that who decides need not start from nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage

from ..checkpointing.costs import CostLine
from ..checkpointing.visibility import Visibility, VisibilityPolicy, is_mapping
from .actions import Action, Work
from .runway import runway_of
from .standing import Standing
from .steps_count import count_of, messages_of
from .written import told

LARGEST: Final = 24_000
"""Characters of what is told, as JSON."""
MESSAGES: Final = "messages"
_NEWEST: Final = 6
_MANY: Final = 100
_STEP: Final = re.compile(r"\[Step (\d+)/(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The same for all calls of a turn."""

    facts: Mapping[str, Any]

    def of(self, more: Mapping[str, Any], why: str = "") -> dict[str, Any]:
        """For one call: with what its policy adds, and why somebody is asked."""
        return fitting(_plain({**self.facts, **({"why": why} if why else {}), **more}))


def known(standing: Standing, state: Any, calls: Sequence[ToolCall] = (), key: str = MESSAGES) -> Work[Known]:
    """Look it up: the newest messages, the turn's calls, steps, cost and limits."""
    messages = messages_of(state, key)
    facts: dict[str, Any] = {}
    if messages:
        facts = {MESSAGES: spoken(messages, standing.saver.policy), "steps": _steps(state, messages, key)}
    if calls:
        facts["calls"] = [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in calls]
    costs, thread_id = standing.saver.costs, standing.thread_id
    lines: list[CostLine] = yield Action(
        lambda: costs.report("thread", thread_id=thread_id), lambda: costs.areport("thread", thread_id=thread_id)
    )
    if lines:
        facts["cost"] = {"usd": str(sum(line.cost for line in lines)), "calls": sum(line.calls for line in lines)}
    if (runway := runway_of(thread_id)) is not None:
        facts["limit"] = {
            "unit": runway.unit,
            "window": runway.window,
            "limit": str(runway.limit),
            "used": str(runway.used),
        }
    return Known(facts=facts)


def spoken(messages: Sequence[BaseMessage], policy: VisibilityPolicy) -> list[dict[str, Any]]:
    """The newest messages with a text, the oldest first; none that only an auditor may see."""
    shown = [
        message
        for message in messages
        if message.text.strip() and policy.classify(message) is not Visibility.ALWAYS_HIDDEN
    ]
    return [
        {"role": message.type, "text": message.text, **({"name": message.name} if message.name else {})}
        for message in shown[-_NEWEST:]
    ]


def fitting(context: Mapping[str, Any]) -> dict[str, Any]:
    """No more than is read: without the oldest messages, and what is largest after them.

    >>> fitting({"why": "x", "messages": ["a" * 20_000, "b" * 20_000]}).keys()
    dict_keys(['why', 'messages'])
    """
    whole = dict(context)
    while len(json.dumps(whole, ensure_ascii=False)) > LARGEST:
        if isinstance(messages := whole.get(MESSAGES), list) and messages:
            whole[MESSAGES] = whole[MESSAGES][1:]
            continue
        largest = max(whole, key=lambda name: len(json.dumps(whole[name], ensure_ascii=False)))
        whole[largest] = "too long to be kept"
    return whole


def _plain(value: Any) -> Any:
    """As JSON, long texts cut; numbers stay numbers."""
    if is_mapping(value):
        return {str(told(str(key))): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast("Sequence[Any]", value)[:_MANY]]
    return value if isinstance(value, float) and isfinite(value) else told(value)


def _steps(state: Any, messages: Sequence[BaseMessage], key: str) -> dict[str, int]:
    taken = count_of(state, key=key, per="run").step
    last = next((message for message in reversed(messages) if isinstance(message, ToolMessage)), None)
    line = _STEP.findall(last.text) if last is not None else []
    return {"taken": taken, "limit": int(line[-1][1])} if line else {"taken": taken}


def waiting_turn(messages: Sequence[BaseMessage]) -> tuple[AIMessage | None, list[ToolCall]]:
    """The newest turn of a model, and its calls that have no answer yet."""
    at = next((at for at in reversed(range(len(messages))) if isinstance(messages[at], AIMessage)), None)
    if at is None:
        return None, []
    turn = messages[at]
    assert isinstance(turn, AIMessage)
    answered = {message.tool_call_id for message in messages[at:] if isinstance(message, ToolMessage)}
    return turn, [call for call in turn.tool_calls if call["id"] not in answered]
