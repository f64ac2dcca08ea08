"""What the commands share. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from holdfast.checkpointing import Database

AUDIENCES = ("user", "operator", "auditor")
_NAME = 200
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


def name_option(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """For options and arguments that name something."""
    if value is not None and (not value.strip() or len(value) > _NAME or not value.isprintable()):
        raise click.BadParameter(f"{value[:60]!r} is no name: 1 to {_NAME} printable characters")
    return value


def text_option(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """For options whose text is looked up in the database."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is no text that a database holds") from None
    return value


def amount_option(_: click.Context, __: click.Parameter, value: str | None) -> Decimal | None:
    """For options that take an amount above 0."""
    if value is None:
        return None
    if given := _decimal(value):
        return given
    raise click.BadParameter(f"{value!r} is no amount: a decimal above 0, such as 5 or 0.25")


def cost_option(_: click.Context, __: click.Parameter, value: str | None) -> Decimal | None:
    """For options that take an amount, 0 or more."""
    if value is None:
        return None
    if (given := _decimal(value)) is not None:
        return given
    raise click.BadParameter(f"{value!r} is no amount: a decimal of 0 or more, such as 5 or 0.25")


def _decimal(text: str) -> Decimal | None:
    """A number as people write it, exactly; neither `1e3` nor `nan` is one."""
    return Decimal(text.strip()) if re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text.strip(), re.ASCII) else None


def acting(given: str | None) -> str:
    """Who acts: whom the option names, else the user of this machine."""
    try:
        return given or getpass.getuser()
    except (OSError, KeyError):  # no login name, as in some containers
        return "unknown"
