"""What the filters for live streams promise: nothing hidden in any part, and nothing changed in the run."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool  # pyright: ignore[reportUnknownVariableType] - upstream's overloads
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer  # pyright: ignore[reportPrivateUsage] - no public name
from langgraph.stream.transformers import (
    CheckpointsTransformer,
    CustomTransformer,
    DebugTransformer,
    TasksTransformer,
    UpdatesTransformer,
)
from langgraph.types import Command, Interrupt, Overwrite, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from holdfast import guardrails
from holdfast.checkpointing.visibility import (
    Audience,
    UnknownVisibility,
    Visibility,
    VisibilityPolicy,
    tagged,
)
from holdfast.guardrails import AudienceTransformer, avisible_stream, visible_stream, visible_value
from tests.support.scripted import ScriptedModel, calling

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol:Warning")

MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "tools"]
PROJECTIONS = [UpdatesTransformer, CustomTransformer, CheckpointsTransformer, DebugTransformer, TasksTransformer]
CONFIG: Any = {"configurable": {"thread_id": "1"}}
QUESTION = HumanMessage("a question", id="question")
SECRET = ToolMessage("SECRET", tool_call_id="1", name="vault", id="secret")
SECRET_WORD = AIMessageChunk(content="SECRET", id="word")
ANSWER = "an answer in words"


reducer: Any = _messages_delta_reducer


class DeltaState(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(reducer)]


class TokenModel(ScriptedModel):
    """Streams its script word by word, a call's arguments in two halves, and may break off before the end."""

    breaks_off: bool = False

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = self.script[len(self.requests)]
        assert isinstance(turn, AIMessage)
        self.requests.append(list(messages))
        for number, word in enumerate(str(turn.content).split(" ")):
            # The first chunk with an id of the provider's, as OpenAI's Responses do; LangChain names the others.
            own = f"turn-{len(messages)}" if number == 0 else None
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} ", id=own))
        if self.breaks_off:
            raise ConnectionError("cut")
        for index, call in enumerate(turn.tool_calls):
            head, tail = '{"key": "SECRET-', 'argument"}'
            first = {"name": call["name"], "args": head, "id": call["id"], "index": index}
            for piece in (first, {"name": None, "args": tail, "id": None, "index": index}):
                yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))  # pyright: ignore[reportArgumentType]


@tool(response_format="content_and_artifact")
def vault(key: str) -> tuple[str, Any]:
    """Opens the vault."""
    get_stream_writer()({"from the tool": [SECRET, "progress"]})
    return f"SECRET-content of {key}", [HumanMessage("SECRET-artifact")]


def looking() -> AIMessage:
    return calling(("vault", {"key": "SECRET-argument"})).model_copy(update={"content": "SECRET I look it up"})


def agent(**options: Any) -> Any:
    model = TokenModel(script=[looking(), AIMessage(ANSWER)])
    options = {"checkpointer": InMemorySaver()} | options
    return create_agent(model, [vault], **options)


def asked() -> dict[str, Any]:
    return {"messages": [SystemMessage("SECRET-rules"), QUESTION]}


def nested() -> Any:
    """The agent as a node of another graph."""
    return (
        StateGraph(MessagesState)
        .add_node("inner", agent(name="inner", checkpointer=None))
        .add_edge(START, "inner")
        .compile(InMemorySaver())
    )


def graph_of(node: Callable[[Any], Any], state: Any = MessagesState) -> Any:
    action: Any = node  # upstream wants the parameter to be called `state`
    return StateGraph(state).add_node("node", action).add_edge(START, "node").compile(checkpointer=InMemorySaver())


def shown(graph: Any, audience: str = "user", policy: VisibilityPolicy | None = None, **options: Any) -> list[Any]:
    """All that an audience sees of a run."""
    live = options.pop("live_nodes", ())
    options = {"stream_mode": MODES, "subgraphs": True} | options
    return list(visible_stream(graph.stream(asked(), CONFIG, **options), audience, policy, live_nodes=live))


