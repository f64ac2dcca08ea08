"""Brings a database to the current schema, however many processes start at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from .errors import DatabaseUnavailable, HoldfastError
from .roles import guard
from .sql import Migration, migrations, queries

SQL: Final = queries("migrations")
SETUP_KEY: Final = 0x686F6C6466617374
"""The advisory lock that set-up takes: 'holdfast' in ASCII."""
_POLL: Final = 0.05
_PATIENCE: Final = 120.0
_DIGESTS_FROM: Final = 4
"""The version since which it is recorded what was run."""


class SchemaTooNew(HoldfastError):
    """The database was migrated by a newer Holdfast than this one."""


class SchemaDiffers(HoldfastError):
    """The database was set up by a build of Holdfast that was never released: its tables are not this one's."""


class SetupRefused(HoldfastError):
    """The database role may not create what Holdfast needs."""


async def migrate(connection: AsyncConnection[DictRow]) -> None:
    """Create or upgrade our tables and the official packages' tables, once.

    Raises:
        SchemaTooNew: the schema has versions that this release does not know.
        SchemaDiffers: a version has the number of one of ours, and is another.
        SetupRefused: the role lacks a right; the text says which statement to run.
        DatabaseUnavailable: another process has held the set-up lock for two minutes.
    """
    try:
        async with _alone(connection):
            await _apply(connection, migrations())
            await AsyncPostgresSaver(connection).setup()
            await AsyncPostgresStore(connection).setup()
            await guard(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupRefused(
            f"this database role may not set Holdfast up ({error.diag.message_primary}); have its owner run: "
            "CREATE SCHEMA holdfast AUTHORIZATION <role>; GRANT CREATE ON SCHEMA public TO <role>"
        ) from error


@asynccontextmanager
async def _alone(connection: AsyncConnection[DictRow]) -> AsyncGenerator[None]:
    waited = 0.0
    while not await _held(connection, "try_lock_setup", key=SETUP_KEY):
        if waited > _PATIENCE:
            raise DatabaseUnavailable("another process has been setting this database up for two minutes")
        await asyncio.sleep(_POLL)
        waited += _POLL
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute(SQL["unlock_setup"], {"key": SETUP_KEY})


async def _apply(connection: AsyncConnection[DictRow], steps: list[Migration]) -> None:
    applied = await _applied(connection)
    _check(applied, {step.version: step for step in steps})
    for step in steps:
        if step.version not in applied:
            async with connection.transaction():
                await connection.execute(step.statements, prepare=False)  # several statements in one
                await connection.execute(SQL["record_version"], {"version": step.version, "name": step.name})
                if step.version >= _DIGESTS_FROM:
                    await connection.execute(SQL["record_digest"], {"version": step.version, "digest": step.digest})


def _check(applied: dict[int, str | None], steps: dict[int, Migration]) -> None:
    if unknown := sorted(applied.keys() - steps.keys()):
        raise SchemaTooNew(
            f"this database was set up by a newer Holdfast (schema version {unknown[-1]}, "
            f"this one knows {max(steps)}); upgrade the package"
        )
    for version, digest in applied.items():
        if version >= _DIGESTS_FROM and digest != steps[version].digest:
            raise SchemaDiffers(
                f"this database was set up by an unreleased build of Holdfast, whose schema version {version} "
                f"({steps[version].name}) is another than this one's; use an empty database"
            )


async def _applied(connection: AsyncConnection[DictRow]) -> dict[int, str | None]:
    """Versions that were run, each with its digest where that was recorded."""
    state = await (await connection.execute(SQL["schema_exists"])).fetchone()
    assert state is not None
    if not state["present"]:
        await connection.execute("CREATE SCHEMA holdfast")
    if not state["versioned"]:
        return {}
    rows = await (await connection.execute(SQL["applied_versions"])).fetchall()
    return {row["version"]: row["digest"] for row in rows}


async def _held(connection: AsyncConnection[DictRow], query: str, **parameters: object) -> bool:
    row = await (await connection.execute(SQL[query], parameters)).fetchone()
    assert row is not None
    return bool(row["held"])
