"""What an agent reads of its runway at the end of a tool result: steps, money, room in the context window."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal

from langchain_core.messages import ToolMessage, convert_to_messages
from langgraph.types import Command

from .runway import Runway

Level = Literal["ample", "low", "critical"]
LEVELS: Final[tuple[Level, ...]] = ("ample", "low", "critical")
"""From relaxed to pressing."""
_ADVICE: Final[Mapping[Level, str]] = {"low": "plan the ending", "critical": "wrap up now"}
_WINDOWS: Final = {"run": "in this run", "hour": "this hour", "day": "today"}
_LINE: Final = re.compile(r"\s*\[Step \d+/\d+\][^\n]*\Z")

Note = Callable[[ToolMessage], ToolMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From which fraction on, of what there was, what is left is low or critical; 0 ≤ critical ≤ low < 1."""

    low: float = 0.20
    critical: float = 0.10

    def __post_init__(self) -> None:
        if not 0 <= self.critical <= self.low < 1:
            raise ValueError(f"thresholds must be 0 <= critical <= low < 1, not low={self.low}, {self.critical=}")

    def level(self, left: float) -> Level:
        """Of the fraction that is left, 0 to 1.

        >>> [Thresholds().level(left) for left in (0.21, 0.20, 0.10)]
        ['ample', 'low', 'critical']
        """
        if left <= self.critical:
            return "critical"
        return "low" if left <= self.low else "ample"


@dataclass(frozen=True, slots=True)
class Context:
    """How full the context window was at the newest model call, in tokens."""

    used: int
    window: int

    @property
    def fraction(self) -> float:
        """That is left, 0 to 1."""
        return max(1 - self.used / self.window, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBudget:
    """How many tool calls may be made, and when that becomes few.

    >>> StepBudget(limit=10).status(9)
    '[Step 9/10] CRITICAL: 1 step left, wrap up now'
    """

    limit: int
    thresholds: Thresholds = Thresholds()

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"max_steps must be 1 or more, not {self.limit}")

    def level(self, step: int, money: Runway | None = None, context: Context | None = None) -> Level:
        """Of whichever is the scarcest: steps, money, room in the context window."""
        fractions = [max(self.limit - step, 0) / self.limit, *(one.fraction for one in (money, context) if one)]
        return max(map(self.thresholds.level, fractions), key=LEVELS.index)

    def status(self, step: int, money: Runway | None = None, context: Context | None = None) -> str:
        """The line for one call.

        >>> money = Runway("tenant:acme", "usd", "hour", Decimal(5), Decimal("1.88"))
        >>> StepBudget(limit=500).status(437, money)
        '[Step 437/500] LOW: 63 steps left, $3.12 of $5.00 left this hour, plan the ending'
        >>> StepBudget(limit=500).status(37, context=Context(5_000, 200_000))
        '[Step 37/500] 97% of the context window left'
        """
        left = max(self.limit - step, 0)
        level = self.level(step, money, context)
        said = [f"{left} step{'' if left == 1 else 's'} left"] if level != "ample" else []
        said += [_money(money)] if money else []
        said += [f"{math.floor(context.fraction * 100)}% of the context window left"] if context else []
        line = f"[Step {step}/{self.limit}]"
        if level == "ample":
            return f"{line} {', '.join(said)}" if said else line
        return f"{line} {level.upper()}: {', '.join([*said, _ADVICE[level]])}"


def _money(runway: Runway) -> str:
    # Not the scope: it may name a customer, and is of no use to a model.
    left, limit = (_amount(each, runway.unit) for each in (runway.left, runway.limit))
    return f"{left} of {limit} left {_WINDOWS[runway.window]}"


def _amount(amount: Decimal, unit: str) -> str:
    if unit == "tokens":
        return f"{amount:,.0f} tokens"
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:,.4f}"


def with_line(message: ToolMessage, line: str, marks: Mapping[str, Any]) -> ToolMessage:
    """A copy whose text ends with the line, and whose response metadata has the marks; blocks get one more block."""
    content = message.content
    ended: Any = (
        [*content, {"type": "text", "text": line}]
        if isinstance(content, list)
        else f"{content}\n\n{line}"
        if content
        else line
    )
    metadata = {**message.response_metadata, **marks}
    return message.model_copy(update={"content": ended, "response_metadata": metadata})


def without_line(text: str) -> str:
    """A tool result's text as the tool gave it, for who reads it as data.

    >>> without_line('{"found": 3}\\n\\n[Step 9/10] CRITICAL: 1 step left, wrap up now')
    '{"found": 3}'
    """
    return _LINE.sub("", text)


def noted(result: Any, call_id: str | None, messages_key: str, note: Note) -> Any:
    """What a tool call returned, with `note` applied to the message that answers the call.

    It may be a tool message, a Command that writes one, or a list of both; of anything else, and of a Command that
    writes no answer, nothing is changed. Nothing is changed in place.
    """
    found: Any = result  # narrowed, its type would be unknown to pyright
    if isinstance(result, ToolMessage):
        return note(result)
    if isinstance(result, list):
        return [_in_list(item, call_id, messages_key, note) for item in found]
    if isinstance(result, Command):
        return replace(found, update=_in_update(found.update, call_id, messages_key, note))
    return result


def _in_list(item: Any, call_id: str | None, messages_key: str, note: Note) -> Any:
    # Beside the answer there may be messages of other calls.
    if isinstance(item, ToolMessage) and item.tool_call_id != call_id:
        return item
    return noted(item, call_id, messages_key, note)


def _in_update(update: Any, call_id: str | None, messages_key: str, note: Note) -> Any:
    """An update is messages, or a mapping that may have some; written as dicts, perhaps."""
    given: Any = update
    if isinstance(update, dict):
        if messages_key not in given:
            return given
        return {**given, messages_key: _in_update(given[messages_key], call_id, messages_key, note)}
    return [_answer(item, call_id, note) for item in given] if isinstance(update, list | tuple) else given


def _answer(message: Any, call_id: str | None, note: Note) -> Any:
    given: Any = message
    if isinstance(message, dict) and given.get("tool_call_id") == call_id:
        given = convert_to_messages([given])[0]
    return note(given) if isinstance(given, ToolMessage) and given.tool_call_id == call_id else given
