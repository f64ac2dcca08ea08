"""A child process that runs the outreach graph, and may be killed on its way.

Arguments: thread, dossier, outbox, log, and `start`, `resume` or `approve`; then perhaps a kill point.
Every start of a node is a line in the log, written before the node's own code runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from holdfast.chaos import kill_at
from holdfast.checkpointing import Database
from holdfast.graphs.outreach import build
from holdfast.nodes import load_model
from tests.support.leases import TTL, awhen_free

NODES = ("index", "research", "plan", "select", "draft", "approve", "send")
INPUT = {"company": "Tidewater Instruments", "offer": "We read sensors from afar.", "to": "post@tidewater.example"}


class StartLog(BaseCallbackHandler):
    """Writes the name of each node that starts, durably, before it runs."""

    run_inline = True
    raise_error = True

    def __init__(self, log: Path) -> None:
        self.log = log

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        tags: list[str] = kwargs.get("tags") or []
        # LangGraph tags a node's own run with its step; what the node runs inside carries no such tag.
        if kwargs.get("name") in NODES and any(tag.startswith("graph:step:") for tag in tags):
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{kwargs['name']}\n")
                file.flush()
                os.fsync(file.fileno())


async def main(thread: str, dossier: str, outbox: str, log: str, action: str, *point: str) -> None:
    """Run one segment of the thread."""
    given: Any = {
        "start": {**INPUT, "dossier": dossier},
        "resume": None,
        "approve": Command(resume={"decisions": [{"type": "approve"}]}),
    }[action]
    config: RunnableConfig = {"configurable": {"thread_id": thread}, "callbacks": [StartLog(Path(log))]}
    async with Database.open(lease_ttl=TTL) as db:
        builder = build(
            load_model(),
            database=lambda: db,
            outbox=Path(outbox),
            clock=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        graph = builder.compile(checkpointer=db.saver, store=db.store)
        with kill_at(point[0]) if point else nullcontext():
            await awhen_free(lambda: graph.ainvoke(given, config, durability="sync"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
