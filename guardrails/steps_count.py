"""Which step a tool call is: read from what is saved, never drawn from a counter, so that it is the same ever after."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, NotRequired, cast

from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from typing_extensions import TypedDict

from ..checkpointing.errors import HoldfastError

Per = Literal["run", "thread"]
KEY: Final = "holdfast_steps"
"""Of the graph's state."""
MARK: Final = "holdfast_step"
"""In a tool message's response metadata: which step it was."""


class CallNotFound(HoldfastError):
    """A tool call to be counted stands in no message of the state, so that it cannot be told which step it is."""

    def __init__(self, name: str, key: str) -> None:
        super().__init__(
            f"no AI message under {key!r} in the state asks for this call of {name}, so it cannot be counted; "
            "give StepTrackerMiddleware the state's messages_key, and let the tool node see the state"
        )


class Steps(TypedDict, total=False):
    """What a thread has behind it."""

    made: int
    """Calls, in the thread."""
    began: int
    """Of these, those made before the run."""
    window: int
    """Tokens that the model may be given."""


def furthest(before: Steps, update: Steps) -> Steps:
    """The reducer: counts never go back, in whichever order parallel calls report."""
    whole: Steps = {**before, **update}
    if "made" in whole:
        whole["made"] = max(before.get("made", 0), update.get("made", 0))
    if "began" in whole:
        whole["began"] = max(before.get("began", 0), update.get("began", 0))
    return whole


class StepState(TypedDict):
    """To be among the bases of a hand-made graph's state, which then counts right even if all messages are removed."""

    # A reducer must be the last annotation: LangGraph looks for it nowhere else.
    holdfast_steps: NotRequired[Annotated[Steps, PrivateStateAttr, furthest]]


@dataclass(frozen=True, slots=True)
class Count:
    """Calls behind a point: in the thread, and of these before the run."""

    made: int
    began: int
    turn: int = 0
    """Calls before the turn to which a call belongs."""

    @property
    def step(self) -> int:
        """Calls of the run so far; as the count up to and with a call: its number."""
        return self.made - self.began

    @property
    def mark(self) -> dict[str, Any]:
        """For the message that answers the call."""
        return {MARK: {"made": self.made, "began": self.began, "turn": self.turn}}


def count_of(state: Any, *, key: str, per: Per) -> Count:
    """The calls made so far."""
    return _counted(state, messages_of(state, key), None, per)


def place_of(call: ToolCall, state: Any, *, key: str, per: Per) -> Count:
    """The count up to and with a call; its number is `.step`.

    The calls of a turn are numbered in the order in which the model asked for them. One that was answered without
    being made (a person rejected it, it was the typed answer) is no step; one that was made before has its number.

    Raises:
        CallNotFound: nobody asked for it.
    """
    messages = messages_of(state, key)
    turn = next(
        (at for at in reversed(range(len(messages))) if _position(call, _calls(messages[at])) is not None), None
    )
    if turn is None:
        raise CallNotFound(call["name"], key)
    answers = {message.tool_call_id: message for message in messages[turn:] if isinstance(message, ToolMessage)}
    made = {of: mark for of, message in answers.items() if (mark := _mark(message)) is not None}
    if (before := made.get(call["id"] or "")) is not None:
        return before if per == "run" else replace(before, began=0)
    asked = _calls(messages[turn])
    waiting = [one for one in asked if (one["id"] or "") not in answers]
    # LangGraph's own tool node makes calls again that have an answer.
    again = [one for one in asked if (one["id"] or "") in answers and (one["id"] or "") not in made]
    position = _position(call, [*waiting, *again])
    assert position is not None, "a call is waiting, or answered with a mark, or without"
    before = _counted(state, messages, turn, per)
    first = min((one.turn for one in made.values()), default=before.made)
    taken = {one.made for one in made.values()}
    free = (number for number in itertools.count(first + 1) if number not in taken)
    return Count(next(itertools.islice(free, position, None)), before.began, first)


def messages_of(state: Any, key: str) -> Sequence[BaseMessage]:
    """The messages of a state, which may be the list itself, a mapping, or an object."""
    if isinstance(state, list):
        return cast("list[BaseMessage]", state)
    return cast("Sequence[BaseMessage]", _read(state, key) or ())


def newest_turn(messages: Sequence[BaseMessage]) -> AIMessage | None:
    """The newest message of a model."""
    return next((message for message in reversed(messages) if isinstance(message, AIMessage)), None)


def steps_of(state: Any) -> Steps | None:
    """What the state says itself; None where it has no place for it."""
    return cast("Steps | None", None if isinstance(state, list) else _read(state, KEY))


def _read(state: Any, key: str) -> Any:
    return cast("Mapping[str, Any]", state).get(key) if isinstance(state, Mapping) else getattr(state, key, None)


def _counted(state: Any, messages: Sequence[BaseMessage], turn: int | None, per: Per) -> Count:
    """The calls made before those of a turn that have no answer yet; without a turn, all."""
    steps = steps_of(state)
    whole = steps is not None and (per == "thread" or "began" in steps)
    marks = {} if whole else {at: mark for at, message in enumerate(messages) if (mark := _mark(message)) is not None}
    # Where the state counts, messages do not: those of other agents may be among them.
    made = steps.get("made", 0) if steps is not None else max((mark.made for mark in marks.values()), default=0)
    if per == "thread":
        return Count(made, 0)
    if steps is not None and "began" in steps:
        return Count(made, steps["began"])
    before = messages[:turn]
    run = next((at for at in reversed(range(len(before))) if isinstance(before[at], HumanMessage)), 0)
    return Count(made, max((mark.began for at, mark in marks.items() if at >= run), default=made))


def _calls(message: BaseMessage) -> list[ToolCall]:
    return message.tool_calls if isinstance(message, AIMessage) else []


def _position(call: ToolCall, calls: Sequence[ToolCall]) -> int | None:
    """Where a call stands; by its id only where middleware around changed it."""
    if call in calls:
        return calls.index(call)
    ids = [one["id"] for one in calls]
    return ids.index(call["id"]) if call["id"] and call["id"] in ids else None


def _mark(message: BaseMessage) -> Count | None:
    mark = message.response_metadata.get(MARK) if isinstance(message, ToolMessage) else None
    return Count(mark["made"], mark["began"], mark["turn"]) if mark else None
