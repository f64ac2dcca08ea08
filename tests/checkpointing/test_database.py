"""What `Database` promises."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typing_extensions import TypedDict

from holdfast.checkpointing import (
    Database,
    DatabaseClosed,
    DatabaseUnavailable,
    HoldfastError,
    InvalidDatabaseURI,
    SchemaDiffers,
    SchemaTooNew,
    SetupRefused,
    ThreadBusy,
    TypeNotAllowed,
    embedded,
)
from holdfast.checkpointing.migrate import SETUP_KEY
from tests.conftest import new_database


class Count(TypedDict):
    value: int


def counting() -> StateGraph[Count, None, Count, Count]:
    """A graph that adds one, asks a person, and adds the answer."""

    def add(state: Count) -> Count:
        return {"value": state["value"] + 1}

    def ask(state: Count) -> Count:
        return {"value": state["value"] + int(interrupt("how many?"))}

    graph = StateGraph(Count)
    graph.add_node("add", add)
    graph.add_node("ask", ask)
    graph.add_edge(START, "add")
    graph.add_edge("add", "ask")
    return graph


def run(graph: Any, value: int, thread: str) -> Any:
    return graph.invoke({"value": value}, on(thread))


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def test_one_saver_serves_sync_and_async_runs_of_one_thread(db: Database) -> None:
    """A run begun with invoke goes on with ainvoke, on another loop, and is read with both."""
    graph = counting().compile(checkpointer=db.saver, store=db.store)
    graph.invoke({"value": 1}, on("t"))
    assert asyncio.run(graph.ainvoke(Command(resume=40), on("t"))) == {"value": 42}
    assert graph.get_state(on("t")).values == {"value": 42}
    assert len(list(graph.get_state_history(on("t")))) == 4


async def test_a_sync_run_inside_a_running_loop_works(db: Database) -> None:
    """The database's loop is not the caller's, so a notebook may call invoke."""
    graph = counting().compile(checkpointer=db.saver)
    graph.invoke({"value": 1}, on("t"))
    assert (await graph.aget_state(on("t"))).next == ("ask",)


def test_many_threads_share_one_database(db: Database) -> None:
    """Sync callers in many OS threads do not disturb one another."""
    graph = counting().compile(checkpointer=db.saver)
    with ThreadPoolExecutor(16) as pool:
        runs = [pool.submit(run, graph, n, f"t{n}") for n in range(32)]
        for finished in runs:
            finished.result()
    assert [graph.get_state(on(f"t{n}")).values["value"] for n in range(32)] == [n + 1 for n in range(32)]


def test_the_store_is_shared_by_sync_and_async_code(db: Database) -> None:
    db.store.put(("plans",), "a", {"text": "sync"})

    async def read() -> Any:
        await db.store.aput(("plans",), "b", {"text": "async"})
        return await db.store.aget(("plans",), "a")

    assert asyncio.run(read()).value == {"text": "sync"}
    assert [item.key for item in db.store.search(("plans",))] == ["b", "a"]


def test_deleting_a_thread_leaves_nothing(db: Database) -> None:
    """The server's word for it, "delete_all", and the official one both work."""
    graph = counting().compile(checkpointer=db.saver)
    for thread in ("a", "b", "c"):
        graph.invoke({"value": 1}, on(thread))
    db.saver.delete_thread("a")
    db.saver.prune(["b"], strategy="delete_all")
    db.saver.prune(["c"], strategy="delete")
    assert list(db.saver.list(None)) == []


@dataclass
class Foreign:
    """A type that no checkpoint may bring back by naming it."""

    secret: int


class Holder(TypedDict):
    """A state that holds a type of the user's."""

    foreign: Foreign


def keeps(db: Database) -> Any:
    """A graph whose state holds a foreign type, compiled on the database."""
    builder = StateGraph(Holder)
    builder.add_node("keep", lambda state: {"foreign": Foreign(7)})
    return builder.add_edge(START, "keep").compile(checkpointer=db.saver)


def test_checkpoints_revive_no_foreign_types_and_no_pickle(database_uri: str) -> None:
    """A type that is not allowed is an error with a name and an advice, not other data; nothing is lost."""
    with Database.connect(database_uri) as db:
        keeps(db).invoke({"foreign": Foreign(1)}, on("t"))
        with pytest.raises(TypeNotAllowed, match=r"test_database\.Foreign.*Database\(types=\[Foreign\]\)"):
            keeps(db).get_state(on("t"))
        with pytest.raises(NotImplementedError, match="pickle"):
            db.saver.serde.loads_typed(("pickle", pickle.dumps({})))
    with Database.connect(database_uri, types=[Foreign]) as db:
        assert keeps(db).get_state(on("t")).values == {"foreign": Foreign(7)}


async def test_a_thread_has_one_runner(database_uri: str) -> None:
    """Whoever holds a thread keeps others out, and letting go lets them in."""
    async with Database.open(database_uri) as one, Database.open(database_uri) as two:
        async with one.threads.hold("t"):
            with pytest.raises(ThreadBusy, match="'t' is being run by another process"):
                await two.threads.hold("t").__aenter__()
            async with two.threads.hold("another"):
                pass
        async with two.threads.hold("t"):
            pass


