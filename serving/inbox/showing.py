"""What hostile text becomes on a page: escaped, isolated, cut, and with every invisible character shown."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from markupsafe import Markup, escape

from holdfast.checkpointing.visibility import is_mapping

LONG: Final = 20_000
"""Characters of one value that a page shows."""
_MARKS: Final = 400
"""Places in one value at which a page shows what is hidden: each is much HTML."""
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_NAMES: Final = {0: "NUL", 9: "TAB", 10: "LINE FEED", 13: "CARRIAGE RETURN", 27: "ESCAPE", 127: "DELETE"}


def visible(value: object, limit: int = LONG) -> Markup:
    """A text in which nothing hides and nothing acts, as HTML; what is longer than the limit is cut, and that is said.

    >>> str(visible("<b>\\0\\0"))
    '&lt;b&gt;<span class="ctl" title="NUL">U+0000, 2 times</span>'
    """
    text = str(value)
    parts: list[str] = []
    place = marks = 0
    for start, end, hidden in _runs(text[:limit]):
        marks += hidden
        if marks > _MARKS:
            break
        parts.append(_run(text, start, end, hidden))
        place = end
    if place < len(text):
        parts.append(f'<span class="cut">… {len(text) - place:,} more characters</span>')
    return Markup("".join(parts))  # noqa: S704 - of parts that are escaped


def line(value: object, limit: int = 160) -> Markup:
    """The same on one line, for lists."""
    text = " ".join(str(value).split())
    return visible(text if len(text) <= limit else text[: limit - 1] + "…")


def plain(text: str) -> str:
    """A text without what could act, for where HTML cannot mark it: titles and attributes."""
    return "".join("\ufffd" if _hides(text, place) else text[place] for place in range(len(text)))


def has_hidden(text: str) -> bool:
    """Whether something is in it that a form's field would hide or change; line breaks and tabs do not count."""
    return any(_hides(text, place) for place in range(len(text)))


def _runs(text: str) -> Iterator[tuple[int, int, bool]]:
    """From, to, and whether that part is of one hidden character."""
    places = range(len(text))
    for key, group in groupby(places, key=lambda place: text[place] if _hides(text, place) else ""):
        run = list(group)
        yield run[0], run[-1] + 1, key != ""


def _run(text: str, start: int, end: int, hidden: bool) -> str:
    """As HTML."""
    if not hidden:
        return str(escape(text[start:end]))
    code = ord(text[start])
    name = _NAMES.get(code) or unicodedata.name(text[start], "a character without a name")
    count = f", {end - start} times" if end - start > 1 else ""
    return f'<span class="ctl" title="{name}">U+{code:04X}{count}</span>'


def _hides(text: str, place: int) -> bool:
    character = text[place]
    if character in "\n\t" or " " <= character <= "~":
        return False
    if character in _JOINERS:  # Persian words and families of emoji are written with them
        return not (_joined(text, place - 1) and _joined(text, place + 1))
    return unicodedata.category(character) in _HIDDEN


def _joined(text: str, place: int) -> bool:
    return 0 <= place < len(text) and ord(text[place]) > 0x300 and unicodedata.category(text[place]) not in _HIDDEN  # noqa: PLR2004 - letters that are joined are beyond it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A named value, as a page shows it."""

    name: str
    kind: str
    """In plain words: text, number, yes or no, … ."""
    text: str
    is_text: bool
    """Whether it is shown as it is, and not as JSON."""

    @property
    def short(self) -> bool:
        """Whether it fits on a line beside its name."""
        return len(self.text) <= 80 and "\n" not in self.text  # noqa: PLR2004 - a line


def shown(name: str, value: object) -> Shown:
    """A value under its name.

    >>> shown("to", "ada@example.com").kind
    'text'
    >>> shown("ids", [1, 2]).text
    '[\\n  1,\\n  2\\n]'
    """
    text = value if isinstance(value, str) else as_json(value)
    about = kind(value) + (f", {len(text):,} characters" if len(text) > LONG else "")
    return Shown(name=name, kind=about, text=text, is_text=isinstance(value, str))


def kind(value: object) -> str:
    """What a value is, in plain words."""
    if is_mapping(value):
        return "object"
    names: dict[type, str] = {str: "text", bool: "yes or no", int: "number", float: "number", type(None): "nothing"}
    return names.get(type(value), "list" if isinstance(value, Sequence) else "object")


def as_json(value: object) -> str:
    """A value as JSON, for people; characters that act are shown by `visible` afterwards."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str, skipkeys=True)


def for_field(value: object) -> str:
    """A value as JSON that survives a form's field: what hides or acts is written as an escape.

    >>> for_field({"a": "\\u202e\\0é"})
    '{\\n  "a": "\\\\u202e\\\\u0000é"\\n}'
    """
    text = as_json(value)
    return "".join(_escaped(text[place]) if _hides(text, place) else text[place] for place in range(len(text)))


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"  # noqa: PLR2004 - ASCII


def utc(moment: datetime | None) -> str:
    """A moment, to the minute.

    >>> utc(datetime(2026, 3, 1, 9, 5, tzinfo=UTC))
    '2026-03-01 09:05 UTC'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else ""


def relative(moment: datetime | None, now: datetime) -> str:
    """A moment as seen from now.

    >>> now = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    >>> relative(datetime(2026, 3, 1, 11, 5, tzinfo=UTC), now), relative(datetime(2026, 2, 26, 9, 0, tzinfo=UTC), now)
    ('in 2 h 5 min', '3 days ago')
    """
    if moment is None:
        return ""
    seconds = (moment - now).total_seconds()
    if abs(seconds) < _MINUTE:
        return "in less than a minute" if seconds > 0 else "just now"
    return f"in {_length(seconds)}" if seconds > 0 else f"{_length(-seconds)} ago"


def _length(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"{int(seconds // _DAY)} days"
    if seconds >= _DAY:
        return f"1 day {int(seconds % _DAY // _HOUR)} h"
    if seconds >= _HOUR:
        hours, minutes = divmod(int(seconds // _MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{int(seconds // _MINUTE)} min"


FILTERS: Final[Mapping[str, Callable[..., object]]] = {
    "visible": visible, "line": line, "plain": plain, "utc": utc, "relative": relative, "as_json": as_json,
}  # fmt: skip
