"""Events of trust in plain words, who said what of a tool's calls and which ring followed; and who was not told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from .wording import line, quoted

_Told = tuple[str, Sequence[str]]


def _ring(_: str, details: dict[str, Any]) -> _Told:
    subject, before, now = _subject(details), details.pop("from", None), details.pop("to", None)
    details.pop("rule", None)
    given = details.pop("numbers", None)
    numbers = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    good, cases, bound = (numbers.get(name) for name in ("good", "cases", "bound"))
    why = f"{line(good)} of {line(cases)} cases good, bound {line(bound)}" if numbers else ""
    return f"{subject} went from ring {line(before)} to ring {line(now)}", [why]


def _pinned(_: str, details: dict[str, Any]) -> _Told:
    limit = "" if details.pop("exact", None) else " at the most"
    told = f"pinned {_subject(details)} to ring {line(details.pop('ring', None))}{limit}"
    return told, [quoted("because", details.pop("why", None))]


def _unpinned(_: str, details: dict[str, Any]) -> _Told:
    details.pop("exact", None)
    ring, by = line(details.pop("ring", None)), details.pop("pinned_by", None)
    return f"let the evidence decide on {_subject(details)} again", [f"it was pinned to ring {ring} by {line(by)}"]


def _incident(_: str, details: dict[str, Any]) -> _Told:
    told = f"reported an incident with {_subject(details)}"
    return told, [quoted("because", details.pop("why", None)), _request(details)]


def _reviewed(_: str, details: dict[str, Any]) -> _Told:
    told = f"reviewed a call of {_subject(details)}, and found it fine"
    return told, [quoted("said", details.pop("why", None)), _request(details)]


def _verified(_: str, details: dict[str, Any]) -> _Told:
    found = "passed" if details.pop("passed", None) else "failed"
    told = f"a call of {_subject(details)} {found} its verification"
    return told, [quoted("because", details.pop("why", None)), _request(details)]


def _untold(_: str, details: dict[str, Any]) -> _Told:
    name, told = line(details.pop("name", None)), line(details.pop("told", None))
    receiver, tries = line(details.pop("receiver", None)), line(details.pop("tries", None))
    said = f"{receiver} could not be told that the approval of {name} was {told}, in {tries} tries"
    return said, [quoted("because", details.pop("why", None)), _request(details)]


TRUST: Final[Mapping[str, Callable[[str, dict[str, Any]], _Told]]] = {
    "trust.ring": _ring,
    "trust.pinned": _pinned,
    "trust.unpinned": _unpinned,
    "trust.incident": _incident,
    "trust.reviewed": _reviewed,
    "trust.verified": _verified,
    "approval.untold": _untold,
}


def _subject(details: dict[str, Any]) -> str:
    tool, pattern = details.pop("tool", None), details.pop("pattern", None)
    return line(tool) if pattern in (None, tool) else f"{line(tool)} ({line(pattern)})"


def _request(details: dict[str, Any]) -> str:
    request = details.pop("request", None)
    return f"request {line(request)}" if request else ""