def texts(parts: Sequence[Any]) -> list[str]:
    """The texts of the messages in `messages` mode."""
    return [message.text for message, _ in (part[-1] for part in parts if part[-2] == "messages")]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("make", [agent, nested])
def test_no_part_shows_a_user_what_is_hidden(make: Callable[[], Any], version: str) -> None:
    """In every mode, of the graph and of its subgraphs, while the answer does come."""
    parts = shown(make(), version=version)
    assert "SECRET" not in repr(parts)
    assert ANSWER in repr(parts)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("make", [agent, nested])
async def test_no_part_shows_a_user_what_is_hidden_async(make: Callable[[], Any], version: str) -> None:
    """The same for `astream`."""
    parts = make().astream(asked(), CONFIG, stream_mode=MODES, subgraphs=True, version=version)
    seen = [part async for part in avisible_stream(parts, "user")]
    assert "SECRET" not in repr(seen)
    assert ANSWER in repr(seen)


@pytest.mark.parametrize("subgraphs", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_by_itself_is_understood(mode: str, subgraphs: bool) -> None:
    """Parts of a single mode do not say of which they are."""
    parts = shown(agent(), stream_mode=mode, subgraphs=subgraphs)
    assert "SECRET" not in repr(parts)
    assert (ANSWER in repr(parts)) == (mode not in {"custom", "tools"})


def test_an_operator_sees_the_tools_and_not_the_instructions() -> None:
    """Every call and result, whole; of the system message nothing."""
    parts = shown(agent(), "operator")
    assert "SECRET-rules" not in repr(parts)
    assert "SECRET-content of SECRET-argument" in repr(parts)
    assert texts(parts) == ["SECRET I look it up ", "SECRET-content of SECRET-argument", f"{ANSWER} "]


def test_an_auditor_sees_every_part_as_it_is() -> None:
    """The very objects."""
    parts: list[Any] = [("values", {"messages": [SECRET]}), ("custom", object()), {"type": "tool"}]
    assert all(seen is part for seen, part in zip(visible_stream(parts, "auditor"), parts, strict=True))


def test_what_is_filtered_is_the_stream_and_not_the_run() -> None:
    """The state keeps every message."""
    graph = agent()
    shown(graph)
    kinds = [message.type for message in graph.get_state(CONFIG).values["messages"]]
    assert kinds == ["system", "human", "ai", "tool", "ai"]
    assert graph.get_state(CONFIG).values["messages"][3].artifact


def test_a_turn_comes_when_it_is_whole() -> None:
    """Its first words are held back: they may be those of a turn that goes on to call a tool."""
    parts = shown(agent(), stream_mode=["messages"])
    assert texts(parts) == [f"{ANSWER} "]
    assert parts[0][-1][0].chunk_position == "last"


def test_a_tool_that_is_shown_shows_its_turn_and_its_result() -> None:
    """A rule for the tool stands over the default."""
    parts = shown(agent(), policy=VisibilityPolicy(tools={"vault": Visibility.VISIBLE}))
    assert texts(parts) == ["SECRET I look it up ", "SECRET-content of SECRET-argument", f"{ANSWER} "]
    assert {event["event"] for _, mode, event in parts if mode == "tools"} == {"tool-started", "tool-finished"}


def test_turns_that_stream_at_once_are_told_apart() -> None:
    """Two models in one node: one calls a tool, the other's turn comes whole."""

    async def node(_: Any) -> Any:
        models = [TokenModel(script=[looking()]), TokenModel(script=[AIMessage(ANSWER)])]
        return {"messages": await asyncio.gather(*(model.ainvoke("go") for model in models))}

    async def collect() -> list[Any]:
        stream = graph_of(node).astream(asked(), CONFIG, stream_mode=["messages"])
        return [part async for part in avisible_stream(stream, "user")]

    assert texts(asyncio.run(collect())) == [f"{ANSWER} "]


def test_a_turn_that_breaks_off_never_comes() -> None:
    """What it would have been is not known."""
    graph = graph_of(lambda _: {"messages": [TokenModel(script=[looking()], breaks_off=True).invoke("go")]})
    seen: list[Any] = []
    with pytest.raises(ConnectionError):
        seen.extend(visible_stream(graph.stream(asked(), CONFIG, stream_mode=["messages"]), "user"))
    assert "SECRET" not in repr(seen)


def test_a_live_node_streams_token_by_token() -> None:
    """Words pass as they come; the call, and what follows it, does not."""
    parts = shown(agent(), live_nodes={"model"}, stream_mode=["messages"])
    words = [word for word in texts(parts) if word]
    assert words == ["SECRET ", "I ", "look ", "it ", "up ", "an ", "answer ", "in ", "words "]
    assert "argument" not in repr(parts)
    assert "vault" not in repr(parts)


def test_a_live_turn_that_has_called_a_tool_says_no_more() -> None:
    """Nor does it go on after the call."""
    about = {"langgraph_node": "model"}
    call: Any = {"name": "vault", "args": "{", "id": "1", "index": 0}
    chunks = [AIMessageChunk(content="so "), AIMessageChunk(content="", tool_call_chunks=[call]), SECRET_WORD]
    parts = [("messages", (chunk, about)) for chunk in chunks]
    assert texts(list(visible_stream(parts, "user", live_nodes={"model"}))) == ["so "]


def test_a_live_node_is_still_under_the_policy() -> None:
    """What its node hides does not stream."""
    policy = VisibilityPolicy(nodes={"model": Visibility.USER_HIDDEN})
    assert texts(shown(agent(), policy=policy, live_nodes={"model"}, stream_mode=["messages"])) == []


def test_a_piece_of_a_turn_in_another_mode_is_dropped() -> None:
    """A node that passes tokens on by itself: they may be those of a call."""

    def node(_: Any) -> Any:
        for chunk in TokenModel(script=[looking()]).stream("go"):
            get_stream_writer()({"token": chunk, "kept": 1})
        return {}

    parts = shown(graph_of(node), stream_mode=["custom"])
    assert "SECRET" not in repr(parts)
    assert "kept" in repr(parts)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_interrupt_keeps_its_id_and_loses_what_is_hidden(version: str) -> None:
    """Else nobody could answer it."""
    graph = graph_of(lambda _: {"messages": interrupt({"approve": "this?", "history": [SECRET, QUESTION]})})
    parts = shown(graph, version=version)
    (waiting,) = graph.get_state(CONFIG).interrupts
    assert "SECRET" not in repr(parts)
    assert repr(Interrupt({"approve": "this?", "history": [QUESTION]}, id=waiting.id)) in repr(parts)
    assert waiting.value["history"] == [SECRET, QUESTION]


def test_an_interrupt_that_is_a_hidden_message_keeps_its_id() -> None:
    """Its payload is None."""
    graph = graph_of(lambda _: interrupt(SECRET))
    (waiting,) = [part[-1]["__interrupt__"][0] for part in shown(graph) if part[-2] == "updates"]
    assert waiting.value is None
    assert waiting.id == graph.get_state(CONFIG).interrupts[0].id


def test_a_delta_channel_is_filtered_like_any_other() -> None:
    """Its values are lists of messages."""

    result = {"role": "tool", "content": "SECRET", "tool_call_id": "1"}
    parts = shown(graph_of(lambda _: {"messages": [result]}, DeltaState))
    assert "SECRET" not in repr(parts)
    assert "a question" in repr(parts)


def test_a_tag_hides_one_message() -> None:
    """`tagged` in the node is what every mode obeys, `values` included."""
    parts = shown(graph_of(lambda _: {"messages": [tagged(AIMessage("SECRET"), Visibility.USER_HIDDEN)]}))
    assert "SECRET" not in repr(parts)


def planner(state: Any) -> Any:
    return {"messages": [AIMessage("SECRET-plan", id="plan")]}


def speaker(state: Any) -> Any:
    return {"messages": [AIMessage(ANSWER, id="answer")]}


def planned() -> Any:
    builder = StateGraph(MessagesState).add_node("planner", planner).add_node("speaker", speaker)
    return builder.add_edge(START, "planner").add_edge("planner", "speaker").compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("others", [[], ["updates"], ["messages"], ["tasks"], ["checkpoints", "debug"]], ids=str)
def test_a_rule_for_a_node_holds_where_no_node_is_named(others: list[str]) -> None:
    """`values` does not say who wrote a message: unless another part did, it might have been the hidden node."""
    policy = VisibilityPolicy(nodes={"planner": Visibility.USER_HIDDEN})
    parts = shown(planned(), policy=policy, stream_mode=[*others, "values"])
    states = [part[-1]["messages"] for part in parts if part[-2] == "values"]
    assert "SECRET" not in repr(parts)
    assert any(ANSWER in repr(state) for state in states) == (others in (["updates"], ["messages"], ["tasks"]))


def test_a_message_from_before_this_stream_may_be_any_nodes() -> None:
    """That a node is given it does not make it that node's."""
    graph, policy = graph_of(speaker), VisibilityPolicy(nodes={"planner": Visibility.USER_HIDDEN})
    before = {"messages": [AIMessage("SECRET-plan", id="plan")]}
    parts = list(visible_stream(graph.stream(before, CONFIG, stream_mode=["tasks", "values"]), "user", policy))
    assert "SECRET" not in repr(parts)
    assert ANSWER in repr(parts[-1])


def test_a_failure_is_told_without_the_messages_it_carries() -> None:
    """Of an exception that holds a hidden message only its name is left; the run fails all the same."""

    def node(_: Any) -> Any:
        raise LookupError(SECRET)

    stream = visible_stream(graph_of(node).stream(asked(), CONFIG, stream_mode=["tasks", "debug"]), "user")
    seen: list[Any] = []
    with pytest.raises(LookupError):
        seen.extend(stream)
    assert "SECRET" not in repr(seen)
    assert "LookupError" in repr(seen)


def test_who_stops_reading_stops_the_run() -> None:
    """Closing what the filter returns closes what it was given."""
    closed: list[bool] = []

    def parts() -> Iterator[Any]:
        try:
            yield from (("custom", number) for number in itertools.count())
        finally:
            closed.append(True)

    stream = visible_stream(parts(), "user")
    assert next(stream) == ("custom", 0)
    stream.close()
    assert closed == [True]


async def test_who_stops_reading_stops_the_run_async() -> None:
    """The same for `astream`."""
    closed: list[bool] = []

    async def parts() -> AsyncIterator[Any]:
        try:
            for number in itertools.count():
                yield ("custom", number)
        finally:
            closed.append(True)

    stream = avisible_stream(parts(), "user")
    assert await anext(stream) == ("custom", 0)
    await stream.aclose()
    assert closed == [True]


@pytest.mark.parametrize("name", ["visible_stream", "avisible_stream", "visible_value"])
def test_an_unknown_audience_is_refused_before_the_run(name: str) -> None:
    """Not at its first part."""
    with pytest.raises(UnknownVisibility, match="'usr' is no audience"):
        getattr(guardrails, name)([], "usr")
    with pytest.raises(UnknownVisibility, match="'usr' is no audience"):
        AudienceTransformer.of("usr")


# What a part may hold, and where in it a message may stand.


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    held: Any


class Model(BaseModel, extra="allow", arbitrary_types_allowed=True):
    held: Any = None
    _drawer: Any = None


class Plain:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"Plain({self.held!r})"


def drawer(held: Any) -> Model:
    model = Model()
    model._drawer = held  # pyright: ignore[reportPrivateUsage] - what is tested
    return model


def with_cycle(held: Any) -> list[Any]:
    cycle: list[Any] = [held]
    cycle.append(cycle)
    return cycle


def commanding(held: Any) -> Command[Any]:
    return Command(update={"messages": [held]}, goto=Send("node", held))


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda held: [held, "beside"],
    "tuple": lambda held: (held, "beside"),
    "dict": lambda held: {"held": held},
    "deque": lambda held: deque([held]),
    "named tuple": lambda held: Pair(held, "beside"),
    "overwrite": lambda held: {"messages": Overwrite([held])},
    "bare overwrite": Overwrite,
    "command": commanding,
    "interrupt": lambda held: Interrupt(held, id="1"),
    "dataclass": Slotted,
    "pydantic": lambda held: Model(held=[held]),
    "pydantic extra": lambda held: Model.model_validate({"another": held}),
    "pydantic private": drawer,
    "object": Plain,
    "exception": lambda held: ValueError("text", held),
    "artifact": lambda held: AIMessage("beside", additional_kwargs={"artifact": [held]}),
    "message dict": lambda held: {"role": "user", "content": "beside", "held": held},
    "partial": lambda held: partial(print, held),
    "iterator": lambda held: iter([held]),
    "cycle": with_cycle,
}
SHAPES: dict[str, Callable[[BaseMessage], Any]] = {
    "object": lambda message: message,
    "dict": lambda message: message.model_dump(),
    "openai": lambda message: {"role": "tool", "content": message.text, "tool_call_id": "1"},
    "serialised": dumpd,
    "stored": lambda message: messages_to_dict([message])[0],
    "pair": lambda message: ("system", message.text),
    "unreadable": lambda message: {"type": "tool", "content": message.text},
    "chunk": lambda message: AIMessageChunk(content=message.text),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=list(HOLDERS))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_hidden_message_is_found_wherever_it_stands(shape: Any, holder: Any) -> None:
    """Whatever holds it, and whatever shape it has, in a container understood or not."""
    for mode in ("values", "updates", "custom", "messages", "a mode of tomorrow"):
        part = (("inner:1",), mode, {"node": {"deep": [holder(shape(SECRET))]}, "open": 1})
        seen = list(visible_stream([part], "user"))
        assert "SECRET" not in repr(seen)
        assert "open" in repr(seen)


