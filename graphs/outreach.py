"""Outreach: index, research, plan, select, draft, approve, send; each stage fails and resumes by itself."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

from holdfast.checkpointing import Database
from holdfast.guardrails import is_transient
from holdfast.nodes import (
    Angle,
    Approval,
    Brief,
    Clock,
    Email,
    Evidence,
    Findings,
    Guardrails,
    Problem,
    Receipt,
    SmtpServer,
    approve_node,
    dossier_tools,
    draft_node,
    index_node,
    load_model,
    plan_node,
    research_node,
    select_node,
    send_node,
    utc_now,
    web_tools,
)


class OutreachInput(Brief):
    """What a run starts from."""


class OutreachState(OutreachInput):
    """Everything that the stages leave behind; each key is written by one stage."""

    dossier_id: NotRequired[str]
    documents: NotRequired[list[str]]
    findings: NotRequired[Findings]
    angles: NotRequired[list[Angle]]
    evidence: NotRequired[list[Evidence]]
    email: NotRequired[Email]
    approval: NotRequired[Approval]
    receipt: NotRequired[Receipt]
    problems: Annotated[list[Problem], operator.add]


def build(
    model: BaseChatModel,
    *,
    database: Callable[[], Database] = Database.shared,
    outbox: Path = Path("outbox"),
    smtp: SmtpServer | None = None,
    dossiers: Path | None = None,
    guardrails: Guardrails = (),
    stage_timeout: float | timedelta | None = None,
    clock: Clock = utc_now,
) -> StateGraph[OutreachState, None, OutreachInput, OutreachState]:
    """The outreach graph, to be compiled with a checkpointer (the approval pauses it).

    Args:
        model: answers in every stage that needs a model.
        database: gives the database that keeps the dossier; called when a node runs.
        outbox: the folder for `.eml` files, unless `smtp` is given.
        smtp: deliver here instead.
        dossiers: if given, refuse dossiers that lie elsewhere.
        guardrails: further middleware for every agent.
        stage_timeout: seconds after which a model stage that hangs fails with `NodeTimeoutError`. Only for
            `ainvoke` and `astream`: LangGraph refuses to run a graph with timeouts synchronously.
        clock: the time of approval, which is also the message's date.
    """
    model_stage: dict[str, Any] = {
        "timeout": stage_timeout,
        "retry_policy": RetryPolicy(max_attempts=2, retry_on=is_transient),
    }

    def documents() -> Any:
        return database().documents

    graph = StateGraph(OutreachState, input_schema=OutreachInput)
    tools = [*dossier_tools(documents), *web_tools()]
    graph.add_node("index", index_node(documents=documents, within=dossiers, needs_recipient=smtp is not None))
    graph.add_node("research", research_node(model, tools, guardrails=guardrails), **model_stage)
    graph.add_node("plan", plan_node(model, guardrails=guardrails), **model_stage)
    graph.add_node("select", select_node(model, documents=documents, guardrails=guardrails), **model_stage)
    graph.add_node("draft", draft_node(model, guardrails=guardrails), **model_stage)
    graph.add_node("approve", approve_node(clock=clock))
    graph.add_node("send", send_node(outbox=outbox, smtp=smtp))
    graph.add_edge(START, "index")
    graph.add_edge("index", "research")
    graph.add_edge("research", "plan")
    graph.add_edge("plan", "select")
    graph.add_edge("select", "draft")
    graph.add_edge("draft", "approve")
    graph.add_conditional_edges("approve", _after_approval)
    graph.add_edge("send", END)
    return graph


def _after_approval(state: OutreachState) -> Literal["send", "__end__"]:
    approval = state.get("approval")
    return "__end__" if approval is None or approval["decision"] == "rejected" else "send"


graph = build(load_model(), dossiers=Path()).compile(name="outreach")
"""With the offline model, on dossiers below the working folder; `holdfast.serving.server` has the configured one."""
