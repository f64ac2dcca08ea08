"""`StepTrackerMiddleware`: an agent knows how far its steps, its money and its context window still reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, get_args

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from .actions import Action, Work, acarry_out, carry_out, never
from .runway import Runway, runway_of
from .steps_count import KEY, Count, Per, Steps, StepState, count_of, messages_of, newest_turn, place_of, steps_of
from .steps_text import Context, StepBudget, Thresholds, noted, with_line
from .stops import stopping
from .wrapping_up import ended, without_tools


class TrackedState(AgentState[Any], StepState):
    """An agent's state, with its steps."""


class StepTrackerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Ends every tool result with `[Step n/max]` and what else is known of the runway, and ends the agent at max.

    The first, outermost middleware of an agent: what is around it would make calls that it does not see. For a
    hand-made graph `tool_node(tools, around=[tracker])`, or `ToolNode(tools, wrap_tool_call=tracker.wrap_tool_call,
    awrap_tool_call=tracker.awrap_tool_call)`.

    A number is derived: the calls that were made before the turn, which are in the agent's state, and the call's
    place among those that the model asked for. So it is the same when the call is made again after a crash, or
    answered from the journal, and no summary of the conversation changes it. The text is put on each time.

    At the limit the calls that are too many are answered with an error instead of being made. The next turn is the
    last: the model is told, it has no tools, and its answer has `PARTIAL` in its response metadata. A typed answer
    that is owed can still be given in it; one that does not validate is not asked for again (put `AnswerMiddleware`
    inside for that).

    In a hand-made graph the numbers are read from the tool results that are still there, unless its state has
    `StepState` among its bases; a run begins with the newest message of a person, unless `before_agent` is its first
    node; and whether to go on without tools is for the graph to ask: `spent(state)`.
    """

    state_schema = TrackedState

    def __init__(
        self,
        max_steps: int,
        *,
        per: Per = "run",
        low: float = 0.20,
        critical: float = 0.10,
        context_window: int | None = None,
        messages_key: str = "messages",
    ) -> None:
        """Count tool calls up to `max_steps`.

        Args:
            max_steps: how many calls may be made; 1 or more.
            per: a run ends when the agent does and goes on when it is resumed; a thread goes on for ever.
            low: the fraction of steps, money or context window from which on the agent is told to plan its ending.
            critical: the one from which on it is told to wrap up; not above `low`.
            context_window: tokens that the model may be given; else what the model's profile says, if it does.
            messages_key: where a hand-made graph keeps its messages.

        Raises:
            ValueError: one of these is out of range.
        """
        super().__init__()
        if per not in get_args(Per):
            raise ValueError(f"per must be 'run' or 'thread', not {per!r}")
        if context_window is not None and context_window < 1:
            raise ValueError(f"context_window must be 1 or more, not {context_window}")
        self.budget: Final = StepBudget(limit=max_steps, thresholds=Thresholds(low=low, critical=critical))
        self.per: Final[Per] = per
        self._window = context_window
        self._key = messages_key

    def used(self, state: Any) -> int:
        """How many steps the run, or the thread, has made."""
        return self._count(state).step

    def spent(self, state: Any) -> bool:
        """Whether no further call will be made."""
        return self.used(state) >= self.budget.limit

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """A run begins. LangGraph does not come here again when a run is resumed."""
        return {KEY: Steps(began=self._count(state).made)} if self.per == "run" else None

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        return carry_out(self._model(request, lambda asked: Action(lambda: handler(asked), never)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        return await acarry_out(self._model(request, lambda asked: Action(never, lambda: handler(asked))))

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        with stopping():
            return carry_out(self._tool(request, Action(lambda: handler(request), never)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        with stopping():
            return await acarry_out(self._tool(request, Action(never, lambda: handler(request))))

    def _count(self, state: Any) -> Count:
        return count_of(state, key=self._key, per=self.per)

    def _model(
        self, request: ModelRequest[Any], ask: Callable[[ModelRequest[Any]], Action]
    ) -> Work[ModelResponse[Any] | ExtendedModelResponse[Any]]:
        if self.spent(request.state):
            return ended((yield ask(without_tools(request, self._farewell()))), self._reached())
        response: ModelResponse[Any] = yield ask(request)
        window = (request.model.profile or {}).get("max_input_tokens")
        steps = steps_of(request.state)
        if window is None or steps is None or steps.get("window") == window:
            return response
        # Tool calls see no model; those of a resumed run come before any.
        return ExtendedModelResponse(response, Command(update={KEY: Steps(window=window)}))

    def _tool(self, request: ToolCallRequest, act: Action) -> Work[Any]:
        call, state = request.tool_call, request.state
        place = place_of(call, state, key=self._key, per=self.per)
        if place.step > self.budget.limit:
            return ToolMessage(
                f"Not called: {self._reached()}. No further tool can be called.",
                name=call["name"],
                tool_call_id=call["id"] or "",
                status="error",
            )
        result = yield act
        line = self.budget.status(place.step, _money(request), self._context(state))
        said = noted(result, call["id"], self._key, lambda message: with_line(message, line, place.mark))
        if steps_of(state) is None:
            return said
        made: Command[Any] = Command(update={KEY: Steps(made=place.made)})
        return [*said, made] if isinstance(said, list) else [said, made]

    def _context(self, state: Any) -> Context | None:
        window = self._window or (steps_of(state) or {}).get("window")
        if not window:
            return None
        newest = newest_turn(messages_of(state, self._key))
        usage = newest.usage_metadata if newest else None
        return Context(usage["input_tokens"], window) if usage else None

    def _reached(self) -> str:
        limit = self.budget.limit
        return f"the limit of {limit} tool call{'' if limit == 1 else 's'} in this {self.per} is reached"

    def _farewell(self) -> str:
        # The same on every attempt: the journal knows a model call by its messages.
        return (
            f"{self._reached().capitalize()}, and this is your last turn: you have no tools any more. Give the best "
            "answer that your results so far allow. Say what is done, and what is not."
        )


def _money(request: ToolCallRequest) -> Runway | None:
    configurable: Mapping[str, Any] = request.runtime.config.get("configurable", {})
    thread = configurable.get("thread_id")
    return runway_of(str(thread)) if thread is not None else None
