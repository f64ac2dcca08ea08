"""Which model answers, by the node that asks and by the money that is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from holdfast.checkpointing import Database
from holdfast.guardrails import JournalMiddleware
from holdfast.guardrails.routing import Route, RoutedModelFailed, RoutingMiddleware, by_money, route
from holdfast.guardrails.runway import Runway, note_runway
from holdfast.nodes.stage import stage
from tests.support.calls import Crash, both, crashed
from tests.support.scripted import ScriptedModel, calling

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
BEGIN: dict[str, Any] = {"messages": [("user", "hello")]}

TABLE = [
    Route(model="cheap", nodes=("research",)),
    Route(model="tiny", below=0.1),
    Route(model="strong", nodes=("plan", "draft")),
    Route(model="middle", below=0.5),
]


@pytest.fixture(autouse=True)
def plenty() -> Iterator[None]:
    """Nothing is known of the thread's money, before and after."""
    note_runway("t", None)
    yield
    note_runway("t", None)


def left(part: str) -> None:
    """So much of the thread's limit is left."""
    note_runway("t", Runway("tenant:t", "usd", "hour", Decimal(1), 1 - Decimal(part)))


@pytest.mark.parametrize(
    ("nodes", "part", "model"),
    [
        (["research", "model"], None, "cheap"),
        (["research", "model"], 0.01, "cheap"),
        (["plan", "model"], None, "strong"),
        (["plan", "model"], 0.3, "strong"),
        (["plan", "model"], 0.1, "strong"),
        (["plan", "model"], 0.09, "tiny"),
        (["outer", "draft", "tools", "model"], 0.9, "strong"),
        (["model"], None, None),
        (["model"], 0.5, None),
        (["model"], 0.49, "middle"),
        (["model"], 0.0, "tiny"),
        ([], None, None),
    ],
)
def test_the_first_row_that_matches_answers(nodes: list[str], part: float | None, model: str | None) -> None:
    place = route(TABLE, nodes, part)
    assert (None if place is None else TABLE[place].model) == model


names = st.sampled_from(["a", "b", "c"])
parts = st.floats(0, 1, exclude_min=True)
tables = st.lists(
    st.builds(
        Route,
        model=st.sampled_from(["m", "n"]),
        nodes=st.lists(names, max_size=2).map(tuple),
        below=st.none() | parts,
    ),
    max_size=5,
)


@given(table=tables, nodes=st.lists(names, max_size=3), part=st.none() | st.floats(0, 1))
def test_no_row_is_passed_over(table: list[Route], nodes: list[str], part: float | None) -> None:
    """The one that answers matches, and none before it does."""
    place = route(table, nodes, part)
    before = table if place is None else table[:place]
    assert not any(row.matches(nodes, part) for row in before)
    assert place is None or table[place].matches(nodes, part)


@given(table=tables, nodes=st.lists(names, max_size=3), more=st.floats(0, 1), less=st.floats(0, 1))
def test_less_money_never_leads_to_a_later_row(table: list[Route], nodes: list[str], more: float, less: float) -> None:
    """With rows for little money first, spending leads to those, and never back."""
    rich, poor = route(table, nodes, max(more, less)), route(table, nodes, min(more, less))
    assert rich is None or (poor is not None and poor <= rich)


@given(table=tables, nodes=st.lists(names, max_size=3), some=st.floats(0, 1), other=st.none() | st.floats(0, 1))
def test_a_choice_is_recorded_wherever_money_matters(
    table: list[Route], nodes: list[str], some: float, other: float | None
) -> None:
    """Where it is not, no two remainders lead to different rows."""
    assert by_money(table, nodes) or route(table, nodes, some) == route(table, nodes, other)


def test_where_money_does_not_matter_nothing_is_recorded() -> None:
    assert not by_money(TABLE, ["research"])
    assert by_money(TABLE, ["plan"])
    assert not by_money([Route(model="m", nodes=("plan",), below=0.5)], ["research"])


@pytest.mark.parametrize("below", [0, -0.1, 1.1, float("nan")])
def test_a_part_that_is_none_is_refused(below: float) -> None:
    with pytest.raises(ValueError, match="below"):
        Route(model="m", below=below)


