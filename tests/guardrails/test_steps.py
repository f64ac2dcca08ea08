"""What `StepTrackerMiddleware` promises, in real agents and hand-made graphs."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any, Final

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field

from holdfast.checkpointing import Database
from holdfast.guardrails import AnswerMiddleware, JournalMiddleware
from holdfast.guardrails.runway import Runway, note_runway
from holdfast.guardrails.steps import StepTrackerMiddleware
from holdfast.guardrails.steps_count import KEY, CallNotFound, StepState
from holdfast.guardrails.wrapping_up import PARTIAL, ended, partial_of, without_tools
from holdfast.nodes import each_call, tool_node
from tests.support.scripted import ScriptedModel, calling, unanswered
from tests.support.steps import TurnsModel, asking, steps

BEGIN: Final[dict[str, Any]] = {"messages": [("user", "begin")]}
CONFIG: Final[Any] = {"configurable": {"thread_id": "steps"}}

Run = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a graph, once as a sync caller does and once as an async one."""

    async def begin(graph: Any, given: Any = BEGIN) -> Any:
        result = getattr(graph, request.param)(given, CONFIG)
        return result if request.param == "invoke" else await result

    return begin


class Looks:
    """A tool, and what it was called with."""

    def __init__(self) -> None:
        self.words: list[str] = []

    @property
    def tool(self) -> StructuredTool:
        async def alook(word: str) -> str:
            return self._look(word)

        return StructuredTool.from_function(self._look, alook, name="look", description="Look.")

    def _look(self, word: str) -> str:
        self.words.append(word)
        return f"saw {word}"


class Verdict(BaseModel):
    """A verdict."""

    word: str
    count: int = Field(ge=1)


def results(state: Any) -> list[ToolMessage]:
    """The tool results of a run."""
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def scripted(*script: AIMessage) -> ScriptedModel:
    return ScriptedModel(script=script)


async def test_every_result_says_its_step(run: Run) -> None:
    """In an agent without a checkpointer, too, and with warnings as the end comes near."""
    looks = Looks()
    agent: Any = create_agent(TurnsModel(turns=[8, 1, 1]), [looks.tool], middleware=[StepTrackerMiddleware(10)])
    said = [message.text for message in results(await run(agent))]
    assert said[0] == "saw 1.0.0\n\n[Step 1/10]"
    assert said[7] == "saw 1.0.7\n\n[Step 8/10] LOW: 2 steps left, plan the ending"
    assert said[8] == "saw 1.1.0\n\n[Step 9/10] CRITICAL: 1 step left, wrap up now"
    assert said[9] == "saw 1.2.0\n\n[Step 10/10] CRITICAL: 0 steps left, wrap up now"


@pytest.mark.parametrize("per", ["run", "thread"])
async def test_a_second_run(per: Any, run: Run) -> None:
    """It begins at one again, or goes on where the thread was."""
    agent: Any = create_agent(
        TurnsModel(turns=[2]),
        [Looks().tool],
        middleware=[StepTrackerMiddleware(10, per=per)],
        checkpointer=InMemorySaver(),
    )
    await run(agent)
    state = await run(agent)
    assert steps(state["messages"]) == ([1, 2, 1, 2] if per == "run" else [1, 2, 3, 4])
    assert KEY not in state


async def test_a_resumed_run_is_the_same_run(run: Run) -> None:
    """What was interrupted goes on with its own numbers."""

    @tool
    def look(word: str) -> str:
        """Look, and ask."""
        return str(interrupt(word)) if word == "1.1.1" else word

    agent: Any = create_agent(
        TurnsModel(turns=[2, 3]), [look], middleware=[StepTrackerMiddleware(10)], checkpointer=InMemorySaver()
    )
    await run(agent)
    state = await run(agent, Command(resume="told"))
    assert {message.tool_call_id: steps([message]) for message in results(state)} == {
        "call_1.0.0": [1],
        "call_1.0.1": [2],
        "call_1.1.0": [3],
        "call_1.1.1": [4],
        "call_1.1.2": [5],
    }


