"""What the pages show, made of what the database says; nothing is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from langchain_core.messages import AIMessage, ToolMessage

from holdfast.checkpointing import ApprovalRequest, AuditEvent, LoggedMessage
from holdfast.checkpointing.requests import EXPIRY, OURS
from holdfast.checkpointing.visibility import is_mapping

from ..telling import Teller, Totals, dollars
from .showing import kind, relative, utc

_SOON: Final = timedelta(hours=1)
_SUMMARY: Final = 3
_EVIDENCE: Final = 40
_NEARLY: Final = 0.8
_ODD: Final = 10**15
_STATES: Final = {
    "waived": "Nobody had to be asked",
    "waiting": "Waiting",
    "approved": "Approved",
    "edited": "Approved with changes",
    "rejected": "Rejected",
    "responded": "Responded to",
    "expired": "Expired",
    "withdrawn": "Withdrawn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Until when a request can be decided."""

    at: datetime | None
    said: str
    exact: str
    urgency: str
    """`overdue`, `soon`, `later` or `none`."""


def deadline(request: ApprovalRequest, now: datetime) -> Deadline:
    """A request's deadline as seen from now."""
    at = request.expires_at
    if at is None:
        return Deadline(at=None, said="no deadline", exact="", urgency="none")
    if at <= now:
        late = relative(at, now).removesuffix(" ago")
        said = "overdue" if late == "just now" else f"overdue by {late}"
        return Deadline(at=at, said=said, exact=utc(at), urgency="overdue")
    return Deadline(at=at, said=relative(at, now), exact=utc(at), urgency="soon" if at - now <= _SOON else "later")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A request in a list."""

    request: ApprovalRequest
    summary: str
    deadline: Deadline
    standing: str
    """In plain words: who decided, or who may."""
    for_others: str
    """Why whoever looks may not decide it; empty, if they may."""
    mark: str | None
    """Of the form, where it may be decided with others."""


def may_decide(request: ApprovalRequest, name: str) -> bool:
    """Whether a person may decide a request now."""
    asked = not request.deciders or name in request.deciders
    return not request.settled and asked and name not in request.votes


def for_others(request: ApprovalRequest, name: str) -> str:
    """Why a person may not decide a request that waits."""
    if request.settled or may_decide(request, name):
        return ""
    return "you approved" if name in request.votes else "for others"


def summary(request: ApprovalRequest) -> str:
    """What is asked for, on a line."""
    if request.description.strip():
        return request.description
    told = [f"{name}: {_brief(value)}" for name, value in list(request.arguments.items())[:_SUMMARY]]
    more = len(request.arguments) - len(told)
    return " · ".join([*told, f"and {more} more"] if more > 0 else told) or "no arguments"


def _brief(value: object) -> str:
    if isinstance(value, str):
        return value[:60] + "…" if len(value) > 60 else value  # noqa: PLR2004 - a part of a line
    known = kind(value)
    return known if known in ("list", "object") else str(value)


def people(names: Sequence[str]) -> str:
    """Who may decide, in plain words."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "anybody signed in"


def state_said(request: ApprovalRequest) -> str:
    """A request's state in plain words."""
    if request.state == "waiting":
        return "Escalated, waiting" if request.level else "Waiting"
    if request.state == "approved" and request.decided_by == EXPIRY:
        return "Approved, as nobody decided in time"
    return _STATES[request.state]


def standing(request: ApprovalRequest, now: datetime) -> str:
    """Who may decide a request, or who did and when."""
    if request.state == "waived":
        return f"Nobody had to be asked: {request.waived or 'the policy says so'}"
    if request.settled:
        nobody = request.decided_by is None or request.decided_by.startswith(OURS)
        by = "" if nobody else f" by {request.decided_by}"
        at = f", {relative(request.decided_at, now)}" if request.decided_at else ""
        return f"{state_said(request)}{by}{at}"
    missing = request.terms.quorum - len(request.votes)
    needed = f" · {missing} more approval{'' if missing == 1 else 's'} needed" if request.terms.quorum > 1 else ""
    return f"For {people(request.deciders)}{needed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A message of the run, as a page shows it."""

    who: str
    role: str
    about: str
    text: str
    calls: tuple[str, ...]


def said(logged: LoggedMessage) -> Said:
    """A logged message; what it consists of besides text is named."""
    message = logged.message
    role = {"human": "Person", "ai": "Agent", "tool": "Tool", "system": "System"}.get(message.type, message.type)
    name = message.name if isinstance(message, ToolMessage) and message.name else None
    inner = logged.node is None or logged.node.startswith("__")
    about = [] if inner else [f"in {logged.node}", None if logged.step is None else f"step {logged.step}"]
    calls = [str(call["name"]) for call in message.tool_calls] if isinstance(message, AIMessage) else []
    other = [
        str(block.get("type", "part"))
        for block in (message.content if isinstance(message.content, list) else [])
        if is_mapping(block) and block.get("type") not in ("text", "tool_use", "tool_call", "function_call")
    ]
    text = "\n".join([message.text, *(f"[{block}]" for block in other)]).strip("\n")
    return Said(
        who=f"{role} {name}" if name else role,
        role=message.type,
        about=" · ".join([*(part for part in about if part), utc(logged.created_at)]),
        text=text,
        calls=tuple(calls),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An event on a timeline."""

    event: AuditEvent
    heading: str
    actor: str
    facts: str
    detail: str
    tone: str
    """`approval`, `bad`, `money` or `plain`."""
    thread: str | None
    """Where it is another thread than that of the event before."""


def timeline(events: Iterable[AuditEvent]) -> tuple[list[Moment], Totals]:
    """Events in plain words, and what they come to."""
    teller = Teller()
    moments: list[Moment] = []
    before: str | None = None
    for event in events:
        lines = teller.tell(event).split("\n")
        first, *detail = lines[1:] if event.thread_id != before else lines
        words = first.partition("  ")[2]
        actor, _, told = words.partition(": ")
        heading, *facts = told.split(" · ")
        if event.withheld:  # what the words say of details would not be so
            subject, _, verb = event.kind.partition(".")
            heading = f"{subject} {verb}".replace("_", " ") if subject == "approval" else heading
            detail = []
        moments.append(
            Moment(
                event=event,
                heading=heading[:1].upper() + heading[1:],
                actor=actor,
                facts=" · ".join([*facts, *(["details withheld"] if event.withheld else [])]),
                detail="\n".join(text.strip() for text in detail),
                tone=_tone(event),
                thread=event.thread_id if event.thread_id != before else None,
            )
        )
        before = event.thread_id
    return moments, teller.totals


def _tone(event: AuditEvent) -> str:
    subject, _, verb = event.kind.partition(".")
    if verb in ("failed", "in_doubt", "expired", "refused", "exceeded") or subject == "damage":
        return "bad"
    if subject == "approval":
        return "approval"
    return "money" if event.cost else "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a thread or a decision did cost."""

    cost: Decimal
    tokens: int
    model_calls: int
    tool_calls: int
    unpriced: int

    def __str__(self) -> str:
        calls = f"{self.model_calls:,} model and {self.tool_calls:,} tool calls"
        unpriced = f", {self.unpriced} without a price" if self.unpriced else ""
        return f"{dollars(self.cost)} · {self.tokens:,} tokens · {calls}{unpriced}"
