"""The server that both sides of a benchmark use, what it counts, and children to run in."""

from __future__ import annotations

import multiprocessing
import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, LiteralString, ParamSpec, TypeAlias, TypeVar

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from holdfast.checkpointing import Database, embedded

P = ParamSpec("P")
R = TypeVar("R")
Side: TypeAlias = Literal["stock", "ours"]
Saver: TypeAlias = BaseCheckpointSaver[Any]

POOL = 10
OPTIONS: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}

SIZES: LiteralString = """
SELECT c.oid::regclass::text, pg_total_relation_size(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""
# A write transaction takes exactly one transaction id and a reading one takes none, so that the next id counts them.
COUNTS: LiteralString = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,"
    " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)
SYNCS: LiteralString = (
    "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"
)


Sizes: TypeAlias = dict[str, int]
"""Bytes of each table, its TOAST and indexes included."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes of WAL and write transactions of the whole server; nobody else works on it."""

    wal: int
    commits: int

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.wal - other.wal, self.commits - other.commits)


def counts(connection: psycopg.Connection) -> Counts:
    return Counts(*connection.execute(COUNTS).fetchall()[0])


def sizes(uri: str) -> Sizes:
    with psycopg.connect(uri) as connection:
        return dict(connection.execute(SIZES).fetchall())


def growth(after: Sizes, before: Sizes) -> Sizes:
    """By how much each table grew: an empty schema has its pages too, and they are nobody's state."""
    grown = {name: size - before.get(name, 0) for name, size in after.items()}
    return {name: size for name, size in sorted(grown.items()) if size}


def wal_syncs(connection: psycopg.Connection) -> int | None:
    """WAL fsyncs by sessions that have ended; unknown before Postgres 18."""
    if connection.info.server_version < 180000:  # noqa: PLR2004 - the release that counts WAL in pg_stat_io
        return None
    return int(connection.execute(SYNCS).fetchall()[0][0])


def peak_of_children() -> str:
    """The most memory that any child process held so far."""
    return f"peak memory of a child process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB"


def peak_memory() -> int:
    """The most bytes this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def server() -> Generator[str]:
    """The URI of `HOLDFAST_DATABASE_URI` (a superuser's: it asks for a CHECKPOINT), else an embedded server of its own.

    Of its own, because the WAL and the transactions of a server are counted for all of it.
    """
    if given := os.environ.get("HOLDFAST_DATABASE_URI"):
        yield given
        return
    home = Path(tempfile.mkdtemp(prefix="holdfast-"))
    home.chmod(0o755)
    os.environ["HOLDFAST_HOME"] = str(home)
    try:
        yield embedded.start()
    finally:
        embedded.release()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def new_database(server_uri: str, *, lz4: bool = False) -> Generator[str]:
    """A fresh database for the length of the block."""
    database = sql.Identifier(f"holdfast_bench_{secrets.token_hex(6)}")
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(database))
        if lz4:
            connection.execute(sql.SQL("ALTER DATABASE {} SET default_toast_compression = lz4").format(database))
        try:
            yield make_conninfo(server_uri, dbname=database.as_string().strip('"'))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


def offers_lz4(server_uri: str) -> bool:
    with psycopg.connect(server_uri) as connection:
        found = connection.execute("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
        return any("lz4" in methods for (methods,) in found)


def in_child(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of the call in a new process, whose peak of memory and processor time are its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def set_up(uri: str, side: Side) -> None:
    """Create the tables of that side."""
    if side == "stock":
        with PostgresSaver.from_conn_string(uri) as saver:
            saver.setup()
    else:
        with Database.connect(uri):
            pass


@contextmanager
def opened(uri: str, side: Side) -> Generator[Saver]:
    """A saver on that database, newly opened."""
    if side == "stock":
        with ConnectionPool(uri, kwargs=OPTIONS, max_size=POOL) as pool:
            yield PostgresSaver(pool)  # type: ignore[arg-type]  # OPTIONS sets the row factory it asks for
    else:
        with Database.connect(uri) as database:
            yield database.saver


@asynccontextmanager
async def aopened(uri: str, side: Side) -> AsyncGenerator[Saver]:
    """`opened` for `ainvoke`."""
    if side == "stock":
        async with AsyncConnectionPool(uri, kwargs=OPTIONS, min_size=POOL, max_size=POOL, open=False) as pool:
            yield AsyncPostgresSaver(pool)  # type: ignore[arg-type]  # OPTIONS sets the row factory it asks for
    else:
        async with Database.open(uri) as database:
            yield database.saver
