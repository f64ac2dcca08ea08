"""What `is_transient` and `ModelErrorMiddleware` promise."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.structured_output import StructuredOutputValidationError
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Interrupt

from holdfast.checkpointing import HoldfastError
from holdfast.guardrails import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from holdfast.guardrails.model_errors import brief
from tests.support.scripted import ScriptedModel


class StatusError(Exception):
    """What clients raise: an error that carries an HTTP status."""

    def __init__(self, status_code: Any) -> None:
        super().__init__("the provider refused")
        self.status_code = status_code


class RateLimitError(StatusError):
    pass


class APIConnectionError(Exception):
    pass


class OverloadedError(Exception):
    pass


class ReadTimeout(Exception):
    pass


class Disguised(ReadTimeout):
    pass


class Stopped(GraphBubbleUp):
    pass


def agent(model: ScriptedModel, **options: Any) -> Any:
    return create_agent(model, [], middleware=[ModelErrorMiddleware()], **options)


def passed_through(error: Exception) -> BaseException:
    """What leaves the middleware when the model call raises `error`."""

    def handler(_: ModelRequest[Any]) -> ModelResponse[Any]:
        raise error

    request: ModelRequest[Any] = ModelRequest(model=ScriptedModel(script=[]), messages=[])
    with pytest.raises(type(error)) as caught:
        ModelErrorMiddleware().wrap_model_call(request, handler)
    return caught.value


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529, 599])
def test_a_status_that_may_pass_is_transient(status: int) -> None:
    assert is_transient(StatusError(status))


@pytest.mark.parametrize("status", [200, 301, 400, 401, 402, 403, 404, 413, 422, 499])
def test_a_status_that_stays_is_not_transient(status: int) -> None:
    assert not is_transient(StatusError(status))


def test_the_status_counts_more_than_the_name() -> None:
    assert not is_transient(RateLimitError(401))


def test_without_a_usable_status_the_name_counts() -> None:
    assert is_transient(RateLimitError(None))
    assert is_transient(RateLimitError("429"))
    assert not is_transient(StatusError(None))


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        APIConnectionError(),
        OverloadedError(),
        Disguised(),
        httpx.ConnectTimeout("slow"),
        json.JSONDecodeError("cut short", "{", 1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_class_or_base_class_named_for_a_passing_trouble_is_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_network_that_fails_is_transient(kind: type[httpx.TransportError]) -> None:
    """`ModelCallFailed.transient` promises "network"; a stream that is cut raises these from httpx itself."""
    assert is_transient(kind("the peer closed the connection"))


@pytest.mark.parametrize("error", [ValueError("Timeout"), KeyError("Connection"), KeyboardInterrupt(), Exception()])
def test_any_other_error_is_not_transient_whatever_its_text_says(error: BaseException) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("transient", [True, False])
def test_a_named_failure_keeps_its_own_verdict(transient: bool) -> None:
    assert is_transient(ModelCallFailed("connection lost", transient=transient)) is transient


@pytest.mark.parametrize(("error", "transient"), [(StatusError(503), True), (StatusError(401), False)])
async def test_a_clients_error_becomes_a_named_one_that_says_whether_to_try_again(
    error: StatusError, transient: bool
) -> None:
    with pytest.raises(
        ModelCallFailed, match=r"the call to scripted failed: StatusError: the provider refused"
    ) as sync:
        agent(ScriptedModel(script=[error])).invoke({"messages": "hello"})
    with pytest.raises(ModelCallFailed) as asynchronous:
        await agent(ScriptedModel(script=[error])).ainvoke({"messages": "hello"})
    for caught in (sync.value, asynchronous.value):
        assert caught.transient is transient
        assert caught.__cause__ is error


async def test_an_answer_passes_unchanged() -> None:
    for result in (
        agent(ScriptedModel(script=[AIMessage("hi")])).invoke({"messages": "hello"}),
        await agent(ScriptedModel(script=[AIMessage("hi")])).ainvoke({"messages": "hello"}),
    ):
        assert result["messages"][-1].text == "hi"


async def test_an_answer_of_the_wrong_shape_is_malformed_not_failed() -> None:
    error = StructuredOutputValidationError("Letter", ValueError("no subject"), AIMessage("{}"))
    with pytest.raises(MalformedAnswer, match="no subject") as caught:
        await agent(ScriptedModel(script=[error])).ainvoke({"messages": "hello"})
    assert caught.value.__cause__ is error


async def test_an_interrupt_inside_a_model_call_still_pauses_the_graph() -> None:
    for method in ("invoke", "ainvoke"):
        interrupt = GraphInterrupt((Interrupt(value="wait", id="one"),))
        paused = agent(ScriptedModel(script=[interrupt, AIMessage("done")]), checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": method}}
        result = getattr(paused, method)({"messages": "hello"}, config)
        result = result if method == "invoke" else await result
        assert [found.value for found in result["__interrupt__"]] == ["wait"]


@pytest.mark.parametrize("error", [Stopped("stop"), HoldfastError("named"), ModelCallFailed("lost", transient=True)])
def test_what_has_a_name_already_leaves_as_the_same_object_with_its_own_cause(error: Exception) -> None:
    error.__cause__ = cause = ValueError("the reason")
    left = passed_through(error)
    assert left is error
    assert left.__cause__ is cause


@pytest.mark.parametrize("error", [Stopped("stop"), HoldfastError("named")])
def test_no_error_becomes_its_own_cause(error: Exception) -> None:
    """Whoever walks the chain of causes would never come to its end."""
    assert passed_through(error).__cause__ is None


async def test_a_cancelled_call_stays_cancelled() -> None:
    with pytest.raises(KeyboardInterrupt):
        agent(ScriptedModel(script=[KeyboardInterrupt()])).invoke({"messages": "hello"})


def test_a_brief_text_is_one_line_of_limited_length() -> None:
    assert brief("a\n  b\tc") == "a b c"
    assert brief("x" * 300) == "x" * 300
    assert brief("x" * 301) == "x" * 299 + "\u2026"
