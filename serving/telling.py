"""Audit events in plain words, for whoever asks why an agent did what it did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, cast

from holdfast.checkpointing import AuditEvent
from holdfast.checkpointing.visibility import is_mapping

from .progress import printable
from .state import utc
from .telling_approvals import APPROVALS
from .wording import as_text, cut, line, quoted

_SUBJECTS: Final = {"model": "the model", "tool": "the tool", "effect": "the function", "run": "the run"}
_CALLS: Final = ("model", "tool", "effect")
_SECOND: Final = 1000.0
_COLUMNS: Final = [column.name for column in fields(AuditEvent)]


@dataclass(slots=True)
class Totals:
    """What the events that were told come to; what was answered from the record costs nothing."""

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CALLS, 0))
    replayed: int = 0
    in_doubt: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: Decimal | None = None
    first: datetime | None = None
    last: datetime | None = None

    def add(self, event: AuditEvent) -> None:
        """Count an event."""
        subject, _, verb = event.kind.partition(".")
        self.first = min(event.at, self.first or event.at)
        self.last = max(event.at, self.last or event.at)
        if verb == "called" and subject in self.calls:
            self.calls[subject] += 1
        self.in_doubt += verb == "in_doubt"
        if verb == "replayed":
            self.replayed += 1
            return
        self.tokens_in += event.input_tokens or 0
        self.tokens_out += event.output_tokens or 0
        if event.cost is not None:
            self.cost = (self.cost or Decimal(0)) + event.cost

    def __str__(self) -> str:
        parts = [
            *(_count(self.calls[subject], f"{subject} call") for subject in ("model", "tool")),
            _count(self.calls["effect"], "function call") if self.calls["effect"] else None,
            f"{self.replayed} answered from the record" if self.replayed else None,
            f"{self.in_doubt} in doubt" if self.in_doubt else None,
            f"{self.tokens_in + self.tokens_out:,} tokens ({self.tokens_in:,} in, {self.tokens_out:,} out)",
            "cost unknown" if self.cost is None else dollars(self.cost),
            f"{_took((self.last - self.first).total_seconds() * _SECOND)} from first to last"
            if self.first and self.last
            else None,
        ]
        return f"total: {', '.join(part for part in parts if part)}"


@dataclass(slots=True)
class Teller:
    """Tells events one after the other; remembers which thread it is on, and what each call is of."""

    totals: Totals = field(default_factory=Totals)
    _thread: str | None = None
    _names: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def tell(self, event: AuditEvent) -> str:
        """One or two lines on an event, and one before them when the thread changes; no control characters."""
        self.totals.add(event)
        lines = [] if event.thread_id == self._thread else [f"thread {line(event.thread_id)}"]
        self._thread = event.thread_id
        actor = event.actor if event.node in (None, event.actor) else f"{event.actor} in {event.node}"
        said, *more = self._words(event)
        paid = [part for part in _facts(event) if part]
        lines.append(f"{utc(event.at)}  {line(actor)}: {' · '.join([line(said), *paid])}")
        if event.withheld:
            more = [f"(details are {event.visibility.value}: withheld)"]
        lines += [f"{'':21}{cut(text)}" for text in more if text]
        return printable("\n".join(lines))

    def _words(self, event: AuditEvent) -> Iterator[str]:
        """What happened, and what is to be said in a second line."""
        details = dict(event.details)
        subject, _, verb = event.kind.partition(".")
        if (words := _WORDS.get(event.kind) or _ANY.get(verb if subject in _SUBJECTS else "")) is None:
            yield line(event.kind).replace(".", " ").replace("_", " ")
            yield as_text(details)
            return
        told, then = words(_SUBJECTS.get(subject, "") + self._name(event, details), details)
        yield told
        yield "; ".join(part for part in (*then, as_text(details)) if part)  # what they did not take is shown as it is

    def _name(self, event: AuditEvent, details: dict[str, Any]) -> str:
        """The name of the model, tool or function that a call is of, which only its first event holds."""
        subject = event.kind.partition(".")[0]
        if subject not in _CALLS:
            return ""
        name = details.pop("model" if subject == "model" else "name", None)
        if event.effect_id is None:
            return f" {line(name)}" if name else ""
        call = (event.thread_id, event.effect_id)
        if name:
            self._names[call] = line(name)
        return f" {self._names[call]}" if call in self._names else ""


_Told = tuple[str, Sequence[str]]


def _started(_: str, details: dict[str, Any]) -> _Told:
    given = details.pop("input", None)
    return "started the run", [quoted("given", given)]


def _ended(_: str, details: dict[str, Any]) -> _Told:
    outcome, error = details.pop("outcome", None), details.pop("error", None)
    known = {"finished": "finished", "interrupted": "paused, to wait for a person", "cancelled": "was cancelled"}
    said = known.get(str(outcome), str(outcome or "ended"))
    return f"the run {said}", [quoted("because of", error)]


def _model_called(subject: str, details: dict[str, Any]) -> _Told:
    count, shown = details.pop("messages", None), details.pop("shown", None)
    showing = f", showing it {line(count)} message{'' if count == 1 else 's'}" if count is not None else ""
    return f"asked {subject}{showing}", [quoted("shown", shown)]


def _model_answered(subject: str, details: dict[str, Any]) -> _Told:
    text, calls = details.pop("text", None), details.pop("tool_calls", None)
    several = cast("list[object]", calls) if isinstance(calls, list) else [calls]
    wanted = [_call(call) for call in several]
    decided = f" and decided to call {', '.join(wanted)}" if calls else ""
    return f"{subject} answered{cut(decided)}", [quoted("said", text)]


def _called(subject: str, details: dict[str, Any]) -> _Told:
    return f"called {subject}", [quoted("with", details.pop("args", None))]


def _completed(subject: str, details: dict[str, Any]) -> _Told:
    return f"{subject} came back", [quoted("with", details.pop("result", None))]


def _failed(subject: str, details: dict[str, Any]) -> _Told:
    return f"{subject} failed", [quoted("because of", details.pop("error", None))]


def _replayed(subject: str, details: dict[str, Any]) -> _Told:
    was = details.pop("result", None) or details.pop("text", None)
    return f"{subject} was not called again: the answer is from the record, nothing was paid", [quoted("it was", was)]


def _in_doubt(subject: str, _: dict[str, Any]) -> _Told:
    return f"{subject} was called, and its worker is gone: whether it happened is not known", []


def _resolved(subject: str, details: dict[str, Any]) -> _Told:
    verdict, by = details.pop("verdict", None), details.pop("by", None)
    return f"the doubt about {subject} was settled: {line(verdict)}{f', says {line(by)}' if by else ''}", []


def _lease(_: str, details: dict[str, Any]) -> _Told:
    before = details.pop("from", None)
    return f"took the thread over{f' from {line(before)}, which is gone' if before else ''}", []


def _damage(_: str, details: dict[str, Any]) -> _Told:
    damage, back = details.pop("damage", None), details.pop("fell_back_to", None)
    then = f"went back to checkpoint {line(back)}" if back else "refused to load it"
    return f"found a checkpoint damaged and {then}", [line(damage or "")]


_WORDS: Final[Mapping[str, Callable[[str, dict[str, Any]], _Told]]] = {
    "run.started": _started,
    "run.ended": _ended,
    "model.called": _model_called,
    "model.answered": _model_answered,
    "lease.taken": _lease,
    "damage.found": _damage,
    **APPROVALS,
}
_ANY: Final[Mapping[str, Callable[[str, dict[str, Any]], _Told]]] = {
    "called": _called,
    "completed": _completed,
    "failed": _failed,
    "replayed": _replayed,
    "in_doubt": _in_doubt,
    "resolved": _resolved,
}


def as_json(event: AuditEvent) -> str:
    """An event on one line, in ASCII: nothing of it moves a terminal's cursor."""
    told: dict[str, Any] = {name: getattr(event, name) for name in _COLUMNS}
    told["at"], told["digest"], told["details"] = event.at.isoformat(), event.digest.hex(), dict(event.details)
    told["cost"] = None if event.cost is None else str(event.cost)
    return json.dumps(told, default=str)


def dollars(cost: Decimal) -> str:
    """An amount of US dollars, to a hundredth of a cent."""
    return f"${cost:,.4f}"


def _facts(event: AuditEvent) -> Iterator[str | None]:
    tokens = (event.input_tokens, event.output_tokens)
    yield f"{tokens[0] or 0:,} + {tokens[1] or 0:,} tokens" if any(tokens) else None
    yield None if event.cost is None else dollars(event.cost)
    yield None if event.duration_ms is None else _took(event.duration_ms)
    yield None if event.step is None else f"step {event.step}"


def _call(call: object) -> str:
    return f"{line(call.get('name'))}({as_text(call.get('args'))})" if is_mapping(call) else as_text(call)


def _took(milliseconds: float) -> str:
    if milliseconds < _SECOND:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / _SECOND
    return f"{seconds:,.1f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
