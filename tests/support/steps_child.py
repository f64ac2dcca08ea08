"""Processes that run an agent whose steps are counted, and are killed in the middle of a turn."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.messages import HumanMessage
from langchain_core.tools import StructuredTool

from holdfast.chaos import kill_at
from holdfast.chaos.kill import kill_this_process
from holdfast.checkpointing import Database, HoldfastSaver
from holdfast.checkpointing.errors import ThreadBusy
from holdfast.guardrails import JournalMiddleware
from holdfast.guardrails.steps import StepTrackerMiddleware
from tests.support.steps import TurnsModel
from tests.support.zygote import Job, serve

TURNS: Final = [12, 3]
"""Calls that each run asks for, turn by turn."""
RUNS: Final = ("first", "second")


def agent(saver: HoldfastSaver, per: Any) -> Any:
    """An agent whose calls are journaled and counted."""

    def look(word: str) -> str:
        """Look."""
        return f"saw {word}"

    async def alook(word: str) -> str:
        await asyncio.sleep(0)
        return f"saw {word}"

    return create_agent(
        TurnsModel(turns=TURNS),
        [StructuredTool.from_function(look, alook, metadata={"readOnlyHint": True})],
        middleware=[StepTrackerMiddleware(100, per=per), JournalMiddleware()],
        checkpointer=saver,
    )


def countdown(count: int) -> Callable[[], None]:
    """Kills this process the n-th time."""
    lock = threading.Lock()
    left = [count]

    def strike() -> None:
        with lock:
            left[0] -= 1
            if not left[0]:
                kill_this_process()

    return strike


def run(job: Job) -> None:
    """Run or resume the job's thread to the end of its second run, with its kill point armed."""
    config: Any = {"configurable": {"thread_id": job["thread"]}}
    with Database.connect(job["uri"]) as db:
        runner = agent(db.saver, job["per"])
        with kill_at(job["point"], countdown(int(job["count"]))) if "point" in job else nullcontext():
            for number, text in enumerate(RUNS, 1):
                said = _humans(runner, config)
                if said < number or (said == number and runner.get_state(config).next):
                    _ran(runner, {"messages": [HumanMessage(text)]} if said < number else None, config, job["mode"])


def _humans(runner: Any, config: Any) -> int:
    messages = runner.get_state(config).values.get("messages", [])
    return sum(isinstance(message, HumanMessage) for message in messages)


def _ran(runner: Any, given: Any, config: Any, mode: str) -> None:
    while True:
        try:
            if mode == "async":
                asyncio.run(runner.ainvoke(given, config))
            else:
                runner.invoke(given, config)
        except ThreadBusy:
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    serve(run)
