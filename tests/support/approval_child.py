"""Processes that run a graph whose calls somebody approves, and are killed around the asking and the answer."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import psycopg
from langchain_core.messages import HumanMessage
from langgraph.types import Command

from holdfast.checkpointing import Approvals, Database, HoldfastSaver, Terms
from holdfast.guardrails import ApprovalPolicy
from tests.support.approvals import LOOK, MAIL, Desk
from tests.support.journal_child import Strikes
from tests.support.zygote import Job, serve

TABLE: Final = "CREATE TABLE sent (thread text, what text, by text)"
POLICIES: Final = {"send": ApprovalPolicy(terms=Terms(quorum=2))}
PEOPLE: Final = ("ada", "bob")


def arm(strike: Strikes) -> None:
    """Make the record and the saver of this process strike as they are entered and left."""
    for of, method in (
        (Approvals, "open"),
        (Approvals, "decide"),
        (HoldfastSaver, "put"),
        (HoldfastSaver, "put_writes"),
    ):
        setattr(of, method, _wrapped(getattr(of, method), method, strike))
        setattr(of, f"a{method}", _awrapped(getattr(of, f"a{method}"), method, strike))


def _wrapped(method: Any, name: str, strike: Strikes) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        strike(f"{name}:enter")
        result = method(*arguments, **keywords)
        strike(f"{name}:exit")
        return result

    return call


def _awrapped(method: Any, name: str, strike: Strikes) -> Any:
    async def call(*arguments: Any, **keywords: Any) -> Any:
        strike(f"{name}:enter")
        result = await method(*arguments, **keywords)
        strike(f"{name}:exit")
        return result

    return call


def run(job: Job) -> None:
    """Run or resume the job's thread to its end, as one after another of the people who approve."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    arm(Strikes(job.get("point", ""), int(job.get("count", 1)), note))
    with Database.connect(job["uri"]) as db:
        desk = Desk(db, POLICIES, [MAIL, LOOK], kind=job["graph"], mode=job["mode"], thread=job["thread"])
        desk.sent = lambda what: _sent(job, what)
        begun = db.saver.get_tuple({"configurable": {"thread_id": job["thread"]}}) is not None
        # Who goes on after a crash is nobody who approves: what was said before must not become his.
        ran(desk, job, None if begun else {"messages": [HumanMessage("Do it.", id="begin")]}, None)
        for person in PEOPLE:
            if desk.asked is None or "effects" in desk.asked:
                break
            (request,) = desk.asked["holdfast"]["requests"]
            if person not in request["votes"]:
                note(f"asks {person}")
                ran(desk, job, Command(resume={"type": "approve"}), person)
        while interrupts := desk.state.interrupts:
            # Killed while a tool ran: the journal asks what became of it.
            answers = {
                one.id: {effect["effect_id"]: _became(job, effect) for effect in one.value["effects"]}
                for one in interrupts
            }
            ran(desk, job, Command(resume=answers), None)


def ran(desk: Desk, job: Job, given: Any, by: str | None) -> None:
    """Run it as somebody."""
    config: Any = {"configurable": {"thread_id": job["thread"], **({"actor": by} if by else {})}}
    if job["mode"] == "async":
        asyncio.run(desk.graph.ainvoke(given, config, durability=job["durability"]))
    else:
        desk.graph.invoke(given, config, durability=job["durability"])


def _became(job: Job, effect: Any) -> Any:
    """What became of a call, as the outside world shows it."""
    with psycopg.connect(job["uri"]) as connection:
        rows = connection.execute("SELECT what FROM sent WHERE thread = %s", [job["thread"]]).fetchall()
    happened = effect["name"] == "send" and bool(rows)
    return {"verdict": "happened", "result": "sent"} if happened else {"verdict": "did not happen"}


def _sent(job: Job, what: str) -> None:
    with psycopg.connect(job["uri"], autocommit=True) as connection:
        connection.execute("INSERT INTO sent (thread, what) VALUES (%s, %s)", (job["thread"], what))


if __name__ == "__main__":
    serve(run)
