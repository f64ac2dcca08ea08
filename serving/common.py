"""What the commands share. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from holdfast.checkpointing import Database

AUDIENCES = ("user", "operator", "auditor")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def with_database(work: Callable[[Database], Coroutine[Any, Any, int]]) -> int:
    """Do some work with an open database; its result is the command's exit code."""

    async def main() -> int:
        from holdfast.checkpointing import Database

        async with Database.open() as database:
            return await work(database)

    return asyncio.run(main())


def age(value: str) -> timedelta | None:
    """A length of time as people write it, 12h, 30d or 8w; None if it is none."""
    given = re.fullmatch(r"([1-9]\d{0,4})([hdw])", value.strip())
    return timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[given[2]]: int(given[1])}) if given else None


def age_option(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    """For options that take a length of time."""
    if (given := age(value)) is None:
        raise click.BadParameter(f"{value!r} is no length of time: a number and h, d or w, as in 12h, 30d or 8w")
    return given


def text_option(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """For options whose text is looked up in the database."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is no text that a database holds") from None
    return value


def acting(given: str | None) -> str:
    """Who acts: whom the option names, else the user of this machine."""
    try:
        return given or getpass.getuser()
    except (OSError, KeyError):  # no login name, as in some containers
        return "unknown"