def test_a_table_that_cannot_be_meant_is_refused() -> None:
    text: Any = "plan"
    with pytest.raises(ValueError, match=r"\('plan',\)"):
        Route(model="m", nodes=text)
    with pytest.raises(ValueError, match="row 1"):
        RoutingMiddleware([Route(model="m"), Route(model="n", below=0.5)])


class Named(ScriptedModel):
    """Answers with its own name; keeps what it was called with."""

    script: Any = ()
    answer: AIMessage | None = None
    given: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.given.append(kwargs)
        answer = self.answer or AIMessage(self.model_name)
        self.script = [*self.script, answer.model_copy(update={"id": None})]
        return super()._generate(messages, stop, run_manager, **kwargs)

    @property
    def calls(self) -> int:
        return len(self.given)


def named(name: str, answer: AIMessage | None = None) -> Named:
    return Named(model_name=name, answer=answer)


class Answer(TypedDict):
    """What a stage is asked for."""

    by: str


class Stages(TypedDict, total=False):
    research: str
    plan: str


def stages(saver: Any, *guardrails: AgentMiddleware[Any, Any, Any], model: BaseChatModel) -> Any:
    """A graph of two stages, each an agent within a node."""

    def prepare(state: Stages) -> dict[str, Any]:
        return {"messages": [("user", "go")]}

    def finish(name: str) -> Any:
        def finished(state: Stages, given: Any, answer: Answer) -> Any:
            return {name: answer["by"]}

        return finished

    graph = StateGraph(Stages)
    before = START
    for name in ("research", "plan"):
        node: Any = stage(
            name,
            model,
            answer=Answer,
            instructions="answer",
            prepare=prepare,
            finish=finish(name),
            guardrails=guardrails,
        )
        graph.add_node(f"{name}_step", node)
        graph.add_edge(before, f"{name}_step")
        before = f"{name}_step"
    return graph.compile(checkpointer=saver)


def answering(name: str) -> Named:
    return named(name, calling(("Answer", {"by": name})))


@MODES
@pytest.mark.parametrize("saved", ["holdfast", "memory", "not at all"])
def test_each_stage_is_answered_by_its_own_model(mode: str, saved: str, db: Database) -> None:
    """The agent's own node is called "model"; the node around it is what counts."""
    saver = {"holdfast": db.saver, "memory": InMemorySaver(), "not at all": None}[saved]
    cheap, strong, own = answering("cheap"), answering("strong"), answering("own")
    table = [Route(model=cheap, nodes=("research_step",)), Route(model=strong, nodes=("plan_step",), below=0.9)]
    runner = stages(saver, RoutingMiddleware(table), model=own)
    left("0.5")
    assert both(runner, {"research": ""}, mode) == {"research": "cheap", "plan": "strong"}
    assert (cheap.calls, strong.calls, own.calls) == (1, 1, 0)


@MODES
def test_the_whole_request_goes_to_the_routed_model(mode: str) -> None:
    """Its tools, the shape of its answer, and its settings."""

    @tool
    def look(query: str) -> str:
        """Look something up."""
        return query

    class Weather(BaseModel):
        """What is wanted."""

        degrees: int

    class Settings(AgentMiddleware[Any, Any, Any]):
        """Adds a setting."""

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings={"temperature": 0.5}))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model_settings={"temperature": 0.5}))

    own, routed = named("own"), named("routed", calling(("Weather", {"degrees": 7})))
    agent: Any = create_agent(
        own,
        [look],
        response_format=ToolStrategy(Weather),
        middleware=[Settings(), RoutingMiddleware([Route(model=routed, nodes=("model",))])],
    )
    assert both(agent, BEGIN, mode)["structured_response"] == Weather(degrees=7)
    assert (own.calls, routed.calls) == (0, 1)
    assert {offered["function"]["name"] for offered in routed.given[0]["tools"]} == {"look", "Weather"}
    assert routed.given[0]["temperature"] == 0.5


def test_the_default_answers_where_no_row_does() -> None:
    own, default = named("own"), named("default")
    table = [Route(model=named("other"), nodes=("elsewhere",))]
    agent: Any = create_agent(own, middleware=[RoutingMiddleware(table, default=default)])
    assert both(agent, BEGIN, "sync")["messages"][-1].text == "default"


