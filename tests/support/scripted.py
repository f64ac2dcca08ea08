"""A chat model that answers from a script, for tests: the only place where a model is faked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, SkipValidation


class ScriptedModel(BaseChatModel):
    """Takes the next entry of `script` for each request: a message is answered, an exception raised.

    `requests` holds the messages of every request, in order of arrival.
    """

    model_name: str = "scripted"
    script: SkipValidation[Sequence[AIMessage | BaseException]]
    requests: list[list[BaseMessage]] = Field(default_factory=list[list[BaseMessage]])

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.script[len(self.requests)]
        self.requests.append(list(messages))
        if isinstance(answer, BaseException):
            raise answer
        return ChatResult(generations=[ChatGeneration(message=answer)])


def calling(*calls: tuple[str, dict[str, Any]]) -> AIMessage:
    """A message that calls tools by name with arguments."""
    return AIMessage(
        "",
        tool_calls=[{"name": name, "args": args, "id": f"call_{index}"} for index, (name, args) in enumerate(calls)],
    )


def unanswered(messages: Sequence[BaseMessage]) -> set[str]:
    """The ids of tool calls that have no result, for which providers refuse a request."""
    asked = {str(call["id"]) for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    return asked - {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
