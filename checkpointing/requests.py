"""Requests for approval: who is asked about which action, by when, and what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast, get_args

from .errors import HoldfastError
from .visibility import is_mapping

DecisionType = Literal["approve", "edit", "reject", "respond"]
OnExpiry = Literal["reject", "escalate", "approve"]
RequestState = Literal["waived", "waiting", "approved", "edited", "rejected", "responded", "expired", "withdrawn"]
ChangeKind = Literal["expired", "escalated", "reminded", "approved"]
DECISIONS: Final[tuple[DecisionType, ...]] = get_args(DecisionType)
STATES: Final[tuple[RequestState, ...]] = get_args(RequestState)
GRANTED: Final[tuple[RequestState, ...]] = ("waived", "approved", "edited")
"""The states in which the action may be carried out."""
OURS: Final = "holdfast:"
"""What the names of those begin with who decide and are nobody; a person cannot be called so."""
EXPIRY: Final = f"{OURS}expiry"
"""Who has decided a request that nobody did in time."""
POLICY: Final = f"{OURS}policy"
"""Who has waived one."""
NAME: Final = 200
"""Characters of a name."""
SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(days=3650)
_PEOPLE: Final = 200


class InvalidTerms(HoldfastError, ValueError):
    """Terms of a request under which nobody could decide, or that contradict one another."""


class InvalidRequest(HoldfastError, ValueError):
    """A request that cannot be recorded: too large, not JSON, or with a schema that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who may decide, how, and until when.

    >>> Terms(deciders=("ada", "bob"), quorum=3)
    Traceback (most recent call last):
    holdfast.checkpointing.requests.InvalidTerms: terms: a quorum of 3 cannot be made by 2 deciders
    """

    deciders: tuple[str, ...] = ()
    """Names as the authenticated channel gives them; empty: anybody who is authenticated."""
    quorum: int = 1
    """So many different people have to approve; one rejection decides. With more than 1, nobody edits or responds."""
    allowed: tuple[DecisionType, ...] = DECISIONS
    expires_in: timedelta | None = None
    on_expiry: OnExpiry = "reject"
    """`escalate`: `escalate_to` become the deciders, for another `expires_in`, after which it is rejected."""
    escalate_to: tuple[str, ...] = ()
    """Approvals of those who were asked before them do not count any more."""
    remind_every: timedelta | None = None
    bulk: bool = False
    """Whether it may be decided with others in one go."""

    def __post_init__(self) -> None:
        """Raises `InvalidTerms`: what is wrong."""
        for name in ("deciders", "escalate_to"):
            object.__setattr__(self, name, _people(name, getattr(self, name)))
        if not _whole(self.quorum):
            raise InvalidTerms(f"terms: the quorum must be a whole number from 1, not {self.quorum!r}")
        object.__setattr__(self, "allowed", self._allowed())
        for name in ("expires_in", "remind_every"):
            _checked_time(name, getattr(self, name))
        self._check_expiry()
        for people in filter(None, (self.deciders, self.escalate_to)):
            if len(people) < self.quorum:
                raise InvalidTerms(f"terms: a quorum of {self.quorum} cannot be made by {len(people)} deciders")

    def _allowed(self) -> tuple[DecisionType, ...]:
        given = cast("object", self.allowed)
        if not isinstance(given, list | tuple) or any(kind not in DECISIONS for kind in self.allowed):
            raise InvalidTerms(f"terms: allowed must be a tuple of some of {', '.join(DECISIONS)}, not {given!r}")
        whole: tuple[DecisionType, ...] = ("approve", "reject")
        allowed: tuple[DecisionType, ...] = tuple(
            kind for kind in DECISIONS if kind in self.allowed and (self.quorum == 1 or kind in whole)
        )
        if not allowed:
            raise InvalidTerms("terms: no decision is allowed, so nobody could decide")
        return allowed

    def _check_expiry(self) -> None:
        if self.on_expiry not in get_args(OnExpiry):
            raise InvalidTerms(f"terms: on_expiry must be reject, escalate or approve, not {self.on_expiry!r}")
        if self.on_expiry != "reject" and self.expires_in is None:
            raise InvalidTerms(f"terms: on_expiry {self.on_expiry!r} needs expires_in; nothing would ever expire")
        if self.on_expiry == "approve" and "approve" not in self.allowed:
            raise InvalidTerms("terms: on_expiry 'approve' needs approve among the allowed decisions")
        if (self.on_expiry == "escalate") != bool(self.escalate_to):
            raise InvalidTerms("terms: on_expiry 'escalate' and escalate_to need each other")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """An action that somebody has to approve; or nobody, if it is waived."""

    thread_id: str
    task_id: str
    call_id: str
    """The tool call's id, or what a node calls it; unique in the task."""
    name: str
    """Of the action: a tool."""
    arguments: Mapping[str, Any]
    """JSON. In the record NUL and lone surrogates are replaced; the digest is of what was given."""
    description: str = ""
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the agent knew: evidence, confidence, cost so far, steps, limits, the newest messages."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the arguments, which an edit must meet."""
    terms: Terms = field(default_factory=Terms)
    waived: str | None = None
    """Why nobody need be asked: it is recorded all the same, so that a policy is evaluated once."""
    checkpoint_ns: str = ""
    node: str | None = None
    step: int | None = None
    correlation_id: str | None = None
    run_id: str | None = None
    graph_id: str | None = None
    """For whoever resumes the thread: which graph it is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest(NewRequest):
    """A request as it stands."""

    request_id: str
    digest: str
    """Of name and arguments, as `action_digest` makes it: a decision is about these and no others."""
    state: RequestState
    requested_at: datetime
    """In UTC, as the others."""
    expires_at: datetime | None = None
    deciders: tuple[str, ...] = ()
    """As they stand now; the terms have those of the beginning."""
    level: int = 0
    """How often it was escalated."""
    votes: tuple[str, ...] = ()
    """Who has approved so far."""
    reminded: int = 0
    decided_by: str | None = None
    """Who; `EXPIRY` where time decided, `POLICY` where nobody had to."""
    decided_at: datetime | None = None
    decision: DecisionType | None = None
    message: str = ""
    """The reason of a rejection, the text of a response, why it was withdrawn."""
    edited: Mapping[str, Any] | None = None
    """The arguments that were approved instead."""

    @property
    def settled(self) -> bool:
        """Whether nobody has to decide any more."""
        return self.state != "waiting"

    @property
    def granted(self) -> bool:
        """Whether the action may be carried out, with `final_arguments`."""
        return self.state in GRANTED

    @property
    def final_arguments(self) -> Mapping[str, Any]:
        """The arguments as they were approved, if they were."""
        return self.arguments if self.edited is None else self.edited

    @property
    def final_digest(self) -> str:
        """Of the action as it was approved, if it was."""
        return self.digest if self.edited is None else action_digest(self.name, self.edited)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What somebody decides."""

    type: DecisionType
    by: str
    """As the authenticated channel says, and never the payload."""
    digest: str
    """Of the action that was seen."""
    arguments: Mapping[str, Any] | None = None
    """Of an edit: all arguments as they are to be."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What time has done to a request, which is as it is now."""

    request: ApprovalRequest
    kind: ChangeKind


