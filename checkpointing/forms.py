"""What requests and decisions are made of: JSON and texts that Postgres keeps, and edits that meet a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from .audit import storable
from .errors import HoldfastError
from .visibility import is_mapping

DEPTH: Final = 100
"""Levels of JSON."""
ARGUMENTS: Final = 1_000_000
"""Bytes, as JSON."""
CONTEXT: Final = 2_000_000
SCHEMA: Final = 250_000
TEXT: Final = 10_000
"""Characters of a description, a reason, a response."""
_TOLD: Final = 4_000
_CUT: Final = 300
_NAME: Final = 40
_REFERENCES: Final = ("$ref", "$dynamicRef")


class Unfit(HoldfastError, ValueError):
    """Something that cannot be kept: where, and why."""

    def __init__(self, place: str, problem: str) -> None:
        self.place: Final = place
        self.problem: Final = problem
        super().__init__(f"at {place}: {problem}")


def stored(value: Mapping[str, Any], most: int, *, strict: bool = True) -> str:
    """An object as JSON that Postgres keeps; NUL and lone surrogates are replaced.

    Raises:
        Unfit: it is too large, too deep, or (`strict`) holds what is not JSON.
    """
    if not is_mapping(cast("object", value)):
        raise Unfit("$", f"must be an object, not {type(value).__name__}")
    _check(value, strict=strict)
    try:
        text = storable(value)
    except (ValueError, RecursionError) as error:
        raise Unfit("$", f"is no JSON: {error}") from error
    if len(text.encode()) > most:
        raise Unfit("$", f"is larger than {most:,} bytes as JSON")
    return text


def kept(text: str, most: int = TEXT) -> str:
    """A text that Postgres keeps.

    Raises:
        Unfit: it is no text, or too long.
    """
    if not isinstance(cast("object", text), str) or len(text) > most:
        raise Unfit("$", f"must be a text of at most {most:,} characters")
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def findable(*names: str | None) -> bool:
    """Whether Postgres could hold such names at all.

    >>> findable("t-1", None), findable("a\\x00b"), findable("\\ud800")
    (True, False, False)
    """
    return all(name is None or kept(name, len(name)) == name for name in names)


def told(text: str) -> object:
    """JSON for the audit trail, which a long one is only quoted in."""
    return json.loads(text) if len(text) <= _TOLD else f"{text[:_TOLD]}\u2026"


def stored_schema(schema: Mapping[str, Any]) -> str:
    """A JSON schema (draft 2020-12) that edits can be held against.

    Raises:
        Unfit: it is none, or refers to what is not in it.
    """
    from jsonschema import Draft202012Validator, SchemaError

    text = stored(schema, SCHEMA)
    for place, key, value in _walk(schema):
        if key in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise Unfit(place, f"refers to {value[:_CUT]!r}, which is not in the schema itself")
    try:
        Draft202012Validator.check_schema(json.loads(text))
    except (SchemaError, RecursionError, re.error) as error:
        raise Unfit("$", f"is no JSON schema: {_short(error)}") from error
    return text


def meets(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """See that the arguments of an edit are what the action takes.

    Raises:
        Unfit: where they are not, and why; of several places, the one that tells most.
    """
    from jsonschema import Draft202012Validator, ValidationError, exceptions
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    nothing_else: Registry[Any] = Registry()
    best = cast("Callable[[Iterable[ValidationError]], ValidationError | None]", exceptions.best_match)
    try:
        found = best(Draft202012Validator(schema, registry=nothing_else).iter_errors(arguments))
    except (Unresolvable, ValidationError, RecursionError, re.error, TypeError) as error:
        raise Unfit("$", f"cannot be held against the schema of the arguments: {_short(error)}") from error
    if found is not None:
        raise Unfit(str(found.json_path), _short(found))


def _short(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "message", error)).split())
    return text if len(text) <= _CUT else f"{text[:_CUT]}\u2026"


def _check(value: object, *, strict: bool) -> None:
    for place, key, inner in _walk(value):
        if strict and not isinstance(key, str | int):
            raise Unfit(place, f"is named by what is no text: {key!r}"[:_CUT])
        if strict and not isinstance(inner, str | int | float | bool | Mapping | list | tuple | None):
            raise Unfit(place, f"is no JSON, but a {type(inner).__name__}")


def _walk(value: object) -> Iterator[tuple[str, object, object]]:
    """All values in one, each with its place and its name or number; without recursion, as they may be deep.

    Raises:
        Unfit: they are too deep.
    """
    ahead: list[tuple[str, object, object, int]] = [("$", "", value, 0)]
    while ahead:
        place, name, found, depth = ahead.pop()
        if depth > DEPTH:
            raise Unfit(place, f"lies deeper than {DEPTH} levels")
        yield place, name, found
        inside: Iterable[tuple[object, object]] = ()
        if is_mapping(found):
            inside = found.items()
        elif isinstance(found, list | tuple):
            inside = enumerate(cast("Sequence[object]", found))
        for key, inner in inside:
            # Cut: a name may be longer than memory has room for once for each value below it.
            below = f"{place}[{key}]" if isinstance(key, int) else f"{place}.{str(key)[:_NAME]}"
            ahead.append((below[:_CUT], key, inner, depth + 1))
