"""What the outreach graph promises beyond its nodes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from holdfast.checkpointing import Database, Document
from holdfast.graphs.outreach import OutreachState, build
from holdfast.nodes import InvalidBrief, NoEvidence, OfflineExtractiveModel, load_model
from holdfast.nodes.research import NAMES_SHOWN, research_node
from tests.support.scripted import ScriptedModel

APPROVE: Any = Command(resume={"decisions": [{"type": "approve"}]})


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "actor": "Ada"}}


@pytest.fixture
def graph(db: Database, tmp_path: Path) -> Any:
    return build(load_model(), database=lambda: db, outbox=tmp_path / "outbox").compile(checkpointer=db.saver)


def test_a_second_brief_on_a_thread_is_refused_and_sends_nothing(graph: Any, dossier: Path, tmp_path: Path) -> None:
    """Else the first run's recipient, evidence and receipt would pass for the second's."""
    first = {"company": "First", "dossier": str(dossier), "to": "ceo@first.example"}
    graph.invoke(first, on("t"))
    graph.invoke(APPROVE, on("t"))
    with pytest.raises(InvalidBrief, match="start another thread"):
        graph.invoke({"company": "Second", "dossier": str(dossier)}, on("t"))
    assert len(list((tmp_path / "outbox").iterdir())) == 1


def test_it_runs_as_a_part_of_another_graph(db: Database, dossier: Path, tmp_path: Path) -> None:
    inner = build(load_model(), database=lambda: db, outbox=tmp_path / "outbox").compile()
    outer = StateGraph(OutreachState).add_node("outreach", inner).add_edge(START, "outreach")
    graph = outer.compile(checkpointer=InMemorySaver())
    paused = graph.invoke({"company": "Tidewater", "dossier": str(dossier), "problems": []}, on("t"))
    assert paused["__interrupt__"]
    assert graph.invoke(APPROVE, on("t"))["receipt"]["channel"] == "outbox"


def test_without_a_stage_timeout_it_runs_synchronously_and_with_one_it_says_why_not(
    graph: Any, db: Database, dossier: Path
) -> None:
    brief: Any = {"company": "Tidewater", "dossier": str(dossier)}
    assert graph.invoke(brief, on("t"))["__interrupt__"]
    timed = build(load_model(), database=lambda: db, stage_timeout=60).compile(checkpointer=db.saver)
    with pytest.raises(ValueError, match="only supported for async nodes"):
        timed.invoke(brief, on("timed"))
    assert asyncio.run(timed.ainvoke(brief, on("timed-async")))["__interrupt__"]


def test_a_stage_that_exceeds_its_time_is_not_started_again(db: Database, dossier: Path) -> None:
    """A limit that doubles itself would be none."""

    class Slow(OfflineExtractiveModel):
        """Never answers; counts who asks."""

        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(1)
            await asyncio.Event().wait()

    asked: list[int] = []
    timed = build(Slow(), database=lambda: db, stage_timeout=0.2).compile(checkpointer=db.saver)
    with pytest.raises(NodeTimeoutError, match="research"):
        asyncio.run(timed.ainvoke({"company": "Tidewater", "dossier": str(dossier)}, on("t")))
    assert len(asked) == 1


def test_research_tells_the_model_of_a_limited_number_of_names(db: Database) -> None:
    """A folder of thousands does not fill the model's context before it has searched."""
    documents = [Document(name=f"{number:04}.md", text=f"text {number}") for number in range(NAMES_SHOWN + 50)]
    answer = {"name": "Findings", "args": {"summary": "s", "facts": [{"statement": "x", "document": "0000.md"}]}}
    model = ScriptedModel(script=[AIMessage("", tool_calls=[{**answer, "id": "1", "type": "tool_call"}])])
    state: Any = {"company": "A", "dossier_id": db.documents.save(documents), "documents": [d.name for d in documents]}
    assert research_node(model, []).invoke(state)["findings"]["facts"]
    told = model.requests[0][-1].text
    assert f"{NAMES_SHOWN - 1:04}.md" in told
    assert f"{NAMES_SHOWN:04}.md" not in told
    assert f'"documents_in_all": {NAMES_SHOWN + 50}' in told


def test_research_that_names_only_strange_documents_is_refused(db: Database) -> None:
    answer = {"name": "Findings", "args": {"summary": "s", "facts": [{"statement": "x", "document": "strange.md"}]}}
    calls = [AIMessage("", tool_calls=[{**answer, "id": str(n), "type": "tool_call"}]) for n in range(3)]
    state: Any = {
        "company": "A",
        "dossier_id": db.documents.save([Document(name="a.md", text="x")]),
        "documents": ["a.md"],
    }
    with pytest.raises(NoEvidence, match="no fact names a document"):
        research_node(ScriptedModel(script=calls), []).invoke(state)


@pytest.mark.parametrize("key", ["company", "dossier", "offer", "to", "sender"])
@pytest.mark.parametrize("value", [4, ["x"], {"a": 1}, "x" * 10_001])
def test_a_brief_of_strange_types_or_lengths_is_refused_by_name(
    graph: Any, dossier: Path, key: str, value: Any
) -> None:
    """A server's callers send what they like."""
    brief = {"company": "Tidewater", "dossier": str(dossier), key: value}
    with pytest.raises(InvalidBrief, match=f"'{key}'"):
        graph.invoke(brief, on(f"t-{time.time_ns()}"))
