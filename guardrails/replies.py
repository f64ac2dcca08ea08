"""What a person answers to a request for approval, in any of the shapes that approval UIs send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from ..checkpointing.errors import HoldfastError
from ..checkpointing.forms import ARGUMENTS, TEXT, Unfit, meets, stored
from ..checkpointing.requests import ApprovalRequest, DecisionType
from ..checkpointing.visibility import is_mapping
from .model_errors import brief

NUDGE: Final[Mapping[str, str]] = {"holdfast": "decided"}
"""Resumes a thread whose requests were decided elsewhere: it says nothing itself."""
HOW: Final = (
    'answer {"decisions": [...]} with one decision for each action, or one decision for a single action, or '
    '{request_id: decision}; a decision is {"type": "approve"}, {"type": "edit", "edited_action": {"name": ..., '
    '"args": {...}}}, {"type": "reject", "message": ...} or {"type": "respond", "message": ...}'
)
_TYPES: Final[Mapping[str, DecisionType]] = {
    "approve": "approve", "edit": "edit", "reject": "reject", "respond": "respond",
    "accept": "approve", "ignore": "reject", "response": "respond",
}  # fmt: skip
"""LangChain's own, and those of agent-inbox."""


class InvalidReply(HoldfastError, ValueError):
    """An answer to a request for approval that is no decision; nothing was decided by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One decision of an answer; it does not say whose."""

    type: DecisionType
    arguments: Mapping[str, Any] | None = None
    """Of an edit."""
    message: str = ""


def understood(answer: Any, requests: Sequence[ApprovalRequest], shown: Sequence[str] | None = None) -> dict[str, Said]:
    """What an answer decides, by request; nothing if it is a nudge.

    All of it is looked at before anything of it is done, so that one decision that cannot be understood leaves the
    others undone.

    Args:
        answer: as somebody sent it.
        requests: all that were asked about in the turn, in the turn's order; settled ones too.
        shown: the ids of those that the interrupt showed, if that is known.

    Raises:
        InvalidReply: what is wrong with it.
    """
    if answer == NUDGE:
        return {}
    given: Any = answer
    if is_mapping(answer):
        if "decisions" in answer:
            given = answer["decisions"]
            if not isinstance(given, list):
                raise InvalidReply(f"decisions must be a list, not {brief(repr(given), 60)}; {HOW}")
        elif "type" in answer:
            given = [answer]
        else:
            return _by_id(answer, requests)
    if not isinstance(given, list):
        raise InvalidReply(f"{brief(repr(answer), 60)} is no answer; {HOW}")
    decisions = cast("list[Any]", given)  # type: ignore[redundant-cast]  # to pyright nothing is known of them
    return {
        request.request_id: _said(one, request)
        for request, one in zip(_meant(requests, len(decisions), shown), decisions, strict=True)
    }


def _by_id(answer: Mapping[Any, Any], requests: Sequence[ApprovalRequest]) -> dict[str, Said]:
    known = {request.request_id: request for request in requests}
    if strange := [key for key in answer if key not in known]:
        raise InvalidReply(f"nothing was asked under {brief(repr(strange[0]), 60)}; {HOW}")
    if not answer:
        raise InvalidReply(f"nothing is decided; {HOW}")
    return {key: _said(one, known[key]) for key, one in answer.items()}


def _meant(requests: Sequence[ApprovalRequest], count: int, shown: Sequence[str] | None) -> Sequence[ApprovalRequest]:
    """The requests that decisions without a name are about: those that were open when they were asked about.

    If it is not known which were shown, it follows from how many they are: requests are settled one after the other,
    and are not opened again.
    """
    if not count:
        raise InvalidReply(f"nothing is decided; {HOW}")
    if shown is not None:
        meant = [request for request in requests if request.request_id in shown]
        if count != len(meant):
            raise InvalidReply(f"{_plural(count)} for {_plural(len(meant), 'action')} that were shown; {HOW}")
        return meant
    open_ones = [request for request in requests if not request.settled]
    gone = len(requests) - count
    if gone < 0 or count < len(open_ones):
        raise InvalidReply(f"{_plural(count)} for {_plural(len(open_ones), 'open request')}; {HOW}")
    settled = sorted((request for request in requests if request.settled), key=_settled_at)
    if 0 < gone < len(settled) and _settled_at(settled[gone - 1]) == _settled_at(settled[gone]):
        raise InvalidReply(f"it cannot be told which requests {_plural(count)} are about; name them; {HOW}")
    before = {request.request_id for request in settled[:gone]}
    return [request for request in requests if request.request_id not in before]


def _settled_at(request: ApprovalRequest) -> datetime:
    return request.decided_at or request.requested_at


def _said(one: Any, request: ApprovalRequest) -> Said:
    about = f"the decision on {request.name}"
    if not is_mapping(one):
        raise InvalidReply(f"{about} must be a mapping with a type, not {brief(repr(one), 60)}; {HOW}")
    given: Mapping[str, Any] = one
    kind = given.get("type")
    type_ = _TYPES.get(kind) if isinstance(kind, str) else None
    if type_ is None or type_ not in request.terms.allowed:
        raise InvalidReply(
            f"{about} must be of the type {' or '.join(request.terms.allowed)}, not {brief(repr(kind), 60)}"
        )
    if type_ == "edit":
        return Said(type=type_, arguments=_edited(given, request, about), message=_message(given, about))
    if type_ == "respond":
        # agent-inbox sends the text of a response as its `args`.
        text = _message({"message": given.get("message", given.get("args"))}, about)
        if not text.strip():
            raise InvalidReply(f"{about} is to respond, and has no message")
        return Said(type=type_, message=text)
    return Said(type=type_, message=_message(given, about))


def _message(given: Mapping[str, Any], about: str) -> str:
    message = given.get("message")
    if message is not None and not isinstance(message, str):
        raise InvalidReply(f"{about} has a message that is no text: {brief(repr(message), 60)}")
    if message is not None and len(message) > TEXT:
        raise InvalidReply(f"{about} has a message of more than {TEXT:,} characters")
    return message or ""


def _edited(given: Mapping[str, Any], request: ApprovalRequest, about: str) -> Mapping[str, Any]:
    action = given.get("edited_action", given.get("args"))
    if not is_mapping(action):
        raise InvalidReply(f'{about} is to edit, and has no edited_action {{"name": ..., "args": {{...}}}}')
    edited: Mapping[str, Any] = action
    name: Any = request.name
    arguments: Any = edited
    if "edited_action" in given or {*edited} == {"action", "args"}:  # agent-inbox: with the action's name, or not
        name = edited.get("name", edited.get("action", request.name))
        arguments = edited.get("args", edited.get("arguments"))
    if name != request.name:
        raise InvalidReply(f"{about} would edit it into {brief(repr(name), 60)}; an edit keeps the action")
    if not is_mapping(arguments):
        raise InvalidReply(f"{about} is to edit, and its args are no mapping: {brief(repr(arguments), 60)}")
    whole: dict[str, Any] = {**arguments}
    try:
        stored(whole, ARGUMENTS)
        if request.schema is not None:
            meets(whole, request.schema)
    except Unfit as unfit:
        raise InvalidReply(f"{about} is to edit, and the arguments cannot be used: {unfit}") from unfit
    return whole


def _plural(count: int, what: str = "decision") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
