"""A tool node for hand-made graphs in which parallel calls do not harm each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final, Literal, cast

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import END
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Send

from ..guardrails.journaling import JournalMiddleware

TOOLS: Final = "tools"


def tool_node(
    tools: Sequence[BaseTool | Callable[..., Any]],
    *,
    journal: JournalMiddleware | None = None,
    around: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    messages_key: str = "messages",
    handle_tool_errors: bool = False,
) -> ToolNode:
    """LangGraph's tool node with journaled calls; to be reached through `each_call`.

    Args:
        tools: what may be called.
        journal: says of each tool what to do about a call whose outcome is unknown; else the tools say it.
        around: middleware whose tool hooks go around the journal, the outermost first.
        messages_key: where the state keeps its messages.
        handle_tool_errors: tell the model of a tool's error, instead of ending the run; Holdfast's own errors
            always end it.
    """
    layers = [*around, journal or JournalMiddleware()]
    given: dict[str, Any] = {"handle_tool_errors": True} if handle_tool_errors else {}
    return ToolNode(
        tools,
        messages_key=messages_key,
        wrap_tool_call=_wrapped([layer.wrap_tool_call for layer in layers]),
        awrap_tool_call=_wrapped([layer.awrap_tool_call for layer in layers]),
        **given,
    )


def _wrapped(layers: Sequence[Callable[..., Any]]) -> Any:
    """The hooks as one, the first outermost."""

    def inside(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
        def both(request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
            def through(asked: ToolCallRequest) -> Any:
                return inner(asked, handler)

            return outer(request, through)

        return both

    return reduce(inside, layers)


def each_call(
    node: str = TOOLS, *, messages_key: str = "messages", then: str = END
) -> Callable[[Any], list[Send] | str]:
    """A conditional edge: each call of the newest turn to the tool node as a task of its own, else `then`.

    A task of its own is saved of its own: an interrupt or a crash in one call leaves those that are finished
    finished. Calls that have their answer are not sent again.

        graph.add_conditional_edges("model", each_call())
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