class Dying(AgentMiddleware[Any, Any, Any]):
    """Its process is gone after the model's first call, before the answer is in the thread."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = False

    def _die(self) -> None:
        if not self.alive:
            self.alive = True
            raise Crash

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        answer = handler(request)
        self._die()
        return answer

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        answer = await handler(request)
        self._die()
        return answer


def dying(db: Database, routing: RoutingMiddleware, dies: Dying, own: BaseChatModel) -> Any:
    return create_agent(own, middleware=[dies, routing, JournalMiddleware()], checkpointer=db.saver)


@MODES
@pytest.mark.parametrize(("before", "after"), [("0.9", "0.1"), ("0.1", "0.9")])
def test_after_a_crash_the_same_model_is_asked_the_same(mode: str, before: str, after: str, db: Database) -> None:
    """Whatever became of the money meanwhile: its record answers, and nothing is paid twice."""
    strong, cheap = named("strong"), named("cheap")
    runner = dying(db, RoutingMiddleware([Route(model=cheap, below=0.5)]), Dying(), strong)
    left(before)
    crashed(runner, BEGIN, mode)
    chosen, other = (strong, cheap) if before == "0.9" else (cheap, strong)
    assert (chosen.calls, other.calls) == (1, 0)
    left(after)
    assert both(runner, None, mode)["messages"][-1].text == chosen.model_name
    assert (chosen.calls, other.calls) == (1, 0)
    # The next turn is another choice.
    assert both(runner, BEGIN, mode)["messages"][-1].text == other.model_name


def test_a_recorded_model_is_found_where_its_row_went(db: Database) -> None:
    """A table that was changed meanwhile has it in another row; if it has it no more, it is chosen anew."""
    for kept, expected in ((True, ["cheap"]), (False, ["cheap", "own"])):
        own, cheap, dies = named("own"), named("cheap"), Dying()
        note_runway("t", None)
        left("0.1")
        crashed(dying(db, RoutingMiddleware([Route(model=cheap, below=0.5)]), dies, own), BEGIN)
        left("0.9")
        rows = [Route(model=named("new"), below=0.2), *([Route(model=cheap, below=0.4)] if kept else [])]
        both(dying(db, RoutingMiddleware(rows), dies, own), None, "sync")
        assert [model.model_name for model in (cheap, own) for _ in range(model.calls)] == expected


def test_choices_by_node_alone_are_not_recorded(db: Database, database_uri: str) -> None:
    table = [Route(model=named("a"), nodes=("model",)), Route(model=named("b"), below=0.5)]
    routing = RoutingMiddleware(table)
    both(create_agent(named("own"), middleware=[routing], checkpointer=db.saver), BEGIN, "sync")
    assert recorded(database_uri) == 0
    other = RoutingMiddleware(table[1:])
    both(create_agent(named("own"), middleware=[other], checkpointer=db.saver), BEGIN, "sync")
    assert recorded(database_uri) == 1


def test_a_model_is_made_once_from_its_name_when_it_is_asked() -> None:
    made: list[str] = []

    def create(name: str) -> BaseChatModel:
        made.append(name)
        return named(name)

    table = [Route(model="by:name", nodes=("model",)), Route(model="never:asked", nodes=("elsewhere",))]
    agent: Any = create_agent(named("own"), middleware=[RoutingMiddleware(table, create=create)])
    assert made == []

    async def several() -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke(BEGIN) for _ in range(5)))

    found = [agent.invoke(BEGIN), *asyncio.run(several())]
    assert {state["messages"][-1].text for state in found} == {"by:name"}
    assert made == ["by:name"]


@MODES
def test_a_model_that_cannot_be_made_is_named(mode: str) -> None:
    """Even within a retry, which would try in vain."""
    agent: Any = create_agent(named("own"), middleware=[RoutingMiddleware([Route(model="no-such-provider:x")])])
    with pytest.raises(RoutedModelFailed, match="no-such-provider:x"):
        both(agent, BEGIN, mode)


def recorded(uri: str) -> int:
    """How many choices the journal holds."""
    with psycopg.connect(uri) as connection:
        row = connection.execute(
            "SELECT count(*) FROM holdfast.effects WHERE kind = 'effect' AND name = 'route'"
        ).fetchone()
    assert row is not None
    return int(row[0])
