"""Requests for approval as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.checkpointing import ApprovalRequest, DecisionRefused
from holdfast.checkpointing.requests import EXPIRY

from . import render
from .errors import NotTaken, NotTogether
from .progress import printable
from .state import command, utc

_SHORT = 60


def as_json(request: ApprovalRequest) -> dict[str, Any]:
    """Everything about a request, as plain data; lengths of time are seconds."""
    terms = request.terms
    return {
        "request_id": request.request_id,
        "state": request.state,
        "name": request.name,
        "arguments": dict(request.arguments),
        "description": request.description,
        "digest": request.digest,
        "context": dict(request.context),
        "schema": None if request.schema is None else dict(request.schema),
        "thread_id": request.thread_id,
        "graph_id": request.graph_id,
        "node": request.node,
        "step": request.step,
        "correlation_id": request.correlation_id,
        "deciders": list(request.deciders),
        "quorum": terms.quorum,
        "allowed": list(terms.allowed),
        "on_expiry": terms.on_expiry,
        "escalate_to": list(terms.escalate_to),
        "remind_every": None if terms.remind_every is None else terms.remind_every.total_seconds(),
        "bulk": terms.bulk,
        "requested_at": _iso(request.requested_at),
        "expires_at": _iso(request.expires_at),
        "level": request.level,
        "votes": list(request.votes),
        "reminded": request.reminded,
        "waived": request.waived,
        "decision": request.decision,
        "decided_by": request.decided_by,
        "decided_at": _iso(request.decided_at),
        "message": request.message,
        "edited": None if request.edited is None else dict(request.edited),
    }


def table(console: Console, found: Sequence[ApprovalRequest]) -> None:
    """Print requests, one a row."""
    rows = Table("request", "action", "thread", "for", "until (UTC)", "state", box=None, pad_edge=False)
    rows.columns[0].no_wrap = True
    for request in found:
        cells = (
            request.request_id,
            _cut(f"{request.name} {_plain(request.arguments)}"),
            request.thread_id,
            ", ".join(request.deciders) or "anybody",
            utc(request.expires_at) or "no end",
            _state(request),
        )
        rows.add_row(*(Text(render.one_line(cell), overflow="fold") for cell in cells))
    with console.capture() as captured:
        console.print(rows)
    for text in captured.get().splitlines():
        console.out(text.rstrip(), highlight=False)


def text(request: ApprovalRequest) -> str:
    """All of a request, over several lines; no control characters."""
    return printable("\n".join(_lines(request)))


def _lines(request: ApprovalRequest) -> Iterator[str]:
    yield f"{render.one_line(request.name)}: {_state(request)}"
    if request.description:
        yield request.description
    facts = {
        "request": request.request_id,
        "thread": request.thread_id,
        "graph": request.graph_id,
        "node": request.node,
        "step": request.step,
        "correlation": request.correlation_id,
        "digest": request.digest,
        "asked": f"{utc(request.requested_at)} UTC",
        "until": f"{utc(request.expires_at)} UTC, then {request.terms.on_expiry}" if request.expires_at else None,
        "for": ", ".join(request.deciders) or "anybody",
        "quorum": request.terms.quorum if request.terms.quorum > 1 else None,
        "approved by": ", ".join(request.votes) if request.terms.quorum > 1 else None,
        "answers": ", ".join(request.terms.allowed),
        "waived": request.waived,
        "decided": f"{decided_by(request)}, {utc(request.decided_at)} UTC" if request.decided_at else None,
        "message": request.message,
    }
    for key, value in facts.items():
        if value is not None and value != "":
            yield f"  {key:<12} {render.one_line(str(value))}"
    yield "arguments"
    yield _indented(request.arguments)
    if request.edited is not None:
        yield "approved instead"
        yield _indented(request.edited)
    if request.context:
        yield "what the agent knew"
        yield _indented(request.context)
    if not request.settled:
        yield f"decide: {command('approvals', 'approve', request.request_id)}"


def outcome(request: ApprovalRequest, *, resumed: bool) -> str:
    """What a decision has come to, on one line; `resumed`: what it lets go on is in the queue of workers."""
    if not request.settled:
        wanting = request.terms.quorum - len(request.votes)
        said = f"waits for {wanting} more approval{'s' * (wanting > 1)}"
    elif request.graph_id is None:
        said = f"{request.state}; the program that runs thread {request.thread_id} goes on with it"
    elif resumed:
        said = f"{request.state}; a worker goes on with thread {request.thread_id} (`holdfast worker`)"
    else:
        said = f"{request.state}; go on with: {command('resume', request.thread_id)}"
    return render.one_line(f"{request.request_id} ({request.name}) {said}")


def decided_by(request: ApprovalRequest) -> str:
    """Who has decided."""
    return "the end of its time" if request.decided_by == EXPIRY else request.decided_by or "nobody"


def check_bulk(found: Sequence[ApprovalRequest]) -> None:
    """Raises `NotTogether`: one of several is to be decided by itself; nothing has been decided."""
    alone = [request for request in found if not request.terms.bulk]
    if len(found) > 1 and alone:
        raise NotTogether(alone[0].request_id, alone[0].name)


def all_of(refused: Sequence[DecisionRefused]) -> Exception:
    """One error for what was refused of several."""
    return refused[0] if len(refused) == 1 else NotTaken([str(error) for error in refused])


def _state(request: ApprovalRequest) -> str:
    if request.settled or request.terms.quorum == 1:
        return f"{request.state}{f' by {decided_by(request)}' if request.decided_by else ''}"
    return f"{request.state}, {len(request.votes)} of {request.terms.quorum} approvals"


def _indented(value: Any) -> str:
    return "\n".join(f"  {line}" for line in json.dumps(value, ensure_ascii=False, indent=2, default=str).splitlines())


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}\u2026"


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None
