"""`BudgetMiddleware`: what a call may cost is reserved before it, in one place that all workers share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar, get_args

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest

from ..checkpointing.budgets import Budget, BudgetExceeded, distinct
from ..checkpointing.ledger import Ledger
from . import listing
from .actions import Action, Work, acarry_out, carry_out, never
from .alert_desk import AlertDesk
from .downgrading import Downgrade
from .journaled_model import journaled
from .model_errors import brief
from .paid_model import paid, payer_of
from .paid_tool import paid_tool
from .paying import Payer, ToolPrice, around, within_tool
from .prices import Prices
from .raising import given_up, take_answers
from .scopes import checked_scope
from .stops import stopping
from .unseen import watch
from .watching import Watch
from .wrapped_model import WrappedModel
from .wrapping_up import PARTIAL

T = TypeVar("T")
OnExceeded = Literal["error", "end", "interrupt", "downgrade"]
"""What to do about a call that would exceed a budget: raise `BudgetExceeded`; end with a last answer that says what
is done and what is not; let a person raise the limit; call a cheaper model, and end when there is none."""
MAX_OUTPUT_TOKENS: Final = 4096
"""Of an answer, where neither the model nor the call says how long it may be."""


class BudgetMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes a call only if the most that it can cost is left in every budget, and says who spent what.

    To stand outside `JournalMiddleware`: then a call and its reservation are one commit, and what is answered from
    the record is free. A limit that `holdfast budget set` set goes before the same one given here. A model that falls
    back on another inside of this (`[budget, ModelFallbackMiddleware]`) is limited by the first model's price; put
    fallbacks outside.

    >>> budget = BudgetMiddleware([Budget("tenant:{tenant}", daily="20"), Budget("agent:outreach", per_run="0.50")])
    """

    def __init__(
        self,
        budgets: Sequence[Budget] = (),
        *,
        on_exceeded: OnExceeded = "error",
        cheaper: Sequence[str | BaseChatModel] = (),
        prices: Prices | None = None,
        tool_prices: Mapping[str, ToolPrice] | None = None,
        max_output_tokens: int = MAX_OUTPUT_TOKENS,
        ledger: Ledger | None = None,
        alerts: AlertDesk | None = None,
        name: str = "BudgetMiddleware",
    ) -> None:
        """Pay by these budgets.

        Args:
            budgets: who pays, all of them for each call; none only counts what is spent. A scope may name what the
                run's metadata and `configurable` say: `tenant:{tenant}`, `thread:{thread_id}`. Where others write
                these, as on a server, name what they cannot: `user:{langgraph_auth_user_id}`.
            on_exceeded: what to do about a call that would exceed one.
            cheaper: for "downgrade", models to be called instead, the first that fits.
            prices: of models; else those of `genai-prices`.
            tool_prices: by a tool's name, what a call costs, or what says it of its arguments; else what its
                `metadata` says under `price_usd`. A tool without a price is free.
            max_output_tokens: the cap that is set on a call, where neither its model nor its caller sets one.
            ledger: for a graph that Holdfast does not save, where `per_run` is per thread; else it is found through
                the run.
            alerts: whom to tell when a scope spends faster than its own recent past, and what that is; else the log.
            name: tells two of an agent's apart.

        Raises:
            ValueError: `on_exceeded` is none of the ways, or "downgrade" without models.
            InvalidBudget: two budgets are of one scope and unit, or a scope's braces hold no plain name.
        """
        super().__init__()
        if on_exceeded not in get_args(OnExceeded):
            raise ValueError(f"on_exceeded must be one of {', '.join(get_args(OnExceeded))}, not {on_exceeded!r}")
        if (on_exceeded == "downgrade") != bool(cheaper):
            raise ValueError('on_exceeded="downgrade" and `cheaper` models go together')
        self._name = name
        self._on_exceeded: OnExceeded = on_exceeded
        self._cheaper = [init_chat_model(one) if isinstance(one, str) else one for one in cheaper]
        self._payer = Payer(
            distinct(map(checked_scope, budgets)),
            prices or Prices(),
            max_output_tokens,
            dict(tool_prices or {}),
            ledger,
            Watch(alerts or AlertDesk()),
        )

    @property
    def name(self) -> str:
        return self._name

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        def act(model: BaseChatModel) -> Action:
            return Action(lambda: handler(request.override(model=model)), never)

        with stopping():
            answered: ModelResponse[Any] = carry_out(self._chosen(request.model, act, _Parting(request)))
            return answered

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        def act(model: BaseChatModel) -> Action:
            return Action(never, lambda: handler(request.override(model=model)))

        with stopping():
            answered: ModelResponse[Any] = await acarry_out(self._chosen(request.model, act, _Parting(request)))
            return answered

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        with stopping(), _within(request, self._both()) as payer:
            act = Action(lambda: handler(paid_tool(request, payer)), never)
            return carry_out(self._called(request, act))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        with stopping(), _within(request, self._both()) as payer:
            act = Action(never, lambda: handler(paid_tool(request, payer)))
            return await acarry_out(self._called(request, act))

    def ask(
        self, model: BaseChatModel, call: Callable[[BaseChatModel], T], messages: Sequence[BaseMessage] = ()
    ) -> T | AIMessage:
        """For a node that calls a model itself: have it called, paid for and journaled, or do as `on_exceeded` says.

        Args:
            model: the model.
            call: is given the model as it is to be called: `lambda model: model.bind_tools(tools).invoke(messages)`.
            messages: the conversation, of which a last answer tells.
        """

        def act(model: BaseChatModel) -> Action:
            return Action(lambda: call(journaled(model)), never)

        with stopping():
            answered: T | AIMessage = carry_out(self._chosen(model, act, lambda error: parting(messages, error)))
            return answered

    async def aask(
        self, model: BaseChatModel, call: Callable[[BaseChatModel], Awaitable[T]], messages: Sequence[BaseMessage] = ()
    ) -> T | AIMessage:
        """`ask` with an async call."""

        def act(model: BaseChatModel) -> Action:
            return Action(never, lambda: call(journaled(model)))

        with stopping():
            answered: T | AIMessage = await acarry_out(self._chosen(model, act, lambda error: parting(messages, error)))
            return answered

    def paid(self, model: BaseChatModel) -> WrappedModel:
        """The model itself, paid for: a call that would exceed a budget is `BudgetExceeded`, whatever `on_exceeded`."""
        return paid(model, self._both())

    def _both(self) -> Payer:
        """This one, and who pays for the tool in which an inner agent works."""
        outer = around.get()
        return self._payer if outer is None else outer.beside(self._payer)

    def _chosen(
        self, model: BaseChatModel, act: Callable[[BaseChatModel], Action], part: Callable[[BudgetExceeded], Any]
    ) -> Work[Any]:
        models = [model, *self._cheaper]
        choice = Downgrade(models)
        if not listing.loaded():
            yield Action(listing.load, lambda: asyncio.to_thread(listing.load))
        if self._on_exceeded == "interrupt":
            take_answers()
        place = yield from choice.first()
        while True:
            try:
                model = paid(models[place], self._both())
                watch(payer_of(model))
                return (yield act(model))
            except BudgetExceeded as error:
                if place + 1 < len(models):
                    place += 1
                    yield from choice.fell_to(place)
                    continue
                yield from choice.forget()
                if self._on_exceeded == "error":
                    raise
                elif self._on_exceeded != "interrupt" or given_up(error):
                    return part(error)

    def _called(self, request: ToolCallRequest, act: Action) -> Work[Any]:
        if self._on_exceeded == "interrupt":
            take_answers()
        while True:
            try:
                return (yield act)
            except BudgetExceeded as error:
                if self._on_exceeded == "error":
                    raise
                if self._on_exceeded != "interrupt" or given_up(error):
                    call = request.tool_call
                    return ToolMessage(
                        f"Not called: {error.told}.", name=call["name"], tool_call_id=call["id"] or "", status="error"
                    )