async def test_the_limit(run: Run) -> None:
    """Calls beyond it are not made; one turn without tools follows, and its answer is marked as partial."""
    looks = Looks()
    model = TurnsModel(turns=[3, 5, 5, 5])
    agent: Any = create_agent(model, [looks.tool], middleware=[StepTrackerMiddleware(4)], checkpointer=InMemorySaver())
    state = await run(agent)
    assert sorted(looks.words) == ["1.0.0", "1.0.1", "1.0.2", "1.1.0"]
    assert [model.asked[turn] for turn in range(3)] == [["look"], ["look"], []]
    assert len(model.asked) == 3
    assert sorted(steps(state["messages"])) == [1, 2, 3, 4]
    refused = [message for message in results(state) if message.status == "error"]
    assert [message.tool_call_id for message in refused] == [f"call_1.1.{at}" for at in range(1, 5)]
    assert {message.text for message in refused} == {
        "Not called: the limit of 4 tool calls in this run is reached. No further tool can be called."
    }
    # The model asked for tools that it was not offered; the agent ends all the same, and the thread can go on.
    last = state["messages"][-1]
    assert (last.text, last.tool_calls) == ("the limit of 4 tool calls in this run is reached.", [])
    assert last.response_metadata[PARTIAL] == "the limit of 4 tool calls in this run is reached"
    assert not unanswered(state["messages"])


async def test_the_last_turn_is_told_and_kept(run: Run) -> None:
    """The model is told that it is its last turn, and its words are kept; what it was told is not."""
    blocks: Any = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "one of two is done"}]
    model = scripted(
        asking(2), AIMessage(blocks, usage_metadata={"input_tokens": 5, "output_tokens": 2, "total_tokens": 7})
    )
    agent: Any = create_agent(
        model, [Looks().tool], middleware=[StepTrackerMiddleware(2)], checkpointer=InMemorySaver()
    )
    state = await run(agent)
    assert "this is your last turn: you have no tools any more" in model.requests[1][-1].text
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    last = state["messages"][-1]
    assert (last.content, last.usage_metadata["total_tokens"]) == (blocks, 7)
    assert partial_of(state["messages"]) == "the limit of 2 tool calls in this run is reached"


def test_the_last_request() -> None:
    """It has no tools, nor what providers refuse in a request without; all else is kept, and nothing changed."""
    settings = {"parallel_tool_calls": False, "tool_choice": "any", "temperature": 0}
    asked: list[Any] = [HumanMessage("begin")]
    request: ModelRequest[Any] = ModelRequest(
        model=scripted(), messages=asked, tools=[Looks().tool], tool_choice="any", model_settings=settings
    )
    last = without_tools(request, "this is the end")
    assert (last.tools, last.tool_choice, last.model_settings) == ([], None, {"temperature": 0})
    assert [message.text for message in last.messages] == ["begin", "this is the end"]
    assert (len(request.tools), len(asked), len(settings)) == (1, 1, 3)


def test_calls_that_could_not_be_read_in_the_last_answer() -> None:
    """The thread does not keep them: a provider would want their results in the next run."""
    broken: Any = {"type": "invalid_tool_call", "name": "look", "args": "{", "id": "i", "error": "no JSON"}
    block: Any = [{"type": "text", "text": "half"}, {"type": "tool_use", "id": "i", "name": "look", "input": {}}]
    answer = AIMessage(block, id="1", invalid_tool_calls=[broken])
    closed: Any = ended(ModelResponse(result=[answer]), "the limit is reached").result
    assert closed == [AIMessage("half", id="1", response_metadata={PARTIAL: "the limit is reached"})]