def test_a_killed_process_leaves_no_lock(database_uri: str) -> None:
    code = """
import asyncio, os, signal, sys
from holdfast.checkpointing import Database
async def main():
    async with Database.open(sys.argv[1]) as db, db.threads.hold("t"):
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code, database_uri], check=False)

    async def take() -> None:
        async with Database.open(database_uri) as db, db.threads.hold("t"):
            pass

    asyncio.run(take())


def test_set_up_happens_once_however_many_start_together(empty_uri: str) -> None:
    """Eight processes that open an empty database at once all succeed, and each migration ran once."""
    code = "import sys; from holdfast.checkpointing import Database; Database(sys.argv[1]).close()"
    children = [subprocess.Popen([sys.executable, "-c", code, empty_uri]) for _ in range(8)]
    assert [child.wait() for child in children] == [0] * 8
    with psycopg.connect(empty_uri) as connection:
        versions = connection.execute("SELECT version FROM holdfast.migrations ORDER BY version").fetchall()
    assert versions == [(version,) for version in range(1, 12)]


def test_a_newer_schema_is_refused(database_uri: str) -> None:
    with psycopg.connect(database_uri) as connection:
        connection.execute("INSERT INTO holdfast.migrations (version, name) VALUES (9999, 'of tomorrow')")
    with pytest.raises(SchemaTooNew, match="schema version 9999"):
        Database(database_uri)


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_a_schema_of_another_build_is_refused(database_uri: str, digest: str | None) -> None:
    with psycopg.connect(database_uri) as connection:
        connection.execute("UPDATE holdfast.migrations SET digest = %s WHERE version = 5", [digest])
    with pytest.raises(SchemaDiffers, match=r"schema version 5 \(leases\).*use an empty database"):
        Database(database_uri)


def test_a_role_that_may_not_set_up_is_told_what_to_run(server_uri: str) -> None:
    with new_database(server_uri) as uri, psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE ROLE holdfast_nobody LOGIN")
        try:
            with pytest.raises(SetupRefused, match="CREATE SCHEMA holdfast AUTHORIZATION"):
                Database(make_conninfo(uri, user="holdfast_nobody"))
        finally:
            connection.execute("DROP ROLE holdfast_nobody")


@pytest.mark.parametrize("uri", ["nonsense", "http://example", "postgresql://[::1"])
def test_a_wrong_uri_is_named(uri: str) -> None:
    with pytest.raises(InvalidDatabaseURI, match="not a Postgres URI"):
        Database(uri)


def test_an_unreachable_server_is_named_and_no_password_is_shown() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect to the database") as caught:
        Database("postgresql://ada:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


def test_a_connection_lost_between_calls_is_replaced(database_uri: str, server_uri: str) -> None:
    """After the server has dropped every connection, the next call works again."""
    graph = counting()
    with Database.connect(database_uri) as db:
        compiled = graph.compile(checkpointer=db.saver)
        compiled.invoke({"value": 1}, on("t"))
        cut_connections(server_uri, database_uri)
        assert compiled.get_state(on("t")).values == {"value": 2}


def test_a_database_that_disappears_is_named(server_uri: str, template: str) -> None:
    with new_database(server_uri, template) as uri:
        db = Database(uri)
        with psycopg.connect(server_uri, autocommit=True) as connection:
            name = sql.Identifier(str(conninfo_to_dict(uri)["dbname"]))
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        cut_connections(server_uri, uri)
        db._pool.timeout = 1.0  # pyright: ignore[reportPrivateUsage] - the test need not wait ten seconds
        with pytest.raises(DatabaseUnavailable):
            db.threads.recent()
        db.close()


def test_set_up_waits_for_another_that_is_under_way(empty_uri: str) -> None:
    """While another session holds the set-up lock, nothing is created."""
    with psycopg.connect(empty_uri, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (SETUP_KEY,))
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Database, empty_uri)
            waiting = (
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'holdfast' AND datname = current_database()"
            )
            while other.execute(waiting).fetchone() == (0,):
                pass
            assert other.execute("SELECT to_regnamespace('holdfast')").fetchone() == (None,)
            other.execute("SELECT pg_advisory_unlock(%s)", (SETUP_KEY,))
            opening.result().close()


def test_the_shared_database_is_one(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    with ThreadPoolExecutor(8) as pool:
        found = {opening.result() for opening in [pool.submit(Database.shared) for _ in range(8)]}
    assert len(found) == 1
    Database.close_shared()
    assert Database.shared() not in found
    Database.close_shared()


def test_an_embedded_server_that_was_killed_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a SIGKILL of the embedded Postgres itself, the next open finds what was committed."""
    home = Path(tempfile.mkdtemp(prefix="holdfast-"))
    home.chmod(0o755)
    monkeypatch.setenv("HOLDFAST_HOME", str(home))
    monkeypatch.delenv("HOLDFAST_DATABASE_URI", raising=False)
    try:
        with Database.connect() as db:
            db.store.put(("kept",), "k", {"v": 1})
        postmaster = psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().split()[0]))
        postmaster.send_signal(signal.SIGKILL)
        postmaster.wait(10)
        with Database.connect() as db:
            item = db.store.get(("kept",), "k")
        assert item is not None
        assert item.value == {"v": 1}
    finally:
        embedded.release()


