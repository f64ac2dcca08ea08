"""Requests for approval of one task: opened once, asked about in one interrupt, and read when all are settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from ..checkpointing.refusals import AlreadyDecided, DecisionRefused
from ..checkpointing.requests import ApprovalRequest, Decided, NewRequest
from ..checkpointing.visibility import is_mapping
from .actions import Action, Work
from .knowing import MESSAGES
from .replies import InvalidReply, Said, understood
from .standing import UNKNOWN, Standing, graph_of

Make = Callable[[], Work[Sequence[NewRequest]]]
"""What is to be asked; called once for a task, however often that is executed."""
_log: Final = logging.getLogger("holdfast.approvals")


def settled(standing: Standing, make: Make, calls: Sequence[str]) -> Work[list[ApprovalRequest]]:
    """The requests of a task, once nobody has to decide any of them; none, if there was nothing to be asked.

    Nothing is held while somebody is asked: the record is all that waits.

    Args:
        standing: the task.
        make: what is asked if nothing was yet.
        calls: the ids of the task's calls, in the order in which they are shown.

    Raises:
        GraphInterrupt: somebody has to decide.
        NotResumable: a crash would lose what is asked.
    """
    requests, refused = (yield from recorded(standing)), None
    if requests:
        refused = yield from _answered(standing, ordered(requests, calls))
        requests = yield from _read(standing)
    else:
        # What was answered is not about these: nobody has seen them.
        requests = yield from opened(standing, make)
    if all(request.settled for request in requests):
        return requests
    value = asked(ordered(requests, calls)) | ({"refused": refused} if refused else {})
    raise GraphInterrupt((Interrupt.from_ns(value, standing.checkpoint_ns),))


def ordered(requests: Sequence[ApprovalRequest], calls: Sequence[str]) -> list[ApprovalRequest]:
    """In the order of their calls."""
    places = {call_id: place for place, call_id in reversed([*enumerate(calls)])}
    return sorted(requests, key=lambda request: places.get(request.call_id, len(places)))


def recorded(standing: Standing) -> Work[list[ApprovalRequest]]:
    """What is on record of a task, with what time has done to it."""
    yield standing.durable()
    requests, approvals = (yield from _read(standing)), standing.approvals
    while late := _overdue(standing, requests):
        # These alone: what cannot be done about others is nothing to this thread.
        if not (yield Action(partial(approvals.tend, only=late), partial(approvals.atend, only=late))):
            break
        requests = yield from _read(standing)
    return requests


def opened(standing: Standing, make: Make) -> Work[list[ApprovalRequest]]:
    """Ask, in one transaction."""
    new = yield from make()
    if not new:
        return []
    approvals, lease = standing.approvals, standing.lease
    requests: list[ApprovalRequest] = yield Action(
        lambda: approvals.open(new, lease=lease), lambda: approvals.aopen(new, lease=lease)
    )
    yield from _left_behind(standing, new[0])
    return requests


def _left_behind(standing: Standing, new: NewRequest) -> Work[None]:
    """Take back what the thread was asked before it was given something else to do: nobody waits for it any more."""
    approvals, thread_id = standing.approvals, standing.thread_id
    waiting: list[ApprovalRequest] = yield Action(
        lambda: approvals.find(thread_id=thread_id), lambda: approvals.afind(thread_id=thread_id)
    )
    for request in waiting:
        if _is_before(request, new):
            yield from _taken_back(standing, request.request_id)


def _is_before(request: NewRequest, new: NewRequest) -> bool:
    """Whether one is of an earlier step of the same graph; what waits beside it is of the same."""
    same = graph_of(request.checkpoint_ns) == graph_of(new.checkpoint_ns)
    return same and request.step is not None and new.step is not None and request.step < new.step


def _taken_back(standing: Standing, request_id: str) -> Work[None]:
    approvals, by, why = standing.approvals, standing.decider or UNKNOWN, "the thread went on without an answer"
    with suppress(DecisionRefused):  # somebody has decided it meanwhile
        yield Action(lambda: approvals.withdraw(request_id, by, why), lambda: approvals.awithdraw(request_id, by, why))


def _read(standing: Standing) -> Work[list[ApprovalRequest]]:
    approvals, place = standing.approvals, (standing.thread_id, standing.task_id)
    requests: list[ApprovalRequest] = yield Action(
        lambda: approvals.of_task(*place), lambda: approvals.aof_task(*place)
    )
    return requests


def _overdue(standing: Standing, requests: Sequence[ApprovalRequest]) -> list[str]:
    now = standing.approvals.clock() or datetime.now(UTC)
    return [
        one.request_id for one in requests if not one.settled and one.expires_at is not None and one.expires_at <= now
    ]


def _answered(standing: Standing, requests: list[ApprovalRequest]) -> Work[str | None]:
    """Have decided what this run's caller says; why not, if it was not."""
    refused: str | None = None
    about = [request for request in requests if request.state != "waived"]  # such a one was shown to nobody
    for answer in standing.heard():
        try:
            said = understood(answer, about, (yield from _shown(standing, about)))
        except InvalidReply as wrong:
            refused = str(wrong)
        else:
            refused = yield from decided(standing, about, said)
    return refused