def held(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    kept = ["list", "tuple", "dict", "deque", "named tuple", "overwrite", "command", "dataclass", "pydantic", "object"]
    holders = st.sampled_from([HOLDERS[name] for name in kept])
    return st.recursive(
        leaves, lambda inner: st.tuples(holders, inner).map(lambda pair: pair[0](pair[1])), max_leaves=6
    )


OPEN = st.one_of(st.none(), st.integers(), st.text(), st.sampled_from([QUESTION, AIMessage(ANSWER), {"role": "admin"}]))


@given(held(OPEN))
def test_what_hides_nothing_comes_back_as_it_is(value: Any) -> None:
    """The very object."""
    assert visible_value(value, Audience.USER) is value


@given(held(st.sampled_from([shape(SECRET) for shape in SHAPES.values()]) | OPEN))
def test_nothing_hidden_is_left_in_any_value(value: Any) -> None:
    """And the value itself is not changed."""
    before = repr(value)
    assert "SECRET" not in repr(visible_value(value, Audience.USER))
    assert repr(value) == before


def test_what_is_taken_out_leaves_the_rest() -> None:
    """Lists close up; a field keeps its place with None; what cannot be copied goes whole."""
    state = {"messages": [QUESTION, SECRET], "last": SECRET, "held": Slotted(SECRET), "plain": Plain(SECRET), "n": 1}
    assert visible_value(state, "user") == {"messages": [QUESTION], "held": Slotted(None), "n": 1}
    assert visible_value(SECRET, "user") is None


def test_what_an_object_does_not_print_is_searched_too() -> None:
    """Such as the private attributes of a pydantic model."""
    seen = visible_value([drawer([SECRET, 1])], "user")
    assert seen[0].__pydantic_private__ == {"_drawer": [1]}


def test_a_value_too_deep_to_be_read_is_cut_off() -> None:
    """It neither passes nor stops the stream."""
    deep: list[Any] = [SECRET]
    for _ in range(5000):
        deep = [deep]
    visible_value(deep, "user")


# The event stream.


def events(graph: Any, audience: str = "user", policy: VisibilityPolicy | None = None, **options: Any) -> Any:
    """A run of `graph` that an audience looks at, every projection included."""
    filtered = AudienceTransformer.of(audience, policy, **options)
    return graph.stream_events(asked(), CONFIG, version="v3", transformers=[*PROJECTIONS, filtered])


@pytest.mark.parametrize("make", [agent, nested])
def test_no_event_shows_a_user_what_is_hidden(make: Callable[[], Any]) -> None:
    """The log of all events, subgraphs' included."""
    log = list(events(make()))
    assert "SECRET" not in repr(log)
    assert ANSWER in repr(log)


@pytest.mark.parametrize("make", [agent, nested])
async def test_no_event_shows_a_user_what_is_hidden_async(make: Callable[[], Any]) -> None:
    """The same for `astream_events`."""
    transformers = [*PROJECTIONS, AudienceTransformer]
    run = await make().astream_events(asked(), CONFIG, version="v3", transformers=transformers)
    log = [event async for event in run]
    assert "SECRET" not in repr(log)
    assert ANSWER in repr(log)


@pytest.mark.parametrize("name", ["values", "updates", "checkpoints", "debug", "tasks", "tool_calls", "custom"])
def test_no_projection_shows_a_user_what_is_hidden(name: str) -> None:
    """Though projections take their part of an event before it is in the log."""
    items = list(getattr(events(agent()), name))
    assert "SECRET" not in repr(items)
    assert (ANSWER in repr(items)) == (name not in {"tool_calls", "custom"})


def test_messages_come_as_whole_turns() -> None:
    """Each with its text; the turn that calls a tool is none of a user's, and all of an operator's."""
    assert [str(turn.text) for turn in events(agent()).messages] == [f"{ANSWER} "]
    operator = list(events(agent(), "operator").messages)
    assert [str(turn.text) for turn in operator] == ["SECRET I look it up ", f"{ANSWER} "]
    assert operator[0].output.tool_calls[0]["args"] == {"key": "SECRET-argument"}


def test_a_live_node_streams_events_token_by_token() -> None:
    """Its turns end, even one of which the end is hidden."""
    turns = [(list(turn.text), turn.output.tool_calls) for turn in events(agent(), live_nodes={"model"}).messages]
    assert turns == [
        (["SECRET ", "I ", "look ", "it ", "up "], []),
        (["an ", "answer ", "in ", "words "], []),
    ]


def test_a_subgraph_is_seen_through_the_same_eyes() -> None:
    """Its handle, its projections and its output."""
    seen: list[Any] = []
    for handle in events(nested()).subgraphs:
        seen += [*handle.values, [str(turn.text) for turn in handle.messages], handle.output]
    assert "SECRET" not in repr(seen)
    assert ANSWER in repr(seen)


def test_the_event_stream_leaves_the_run_alone() -> None:
    """The state of a graph and of what its subgraphs return keeps every message."""
    graph = nested()
    list(events(graph))
    kinds = [message.type for message in graph.get_state(CONFIG).values["messages"]]
    assert kinds == ["system", "human", "ai", "tool", "ai"]


def test_interrupts_in_events_keep_their_id() -> None:
    """And lose what is hidden."""
    log = list(events(graph_of(lambda _: {"messages": interrupt([SECRET, "approve?"])})))
    assert "SECRET" not in repr(log)
    assert "approve?" in repr(log)


def test_output_is_taken_before_any_filter_and_has_one_of_its_own() -> None:
    """LangGraph's doing: if this ever fails, the docstring of `AudienceTransformer` is out of date."""
    output = events(agent()).output
    assert "SECRET" in repr(output)
    assert "SECRET" not in repr(visible_value(output, "user"))


def test_a_compiled_graph_carries_its_filter() -> None:
    """`compile(transformers=...)`, or `create_agent(transformers=...)`, for every event stream of the graph."""
    run = agent(transformers=[AudienceTransformer]).stream_events(asked(), CONFIG, version="v3")
    assert "SECRET" not in repr(list(run))
