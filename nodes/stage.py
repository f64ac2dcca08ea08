"""A stage: prepare the task, let an agent answer it in a typed and checked shape."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware
from langchain.agents.middleware.model_call_limit import ModelCallLimitExceededError
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool

from ..guardrails.answers import AnswerMiddleware, Check
from ..guardrails.model_errors import ModelErrorMiddleware
from ..guardrails.stops import stopped
from .errors import TooManyModelCalls

Guardrails = Sequence[AgentMiddleware[Any, Any, Any]]
S = TypeVar("S")
U = TypeVar("U")
A = TypeVar("A")


def stage(
    name: str,
    model: BaseChatModel,
    *,
    answer: type[A],
    instructions: str,
    prepare: Callable[[S], Mapping[str, Any]],
    finish: Callable[[S, Mapping[str, Any], A], U],
    check: Check | None = None,
    tools: Sequence[BaseTool] = (),
    guardrails: Guardrails = (),
    state_schema: type[Any] | None = None,
    max_model_calls: int = 25,
) -> Runnable[S, U]:
    """A node that asks a model for a typed answer.

    `prepare` turns the node's slice of state into the agent's input (`{"messages": …}` and what
    `state_schema` adds), `check` refuses answers (see `AnswerMiddleware`), `finish` turns the answer
    into an update and must not fail. All three may block: they run off the event loop under
    `ainvoke`. The agent is a subgraph whose own steps are checkpointed, so a crash inside the node
    resumes inside the node.

    Raises:
        MalformedAnswer: the model never answered in the shape `answer`.
        ModelCallFailed: the model could not be called.
        TooManyModelCalls: `max_model_calls` calls with tools did not lead to an answer.
        HoldfastError: what `prepare`, `check` and `guardrails` raise, such as `BudgetExceeded`.
    """
    agent = create_agent(
        model,
        list(tools),
        name=f"{name}_agent",
        system_prompt=instructions,
        response_format=cast("Any", answer),
        middleware=[
            ModelErrorMiddleware(),
            *([ModelCallLimitMiddleware(run_limit=max_model_calls, exit_behavior="error")] if tools else []),
            AnswerMiddleware(check),
            *guardrails,
        ],
        state_schema=state_schema,
    )
    first = RunnableLambda(prepare, name=f"{name}_prepare")
    last = RunnableLambda(_spread(finish), name=f"{name}_finish")

    def run(state: S, config: RunnableConfig) -> U:
        given = first.invoke(state, config)
        with _limit_named(name), stopped():
            result = agent.invoke(cast("Any", given), _without_limit(config))
        return last.invoke((state, given, result["structured_response"]), config)

    async def arun(state: S, config: RunnableConfig) -> U:
        given = await first.ainvoke(state, config)
        with _limit_named(name), stopped():
            result = await agent.ainvoke(cast("Any", given), _without_limit(config))
        return await last.ainvoke((state, given, result["structured_response"]), config)

    return RunnableLambda(run, arun, name=name)


def _spread(finish: Callable[[S, Mapping[str, Any], A], U]) -> Callable[[tuple[S, Mapping[str, Any], A]], U]:
    def spread(parts: tuple[S, Mapping[str, Any], A]) -> U:
        return finish(*parts)

    return spread


def _without_limit(config: RunnableConfig) -> RunnableConfig:
    # LangChain fills in a recursion limit of 25 supersteps, which would override the agent's own and end it after
    # about six turns; what bounds an agent here is `max_model_calls`.
    return cast("RunnableConfig", {key: value for key, value in config.items() if key != "recursion_limit"})


@contextmanager
def _limit_named(name: str) -> Generator[None]:
    try:
        yield
    except ModelCallLimitExceededError as error:
        raise TooManyModelCalls(
            f"{name} made {error.run_count} model calls without coming to an answer; resume to allow as many again"
        ) from error
