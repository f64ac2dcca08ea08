"""What the agent knew when it asked, in the parts that a page shows; nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from holdfast.checkpointing.visibility import is_mapping

from .showing import Shown, shown

_EVIDENCE: Final = 40
_NEARLY: Final = 0.8
_ODD: Final = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """How much of something is used, and of how much."""

    key: str
    name: str
    said: str
    share: float | None
    """From 0 to 1; None, if there is no limit."""

    @property
    def nearly(self) -> bool:
        """Whether little is left."""
        return self.share is not None and self.share >= _NEARLY


def _used(key: str, value: object) -> Used | None:
    if not is_mapping(value):
        return None
    used, limit = _number(value.get("taken", value.get("used"))), _number(value.get("limit"))
    if used is None:
        return None
    share = None if limit is None or limit <= 0 else min(1.0, float(used / limit))
    name, unit = "Steps", ""
    if key == "limit":
        name, unit = f"Limit for this {value.get('window', 'run')}", f" {value.get('unit', '')}".rstrip()
    of = "" if limit is None else f" of {limit:,}"
    return Used(key=key, name=name, said=f"{used:,}{of}{unit}", share=share)


def _number(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value)) if isinstance(value, str | int | float) else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() and abs(number) < _ODD else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the agent knew, in the parts that a page shows."""

    used: tuple[Used, ...]
    facts: tuple[Shown, ...]
    evidence: tuple[tuple[str, str], ...]
    """Texts, and where each is from."""
    messages: tuple[tuple[str, str], ...]
    """Who said it, and what."""
    rest: tuple[Shown, ...]


def known(context: Mapping[str, Any]) -> Known:
    """A request's context: evidence and messages as what they are, single values as facts, the rest as JSON.

    Steps, cost and limits are looked for as `guardrails` writes them down. The calls of the turn are left out: they
    have requests of their own.
    """
    evidence: list[tuple[str, str]] = []
    messages: list[tuple[str, str]] = []
    facts: list[Shown] = []
    rest: list[Shown] = []
    used = [one for name in ("steps", "limit") if (one := _used(name, context.get(name))) is not None]
    taken = {"calls", *(one.key for one in used)}
    for name, value in context.items():
        if name in taken:
            continue
        if name == "evidence" and isinstance(value, list):
            evidence += [_cited(item) for item in cast("list[object]", value)[:_EVIDENCE]]
        elif name == "messages" and isinstance(value, list):
            messages += [_said(item) for item in cast("list[object]", value)[-_EVIDENCE:]]
        elif value is None or isinstance(value, str | int | float):
            facts.append(shown(name.replace("_", " "), value))
        elif is_mapping(value) and _is_flat(value):
            facts += [shown(f"{name} {key}".replace("_", " "), inner) for key, inner in value.items()]
        else:
            rest.append(shown(name.replace("_", " "), value))
    return Known(
        used=tuple(used), facts=tuple(facts), evidence=tuple(evidence), messages=tuple(messages), rest=tuple(rest)
    )


def _is_flat(value: Mapping[str, Any]) -> bool:
    return 0 < len(value) <= _EVIDENCE and all(
        one is None or isinstance(one, str | int | float) for one in value.values()
    )


def _cited(item: object) -> tuple[str, str]:
    if not is_mapping(item):
        return (item if isinstance(item, str) else shown("", item).text), ""
    text = next((str(item[key]) for key in ("quote", "text", "statement", "content") if item.get(key)), None)
    source = next((str(item[key]) for key in ("document", "source", "url", "title", "tool") if item.get(key)), "")
    return (text if text is not None else shown("", dict(item)).text), source


def _said(item: object) -> tuple[str, str]:
    if not is_mapping(item):
        return "", item if isinstance(item, str) else shown("", item).text
    who = str(item.get("name") or item.get("role") or item.get("type") or "")
    text = item.get("text", item.get("content"))
    return who, text if isinstance(text, str) else shown("", text if text is not None else dict(item)).text
