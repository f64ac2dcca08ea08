"""Events of approvals in plain words: who was asked for what, and who decided how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from .wording import cut, line, quoted

_Told = tuple[str, Sequence[str]]
_DONE: Final = {
    "approve": "approved {}",
    "edit": "approved {} with other arguments",
    "reject": "rejected {}",
    "respond": "answered instead of {}",
}
_TRIED: Final = {"respond": "answer instead of", "withdraw": "withdraw the request to approve"}
_WHY: Final = {
    "decided": "somebody else had decided",
    "expired": "it was too late",
    "no decider": "others are asked",
    "not allowed": "this request does not offer it",
    "changed": "it was about other arguments",
    "voted": "one approval is one person's",
}


def _requested(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    deciders, quorum = details.pop("deciders", None), details.pop("quorum", None)
    several = f"{line(quorum)} of " if quorum else ""
    told = f"asked {several}{'anybody' if deciders == [] else _people(deciders)} to approve {name}{_until(details)}"
    return told, [quoted("with", details.pop("arguments", None)), request]


def _waived(_: str, details: dict[str, Any]) -> _Told:
    name, _request = _action(details)
    return f"{name} needs no approval", [
        quoted("because", details.pop("why", None)),
        quoted("with", details.pop("arguments", None)),
    ]


def _voted(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    details.pop("decision", None)
    have, need = details.pop("approvals", None), details.pop("quorum", None)
    count = f", {line(have)} of {line(need)} approvals" if need else ""
    return f"approved {name}{count}; it waits for others", [quoted("said", details.pop("message", None)), request]


def _decided(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    for known in ("approvals", "quorum"):
        details.pop(known, None)
    decision = str(details.pop("decision", None))
    told = _DONE.get(decision, "decided on {}").format(name)
    return told, [quoted("said", details.pop("message", None)), quoted("with", details.pop("arguments", None)), request]


def _reminded(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    times = details.pop("times", None)
    return f"reminded those who have to decide on {name}{f', time {line(times)}' if times else ''}", [request]


def _escalated(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    to = _people(details.pop("to", None))
    return f"nobody decided on {name} in time: {to} may now{_until(details)}", [request]


def _expired(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    then = "approved" if details.pop("then", None) == "approve" else "rejected"
    details.pop("expired_at", None)
    return f"nobody decided on {name} in time: it counts as {then}", [request]


def _withdrawn(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    return f"withdrew the request to approve {name}", [quoted("because", details.pop("message", None)), request]


def _refused(_: str, details: dict[str, Any]) -> _Told:
    name, request = _action(details)
    tried, why = str(details.pop("tried", None)), str(details.pop("why", None))
    told = f"tried to {_TRIED.get(tried, line(tried))} {name} and was refused: {_WHY.get(why, line(why))}"
    return told, [request]


APPROVALS: Final[Mapping[str, Callable[[str, dict[str, Any]], _Told]]] = {
    "approval.requested": _requested,
    "approval.waived": _waived,
    "approval.voted": _voted,
    "approval.decided": _decided,
    "approval.reminded": _reminded,
    "approval.escalated": _escalated,
    "approval.expired": _expired,
    "approval.withdrawn": _withdrawn,
    "approval.refused": _refused,
}


def _action(details: dict[str, Any]) -> tuple[str, str]:
    """The action's name, and which request it is; the digest says nothing to people."""
    details.pop("digest", None)
    name, request = details.pop("name", None), details.pop("request", None)
    return (line(name) if name else "an action"), (f"request {line(request)}" if request else "")


def _until(details: dict[str, Any]) -> str:
    deadline = details.pop("expires_at", None)
    return f", until {line(deadline)}" if deadline else ""


def _people(names: object) -> str:
    listed = cast("list[object]", names) if isinstance(names, list) else []
    return cut(", ".join(line(name) for name in listed)) or "somebody"
