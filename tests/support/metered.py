"""A model that tells its usage, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field

from holdfast.guardrails import Price, Prices

PRICES = Prices(
    {"metered": Price(input=Decimal(10), output=Decimal(100)), "cheap": Price(input=Decimal(1), output=Decimal(1))}
)
"""Dollars for a million tokens."""
COST = Decimal("0.0020")
"""Of one answer of the model "metered": 100 tokens in, 10 out."""


class Metered(BaseChatModel):
    """Says what it is told to, with 100 tokens of input and 10 of output each time; counts how often it was asked."""

    model: str = "metered"
    script: list[AIMessage]
    asked: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    usage: UsageMetadata | None = UsageMetadata(input_tokens=100, output_tokens=10, total_tokens=110)
    error: BaseException | None = None
    max_tokens: int | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @property
    def _llm_type(self) -> str:
        return "metered"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append({"messages": messages, "max_tokens": self.max_tokens, **kwargs})
        if self.error is not None:
            raise self.error
        said = self.script[min(len(self.asked), len(self.script)) - 1]
        answer = said.model_copy(update={"usage_metadata": self.usage})
        return ChatResult(generations=[ChatGeneration(message=answer)])


class MeteredStream(Metered):
    """Streams three words, and its usage with the last one."""

    breaks: bool = False

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self.asked.append({"messages": messages, **kwargs})
        yield ChatGenerationChunk(message=AIMessageChunk(content="one "))
        yield ChatGenerationChunk(message=AIMessageChunk(content="two "))
        if self.breaks:
            raise ConnectionResetError("cut")
        yield ChatGenerationChunk(message=AIMessageChunk(content="three", usage_metadata=self.usage))
