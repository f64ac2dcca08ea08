"""What is put into the queue, and why; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from holdfast.checkpointing import ApprovalRequest

SCHEMA: Final = "holdfast_jobs"
ADVANCE: Final = "holdfast.advance"
TEND: Final = "holdfast.tend"
TENDING: Final = "holdfast.approvals"
"""The queue of expiries and reminders, which every worker looks after."""
LONGEST: Final = 100
"""Characters of a graph's name."""
_LATER: Final = -10
Cause = Literal["submitted", "resumed", "decided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job; no two with the same cause wait, and no two with the same lock run."""

    task: str
    queue: str
    cause: str
    arguments: Mapping[str, Any]
    lock: str | None = None
    at: datetime | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A thread is to go on until its graph ends or pauses.

    `given` is the graph's input, for a thread that has none yet.
    """

    thread_id: str
    graph: str
    cause: Cause
    given: Mapping[str, Any] | None = None
    why: str = ""
    """What tells it from other causes of its kind: the task that was decided about."""

    def job(self) -> Job:
        """It, for the queue; only workers that know the graph take it."""
        return Job(
            task=ADVANCE,
            queue=queue_of(self.graph),
            cause=":".join(filter(None, (self.cause, self.thread_id, self.why))),
            arguments={
                "thread_id": self.thread_id,
                "graph": self.graph,
                "cause": self.cause,
                "given": None if self.given is None else dict(self.given),
            },
            lock=self.thread_id,
        )


def queue_of(graph: str) -> str:
    """The queue of a graph's segments.

    >>> queue_of("outreach")
    'graph:outreach'
    """
    return f"graph:{graph}"


def timed(request: ApprovalRequest, change: str) -> list[Job]:
    """What time will have to do to a request that has changed so.

    No locks: a scheduled job with one would keep all others of that thread waiting.
    """
    if request.settled or change not in ("requested", "escalated", "reminded"):
        return []
    due: list[tuple[str, datetime]] = []
    if request.expires_at is not None and change != "reminded":
        due.append((f"expiry:{request.request_id}:{request.level}", request.expires_at))
    if (every := request.terms.remind_every) is not None and change != "escalated":
        at = request.requested_at + every * (request.reminded + 1)
        if request.expires_at is None or at < request.expires_at:
            due.append((f"reminder:{request.request_id}:{request.reminded}", at))
    return [
        Job(task=TEND, queue=TENDING, cause=cause, arguments={}, at=at + timedelta(milliseconds=50), priority=_LATER)
        for cause, at in due
    ]
