"""What traces and logs say of a call: its correlation id, its effect id, and whether it was replayed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from holdfast.checkpointing import Database
from holdfast.guardrails import JournalMiddleware


class Asker(BaseChatModel):
    """Calls a tool, then answers."""

    @property
    def _llm_type(self) -> str:
        return "asker"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind()

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        answered = any(isinstance(message, ToolMessage) for message in messages)
        call = {"name": "look", "args": {"at": "it"}, "id": "1"}
        message = AIMessage("done") if answered else AIMessage("", tool_calls=[call])  # type: ignore[list-item]
        return ChatResult(generations=[ChatGeneration(message=message)])


class Tracer(BaseTracer):
    """Keeps every run as it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        pass

    def _end_trace(self, run: Run) -> None:
        self.ended.append(run)
        super()._end_trace(run)

    def models(self) -> list[dict[str, Any]]:
        """What the runs of models say."""
        return [run.extra["metadata"] for run in self.ended if run.run_type == "llm"]

    def tools(self) -> list[dict[str, Any]]:
        """What the runs of nodes say of the calls in them."""
        nodes: list[dict[str, Any]] = [run.extra.get("metadata") or {} for run in self.ended]
        return [said for node in nodes for said in node.get("holdfast_effects", [])]


@tool
def look(at: str) -> str:
    """Look at something."""
    return f"seen: {at}"


def config(tracer: BaseCallbackHandler) -> Any:
    return {
        "configurable": {"thread_id": "t"},
        "metadata": {"correlation_id": "why"},
        "callbacks": [tracer],
    }


def test_runs_carry_the_ids_of_their_calls_and_whether_they_were_replayed(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    agent: Any = create_agent(Asker(), [look], middleware=[JournalMiddleware()], checkpointer=db.saver)
    first = Tracer()
    agent.invoke({"messages": [("user", "what is it?")]}, config(first))
    models, (tool_call,) = first.models(), first.tools()
    assert [said["holdfast_replayed"] for said in models] == [False, False]
    assert {said["holdfast_correlation_id"] for said in models} == {"why"} == {tool_call["correlation_id"]}
    assert len({*(said["holdfast_effect_id"] for said in models), tool_call["effect_id"]}) == 3
    assert (tool_call["tool_call_id"], tool_call["replayed"]) == ("1", False)

    # The last model call is made again, from the same checkpoint, in another trace.
    states = list(agent.get_state_history(config(first)))
    before = next(state for state in states if state.next == ("model",) and state.metadata["step"] > 0)
    caplog.set_level(logging.INFO, "holdfast.journal")
    again = Tracer()
    agent.invoke(None, {**config(again), "configurable": before.config["configurable"]})
    (model,) = again.models()
    assert model["holdfast_correlation_id"] == "why"
    fields = [vars(record) for record in caplog.records if record.name == "holdfast.journal"]
    assert all(record["correlation_id"] == "why" and record["effect_id"] for record in fields)
