"""Step numbers are consecutive and unique, whatever happens between and within turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolCall, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command

from holdfast.guardrails.steps import StepTrackerMiddleware
from holdfast.guardrails.steps_count import KEY, CallNotFound, Steps, count_of, furthest, place_of
from holdfast.guardrails.steps_text import with_line
from tests.support.scripted import ScriptedModel
from tests.support.steps import asking, steps

CONFIG: Final[Any] = {"configurable": {"thread_id": "t"}}


@dataclass(frozen=True)
class Turn:
    """A turn of the model, and what happens to it."""

    calls: int
    broken: frozenset[int]
    """Places of calls that fail at the first attempt; the run is then resumed."""
    forget: bool
    """All messages are removed before the next turn."""


turns = st.integers(1, 5).flatmap(
    lambda calls: st.builds(Turn, st.just(calls), st.frozensets(st.integers(0, calls - 1)), st.booleans())
)
threads = st.lists(st.lists(turns, max_size=4), min_size=1, max_size=3)


class Forgetful(AgentMiddleware[Any, Any, Any]):
    """Replaces the conversation by a summary before those model calls for which it is told so."""

    def __init__(self, forget: list[bool]) -> None:
        super().__init__()
        self._forget = iter(forget)

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if not next(self._forget, False):
            return None
        return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("what was before, in short")]}


class Shown(AgentMiddleware[Any, Any, Any]):
    """Keeps all results that the agent's state ever had."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, ToolMessage] = {}

    def before_model(self, state: Any, runtime: Any) -> None:
        self.results |= {message.id or "": message for message in state["messages"] if isinstance(message, ToolMessage)}


@settings(max_examples=60, deadline=None)
@given(threads, st.sampled_from(["run", "thread"]))
def test_any_thread_of_an_agent(runs: list[list[Turn]], per: Any) -> None:
    """Any number of calls in any number of turns, with crashes, resumes and summaries between them."""
    broken = {f"{run}.{at}.{place}" for run, of in enumerate(runs) for at, one in enumerate(of) for place in one.broken}

    @tool
    def look(word: str) -> str:
        """Look."""
        if word in broken:
            broken.remove(word)
            raise ConnectionError(word)
        return word

    said = [
        [*(asking(one.calls, f"{run}.{at}") for at, one in enumerate(of)), AIMessage("done")]
        for run, of in enumerate(runs)
    ]
    forgotten = [forget for of in runs for forget in (False, *(one.forget for one in of))]
    shown = Shown()
    agent: Any = create_agent(
        ScriptedModel(script=[message for of in said for message in of]),
        [look],
        middleware=[StepTrackerMiddleware(10_000, per=per), shown, Forgetful(forgotten)],
        checkpointer=InMemorySaver(),
    )
    for run in range(len(runs)):
        given: Any = {"messages": [HumanMessage(f"run {run}")]}
        while True:
            try:
                agent.invoke(given, CONFIG)
            except ConnectionError:
                given = None
            else:
                break
    assert not broken
    began = 0
    for run, of in enumerate(runs):
        of_run = [one for one in shown.results.values() if one.tool_call_id.startswith(f"call_{run}.")]
        numbers = {message.tool_call_id: steps([message]) for message in of_run}
        # In the order in which the model asked for them.
        asked = [f"call_{run}.{at}.{place}" for at, one in enumerate(of) for place in range(one.calls)]
        expected = range(began + 1, began + len(asked) + 1)
        assert [numbers[call] for call in asked] == [[number] for number in expected]
        assert len(of_run) == len(asked)
        began = expected.stop - 1 if per == "thread" else 0


@given(
    st.lists(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), max_size=3), min_size=1, max_size=3),
    st.data(),
    st.sampled_from(["run", "thread"]),
)
def test_any_messages_without_a_count_of_their_own(runs: list[list[list[bool]]], data: st.DataObject, per: Any) -> None:
    """In a hand-made graph the numbers come from results that are left; some of a turn's calls are made later."""
    messages: list[AnyMessage] = []
    for number, run in enumerate(runs):
        messages.append(HumanMessage("begin"))
        shown: list[int] = []
        for turn, first in enumerate(run):
            asked = asking(len(first), f"{number}.{turn}")
            messages.append(asked)
            for now in (True, False):
                calls = [call for call, at_once in zip(asked.tool_calls, first, strict=True) if at_once is now]
                shuffled: list[ToolCall] = data.draw(st.permutations(calls))
                results = [made(call, messages, per) for call in shuffled]
                assert [steps([result]) for result in results] == [
                    steps([made(call, messages, per)]) for call in shuffled
                ]
                messages += results
                shown += steps(results)
            # As a summary does: whole turns go, the newest stays.
            messages = data.draw(st.sampled_from([messages, messages[-1 - len(first) :]]))
        began = 0 if per == "run" else sum(len(first) for earlier in runs[:number] for first in earlier)
        assert sorted(shown) == list(range(began + 1, began + sum(map(len, run)) + 1))


