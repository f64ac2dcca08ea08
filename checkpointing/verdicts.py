"""Between the record's rows and what is asked and decided: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from .arrays import TextArray
from .audit import storable
from .forms import ARGUMENTS, CONTEXT, TEXT, Unfit, findable, kept, meets, stored, stored_schema, told
from .refusals import (
    AlreadyDecided,
    AlreadyVoted,
    ArgumentsChanged,
    DecisionNotAllowed,
    DecisionRefused,
    InvalidDecision,
    NotADecider,
    RequestExpired,
    UnknownRequest,
)
from .requests import (
    DECISIONS,
    NAME,
    ApprovalRequest,
    Decided,
    InvalidRequest,
    NewRequest,
    Terms,
    action_digest,
    name_problem,
    request_id_of,
)

_ID: Final = re.compile(r"apr-[0-9a-f]{32}")


def row_of(request: NewRequest) -> dict[str, Any]:
    """The parameters that record a request.

    Raises:
        InvalidRequest: it cannot be recorded.
    """
    named = request.name[:NAME] if isinstance(cast("object", request.name), str) else request.name
    part = "name"
    try:
        _check_names(request)
        part = "arguments"
        arguments = stored(request.arguments, ARGUMENTS)
        part = "context"
        context = stored(request.context, CONTEXT, strict=False)
        part = "schema"
        schema = stored_schema(request.schema) if request.schema is not None else None
        part = "description"
        description = kept(request.description)
        part = "waived"
        waived = kept(request.waived) if request.waived is not None else None
    except Unfit as unfit:
        where = "" if unfit.place == "$" else f" at {unfit.place}"
        raise InvalidRequest(f"request to approve {named!r}: its {part}{where} {unfit.problem}") from unfit
    digest = action_digest(request.name, request.arguments)
    return {
        "id": request_id_of(request.thread_id, request.task_id, request.call_id, digest),
        "thread": request.thread_id, "task": request.task_id, "call": request.call_id, "ns": request.checkpoint_ns,
        "node": request.node, "step": request.step, "correlation": request.correlation_id, "run": request.run_id,
        "graph": request.graph_id, "name": request.name, "arguments": arguments, "digest": digest,
        "description": description, "context": context, "schema": schema, "waived": waived,
        "told": _told_of(request, arguments, digest, waived),
        **_terms_row(request.terms),
    }  # fmt: skip


def _check_names(request: NewRequest) -> None:
    if not 0 < len(request.name) <= NAME or not findable(request.name):
        raise Unfit("$", f"must be a text of 1 to {NAME} characters")
    places = (
        request.thread_id, request.task_id, request.call_id, request.checkpoint_ns, request.node,
        request.correlation_id, request.run_id, request.graph_id,
    )  # fmt: skip
    if not findable(*places):
        raise Unfit("$", "or the name of its thread, task, call, run or graph has characters that Postgres cannot keep")


def _terms_row(terms: Terms) -> dict[str, Any]:
    return {
        "deciders": TextArray(terms.deciders),
        "quorum": terms.quorum,
        "allowed": TextArray(terms.allowed),
        "expires_in": terms.expires_in.total_seconds() if terms.expires_in is not None else None,
        "on_expiry": terms.on_expiry,
        "escalate_to": TextArray(terms.escalate_to),
        "remind_every": terms.remind_every.total_seconds() if terms.remind_every is not None else None,
        "bulk": terms.bulk,
    }


def _told_of(request: NewRequest, arguments: str, digest: str, waived: str | None) -> str:
    details: dict[str, Any] = {"arguments": told(arguments), "digest": digest}
    if waived is not None:
        return storable({**details, "why": waived})
    terms = request.terms
    return storable(
        details | {"deciders": list(terms.deciders)} | ({"quorum": terms.quorum} if terms.quorum > 1 else {})
    )


def request_of(*row: Any) -> ApprovalRequest:
    """A request from its row."""
    (
        request_id, thread_id, task_id, call_id, ns, node, step, correlation_id, run_id, graph_id, name, arguments,
        digest, description, context, schema, asked, quorum, allowed, expires_in, on_expiry, escalate_to, remind_every,
        bulk, waived, state, requested_at, expires_at, deciders, level, votes, reminded, decided_by, decided_at,
        decision, message, edited,
    ) = row  # fmt: skip
    return ApprovalRequest(
        request_id=request_id,
        thread_id=thread_id,
        task_id=task_id,
        call_id=call_id,
        checkpoint_ns=ns,
        node=node,
        step=step,
        correlation_id=correlation_id,
        run_id=run_id,
        graph_id=graph_id,
        name=name,
        arguments=json.loads(arguments),
        digest=digest,
        description=description,
        context=json.loads(context),
        schema=None if schema is None else json.loads(schema),
        terms=Terms(
            deciders=tuple(asked),
            quorum=quorum,
            allowed=tuple(allowed),
            expires_in=expires_in,
            on_expiry=on_expiry,
            escalate_to=tuple(escalate_to),
            remind_every=remind_every,
            bulk=bulk,
        ),
        waived=waived,
        state=state,
        requested_at=requested_at.astimezone(UTC),
        expires_at=_utc(expires_at),
        deciders=tuple(deciders),
        level=level,
        votes=tuple(votes),
        reminded=reminded,
        decided_by=decided_by,
        decided_at=_utc(decided_at),
        decision=decision,
        message=message,
        edited=None if edited is None else json.loads(edited),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def check_id(request_id: str) -> None:
    """Raises `UnknownRequest` for what can be no request's id, whatever characters are in it."""
    if not _ID.fullmatch(request_id):
        raise UnknownRequest(request_id[:NAME])


