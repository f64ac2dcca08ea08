"""Pieces of sentences, each on one line and of a length that can be read."""

from __future__ import annotations

import json
from typing import Final

_LONG: Final = 300


def quoted(word: str, value: object) -> str:
    """What was said or given, if anything."""
    if value is None or value == "":
        return ""
    return cut(f"{word}: \u201c{line(value)}\u201d" if isinstance(value, str) else f"{word}: {as_text(value)}")


def as_text(value: object) -> str:
    """JSON, unless it is empty."""
    return line(json.dumps(value, ensure_ascii=False, default=str)) if value else ""


def line(value: object) -> str:
    """A text without line breaks."""
    return " ".join(str(value).split())


def cut(text: str) -> str:
    """Its beginning, if it is too long."""
    return text if len(text) <= _LONG else text[: _LONG - 1] + "\u2026"
