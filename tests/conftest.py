"""What the tests stand on: a real Postgres, one fresh database for each test that asks for one."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from holdfast.checkpointing import Database, embedded

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples" / "tidewater-instruments"


@pytest.fixture(scope="session")
def server_uri() -> Iterator[str]:
    """A Postgres server: the one in HOLDFAST_DATABASE_URI, else an embedded one of the session's own."""
    if given := os.environ.get("HOLDFAST_DATABASE_URI"):
        yield given
        return
    # Not below pytest's own folder: a Unix socket's path may have about 100 characters.
    home = Path(tempfile.mkdtemp(prefix="holdfast-"))
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_HOME", str(home))
        yield embedded.start()
        embedded.release()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server_uri: str) -> Iterator[str]:
    """A database that is set up once, from which each test's own is copied."""
    with new_database(server_uri) as uri:
        Database(uri).close()
        yield str(conninfo_to_dict(uri)["dbname"])


@pytest.fixture
def database_uri(server_uri: str, template: str) -> Iterator[str]:
    """The URI of a database for this test alone, set up and empty."""
    with new_database(server_uri, template) as uri:
        yield uri


@pytest.fixture
def empty_uri(server_uri: str) -> Iterator[str]:
    """The URI of a database in which nothing has been set up."""
    with new_database(server_uri) as uri:
        yield uri


@pytest.fixture
def db(database_uri: str) -> Iterator[Database]:
    """An open database for this test alone."""
    with Database.connect(database_uri) as database:
        yield database


@pytest.fixture
def environment(database_uri: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a child process that works on this test's database."""
    return child_environment(database_uri, tmp_path)


@pytest.fixture(scope="session")
def dossier() -> Path:
    """The sample dossier: eight fictional documents in four formats."""
    return SAMPLES


def child_environment(uri: str, folder: Path) -> dict[str, str]:
    """This process's environment without anybody's settings and keys, on the given database."""
    foreign = ("HOLDFAST_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "OPENAI_", "ANTHROPIC_", "TAVILY_")
    passed = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return passed | {
        "HOLDFAST_DATABASE_URI": uri,
        "HOLDFAST_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "COLUMNS": "200",
    }


@contextmanager
def new_database(server_uri: str, template: str = "template0") -> Generator[str]:
    """A database on the server for the length of the block."""
    name = f"holdfast_test_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(create)
        try:
            yield make_conninfo(server_uri, dbname=name)
        finally:
            connection.execute(drop)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as LangGraph does."""
    return "asyncio"
