"""The database's own guard of messages and events: a role for each audience, and row-level security."""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from .sql import queries

SQL: Final = queries("roles")
_log: Final = logging.getLogger("holdfast.checkpointing")
_TABLES: Final = ("messages", "events")
_STEPS: Final = ("columns", "auditor", "users", "operators", "auditors")


async def guard(connection: AsyncConnection[DictRow]) -> bool:
    """See that the roles `holdfast_user`, `holdfast_operator` and `holdfast_auditor` are there, and see no more.

    They cannot log in: a reporting user is made a member (`GRANT holdfast_user TO reporting`). The tables'
    owner, through whom the saver works, sees everything. Where our own role may not create roles, a warning
    says what to run; our own reading by audience does not depend on it.

    Returns whether the guard stands.
    """
    guarded = {row["name"] for row in await (await connection.execute(SQL["guarded"])).fetchall()}
    open_ones = [table for table in _TABLES if table not in guarded]
    if not open_ones:
        return True
    missing = [row["name"] for row in await (await connection.execute(SQL["missing"])).fetchall()]
    try:
        if missing:
            await connection.execute(SQL["create"])
        async with connection.transaction():
            await connection.execute(SQL["grant"])
            for table in open_ones:
                for step in _STEPS:
                    await connection.execute(SQL[f"{table}_{step}"])
    except psycopg.errors.InsufficientPrivilege:
        _log.warning(
            "the roles for reading messages and events by audience could not be created; to have the database enforce "
            "who sees what, let somebody who may create roles run: %s; and set up again",
            "; ".join(f"CREATE ROLE {name} NOLOGIN" for name in missing) or "GRANT on schema holdfast to this role",
        )
        return False
    return True
