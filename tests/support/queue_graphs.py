"""Graphs for workers: they do something outside, ask a person, and do something more.

What they do outside are rows of the table `outside`, written through `@effect` over connections of their own. Whoever
asks does so as the approval middleware does: a request in the record, and an interrupt that names it.
"""

from __future__ import annotations

import asyncio
import operator
import os
from itertools import pairwise
from typing import Annotated, Any, Final

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import ApprovalRequest, HoldfastSaver, NewRequest, Terms
from holdfast.checkpointing.leases import owner_of
from holdfast.guardrails import effect

TABLE: Final = "CREATE TABLE outside (thread text, what text, attempt bigserial, done boolean NOT NULL DEFAULT false)"
GRAPHS: Final = '{"graphs": {"two": "tests.support.queue_graphs:two", "side": "tests.support.queue_graphs:side"}}'


class State(TypedDict):
    """What the nodes leave behind."""

    terms: dict[str, Any]
    said: Annotated[list[str], operator.add]


def _thread() -> str:
    return str(get_config().get("configurable", {})["thread_id"])


@effect(on_doubt="retry")
async def outside(what: str) -> str:
    """Do something that leaves a row: begun, and done."""
    uri = os.environ["HOLDFAST_DATABASE_URI"]
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True, application_name="outside") as connection:
        await connection.execute("INSERT INTO outside (thread, what, done) VALUES (%s, %s, true)", [_thread(), what])
    return what


async def asked(name: str, terms: Terms, config: RunnableConfig) -> ApprovalRequest:
    """Ask, and wait until it is decided."""
    settings = config.get("configurable", {})
    saver = owner_of(config)
    assert isinstance(saver, HoldfastSaver)
    info = get_runtime().execution_info
    assert info is not None
    new = NewRequest(
        thread_id=str(settings["thread_id"]),
        task_id=str(info.task_id),
        call_id=name,
        name=name,
        arguments={"what": name},
        terms=terms,
        checkpoint_ns=str(settings.get("checkpoint_ns", "")),
        graph_id=settings.get("graph_id"),
    )
    (request,) = await saver.approvals.aopen([new], lease=saver.leases.of(config))
    while not request.settled:
        interrupt({"action_requests": [], "holdfast": {"requests": [{"request_id": request.request_id}]}})
        request = await saver.approvals.aget(request.request_id)
    return request


def doing(name: str, pause: float = 0.0) -> Any:
    """A node with an effect."""

    async def do(state: State) -> Any:
        await asyncio.sleep(pause)
        return {"said": [await outside(name)]}

    return do


def asking(name: str) -> Any:
    """A node that asks."""

    async def ask(state: State, config: RunnableConfig) -> Any:
        request = await asked(name, Terms(**state.get("terms", {})), config)
        return {"said": [f"{name} {request.state}"]}

    return ask


def _two() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("before", doing("before"))
    builder.add_node("first", asking("first"))
    builder.add_node("between", doing("between"))
    builder.add_node("second", asking("second"))
    builder.add_node("after", doing("after"))
    path = [START, "before", "first", "between", "second", "after", END]
    for one, other in pairwise(path):
        builder.add_edge(one, other)
    return builder


def _side() -> StateGraph[State]:
    """Two that ask beside each other."""
    builder = StateGraph(State)
    for name in ("left", "right"):
        builder.add_node(name, asking(name))
        builder.add_edge(START, name)
        builder.add_edge(name, "after")
    builder.add_node("after", doing("after"))
    return builder


two = _two()
side = _side()
