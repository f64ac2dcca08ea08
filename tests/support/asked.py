"""Requests for approval, and a clock that stands until it is set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from holdfast.checkpointing import ApprovalRequest, Database, Decided, DecisionType, NewRequest, Terms

NOON: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
MAIL: Final[dict[str, Any]] = {"to": "ada@example.com", "copies": 2, "urgent": False}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "to": {"$ref": "#/$defs/address"},
        "copies": {"type": "integer", "minimum": 1, "maximum": 5},
        "urgent": {"type": "boolean"},
    },
    "required": ["to"],
    "additionalProperties": False,
    "$defs": {"address": {"type": "string", "pattern": "@"}},
}


@dataclass(slots=True)
class Clock:
    """The time, as it was set."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at

    def go(self, **forward: float) -> datetime:
        """Let time pass."""
        self.at += timedelta(**forward)
        return self.at


def asking(call_id: str = "call 1", **given: Any) -> NewRequest:
    """A request; of terms, what `Terms` takes is given beside the others."""
    named = ("deciders", "quorum", "allowed", "expires_in", "on_expiry", "escalate_to", "remind_every", "bulk")
    terms = {name: given.pop(name) for name in named if name in given}
    common: dict[str, Any] = {
        "thread_id": "t",
        "task_id": "task",
        "name": "send_email",
        "arguments": MAIL,
        "schema": SCHEMA,
    }
    return NewRequest(**{**common, **given}, call_id=call_id, terms=Terms(**terms))


def opened(db: Database, call_id: str = "call 1", **given: Any) -> ApprovalRequest:
    """A request that was made."""
    (request,) = db.approvals.open([asking(call_id, **given)])
    return request


def said(request: ApprovalRequest, by: str = "ada", type: DecisionType = "approve", **more: Any) -> Decided:
    """A decision on the request as it is."""
    given: dict[str, Any] = {"type": type, "by": by, "digest": request.digest, **more}
    return Decided(**given)


def told(db: Database, thread_id: str = "t") -> list[tuple[str, str]]:
    """The events of a thread's requests: what, and who."""
    return [
        (event.kind.removeprefix("approval."), event.actor)
        for event in db.audit.read(thread_id=thread_id)
        if event.kind.startswith("approval.")
    ]
