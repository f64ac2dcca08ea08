"""What `AnswerMiddleware` promises, in a real agent."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field
from typing_extensions import TypedDict

from holdfast.checkpointing import HoldfastError
from holdfast.guardrails import AnswerMiddleware, MalformedAnswer, ModelErrorMiddleware
from tests.support.scripted import ScriptedModel, calling, unanswered


class Verdict(TypedDict):
    """A verdict."""

    word: str
    count: Annotated[int, Field(ge=1)]


class TooLow(HoldfastError):
    """The check's own error."""


@tool
def lookup(word: str) -> str:
    """Look a word up."""
    return f"{word} means something"


def at_least_three(_: Mapping[str, Any], answer: Verdict) -> None:
    if answer["count"] < 3:
        raise TooLow(f"{answer['count']} is too low")


def verdict(count: Any = 3) -> AIMessage:
    return calling(("Verdict", {"word": "yes", "count": count}))


def broken_json() -> AIMessage:
    broken = {"type": "invalid_tool_call", "name": "Verdict", "args": '{"word": "y', "id": "call_0", "error": "JSON"}
    return AIMessage("", invalid_tool_calls=[broken])  # type: ignore[list-item]


GOOD = {"word": "yes", "count": 3}
BAD: dict[str, Callable[[], AIMessage | Exception]] = {
    "prose": lambda: AIMessage("Sure, the word is yes."),
    "silence": lambda: AIMessage(""),
    "arguments that are not JSON": broken_json,
    "wrong type": lambda: verdict("three"),
    "out of range": lambda: verdict(0),
    "missing field": lambda: calling(("Verdict", {"word": "yes"})),
    "two answers at once": lambda: calling(("Verdict", GOOD), ("Verdict", GOOD)),
    "a client that cannot parse it": lambda: json.JSONDecodeError("Expecting value", "{", 1),
}

Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(params=["invoke", "ainvoke"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Runs an agent, once as a sync caller does and once as an async one."""

    async def run(agent: Any, given: Any = "judge", thread: str = "t") -> dict[str, Any]:
        given = given and {"messages": given}
        result = getattr(agent, request.param)(given, {"configurable": {"thread_id": thread}})
        return result if request.param == "invoke" else await result

    return run


def judge(model: ScriptedModel, check: Any = None, attempts: int = 3, **options: Any) -> Any:
    return create_agent(
        model,
        [lookup],
        response_format=Verdict,
        middleware=[ModelErrorMiddleware(), AnswerMiddleware(check, attempts=attempts)],
        **options,
    )


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_is_put_back_once_and_the_good_one_taken(ask: Ask, bad: Callable[[], AIMessage]) -> None:
    model = ScriptedModel(script=[bad(), verdict()])
    assert (await ask(judge(model)))["structured_response"] == GOOD
    assert len(model.requests) == 2


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_an_answer_that_never_fits_is_malformed_after_exactly_the_attempts(
    ask: Ask, bad: Callable[[], AIMessage]
) -> None:
    model = ScriptedModel(script=[bad() for _ in range(5)])
    with pytest.raises(MalformedAnswer):
        await ask(judge(model, attempts=4))
    assert len(model.requests) == 4


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_what_goes_back_names_the_trouble_and_leaves_no_tool_call_open(
    ask: Ask, bad: Callable[[], AIMessage]
) -> None:
    model = ScriptedModel(script=[bad(), verdict()])
    await ask(judge(model))
    first, second = model.requests
    assert second[: len(first)] == first
    assert isinstance(second[-1], (HumanMessage, ToolMessage))
    assert second[-1].text
    assert unanswered(second) == set()


@pytest.mark.parametrize("count", [0, 1], ids=["an answer of the wrong shape", "an answer that fails the check"])
async def test_a_tool_called_beside_a_refused_answer_is_not_left_open_either(ask: Ask, count: int) -> None:
    """Providers refuse a request in which a tool call has no result."""
    model = ScriptedModel(
        script=[calling(("lookup", {"word": "yes"}), ("Verdict", {"word": "yes", "count": count})), verdict()]
    )
    assert (await ask(judge(model, at_least_three)))["structured_response"] == GOOD
    assert unanswered(model.requests[-1]) == set()


async def test_an_answer_that_fails_the_check_goes_back_with_the_reason(ask: Ask) -> None:
    model = ScriptedModel(script=[verdict(1), verdict(2), verdict(3)])
    assert (await ask(judge(model, at_least_three)))["structured_response"] == GOOD
    assert [request[-1].text for request in model.requests[1:]] == [
        "That answer cannot be used: 1 is too low. Answer again.",
        "That answer cannot be used: 2 is too low. Answer again.",
    ]
    assert unanswered(model.requests[-1]) == set()


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_an_answer_that_never_holds_raises_the_checks_own_error_after_exactly_the_attempts(
    ask: Ask, attempts: int
) -> None:
    model = ScriptedModel(script=[verdict(1) for _ in range(attempts + 1)])
    with pytest.raises(TooLow, match="1 is too low"):
        await ask(judge(model, at_least_three, attempts))
    assert len(model.requests) == attempts


async def test_tool_calls_are_let_through_and_their_turns_are_no_attempts(ask: Ask) -> None:
    calls = [calling(("lookup", {"word": word})) for word in "abc"]
    model = ScriptedModel(script=[*calls, verdict()])
    result = await ask(judge(model, at_least_three, attempts=1))
    assert [m.text for m in result["messages"] if isinstance(m, ToolMessage) and m.name == "lookup"] == [
        "a means something",
        "b means something",
        "c means something",
    ]
    assert result["structured_response"] == GOOD


async def test_each_turn_has_its_own_attempts(ask: Ask) -> None:
    model = ScriptedModel(script=[AIMessage("hm"), calling(("lookup", {"word": "a"})), AIMessage("hm"), verdict()])
    assert (await ask(judge(model, attempts=2)))["structured_response"] == GOOD


async def test_the_check_sees_the_agents_state(ask: Ask) -> None:
    seen: list[str] = []

    def check(state: Mapping[str, Any], _: Verdict) -> None:
        seen.append(state["messages"][0].text)

    await ask(judge(ScriptedModel(script=[verdict()]), check))
    assert seen == ["judge"]


async def test_a_resumed_thread_asks_the_model_again_and_can_succeed(ask: Ask) -> None:
    model = ScriptedModel(script=[verdict(1), verdict(2), verdict(3)])
    agent = judge(model, at_least_three, attempts=2, checkpointer=InMemorySaver())
    with pytest.raises(TooLow):
        await ask(agent)
    assert len(model.requests) == 2
    result = await ask(agent, None)
    assert result["structured_response"] == GOOD
    assert len(model.requests) == 3


async def test_nothing_of_a_refused_answer_is_kept_in_the_thread(ask: Ask) -> None:
    model = ScriptedModel(script=[AIMessage("prose"), verdict(1), verdict(3)])
    agent = judge(model, at_least_three, attempts=2, checkpointer=InMemorySaver())
    with pytest.raises(TooLow):
        await ask(agent)
    result = await ask(agent, None)
    assert [type(message) for message in result["messages"]] == [HumanMessage, AIMessage, ToolMessage]


async def test_a_resumed_thread_gets_the_full_number_of_attempts_again(ask: Ask) -> None:
    model = ScriptedModel(script=[AIMessage("prose") for _ in range(5)] + [verdict()])
    agent = judge(model, attempts=2, checkpointer=InMemorySaver())
    for given in ("judge", None):
        with pytest.raises(MalformedAnswer):
            await ask(agent, given)
    assert len(model.requests) == 4


async def test_a_check_runs_off_the_event_loop() -> None:
    """It may read the database, and a server's loop must not wait for that."""
    threads: list[int] = []

    def check(_: Mapping[str, Any], __: Verdict) -> None:
        threads.append(threading.get_ident())

    await judge(ScriptedModel(script=[verdict()]), check).ainvoke({"messages": "judge"})
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_malformed_answer_says_what_the_client_could_not_parse(ask: Ask) -> None:
    error = json.JSONDecodeError("Expecting value", "{", 1)
    with pytest.raises(MalformedAnswer, match="Expecting value") as caught:
        await ask(judge(ScriptedModel(script=[error]), attempts=1))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempts_at_all_are_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match=f"attempts must be 1 or more, not {attempts}"):
        AnswerMiddleware(attempts=attempts)