def formed(request_id: str, decided: Decided) -> str | None:
    """See that a decision is one; the arguments of an edit, as they are kept.

    Raises:
        InvalidDecision: it is none.
    """
    if decided.type not in DECISIONS:
        raise InvalidDecision(request_id, f"it must be one of {', '.join(DECISIONS)}, not {str(decided.type)[:NAME]!r}")
    _check_person(request_id, decided.by)
    if not isinstance(cast("object", decided.digest), str) or not decided.digest.isalnum():
        raise InvalidDecision(request_id, "it does not say of which action it is: the digest is missing")
    message = _message(request_id, decided.message)
    if decided.type == "respond" and not message.strip():
        raise InvalidDecision(request_id, "a response needs its text")
    if (decided.type == "edit") != (decided.arguments is not None):
        wanted = "an edit needs all arguments" if decided.type == "edit" else "only an edit has arguments"
        raise InvalidDecision(request_id, wanted)
    if decided.arguments is None:
        return None
    try:
        return stored(decided.arguments, ARGUMENTS)
    except Unfit as unfit:
        raise InvalidDecision(request_id, unfit.problem, place=unfit.place) from unfit


def fits(request: ApprovalRequest, edited: str) -> None:
    """See that an edit's arguments are what the action takes.

    Raises:
        InvalidDecision: where they are not, and why.
    """
    if request.settled or request.schema is None:
        return
    try:
        meets(json.loads(edited), request.schema)
    except Unfit as unfit:
        raise InvalidDecision(request.request_id, unfit.problem, place=unfit.place) from unfit


def verdict_of(decided: Decided, edited: str | None) -> dict[str, Any]:
    """The parameters of a decision that is one."""
    message = kept(decided.message)
    details = ({"message": message} if message else {}) | ({} if edited is None else {"arguments": told(edited)})
    return {
        "verb": decided.type,
        "person": decided.by,
        "seen": decided.digest,
        "given": edited,
        "said": message,
        "told": storable(details),
    }


def withdrawal(request_id: str, by: str, why: str) -> dict[str, Any]:
    """The parameters that take a request back.

    Raises:
        InvalidDecision: by whom, or why, cannot be kept.
    """
    _check_person(request_id, by)
    message = _message(request_id, why)
    return {
        "verb": "withdraw", "person": by, "seen": "", "given": None, "said": message,
        "told": storable({"message": message}),
    }  # fmt: skip


def refused(why: str, request: ApprovalRequest, verdict: Mapping[str, Any]) -> DecisionRefused:
    """The error for what the database said."""
    person, request_id = str(verdict["person"]), request.request_id
    match why:
        case "expired":
            return RequestExpired(request)
        case "no decider":
            return NotADecider(request_id, person, request.deciders)
        case "not allowed":
            return DecisionNotAllowed(request_id, str(verdict["verb"]), request.terms.allowed)
        case "changed":
            return ArgumentsChanged(request_id, str(verdict["seen"]), request.digest)
        case "voted":
            return AlreadyVoted(request, person)
        case _:
            return AlreadyDecided(request)


def _check_person(request_id: str, by: object) -> None:
    if problem := name_problem(by):
        raise InvalidDecision(request_id, f"the name of who decides {problem}: {str(by)[:NAME]!r}")


def _message(request_id: str, message: str) -> str:
    try:
        return kept(message, TEXT)
    except Unfit as unfit:
        raise InvalidDecision(request_id, f"the message {unfit.problem}") from unfit
