"""The form in which arguments are edited: one field for each, or all of them as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from holdfast.checkpointing import HoldfastError
from holdfast.checkpointing.visibility import is_mapping

from .showing import for_field, has_hidden

LARGEST: Final = 400_000
"""Characters of JSON that can be edited on a page."""
_MOST: Final = 60
_CHOICES: Final = 50
_MISSING: Final = object()
Widget = Literal["line", "text", "choice", "json"]
Values = Mapping[str, str]
"""Of a form: the last value of each field."""


class UnreadableEdit(HoldfastError):
    """What was typed is no set of arguments; `field` is the index of the field, if it is about one."""

    def __init__(self, problem: str, field: int | None = None) -> None:
        self.field: Final = field
        super().__init__(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One argument, as it is edited."""

    index: int
    name: str
    title: str
    help: str
    widget: Widget
    value: str
    choices: tuple[str, ...] = ()
    """JSON of what may be chosen; an empty choice leaves it out."""
    required: bool = False
    present: bool = True
    """Whether the agent gave it."""
    rows: int = 1

    @property
    def key(self) -> str:
        """The field's name in the form: an argument's own name may be anything."""
        return f"argument-{self.index}"


def fields_of(
    arguments: Mapping[str, Any], schema: Mapping[str, Any] | None, typed: Values | None = None
) -> list[Field]:
    """A field for each argument that was given or can be; none, if there are too many for that.

    Args:
        arguments: as the agent gave them.
        schema: of the arguments, if it is known.
        typed: what the form held before.
    """
    known = _mapping((schema or {}).get("properties"))
    names = list(dict.fromkeys([*arguments, *known]))
    if len(names) > _MOST:
        return []
    required = _texts((schema or {}).get("required"))
    fields: list[Field] = []
    for index, name in enumerate(names):
        value, about = arguments.get(name, _MISSING), _mapping(known.get(name))
        widget, choices = _widget(value, about)
        text = (typed or {}).get(f"argument-{index}", _as_typed(value, widget))
        fields.append(
            Field(
                index=index,
                name=name,
                title=_text(about.get("title")),
                help=_text(about.get("description")),
                widget=widget,
                value=text,
                choices=choices,
                required=name in required,
                present=value is not _MISSING,
                rows=min(24, max(3, text.count("\n") + 2 + len(text) // 90)),
            )
        )
    return fields


def from_fields(arguments: Mapping[str, Any], schema: Mapping[str, Any] | None, typed: Values) -> dict[str, Any]:
    """The arguments that a form of fields holds; what was not touched is what it was.

    Raises:
        UnreadableEdit: a field holds no JSON where that is asked for, or is missing from the form.
    """
    edited: dict[str, Any] = {}
    for field in fields_of(arguments, schema):
        if (text := typed.get(field.key)) is None:
            raise UnreadableEdit("the form is not complete; open the request again")
        if _same(text, field.value):
            if field.present:
                edited[field.name] = arguments[field.name]
        elif field.widget in ("line", "text"):
            edited[field.name] = _lines(text)
        elif text.strip():
            edited[field.name] = _loaded(text, f"{field.name}: ", field.index)
    return edited


def from_json(arguments: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The arguments that were typed as JSON.

    Raises:
        UnreadableEdit: it is no JSON object; the text says where.
    """
    if _same(text, for_field(arguments)):
        return dict(arguments)
    loaded = _loaded(text, "")
    if not is_mapping(loaded):
        raise UnreadableEdit("the arguments must be a JSON object: { … }")
    return dict(loaded)


def _widget(value: object, about: Mapping[str, Any]) -> tuple[Widget, tuple[str, ...]]:
    choices = about.get("enum")
    if choices is None and (about.get("type") == "boolean" or (not about and isinstance(value, bool))):
        choices = [True, False]
    if isinstance(choices, list) and 0 < len(cast("list[object]", choices)) <= _CHOICES:
        offered = [json.dumps(choice, ensure_ascii=True) for choice in cast("list[object]", choices)]
        if value is _MISSING or json.dumps(value, ensure_ascii=True, default=str) in offered:
            return "choice", tuple(offered)
        return "json", ()
    if isinstance(value, str) and _may_be_text(about):
        if has_hidden(value):
            return "json", ()  # a field would drop or hide it; JSON writes it out
        return ("text" if "\n" in value or len(value) > 80 else "line"), ()  # noqa: PLR2004 - a line
    return ("line" if value is _MISSING and about.get("type") == "string" else "json"), ()


def _may_be_text(about: Mapping[str, Any]) -> bool:
    """Whether what is typed there is a text, and not JSON."""
    kind = about.get("type", "string")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def _as_typed(value: object, widget: Widget) -> str:
    if value is _MISSING:
        return ""
    if widget in ("line", "text"):
        return str(value)
    return json.dumps(value, ensure_ascii=True, default=str) if widget == "choice" else for_field(value)


def _same(typed: str, before: str) -> bool:
    return _lines(typed) == _lines(before)


def _lines(text: str) -> str:
    """A browser sends every line break as two characters."""
    return re.sub(r"\r\n?", "\n", text)


def _loaded(text: str, where: str, field: int | None = None) -> object:
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except json.JSONDecodeError as error:
        problem = f"{where}this is no JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        raise UnreadableEdit(problem, field) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableEdit(f"{where}this cannot be read: {error}", field) from None


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:40]} is too large a number")
    return value


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if is_mapping(value) else {}


def _texts(value: object) -> Sequence[str]:
    return [one for one in cast("list[object]", value) if isinstance(one, str)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value[:500] if isinstance(value, str) else ""