def test_an_embedded_server_in_a_bad_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("HOLDFAST_HOME", str(blocked))
    monkeypatch.delenv("HOLDFAST_DATABASE_URI", raising=False)
    with pytest.raises(HoldfastError, match="the embedded Postgres did not start"):
        Database()


def cut_connections(server_uri: str, uri: str) -> None:
    """End every session on a database, as a restart of the server does."""
    name = conninfo_to_dict(uri)["dbname"]
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            (name,),
        )


def test_a_write_that_has_begun_is_finished_though_its_caller_is_cancelled(db: Database) -> None:
    """A run that fails, or whose loop ends, leaves saves under way; each is saved whole."""
    started = threading.Event()

    async def slow_write(value: int) -> None:
        started.set()
        async with db._pool.connection() as connection:  # pyright: ignore[reportPrivateUsage]
            await connection.execute("SELECT pg_sleep(0.2)")
            await connection.execute("CREATE TABLE written (value integer)")
            await connection.execute("INSERT INTO written VALUES (%s)", (value,))

    async def cancelled() -> None:
        bridge = db._bridge  # pyright: ignore[reportPrivateUsage]
        task = asyncio.create_task(bridge.acall_to_end(slow_write, 7))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    uri = db.uri
    db.close()  # which waits for what is under way
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT value FROM written").fetchall() == [(7,)]


def test_a_program_that_forgets_to_close_exits_all_the_same(database_uri: str) -> None:
    code = "import sys; from holdfast import Database; db = Database(sys.argv[1]); db.store.put(('a',), 'k', {})"
    subprocess.run([sys.executable, "-c", code, database_uri], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_and_can_exit(database_uri: str) -> None:
    code = """
import os, sys
from holdfast.checkpointing import Database, DatabaseClosed
db = Database(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        db.threads.recent()
    except DatabaseClosed as error:
        sys.exit(7 if "forked" in str(error) else 8)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code, database_uri], check=False, timeout=60)
    assert ran.returncode == 7


async def test_a_closed_database_says_so(database_uri: str) -> None:
    db = Database(database_uri)
    db.close()
    db.close()
    with pytest.raises(DatabaseClosed, match="it was closed"):
        db.threads.recent()
    with pytest.raises(DatabaseClosed):
        await db.saver.aget_tuple(on("t"))


@pytest.mark.parametrize("uri", ["postgres://ada:100%hunter2@h/db", "postgresql://ada:hunter2 x@h/db"])
def test_a_uri_that_cannot_be_parsed_is_not_repeated(uri: str) -> None:
    with pytest.raises(InvalidDatabaseURI) as caught:
        Database(uri)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["with space", "it's", "$HOME", "per%40cent"])
def test_a_home_that_the_embedded_server_cannot_take_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOLDFAST_DATABASE_URI", raising=False)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / name))
    with pytest.raises(HoldfastError, match="only letters, digits"):
        Database()
    assert not (tmp_path / name).exists()


def test_a_data_directory_with_a_space_gives_way_to_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: ~/Library/Application Support."""
    monkeypatch.delenv("HOLDFAST_HOME", raising=False)

    def with_space(name: str, author: bool) -> Path:
        return tmp_path / "Application Support" / name

    monkeypatch.setattr(embedded.platformdirs, "user_data_path", with_space)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded._data() == tmp_path / ".local/share/holdfast/postgres"  # pyright: ignore[reportPrivateUsage]


def test_the_last_owner_stops_the_embedded_server_even_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process never strikes itself off the server's list; the next one does it for it."""
    home = Path(tempfile.mkdtemp(prefix="holdfast-"))
    home.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "HOLDFAST_DATABASE_URI"}
    environment["HOLDFAST_HOME"] = str(home)
    killed = "import os, signal; from holdfast import Database; Database(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", killed], env=environment, check=False)
    assert (home / "postgres" / "postmaster.pid").exists()
    subprocess.run([sys.executable, "-c", "from holdfast import Database; Database()"], env=environment, check=True)
    assert not (home / "postgres" / "postmaster.pid").exists()


async def test_how_a_thread_is_run_is_kept_and_replaced(db: Database) -> None:
    assert db.threads.recall("t") == {}
    db.threads.remember("t", {"model": "a", "timeout": 1.5})
    assert await db.threads.arecall("t") == {"model": "a", "timeout": 1.5}
    await db.threads.aremember("t", {"model": "b"})
    assert db.threads.recall("t") == {"model": "b"}
