"""What a provider's client raises becomes one named error that says whether to try again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import StructuredOutputError
from langgraph.errors import GraphBubbleUp, NodeTimeoutError

from ..checkpointing.errors import HoldfastError

_TRANSIENT_STATUS: Final = frozenset({408, 409, 425, 429})
_TRANSIENT_NAMES: Final = ("Timeout", "Connect", "TransportError", "RateLimit", "Overloaded", "JSONDecode")
"""The last is a body cut short on its way: no client that was tried retries it by itself."""
_EMPTY_STREAM: Final = "No generation"
"""How langchain-core's plain ValueError for a stream that broke off before its first token begins."""


class ModelCallFailed(HoldfastError):
    """A call to a model did not come back with a usable answer.

    Attributes:
        transient: the same call may well succeed later (rate limit, overload, network).
    """

    def __init__(self, message: str, *, transient: bool) -> None:
        self.transient: Final = transient
        super().__init__(message)


class MalformedAnswer(HoldfastError):
    """A model answered, but not in the shape that was asked for."""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later; made for `RetryPolicy(retry_on=is_transient)`.

    Every provider's client has errors of its own; what they share is an HTTP status, or a class
    whose name says timeout, connection or rate limit.

    >>> is_transient(TimeoutError()), is_transient(KeyError("key"))
    (True, False)
    """
    if isinstance(error, ModelCallFailed):
        return error.transient
    if isinstance(error, NodeTimeoutError):
        return False  # a limit on a stage that starts the stage again would be none
    if str(error).startswith(_EMPTY_STREAM):
        return True
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status in _TRANSIENT_STATUS or status >= 500  # noqa: PLR2004 - HTTP's own boundary
    return any(word in kind.__name__ for kind in type(error).__mro__ for word in _TRANSIENT_NAMES)


class ModelErrorMiddleware(AgentMiddleware[Any, Any, Any]):
    """Turns any exception of a model call into `ModelCallFailed` or `MalformedAnswer`.

    Put it first: what stands outermost sees an error after retries and fallbacks have had theirs.
    """

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        try:
            return handler(request)
        except (GraphBubbleUp, HoldfastError):
            raise
        except Exception as error:
            raise _named(error, request) from error

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        try:
            return await handler(request)
        except (GraphBubbleUp, HoldfastError):
            raise
        except Exception as error:
            raise _named(error, request) from error


def _named(error: Exception, request: ModelRequest[Any]) -> HoldfastError:
    if isinstance(error, StructuredOutputError):
        return MalformedAnswer(f"the model's answer does not fit the expected shape: {brief(str(error))}")
    model = getattr(request.model, "model_name", None) or type(request.model).__name__
    kind = type(error).__name__
    return ModelCallFailed(f"the call to {model} failed: {kind}: {brief(str(error))}", transient=is_transient(error))


def brief(text: str, limit: int = 300) -> str:
    """A text on one line, cut at `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"
