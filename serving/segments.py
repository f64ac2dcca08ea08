"""One segment of a thread: run its graph until it ends or pauses, from wherever it stands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Command, Interrupt, StateSnapshot, TasksStreamPart

from holdfast.checkpointing import Database, DatabaseUnavailable, ThreadBusy, UnknownRequest
from holdfast.checkpointing.errors import ThreadBegun
from holdfast.checkpointing.saver import NEW_THREAD
from holdfast.checkpointing.visibility import is_mapping

from .errors import RunFailed, UnknownThread
from .jobs import Cause
from .state import Compiled

NUDGE: Final = {"holdfast": "decided"}
"""The answer to an interrupt whose requests are decided: what was decided is in the record."""
Outcome = Literal["ended", "waits", "drained", "nothing"]
_PASS: Final = (DatabaseUnavailable, ThreadBegun, ThreadBusy, GraphDrained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A thread's graph, ready to run."""

    graph: Compiled
    config: RunnableConfig
    control: RunControl = field(default_factory=RunControl)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a thread stands, as far as that decides what comes next.

    `settled` are the ids of interrupts of which nobody has to decide anything any more.
    """

    begun: bool
    ended: bool = False
    failed: bool = False
    unfinished: bool = False
    """Whether a task has neither ended nor paused."""
    settled: tuple[str, ...] = ()


Move = Literal["begin", "resume", "go on", "nothing", "unknown"]


def next_move(standing: Standing, *, cause: Cause, given: bool, again: bool) -> Move:
    """What a segment has to do. However often it is asked, nothing is begun or answered twice.

    Args:
        standing: where the thread stands.
        cause: what the segment is for; a decision does not run again what has failed.
        given: whether there is an input.
        again: whether the segment was begun before, by this worker or another.

    >>> next_move(Standing(begun=True, ended=True), cause="submitted", given=True, again=True)
    'nothing'
    """
    if not standing.begun:
        return "begin" if given else "unknown"
    if standing.ended:
        return "nothing"
    if standing.settled:
        return "resume"
    if standing.failed:
        return "go on" if again or cause == "resumed" else "nothing"
    return "go on" if standing.unfinished else "nothing"


def standing_of(snapshot: StateSnapshot, settled: Collection[str]) -> Standing:
    """Where a snapshot's thread stands; `settled` are ids of interrupts."""
    # Not `next`, which leaves out tasks that have ended: killed before the checkpoint that follows, all of them have.
    unended = [task for task in snapshot.tasks if task.result is None]
    waiting = [interrupt.id for task in unended for interrupt in task.interrupts]
    others = [task for task in unended if not task.interrupts]
    return Standing(
        begun=snapshot.created_at is not None,
        ended=not snapshot.tasks,
        failed=any(task.error for task in others),
        unfinished=bool(others) or (bool(snapshot.tasks) and not waiting),
        settled=tuple(interrupt for interrupt in waiting if interrupt in settled),
    )


def requests_of(interrupt: Interrupt) -> list[str]:
    """The ids of the requests that an interrupt waits for; none if it waits for something else."""
    value: object = interrupt.value
    ours = value.get("holdfast") if is_mapping(value) else None
    listed = ours.get("requests") if is_mapping(ours) else None
    found = cast("list[object]", listed) if isinstance(listed, list) else []
    return [str(one["request_id"]) for one in found if is_mapping(one) and "request_id" in one]


async def settled_of(database: Database, snapshot: StateSnapshot) -> set[str]:
    """The interrupts of which every request is decided."""
    return {
        interrupt.id
        for interrupt in snapshot.interrupts
        if (requests := requests_of(interrupt)) and all([await _settled(database, one) for one in requests])
    }


async def answer_of(database: Database, graph: Compiled, config: RunnableConfig) -> Command[Any] | None:
    """What lets a thread that waits go on, if all is decided that it waits for."""
    snapshot = await graph.aget_state(config)
    settled = standing_of(snapshot, await settled_of(database, snapshot)).settled
    return Command(resume=dict.fromkeys(settled, NUDGE)) if settled else None


async def _settled(database: Database, request_id: str) -> bool:
    try:
        return (await database.approvals.aget(request_id)).settled
    except UnknownRequest:
        return False


async def advance(
    database: Database, prepared: Prepared, *, cause: Cause, given: Mapping[str, Any] | None, again: bool
) -> Outcome:
    """Run the thread until its graph ends, pauses, or is asked to stop at a step's end.

    Raises:
        UnknownThread: there is no such thread, and no input to begin it with.
        ThreadBegun: somebody has begun it meanwhile.
        ThreadBusy, DatabaseUnavailable, RunFailed: as `run`.
    """
    config = prepared.config
    thread_id = str(config.get("configurable", {})["thread_id"])
    snapshot = await prepared.graph.aget_state(config)
    settled = await settled_of(database, snapshot)
    standing = standing_of(snapshot, settled)
    move = next_move(standing, cause=cause, given=given is not None, again=again)
    if move == "unknown":
        raise UnknownThread(thread_id)
    if move == "nothing":
        return "nothing"
    answer: Any = None
    if move == "begin":
        answer = dict(given or {})
        config = cast("RunnableConfig", dict(config))
        config["configurable"] = {**config.get("configurable", {}), NEW_THREAD: thread_id}
    elif move == "resume":
        # By their ids: an interrupt that is answered meanwhile is not answered again.
        answer = Command(resume=dict.fromkeys(standing.settled, NUDGE))
    try:
        await run(prepared.graph, answer, config, prepared.control, lambda part: None)
    except GraphDrained:
        return "drained"
    return "waits" if (await prepared.graph.aget_state(prepared.config)).tasks else "ended"


async def run(
    graph: Compiled,
    given: Any,
    config: RunnableConfig,
    control: RunControl,
    observe: Callable[[TasksStreamPart], None],
    *,
    onward: str = "",
) -> None:
    """Run a graph until it ends or pauses; `observe` is told of its tasks, `onward` says what to do after a failure.

    Raises:
        GraphDrained: it was asked to stop, and did at the end of a step.
        ThreadBusy: somebody runs the thread, and lives.
        ThreadBegun: it was to begin a thread that is there.
        RunFailed: a node failed, with the node's name and its error as cause.
        DatabaseUnavailable: the database went away.
    """
    failing: str | None = None
    try:
        async for part in graph.astream(
            given, config, stream_mode="tasks", durability="sync", subgraphs=True, control=control, version="v2"
        ):
            if part["type"] == "tasks":
                failing = failing if part["ns"] else part["data"]["name"]
                observe(part)
    except _PASS:
        raise
    except Exception as error:
        where = f"{failing} failed" if failing else "the run failed"
        raise RunFailed(f"{where}: {type(error).__name__}: {error}{onward}") from error