async def test_a_spent_thread(run: Run) -> None:
    """A new run on it has one turn, and that one is partial; a run of an agent that counts by runs is whole."""
    for per, calls in (("thread", [1]), ("run", [1, 1])):
        model = TurnsModel(turns=[1])
        tracker = StepTrackerMiddleware(1 if per == "thread" else 2, per=per)  # type: ignore[arg-type]  # a Literal
        agent: Any = create_agent(model, [Looks().tool], middleware=[tracker], checkpointer=InMemorySaver())
        await run(agent)
        state = await run(agent)
        assert steps(state["messages"]) == calls
        assert (partial_of(state["messages"]) is None) == (per == "run")
        assert len(model.asked) == (3 if per == "thread" else 4)


def verdict(count: Any = 3) -> AIMessage:
    return calling(("Verdict", {"word": "yes", "count": count}))


@pytest.mark.parametrize("strays", [0, 1])
async def test_a_typed_answer_that_is_owed(strays: int, run: Run) -> None:
    """It can be given in the last turn, and is marked; tools called beside it are not called."""
    looks = Looks()
    answer = verdict()
    answer.tool_calls = [*answer.tool_calls, *asking(strays, "stray").tool_calls]
    model = scripted(asking(1), answer)
    agent: Any = create_agent(
        model, [looks.tool], middleware=[StepTrackerMiddleware(1)], response_format=ToolStrategy(Verdict)
    )
    state = await run(agent)
    assert state["structured_response"] == Verdict(word="yes", count=3)
    assert partial_of(state["messages"]) is not None
    assert looks.words == ["0.0"]
    assert len(model.requests) == 2
    assert not unanswered(state["messages"])


async def test_a_typed_answer_is_no_step(run: Run) -> None:
    """Nor is one that did not validate and was asked for again."""
    model = scripted(asking(1), verdict(0), asking(1, 1), verdict())
    agent: Any = create_agent(
        model, [Looks().tool], middleware=[StepTrackerMiddleware(9)], response_format=ToolStrategy(Verdict)
    )
    state = await run(agent)
    assert steps(state["messages"]) == [1, 2]
    assert partial_of(state["messages"]) is None


async def test_a_typed_answer_that_does_not_validate(run: Run) -> None:
    """In the last turn it is not asked for again, unless there is middleware inside that does."""
    for inside, requests, given in (([], 2, None), ([AnswerMiddleware()], 3, Verdict(word="yes", count=3))):
        model = scripted(asking(1), verdict(0), verdict())
        agent: Any = create_agent(
            model,
            [Looks().tool],
            middleware=[StepTrackerMiddleware(1), *inside],
            response_format=ToolStrategy(Verdict),
        )
        state = await run(agent)
        assert len(model.requests) == requests
        assert state.get("structured_response") == given
        assert [message.type for message in state["messages"]][3:] == (["ai", "tool"] if inside else ["ai"])
        assert partial_of(state["messages"]) == "the limit of 1 tool call in this run is reached"
        assert not unanswered(state["messages"])


class Noting(AgentMiddleware[Any, Any, Any]):
    """Keeps a note of each model call in the state."""

    class State(AgentState[Any]):
        notes: Annotated[list[str], operator.add]

    state_schema = State

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return ExtendedModelResponse(handler(request), Command(update={"notes": ["called"]}))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return ExtendedModelResponse(await handler(request), Command(update={"notes": ["called"]}))


@pytest.mark.parametrize("first", [True, False])
async def test_beside_middleware_that_writes_to_the_state(first: bool, run: Run) -> None:
    """Both updates are kept, whichever of the two is outermost, in the last turn, too."""
    model = TurnsModel(turns=[2, 2], profile={"max_input_tokens": 1_000})
    order = [StepTrackerMiddleware(3), Noting()]
    agent: Any = create_agent(
        model, [Looks().tool], middleware=order if first else order[::-1], checkpointer=InMemorySaver()
    )
    state = await run(agent)
    assert state["notes"] == ["called"] * 3
    assert sorted(steps(state["messages"])) == [1, 2, 3]
    assert (await agent.aget_state(CONFIG)).values[KEY] == {"began": 0, "made": 3, "window": 1_000}


class Words(AgentState[Any]):
    words: Annotated[list[str], operator.add]


@tool
def as_blocks(word: str) -> list[Any]:
    """Blocks."""
    return [{"type": "text", "text": word}]