def made(call: ToolCall, messages: list[AnyMessage], per: Any) -> ToolMessage:
    """The result of a call, with its number."""
    place = place_of(call, {"messages": messages}, key="messages", per=per)
    return with_line(ToolMessage("x", tool_call_id=call["id"] or ""), f"[Step {place.step}/99]", place.mark)


def count_in(steps: Steps) -> tuple[int, int]:
    """What is behind."""
    return steps.get("made", 0), steps.get("began", 0)


counts: st.SearchStrategy[Any] = st.dictionaries(st.sampled_from(["made", "began"]), st.integers(0, 9))


@given(counts, counts, counts)
def test_counts_never_go_back(one: Steps, two: Steps, three: Steps) -> None:
    """Parallel calls may report in any order, and twice."""
    assert furthest(one, two) == furthest(two, one)
    assert furthest(furthest(one, two), three) == furthest(one, furthest(two, three))
    assert furthest(one, one) == one
    before, after = count_in(one), count_in(furthest(one, two))
    assert after >= before
    assert after[1] >= before[1]


def test_what_a_person_rejects_is_no_step() -> None:
    """A call that is answered without being made leaves no gap in the numbers."""

    @tool
    def look(word: str) -> str:
        """Look."""
        return word

    agent: Any = create_agent(
        ScriptedModel(script=[asking(3), asking(1, 1), AIMessage("done")]),
        [look],
        middleware=[
            StepTrackerMiddleware(10),
            HumanInTheLoopMiddleware(interrupt_on={"look": {"allowed_decisions": ["approve", "reject"]}}),
        ],
        checkpointer=InMemorySaver(),
    )
    agent.invoke({"messages": [HumanMessage("begin")]}, CONFIG)
    decisions = [{"type": "approve"}, {"type": "reject", "message": "no"}, {"type": "approve"}]
    agent.invoke(Command(resume={"decisions": decisions}), CONFIG)
    state = agent.invoke(Command(resume={"decisions": decisions[:1]}), CONFIG)
    numbers = {message.tool_call_id: steps([message]) for message in state["messages"] if message.type == "tool"}
    assert numbers == {"call_0.0": [1], "call_0.1": [], "call_0.2": [2], "call_1.0": [3]}


def test_a_call_that_is_made_again_has_its_number() -> None:
    """One that has an answer with a number keeps it; one that has an answer without comes after those without."""
    asked = asking(3)
    first = made(asked.tool_calls[0], [asked], "thread")
    messages: list[AnyMessage] = [asked, first, ToolMessage("rejected", tool_call_id="call_0.1")]
    assert [steps([made(call, messages, "thread")]) for call in asked.tool_calls] == [[1], [3], [2]]


def test_the_same_ids_in_each_turn() -> None:
    """A provider that numbers calls from zero in every turn does not mix them up."""
    messages: list[AnyMessage] = []
    for turn in range(2):
        asked = asking(2)
        messages.append(asked)
        results = [made(call, messages, "run") for call in asked.tool_calls]
        assert steps(results) == [2 * turn + 1, 2 * turn + 2]
        messages += results


def test_calls_that_the_provider_made_itself_are_no_steps() -> None:
    """Nor are those whose arguments could not be read."""
    asked = AIMessage(
        [{"type": "server_tool_call", "name": "web_search", "args": {}, "id": "s"}],
        tool_calls=asking(1).tool_calls,
        invalid_tool_calls=[{"type": "invalid_tool_call", "name": "look", "args": "{", "id": "i", "error": "no JSON"}],
    )
    assert steps([made(asked.tool_calls[0], [asked], "run")]) == [1]


@pytest.mark.parametrize("shape", ["list", "object"])
def test_other_shapes_of_state(shape: str) -> None:
    """A state may be the messages, or an object that has them."""

    @dataclass
    class State:
        talk: list[AnyMessage]

    asked = asking(2)
    messages: list[AnyMessage] = [asked]
    state: Any = messages if shape == "list" else State(messages)
    assert place_of(asked.tool_calls[1], state, key="talk", per="run").step == 2
    assert count_of(state, key="talk", per="run").step == 0


def test_the_states_own_count_goes_first() -> None:
    """Results of other agents may be among the messages."""
    asked, foreign = asking(1), asking(9, "foreign")
    messages: list[AnyMessage] = [foreign]
    messages += [made(call, [foreign], "run") for call in foreign.tool_calls]
    state = {"messages": [*messages, asked], KEY: Steps(made=4, began=3)}
    assert place_of(asked.tool_calls[0], state, key="messages", per="run").step == 2
    assert place_of(asked.tool_calls[0], state, key="messages", per="thread").step == 5


@pytest.mark.parametrize("state", [{}, {"messages": []}, {"messages": [asking(1, "other")]}, []])
def test_a_call_that_nobody_asked_for(state: Any) -> None:
    """It cannot be told which step it is, and it is not made."""
    with pytest.raises(CallNotFound, match=r"under 'messages' in the state asks for this call of look"):
        place_of(asking(1).tool_calls[0], state, key="messages", per="run")
