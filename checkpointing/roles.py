"""The database's own guard of the message log: a role for each audience, and row-level security."""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from .sql import queries

SQL: Final = queries("roles")
_log: Final = logging.getLogger("holdfast.checkpointing")
_STEPS: Final = ("grant", "grant_columns", "grant_auditor", "show_users", "show_operators", "show_auditors")


async def guard_messages(connection: AsyncConnection[DictRow]) -> bool:
    """See that the roles `holdfast_user`, `holdfast_operator` and `holdfast_auditor` are there, and see no more.

    They cannot log in: a reporting user is made a member (`GRANT holdfast_user TO reporting`). The tables'
    owner, through whom the saver works, sees everything. Where our own role may not create roles, a warning
    says what to run; the log's reading by audience does not depend on it.

    Returns whether the guard stands.
    """
    ready = await (await connection.execute(SQL["ready"])).fetchone()
    if ready is not None and ready["ready"]:
        return True
    missing = [row["name"] for row in await (await connection.execute(SQL["missing"])).fetchall()]
    try:
        if missing:
            await connection.execute(SQL["create"])
        async with connection.transaction():
            for step in _STEPS:
                await connection.execute(SQL[step])
    except psycopg.errors.InsufficientPrivilege:
        _log.warning(
            "the roles for reading messages by audience could not be created; to have the database enforce who "
            "sees what, let somebody who may create roles run: %s; and set up again",
            "; ".join(f"CREATE ROLE {name} NOLOGIN" for name in missing) or "GRANT on schema holdfast to this role",
        )
        return False
    return True
