"""A typed answer that does not hold is put back to the model with the reason, a few times, then refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import StructuredOutputError
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from pydantic import ValidationError

from ..checkpointing.errors import HoldfastError
from .model_errors import MalformedAnswer, brief
from .placing import refusal

Check = Callable[[Mapping[str, Any], Any], None]
"""Takes the agent's state and the typed answer; raises a `HoldfastError` when the answer does not hold."""

_UNPARSED: Final = (StructuredOutputError, ValidationError, json.JSONDecodeError)
"""What clients and `create_agent` raise for an answer that has not the asked-for shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Why an answer is refused, and what the model is told: `said` goes back after its own words."""

    error: HoldfastError
    said: Sequence[BaseMessage]


class AnswerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Lets through tool calls, and typed answers that pass `check`.

    It lies around the model call, not behind it: an answer that is refused for good fails the
    model's own step, so that nothing of it is saved and a resumed run asks the model again (a journaled
    answer that was refused last is not answered from the record). A check behind the agent would find the
    same saved answer at every resume.
    """

    def __init__(self, check: Check | None = None, *, attempts: int = 3) -> None:
        """Check answers with `check`, asking at most `attempts` times (one or more)."""
        super().__init__()
        if attempts < 1:
            raise ValueError(f"attempts must be 1 or more, not {attempts}")
        self.check = check
        self.attempts = attempts

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        for attempt in range(1, self.attempts + 1):
            try:
                response = handler(request)
                complaint = self._judge(request, response)
            except _UNPARSED as error:
                response, complaint = None, _unparsed(error)
            if complaint is None and response is not None:
                return response
            if attempt == self.attempts and (refused := refusal(_why(complaint))) is not None:
                refused.now()
            request = self._again(request, complaint, attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        for attempt in range(1, self.attempts + 1):
            try:
                response = await handler(request)
                # A check may read the database, which blocks.
                complaint = await run_in_executor(None, self._judge, request, response)
            except _UNPARSED as error:
                response, complaint = None, _unparsed(error)
            if complaint is None and response is not None:
                return response
            if attempt == self.attempts and (refused := refusal(_why(complaint))) is not None:
                await refused.soon()
            request = self._again(request, complaint, attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _judge(self, request: ModelRequest[Any], response: ModelResponse[Any]) -> Complaint | None:
        if response.structured_response is None:
            return shape_complaint(response.result)
        try:
            if self.check is not None:
                self.check(request.state, response.structured_response)
        except HoldfastError as error:
            return Complaint(error=error, said=[*response.result, _told(error)])
        return None

    def _again(self, request: ModelRequest[Any], complaint: Complaint | None, attempt: int) -> ModelRequest[Any]:
        assert complaint is not None
        if attempt == self.attempts:
            raise complaint.error
        said: list[AnyMessage] = [*request.messages, *_answered(complaint.said)]  # type: ignore[list-item]  # AnyMessage is BaseMessage's closed union
        return request.override(messages=said)


def _why(complaint: Complaint | None) -> str:
    return str(complaint.error) if complaint is not None else ""


def shape_complaint(result: Sequence[BaseMessage]) -> Complaint | None:
    """What is wrong with a response that holds no typed answer; None when it calls tools.

    >>> shape_complaint([AIMessage("Sure, here it is.")]).error
    MalformedAnswer('the model answered in prose instead of the expected shape: Sure, here it is.')
    """
    last = result[-1]
    if isinstance(last, ToolMessage):  # create_agent's own answer to arguments that do not validate
        error = MalformedAnswer(f"the model's answer does not fit the expected shape: {brief(last.text)}")
        return Complaint(error=error, said=result)
    if isinstance(last, AIMessage) and last.tool_calls:
        return None
    if isinstance(last, AIMessage) and last.invalid_tool_calls:
        broken = last.invalid_tool_calls[0]
        error = MalformedAnswer(
            f"the model called {broken['name']} with arguments that are not JSON: {brief(broken['args'] or '')}"
        )
        return Complaint(error=error, said=[_told(error)])  # its own message could not be sent back
    error = MalformedAnswer(f"the model answered in prose instead of the expected shape: {brief(last.text)}")
    return Complaint(error=error, said=[*([last] if last.text else []), _told(error)])


def _unparsed(error: Exception) -> Complaint:
    named = MalformedAnswer(f"the model's answer does not fit the expected shape: {brief(str(error))}")
    named.__cause__ = error
    own: list[BaseMessage] = [error.ai_message] if isinstance(error, StructuredOutputError) else []
    own = [message for message in own if not getattr(message, "tool_calls", None)]  # would want tool results
    return Complaint(error=named, said=[*own, _told(named)])


def _answered(messages: Sequence[BaseMessage]) -> Iterator[BaseMessage]:
    """The messages, with a result for every tool call: providers refuse a request that leaves one open."""
    closed = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    for message in messages:
        yield message
        for call in message.tool_calls if isinstance(message, AIMessage) else []:
            if call["id"] not in closed:
                yield ToolMessage("Not called: the answer beside it was refused.", tool_call_id=call["id"] or "")


def _told(error: HoldfastError) -> HumanMessage:
    return HumanMessage(f"That answer cannot be used: {error}. Answer again.")
