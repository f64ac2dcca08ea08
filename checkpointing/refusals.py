"""Why a decision was not taken: the request is as it was before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from .errors import HoldfastError
from .requests import EXPIRY, ApprovalRequest, DecisionType, RequestState


class DecisionRefused(HoldfastError):
    """Base of what `Approvals.decide` and `withdraw` raise; nothing was changed by what was tried."""

    def __init__(self, request_id: str, text: str) -> None:
        self.request_id: Final = request_id
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        """Its arguments are not its text."""
        return _again, (type(self), str(self), self.__dict__)


def _again(kind: type[DecisionRefused], text: str, state: dict[str, Any]) -> DecisionRefused:
    error = kind.__new__(kind, text)
    error.__dict__.update(state)
    return error


class UnknownRequest(DecisionRefused):
    """There is no such request; its thread may have been deleted."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            request_id,
            f"there is no request {request_id!r}; its thread may have been removed. `holdfast approvals` lists",
        )


class AlreadyDecided(DecisionRefused):
    """Somebody, or the end of its time, was first."""

    def __init__(self, request: ApprovalRequest) -> None:
        self.request: Final = request
        self.by: Final = request.decided_by or ""
        self.at: Final[datetime | None] = request.decided_at
        self.state: Final[RequestState] = request.state
        self.decision: Final[DecisionType | None] = request.decision
        super().__init__(
            request.request_id,
            f"request {request.request_id!r} ({request.name}) was {request.state} "
            f"{_by(request)}{_at(self.at)}; nothing was changed",
        )


class RequestExpired(DecisionRefused):
    """The time to decide is over; what the terms say of that has been done."""

    def __init__(self, request: ApprovalRequest) -> None:
        self.request: Final = request
        """As it is now: expired, approved, or waiting for those to whom it was escalated."""
        if not request.settled:
            what = f"it was escalated to {', '.join(request.deciders)}"
        else:
            what = f"it was {'approved' if request.granted else 'rejected'} for that{_at(request.decided_at)}"
        super().__init__(
            request.request_id,
            f"the time to decide on request {request.request_id!r} ({request.name}) is over: {what}",
        )


class NotADecider(DecisionRefused):
    """Somebody decides who was not asked."""

    def __init__(self, request_id: str, by: str, deciders: Sequence[str]) -> None:
        self.by: Final = by
        super().__init__(
            request_id, f"{by!r} may not decide on request {request_id!r}; it is for {', '.join(deciders) or 'nobody'}"
        )


class DecisionNotAllowed(DecisionRefused):
    """A kind of decision that this request does not offer."""

    def __init__(self, request_id: str, decision: str, allowed: Sequence[str]) -> None:
        super().__init__(
            request_id, f"request {request_id!r} cannot be answered by {decision!r}; allowed: {', '.join(allowed)}"
        )


class ArgumentsChanged(DecisionRefused):
    """The decision is about other arguments than those of the request."""

    def __init__(self, request_id: str, given: str, digest: str) -> None:
        super().__init__(
            request_id,
            f"the decision is about another action than request {request_id!r}: its digest is {digest[:12]}\u2026, not "
            f"{given[:12]!r}; look at the request again",
        )


class AlreadyVoted(DecisionRefused):
    """Somebody has approved already, and others have to."""

    def __init__(self, request: ApprovalRequest, by: str) -> None:
        self.by: Final = by
        super().__init__(
            request.request_id,
            f"{by!r} has approved request {request.request_id!r} already; it has {len(request.votes)} of "
            f"{request.terms.quorum} approvals and waits for others",
        )


class InvalidDecision(DecisionRefused, ValueError):
    """What was answered is no decision, or its arguments are not what the action takes."""

    def __init__(self, request_id: str, problem: str, *, place: str = "$") -> None:
        self.place: Final = place
        """A JSON path into the arguments of an edit; `$`: the decision itself."""
        self.problem: Final = problem
        where = f"at {place}: " if place != "$" else ""
        super().__init__(request_id, f"the decision on request {request_id!r} cannot be taken: {where}{problem}")


def _by(request: ApprovalRequest) -> str:
    return "by the end of its time" if request.decided_by == EXPIRY else f"by {request.decided_by or 'nobody'}"


def _at(moment: datetime | None) -> str:
    return f" at {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment is not None else ""
