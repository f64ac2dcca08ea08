"""What people are told of a request for approval: what happened, and where to look; no arguments, unless asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ..checkpointing.notices import NoticeKind
from ..checkpointing.requests import EXPIRY, ApprovalRequest

_URGENT: Final[tuple[NoticeKind, ...]] = ("requested", "reminded", "escalated")
_TITLES: Final[dict[NoticeKind, str]] = {
    "requested": "Approval wanted",
    "reminded": "Still waiting for approval",
    "escalated": "Approval escalated",
    "decided": "Decided",
    "expired": "Approval expired",
    "withdrawn": "Approval withdrawn",
}
_DONE: Final = {"approved": "approved", "edited": "approved with other arguments", "responded": "answered instead"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalNotice:
    """Something of a request that somebody is told."""

    request: ApprovalRequest
    """As it is when it is told."""
    change: NoticeKind
    at: datetime
    """When it happened, in UTC."""
    number: int = 0
    """The how-manyth reminder or escalation."""
    link: str | None = None
    """The request's page."""
    arguments: bool = False
    """Whether to tell them, the description and what was said as well; they go to whoever reads the message."""

    @property
    def title(self) -> str:
        return f"{_TITLES[self.change]}: {_plain(self.request.name)}"

    @property
    def kind(self) -> str:
        return f"approval.{self.change}"

    @property
    def identity(self) -> str:
        return f"{self.request.request_id} {self.change} {self.number}"

    @property
    def urgent(self) -> bool:
        return self.change in _URGENT

    def __str__(self) -> str:
        lines = [self._said()]
        if self.arguments:
            lines += [_plain(text) for text in (self.request.description, self.request.message) if text]
            lines += [f"- {_plain(name)}: {_plain(str(value))}" for name, value in self.request.arguments.items()]
        return "\n".join([*lines, *([self.link] if self.link else [])])

    def details(self) -> dict[str, Any]:
        """As JSON: what a program needs to find the request; a decision is made with its `digest`."""
        request = self.request
        told: dict[str, Any] = {
            "request_id": request.request_id,
            "change": self.change,
            "number": self.number,
            "tool": request.name,
            "state": request.state,
            "digest": request.digest,
            "thread_id": request.thread_id,
            "correlation_id": request.correlation_id,
            "deciders": list(request.deciders),
            "quorum": request.terms.quorum,
            "approvals": len(request.votes),
            "requested_at": request.requested_at.isoformat(),
            "expires_at": _iso(request.expires_at),
            "decision": request.decision,
            "decided_by": request.decided_by,
            "decided_at": _iso(request.decided_at),
            "link": self.link,
        }
        if self.arguments:
            edited = None if request.edited is None else dict(request.edited)
            told |= {
                "arguments": dict(request.arguments),
                "edited": edited,
                "description": request.description,
                "message": request.message,
            }
        return told

    def _said(self) -> str:
        request, name = self.request, _plain(self.request.name)
        by = " or ".join(map(_plain, request.deciders)) or "anybody who may"
        until = f", until {request.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if request.expires_at else ""
        several = f" ({len(request.votes)} of {request.terms.quorum} approvals)" if request.terms.quorum > 1 else ""
        if self.change == "requested":
            return f"{name} waits to be approved by {by}{several}{until}."
        if self.change == "reminded":
            return f"{name} still waits to be approved by {by}{several}{until}. Reminder {self.number}."
        if self.change == "escalated":
            return f"Nobody decided on {name} in time. It now waits to be approved by {by}{several}{until}."
        if self.change == "withdrawn":
            return f"The request to approve {name} was withdrawn."
        if self.change == "expired" or request.decided_by == EXPIRY:
            then = "approved" if request.state == "approved" else "rejected"
            return f"Nobody decided on {name} in time: it counts as {then}."
        return f"{name} was {_DONE.get(request.state, request.state)} by {_plain(request.decided_by or 'nobody')}."


def _plain(text: str) -> str:
    """A model's text on one line, without what a terminal or a chat would act on."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
