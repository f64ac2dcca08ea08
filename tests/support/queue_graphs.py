"""Graphs for workers: they do something outside, ask a person, and do something more.

What they do outside are rows of the table `outside`, written through `@effect` over connections of their own. Whoever
asks does so as the approval middleware does: a request in the record, and an interrupt that names it.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, NotRequired

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from holdfast.checkpointing import ApprovalRequest, HoldfastSaver, NewRequest, Terms
from holdfast.checkpointing.leases import owner_of
from holdfast.guardrails import DID_NOT_HAPPEN, effect

TABLE: Final = "CREATE TABLE outside (number bigserial, thread text NOT NULL, what text NOT NULL)"
NAMES: Final = ("two", "side", "gate", "failing")
INPUT: Final[dict[str, Any]] = {"said": []}
SAID: Final = ["before", "first approved", "between", "second approved", "after"]
"""What `two` has said in the end, if all was approved."""
PAUSE: Final = float(os.environ.get("EFFECT_PAUSE", "0"))
"""Seconds before and after what an effect does: a kill hits it in between."""


class Once(TypedDict):
    """Terms of a request, as JSON."""

    days: NotRequired[float]
    bulk: NotRequired[bool]
    quorum: NotRequired[int]


class State(TypedDict):
    """What the nodes leave behind; `folder` is where files say when a gate is open."""

    said: Annotated[list[str], operator.add]
    terms: NotRequired[Once]
    folder: NotRequired[str]


class ConnectTimeoutError(Exception):
    """What a client raises whose server does not answer."""


def graphs_file(folder: Path) -> Path:
    """A langgraph.json that names them."""
    file = folder / "langgraph.json"
    file.write_text(json.dumps({"graphs": {name: f"tests.support.queue_graphs:{name}" for name in NAMES}}))
    return file


async def _outside(query: str, what: str) -> list[Any]:
    thread = str(get_config().get("configurable", {})["thread_id"])
    uri = os.environ["HOLDFAST_DATABASE_URI"]
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True, application_name="outside") as connection:
        return await (await connection.execute(query.encode(), [thread, what])).fetchall()


async def did(asked: Mapping[str, Any]) -> Any:
    """Whether an effect of which nobody knows has happened."""
    what = asked["args"]["what"]
    found = await _outside("SELECT what FROM outside WHERE thread = %s AND what = %s", what)
    return what if found else DID_NOT_HAPPEN


@effect(on_doubt=did)
async def outside(what: str) -> str:
    """Leave a row."""
    await asyncio.sleep(PAUSE)
    await _outside("INSERT INTO outside (thread, what) VALUES (%s, %s) RETURNING number", what)
    await asyncio.sleep(PAUSE)
    return what


async def asked(name: str, once: Once, config: RunnableConfig) -> ApprovalRequest:
    """Ask, and wait until it is decided."""
    settings = config.get("configurable", {})
    saver, info = owner_of(config), get_runtime().execution_info
    assert isinstance(saver, HoldfastSaver)
    assert info is not None
    days = once.get("days")
    new = NewRequest(
        thread_id=str(settings["thread_id"]),
        task_id=str(info.task_id),
        call_id=name,
        name=name,
        arguments={"what": name},
        terms=Terms(
            expires_in=timedelta(days=days) if days else None,
            bulk=once.get("bulk", False),
            quorum=once.get("quorum", 1),
        ),
        checkpoint_ns=str(settings.get("checkpoint_ns", "")),
        graph_id=settings.get("graph_id"),
    )
    (request,) = await saver.approvals.aopen([new], lease=saver.leases.of(config))
    while not request.settled:
        interrupt({"action_requests": [], "holdfast": {"requests": [{"request_id": request.request_id}]}})
        request = await saver.approvals.aget(request.request_id)
    return request


def doing(name: str) -> Any:
    """A node with an effect."""

    async def do(state: State) -> Any:
        return {"said": [await outside(name)]}

    return do


def asking(name: str) -> Any:
    """A node that asks."""

    async def ask(state: State, config: RunnableConfig) -> Any:
        request = await asked(name, state.get("terms", {}), config)
        return {"said": [f"{name} {request.state}"]}

    return ask


async def gated(state: State) -> Any:
    """Say that it is begun, and wait until a file lets it go on."""
    folder = Path(state.get("folder", ""))
    with (folder / "begun").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    while not (folder / "open").exists():  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.02)
    return {"said": ["gate"]}


async def broken(state: State) -> Any:
    """Fail in a way that may pass until a file is there, or for good."""
    folder = Path(state.get("folder", ""))
    with (folder / "tried").open("a", encoding="utf-8") as file:
        file.write("x")
    if (folder / "open").exists():
        return {"said": ["mended"]}
    if (folder / "passing").exists():
        raise ConnectTimeoutError("nobody answers")
    raise ZeroDivisionError("for good")


def _line(**nodes: Any) -> StateGraph[State]:
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for one, other in pairwise([START, *nodes, END]):
        builder.add_edge(one, other)
    return builder


def _side() -> StateGraph[State]:
    """Two that ask beside each other."""
    builder = StateGraph(State)
    builder.add_node("after", doing("after"))
    for name in ("left", "right"):
        builder.add_node(name, asking(name))
        builder.add_edge(START, name)
    builder.add_edge(["left", "right"], "after")
    return builder


two = _line(
    before=doing("before"),
    first=asking("first"),
    between=doing("between"),
    second=asking("second"),
    after=doing("after"),
)
side = _side()
gate = _line(before=doing("before"), gated=gated, after=doing("after"))
failing = _line(before=doing("before"), broken=broken)