@tool
def as_command(word: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """A command."""
    return Command(update={"words": [word], "messages": [ToolMessage(word, tool_call_id=tool_call_id)]})


@tool
def as_list(word: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """A list."""
    return [Command(update={"words": [word]}), ToolMessage(word, tool_call_id=tool_call_id)]


@tool
def as_error(word: str) -> str:
    """Has its arguments refused."""
    return word


async def test_whatever_a_tool_returns(run: Run) -> None:
    """Text, blocks, commands, lists and errors all end with the line, and what they do to the state is done."""
    names = ["as_blocks", "as_command", "as_list"]
    model = scripted(
        calling(*((name, {"word": name}) for name in names), ("as_error", {"word": 3}), ("unknown", {})),
        AIMessage("done"),
    )
    agent: Any = create_agent(
        model, [as_blocks, as_command, as_list, as_error], middleware=[StepTrackerMiddleware(99)], state_schema=Words
    )
    state = await run(agent)
    said = sorted(results(state), key=lambda message: message.tool_call_id)
    assert [message.text.splitlines()[-1].rpartition("[")[2] for message in said] == [
        f"Step {number}/99]" for number in range(1, 6)
    ]
    assert [message.status for message in said] == ["success"] * 3 + ["error"] * 2
    assert said[0].content == [{"type": "text", "text": "as_blocks"}, {"type": "text", "text": "[Step 1/99]"}]
    assert sorted(state["words"]) == ["as_command", "as_list"]


@pytest.fixture
def little_money() -> Iterator[None]:
    """The thread has little money left."""
    note_runway("steps", Runway("tenant:acme", "usd", "hour", Decimal(5), Decimal("4.25")))
    yield
    note_runway("steps", None)


@pytest.mark.usefixtures("little_money")
async def test_money_and_context_window(run: Run) -> None:
    """The line has both where they are known, and the scarcest of the three decides."""
    usage: Any = {"input_tokens": 700, "output_tokens": 5, "total_tokens": 705}
    asked = asking(1)
    asked.usage_metadata = usage
    for profile, given in (({"max_input_tokens": 1_000}, None), (None, 1_000), ({"max_input_tokens": 7}, 1_000)):
        model = ScriptedModel(script=[asked.model_copy(update={"id": None}), AIMessage("done")], profile=profile)  # type: ignore[arg-type]  # a dict
        agent: Any = create_agent(model, [Looks().tool], middleware=[StepTrackerMiddleware(50, context_window=given)])
        said = results(await run(agent))[0].text
        assert said.endswith(
            "[Step 1/50] LOW: 49 steps left, $0.7500 of $5.00 left this hour, "
            "30% of the context window left, plan the ending"
        )


async def test_the_journal_answers_inside(run: Run, db: Database) -> None:
    """A call that is answered from the record has the line once, and the same number."""
    failed: list[str] = []
    looks = Looks()

    class Failing(AgentMiddleware[Any, Any, Any]):
        """Fails outside the journal, once, after each call was recorded."""

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            return self._failed(request, handler(request))

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            return self._failed(request, await handler(request))

        def _failed(self, request: Any, result: Any) -> Any:
            if (word := request.tool_call["args"]["word"]) not in failed:
                failed.append(word)
                raise ConnectionError(word)
            return result

    agent: Any = create_agent(
        TurnsModel(turns=[3]),
        [looks.tool],
        middleware=[StepTrackerMiddleware(9), Failing(), JournalMiddleware()],
        checkpointer=db.saver,
    )
    given: Any = BEGIN
    state: Any = None
    while state is None:
        try:
            state = await run(agent, given)
        except ConnectionError:
            given = None
    assert {message.tool_call_id: steps([message]) for message in results(state)} == {
        f"call_1.0.{at}": [at + 1] for at in range(3)
    }
    assert sorted(looks.words) == ["1.0.0", "1.0.1", "1.0.2"]


class Counted(MessagesState, StepState):
    """The state of a hand-made graph that counts."""


def hand_made(kind: str, tracker: StepTrackerMiddleware, looks: Looks, saver: Any, turns: list[int], key: str) -> Any:
    """A graph of a model, its tools, and what the tracker says of when to go on without them."""
    model = TurnsModel(turns=turns)

    def ask(state: Any) -> Any:
        offered = model if tracker.spent(state) else model.bind_tools([looks.tool])
        answer = offered.invoke(state[key])
        return {key: [AIMessage("spent") if tracker.spent(state) else answer]}

    async def aask(state: Any) -> Any:
        return ask(state)

    schema: Any = {"counting": Counted, "plain": MessagesState, "stock": MessagesState}[kind]
    builder = StateGraph(schema).add_node("model", RunnableLambda(ask, aask)).add_edge(START, "model")
    if kind == "stock":
        node = ToolNode([looks.tool], wrap_tool_call=tracker.wrap_tool_call, awrap_tool_call=tracker.awrap_tool_call)
        builder.add_node("tools", node).add_conditional_edges("model", tools_condition)
    else:
        builder.add_node("tools", tool_node([looks.tool], around=[tracker])).add_conditional_edges("model", each_call())
    return builder.add_edge("tools", "model").compile(checkpointer=saver)


@pytest.mark.parametrize("per", ["run", "thread"])
@pytest.mark.parametrize("kind", ["counting", "plain", "stock"])
async def test_hand_made_graphs(kind: str, per: Any, run: Run, db: Database) -> None:
    """Parallel calls and further turns are numbered through, in one run after the other."""
    tracker, looks = StepTrackerMiddleware(99, per=per), Looks()
    graph = hand_made(kind, tracker, looks, db.saver, [3, 2], "messages")
    state = await run(graph)
    assert tracker.used(state) == 5
    state = await run(graph)
    expected = {f"call_{at}.{turn}.{call}" for at in (1, 2) for turn, of in enumerate((3, 2)) for call in range(of)}
    numbers = {message.tool_call_id: steps([message]) for message in results(state)}
    began = 5 if per == "thread" else 0
    assert [numbers[call] for call in sorted(expected)] == [
        [number] for number in [*range(1, 6), *range(began + 1, began + 6)]
    ]
    assert tracker.used((await graph.aget_state(CONFIG)).values) == began + 5


@pytest.mark.parametrize("kind", ["counting", "plain", "stock"])
async def test_a_hand_made_graph_at_its_limit(kind: str, run: Run, db: Database) -> None:
    """Calls beyond it are answered with an error, and the graph can ask whether to go on without tools."""
    tracker, looks = StepTrackerMiddleware(4), Looks()
    state = await run(hand_made(kind, tracker, looks, db.saver, [3, 3, 3], "messages"))
    assert (len(looks.words), sorted(steps(state["messages"]))) == (4, [1, 2, 3, 4])
    assert [message.status for message in results(state)].count("error") == 2
    assert state["messages"][-1].text == "spent"


def test_a_tool_node_that_does_not_see_the_messages() -> None:
    """A tracker that looks in the wrong place says so, even where tools' errors are told to the model."""
    tracker = StepTrackerMiddleware(4, messages_key="talk")
    node = ToolNode([Looks().tool], wrap_tool_call=tracker.wrap_tool_call, handle_tool_errors=True)
    graph: Any = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
    with pytest.raises(CallNotFound, match="under 'talk'"):
        graph.invoke({"messages": [asking(1)]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_steps": 0}, "max_steps must be 1 or more, not 0"),
        ({"max_steps": 1, "low": 0.1, "critical": 0.2}, "thresholds must be"),
        ({"max_steps": 1, "context_window": 0}, "context_window must be 1 or more"),
        ({"max_steps": 1, "per": "day"}, "per must be 'run' or 'thread', not 'day'"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_set(given: dict[str, Any], said: str) -> None:
    """With what was wrong."""
    with pytest.raises(ValueError, match=said):
        StepTrackerMiddleware(**given)