def action_digest(name: str, arguments: Mapping[str, Any]) -> str:
    """Of an action: the same after the arguments were written as JSON and read again, by whichever program.

    >>> action_digest("pay", {"usd": 5, "to": "ada"}) == action_digest("pay", {"to": "ada", "usd": 5.0})
    True

    Raises:
        InvalidRequest: the arguments are no JSON.
    """
    try:
        text = json.dumps([name, _canonical(arguments)], sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the arguments of {name!r} are no JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def request_id_of(thread_id: str, task_id: str, call_id: str, digest: str) -> str:
    """The same for every re-execution of a task that asks about the same action."""
    parts = b"".join(
        hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest() for part in (thread_id, task_id, call_id, digest)
    )
    return f"apr-{hashlib.sha256(parts).hexdigest()[:32]}"


def name_problem(name: object) -> str | None:
    """Why something cannot be the name of somebody who decides; None if it can.

    >>> name_problem("ada"), name_problem("a\\nb")
    (None, 'must be 1 to 200 printable characters')
    """
    if not isinstance(name, str) or not 0 < len(name) <= NAME or not name.isprintable():
        return f"must be 1 to {NAME} printable characters"
    return f"must not begin with {OURS!r}, which is not a person's" if name.startswith(OURS) else None


def _canonical(value: object) -> object:
    # Programs differ in how they write whole numbers: 5.0, 5, 5e0.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_mapping(value):
        if odd := [key for key in cast("Mapping[object, object]", value) if not isinstance(key, str)]:
            raise TypeError(f"a name in them is no text: {odd[0]!r}")
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in cast("Collection[object]", value)]
    return value


def _whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


def _people(field_name: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list | tuple):
        raise InvalidTerms(f"terms: {field_name} must be a tuple of names, not {given!r}")
    people = tuple(cast("Collection[str]", given))
    for person in people:
        if problem := name_problem(person):
            raise InvalidTerms(f"terms: a name in {field_name} {problem}: {str(person)[:NAME]!r}")
    if len(set(people)) < len(people) or len(people) > _PEOPLE:
        raise InvalidTerms(f"terms: {field_name} must be at most {_PEOPLE} different names")
    return people


def _checked_time(field_name: str, given: object) -> None:
    if given is not None and not (isinstance(given, timedelta) and SHORTEST <= given <= LONGEST):
        raise InvalidTerms(
            f"terms: {field_name} must be a timedelta from 1 second to {LONGEST.days} days, not {given!r}"
        )