class _Parting:
    """Ends an agent with a last answer, unless it owes a typed one: that cannot be made up."""

    def __init__(self, request: ModelRequest[Any]) -> None:
        self._request = request

    def __call__(self, error: BudgetExceeded) -> ModelResponse[Any]:
        if self._request.response_format is not None:
            raise error
        return ModelResponse(result=[parting(self._request.messages, error)])


def parting(messages: Sequence[BaseMessage], error: BudgetExceeded) -> AIMessage:
    """A last answer that costs nothing: what was done, what was found last, and what is not done.

    Marked as partial in its `response_metadata`; see `partial_of`.
    """
    asked = next((message.text for message in reversed(messages) if isinstance(message, HumanMessage)), "")
    calls = Counter(str(message.name or "a tool") for message in messages if isinstance(message, ToolMessage))
    said = next((message.text for message in reversed(messages) if isinstance(message, AIMessage) and message.text), "")
    done = ", ".join(f"{name} \u00d7{number}" if number > 1 else name for name, number in calls.items())
    lines = [
        f"I have to stop here, before this is finished: {error.told}.",
        f"Done so far: {done}." if done else "Nothing was called yet.",
        *([f"Last I said: {brief(said)}"] if said else []),
        *([f"Still open: {brief(asked)}"] if asked else []),
        "What was found is kept in this conversation.",
    ]
    return AIMessage("\n".join(lines), response_metadata={PARTIAL: error.told})


@contextmanager
def _within(request: ToolCallRequest, payer: Payer) -> Generator[Payer]:
    tool, payers = within_tool.set(request.tool_call["name"]), around.set(payer)
    try:
        yield payer
    finally:
        within_tool.reset(tool)
        around.reset(payers)
