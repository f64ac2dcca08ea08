"""A tool node for hand-made graphs in which parallel calls do not harm each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, cast

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import END
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Send

from ..guardrails.budget import BudgetMiddleware
from ..guardrails.journaling import JournalMiddleware

TOOLS: Final = "tools"


def tool_node(
    tools: Sequence[BaseTool | Callable[..., Any]],
    *,
    journal: JournalMiddleware | None = None,
    budget: BudgetMiddleware | None = None,
    messages_key: str = "messages",
    handle_tool_errors: bool = False,
) -> ToolNode:
    """LangGraph's tool node with journaled calls; to be reached through `each_call`.

    Args:
        tools: what may be called.
        journal: says of each tool what to do about a call whose outcome is unknown; else the tools say it.
        budget: pays for calls of tools that have a price; a call that would exceed it is not made.
        messages_key: where the state keeps its messages.
        handle_tool_errors: tell the model of a tool's error, instead of ending the run; Holdfast's own errors
            always end it.
    """
    journal = journal or JournalMiddleware()
    given: dict[str, Any] = {"handle_tool_errors": True} if handle_tool_errors else {}

    # The budget's outside: a call's price is reserved by its claim, and a replay is free.
    def wrap(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
        if budget is None:
            return journal.wrap_tool_call(request, execute)
        return budget.wrap_tool_call(request, lambda paid: journal.wrap_tool_call(paid, execute))

    async def awrap(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[Any]]) -> Any:
        if budget is None:
            return await journal.awrap_tool_call(request, execute)
        return await budget.awrap_tool_call(request, lambda paid: journal.awrap_tool_call(paid, execute))

    return ToolNode(tools, messages_key=messages_key, wrap_tool_call=wrap, awrap_tool_call=awrap, **given)


def each_call(
    node: str = TOOLS, *, messages_key: str = "messages", then: str = END
) -> Callable[[Any], list[Send] | str]:
    """A conditional edge: each call of the newest turn to the tool node as a task of its own, else `then`.

    A task of its own is saved of its own: an interrupt or a crash in one call leaves those that are finished
    finished. Calls that have their answer are not sent again.

    >>> graph.add_conditional_edges("model", each_call())  # doctest: +SKIP
    """

    def route(state: Any) -> list[Send] | str:
        messages = cast(
            "list[AnyMessage]", state[messages_key] if isinstance(state, dict) else getattr(state, messages_key)
        )
        turn = next(
            (number for number in reversed(range(len(messages))) if isinstance(messages[number], AIMessage)), None
        )
        if turn is None:
            return then
        asked = cast("AIMessage", messages[turn])
        answered = {message.tool_call_id for message in messages[turn:] if isinstance(message, ToolMessage)}
        sends = [
            Send(node, {"__type": _KIND, "tool_call": call, "state": state})
            for call in asked.tool_calls
            if call["id"] not in answered
        ]
        return sends or then

    return route


_KIND: Final[Literal["tool_call_with_context"]] = "tool_call_with_context"