def _shown(standing: Standing, requests: Sequence[ApprovalRequest]) -> Work[list[str] | None]:
    """The requests that the task's interrupt has shown, if some were settled meanwhile; None if all are open still.

    An answer is about these: one decision for two actions is none for the other that is left.
    """
    if not any(request.settled for request in requests):
        return None
    values: list[Any] = yield Action(standing.interrupts, standing.ainterrupts)
    listed = [value["holdfast"]["requests"] for value in values if is_mapping(value) and "holdfast" in value]
    return [str(one["request_id"]) for one in listed[-1]] if listed else None


def decided(standing: Standing, requests: Sequence[ApprovalRequest], said: Mapping[str, Said]) -> Work[str | None]:
    """Decide each, or not at all: one that is refused holds up no other. Why, of those that were."""
    by = standing.decider
    refused: list[str] = []
    for request in requests:
        if (one := said.get(request.request_id)) is None:
            continue
        if by is None and (request.terms.quorum > 1 or request.deciders):
            refused.append(f"nobody is authenticated, so nobody can be told apart who decides on {request.name}")
            continue
        decision = Decided(
            type=one.type, by=by or UNKNOWN, digest=request.digest, arguments=one.arguments, message=one.message
        )
        try:
            yield _decide(standing, request.request_id, decision)
        except AlreadyDecided as late:
            # Whoever was first has decided; that this one was late is in the audit trail.
            _log.warning("%s", late)
            refused.append(str(late))
        except DecisionRefused as refusal:
            refused.append(str(refusal))
    return "; ".join(refused) or None


def _decide(standing: Standing, request_id: str, decision: Decided) -> Action:
    approvals = standing.approvals
    return Action(lambda: approvals.decide(request_id, decision), lambda: approvals.adecide(request_id, decision))


def asked(requests: Sequence[ApprovalRequest]) -> dict[str, Any]:
    """The interrupt's value: LangChain's `HITLRequest` of what is open, with what else there is to know.

    `arguments` beside `args` is for UIs that know the one or the other. The newest messages are not in it, for
    whoever may follow the run sees it; they are in the record.
    """
    waiting = [request for request in requests if not request.settled]
    return {
        "action_requests": [
            {
                "name": request.name,
                "args": dict(request.arguments),
                "arguments": dict(request.arguments),
                "description": request.description,
            }
            for request in waiting
        ],
        "review_configs": [
            {
                "action_name": request.name,
                "allowed_decisions": [*request.terms.allowed],
                **({"args_schema": dict(request.schema)} if request.schema is not None else {}),
            }
            for request in waiting
        ],
        "holdfast": {"requests": [_told(request) for request in waiting]},
    }


def _told(request: ApprovalRequest) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "digest": request.digest,
        "expires_at": request.expires_at.isoformat() if request.expires_at is not None else None,
        "deciders": [*request.deciders],
        "quorum": request.terms.quorum,
        "votes": [*request.votes],
        "context": {name: fact for name, fact in request.context.items() if name != MESSAGES},
    }
