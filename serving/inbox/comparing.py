"""What an edit changes, so that a person can see it: argument by argument, line by line, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Final, Literal

from .showing import as_json

_LINES: Final = 2_000
_WORDS: Final = 400
_CONTEXT: Final = 2
_LONG_LINE: Final = 2_000
_MISSING: Final = object()

Mark = Literal["same", "gone", "new"]
Sign = Literal["same", "gone", "new", "skipped"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line before or after the edit; of one that is skipped, only how many are."""

    sign: Sign
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one argument."""

    name: str
    how: Literal["changed", "added", "removed"]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What an edit changes, and the names of the arguments that it leaves alone."""

    changes: tuple[Change, ...]
    same: tuple[str, ...]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """What is different.

    >>> compare({"to": "ada", "n": 1}, {"to": "bob", "n": 1}).same
    ('n',)
    """
    changes: list[Change] = []
    same: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, _MISSING), after.get(name, _MISSING)
        if old is not _MISSING and new is not _MISSING and equal(old, new):
            same.append(name)
        elif old is _MISSING:
            changes.append(Change(name=name, how="added", lines=tuple(_whole("new", new))))
        elif new is _MISSING:
            changes.append(Change(name=name, how="removed", lines=tuple(_whole("gone", old))))
        else:
            changes.append(Change(name=name, how="changed", lines=tuple(_lines(old, new))))
    return Comparison(changes=tuple(changes), same=tuple(same))


def equal(old: object, new: object) -> bool:
    """Whether two values are the same JSON: `1` is not `true`, and `1` is not `"1"`."""
    return type(old) is type(new) and old == new and as_json(old) == as_json(new)


def _whole(sign: Literal["gone", "new"], value: object) -> Iterator[Line]:
    lines = _text(value).split("\n")
    yield from (Line(sign, (Piece(sign, text[:_LONG_LINE]),)) for text in lines[:_LINES])
    if len(lines) > _LINES:
        yield _skipped(len(lines) - _LINES)


def _text(value: object) -> str:
    return value if isinstance(value, str) else as_json(value)


def _lines(old: object, new: object) -> Iterator[Line]:
    # A text beside what is no text is written as JSON, or `"1"` and `1` would look the same.
    texts = isinstance(old, str) and isinstance(new, str)
    left = (_text(old) if texts else as_json(old)).split("\n")
    right = (_text(new) if texts else as_json(new)).split("\n")
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    yield from _kept(left[:start], first=True)
    yield from _middle(left[start : len(left) - end], right[start : len(right) - end])
    yield from _kept(left[len(left) - end :] if end else [], last=True)


def _middle(left: Sequence[str], right: Sequence[str]) -> Iterator[Line]:
    if len(left) > _LINES or len(right) > _LINES:
        yield from _block(left[:_LINES], right[:_LINES])
        yield _skipped(max(len(left), len(right)) - _LINES)
        return
    for tag, i, j, k, m in SequenceMatcher(None, left, right).get_opcodes():
        if tag == "equal":
            yield from _kept(left[i:j])
        else:
            yield from _block(left[i:j], right[k:m])


def _kept(lines: Sequence[str], *, first: bool = False, last: bool = False) -> Iterator[Line]:
    """Lines that stay; of many, those beside a change."""
    none: Sequence[str] = ()
    head = none if first else lines[:_CONTEXT]
    tail = none if last else lines[len(head) :][-_CONTEXT:]
    between = len(lines) - len(head) - len(tail)
    yield from (Line("same", (Piece("same", text[:_LONG_LINE]),)) for text in head)
    if between == 1:
        tail = lines[len(head) :]
    elif between:
        yield _skipped(between)
    yield from (Line("same", (Piece("same", text[:_LONG_LINE]),)) for text in tail)


def _block(left: Sequence[str], right: Sequence[str]) -> Iterator[Line]:
    pairs = [_words(old, new) for old, new in zip_longest(left, right)]
    yield from (Line("gone", tuple(old)) for old, _ in pairs if old is not None)
    yield from (Line("new", tuple(new)) for _, new in pairs if new is not None)


def _words(old: str | None, new: str | None) -> tuple[list[Piece] | None, list[Piece] | None]:
    """A line before and after, with the words that differ marked."""
    if old is None or new is None:
        return (
            None if old is None else [Piece("gone", old[:_LONG_LINE])],
            None if new is None else [Piece("new", new[:_LONG_LINE])],
        )
    left, right = (re.findall(r"\w+|\W", text) for text in (old, new))
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    middle = left[start : len(left) - end], right[start : len(right) - end]
    codes: Sequence[tuple[str, int, int, int, int]] = [("replace", 0, len(middle[0]), 0, len(middle[1]))]
    if max(map(len, middle)) <= _WORDS:
        codes = SequenceMatcher(None, *middle).get_opcodes()
    before = [Piece("same", _near("".join(left[:start]), end=True))]
    after = list(before)
    for tag, i, j, k, m in codes:
        mark: tuple[Mark, Mark] = ("same", "same") if tag == "equal" else ("gone", "new")
        before.append(Piece(mark[0], "".join(middle[0][i:j])[:_LONG_LINE]))
        after.append(Piece(mark[1], "".join(middle[1][k:m])[:_LONG_LINE]))
    rest = Piece("same", _near("".join(left[len(left) - end :]) if end else "", end=False))
    return [piece for piece in (*before, rest) if piece.text], [piece for piece in (*after, rest) if piece.text]


def _near(text: str, *, end: bool) -> str:
    """Of a long part that stays, what is beside the change."""
    if len(text) <= _LONG_LINE:
        return text
    return "…" + text[-_LONG_LINE:] if end else text[:_LONG_LINE] + "…"


def _skipped(count: int) -> Line:
    return Line("skipped", (Piece("same", f"{count:,} line{'' if count == 1 else 's'} not shown"),))


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """How many items at the start are the same."""
    for number, (old, new) in enumerate(zip(left, right, strict=False)):
        if old != new:
            return number
    return min(len(left), len(right))
