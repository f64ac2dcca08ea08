"""What the commands share. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine
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


def acting(given: str | None) -> str:
    """Who acts: whom the option names, else the user of this machine."""
    try:
        return given or getpass.getuser()
    except (OSError, KeyError):  # no login name, as in some containers
        return "unknown"
