"""An agent's last turn when a limit is reached: without tools, and marked as partial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from .steps_count import newest_turn

PARTIAL: Final = "holdfast_partial"
"""In the response metadata of an agent's last message: the limit that ended it."""
_OF_TOOLS: Final = ("tool_choice", "parallel_tool_calls")
"""Settings that providers refuse in a request without tools."""


def without_tools(request: ModelRequest[Any], told: str) -> ModelRequest[Any]:
    """The request with no tools, and with a last word to the model that the thread does not keep.

    A typed answer that is owed can still be given: `create_agent` adds its tool behind all middleware.
    """
    settings = {name: given for name, given in request.model_settings.items() if name not in _OF_TOOLS}
    messages = [*request.messages, HumanMessage(told)]
    return request.override(tools=[], tool_choice=None, messages=messages, model_settings=settings)


def ended(response: ModelResponse[Any], why: str) -> ModelResponse[Any]:
    """The response, marked as partial, in a form that ends the agent's loop.

    A typed answer that holds is kept. Calls of tools that were not offered, and a typed answer that does not
    validate, would lead to another turn: of these the text is kept. Where there is none, the text is `why`.
    """
    if response.structured_response is not None:
        result = [_marked(message, why) if isinstance(message, AIMessage) else message for message in response.result]
    else:
        result = [
            _marked(_closed(message, why), why) if isinstance(message, AIMessage) else message
            for message in response.result
            if not isinstance(message, ToolMessage)
        ]
    return ModelResponse(result=result, structured_response=response.structured_response)


def partial_of(messages: Sequence[BaseMessage]) -> str | None:
    """The limit that ended an agent early; None if its newest turn is a whole one."""
    newest = newest_turn(messages)
    found: str | None = newest.response_metadata.get(PARTIAL) if newest is not None else None
    return found


def _marked(message: AIMessage, why: str) -> AIMessage:
    return message.model_copy(update={"response_metadata": {**message.response_metadata, PARTIAL: why}})


def _closed(message: AIMessage, why: str) -> AIMessage:
    text = message.text
    if text and not message.tool_calls and not message.invalid_tool_calls:
        return message
    # Providers' own forms of a call stand in the content and in additional_kwargs, too, and would want a result.
    return AIMessage(
        content=text or f"{why}.",
        id=message.id,
        name=message.name,
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
    )
