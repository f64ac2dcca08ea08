"""What tests of the step tracker share: a model that asks in turns, and the numbers that it is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field

_STEP: Final = re.compile(r"\[Step (\d+)/(\d+)\]")


class TurnsModel(BaseChatModel):
    """Asks for so many calls of `look` in each turn of a run, and then answers; it knows nothing but the messages."""

    turns: list[int]
    asked: list[list[str]] = Field(default_factory=list[list[str]])
    """The names of the tools that were offered, by request."""

    @property
    def _llm_type(self) -> str:
        return "turns"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[tool.name for tool in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append(kwargs.get("tools", []))
        runs = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
        turn = sum(isinstance(message, AIMessage) for message in messages[runs[-1] :])
        answer = AIMessage("done")
        if turn < len(self.turns):
            answer = asking(self.turns[turn], f"{len(runs)}.{turn}")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def asking(number: int, turn: object = 0) -> AIMessage:
    """A message that asks for so many calls at once."""
    calls = [{"name": "look", "args": {"word": f"{turn}.{at}"}, "id": f"call_{turn}.{at}"} for at in range(number)]
    return AIMessage("", tool_calls=calls)


def steps(messages: Sequence[BaseMessage]) -> list[int]:
    """The step numbers that tool results show, in the order of the results."""
    results = [message for message in messages if isinstance(message, ToolMessage)]
    return [int(found[1]) for message in results for found in _STEP.finditer(message.text)]
