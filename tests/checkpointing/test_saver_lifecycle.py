"""The ways to come by a saver, to set up its tables, and to end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from holdfast.checkpointing import Database, HoldfastSaver
from tests.support.tables import assert_sound
from tests.support.talks import on, said, seen, talk

GIVEN: list[Any] = [said(0, "send ask"), Command(resume="yes"), said(1, "change again")]


def live(saver: Any, thread: str = "t") -> list[Any]:
    """Some turns, sync; the history that they leave."""
    graph = talk(saver, "plain")
    for given in GIVEN:
        graph.invoke(given, on(thread), durability="sync")
    return seen(graph, on(thread))


async def alive(saver: Any, thread: str = "t") -> list[str]:
    """The same, async; the messages that they leave."""
    graph = talk(saver, "plain")
    for given in GIVEN:
        await graph.ainvoke(given, on(thread), durability="sync")
    state = await graph.aget_state(on(thread))
    return [message.id for message in state.values["messages"]]


def ids(history: list[Any]) -> list[str]:
    """The messages at the end of a history."""
    return [message["id"] for message in history[-1]["values"]["messages"]]


def test_on_a_pool_of_blocking_connections(empty_uri: str) -> None:
    """`setup` makes the tables; the pool stays its owner's."""
    expected = live(InMemorySaver())
    with ConnectionPool(empty_uri, min_size=1, max_size=4, open=True) as pool:
        saver = HoldfastSaver(pool)
        saver.setup()
        assert live(saver) == expected
        assert asyncio.run(alive(saver, "async")) == ids(expected)
        saver.close()
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert_sound(empty_uri)


async def test_on_a_pool_of_this_loops_connections(empty_uri: str) -> None:
    """Async calls work on the pool's loop, sync calls anywhere but there, where they are refused by name."""
    expected = live(InMemorySaver())
    async with AsyncConnectionPool(empty_uri, min_size=1, max_size=4, open=False) as pool:
        saver = HoldfastSaver(pool)
        await asyncio.to_thread(saver.setup)
        assert await alive(saver) == ids(expected)
        assert await asyncio.to_thread(live, saver, "sync") == expected
        for refused in (lambda: saver.get_tuple(on("t")), lambda: list(saver.list(on("t"))), lambda: live(saver)):
            with pytest.raises(RuntimeError, match="use the async methods"):
                refused()
        await asyncio.to_thread(saver.close)
    await asyncio.to_thread(assert_sound, empty_uri)


async def test_setup_may_be_awaited(empty_uri: str) -> None:
    """As the official async saver's is."""
    async with AsyncConnectionPool(empty_uri, min_size=1, open=False) as pool:
        saver = HoldfastSaver(pool)
        await saver.setup()
        assert await alive(saver, "t")
        await asyncio.to_thread(saver.close)


def test_from_a_connection_string(empty_uri: str) -> None:
    """With `with` and with `async with`; each sets up what is not there."""
    expected = live(InMemorySaver())
    with HoldfastSaver.from_conn_string(empty_uri) as saver:
        assert live(saver) == expected

    async def asynchronous() -> list[str]:
        async with HoldfastSaver.from_conn_string(empty_uri) as opened:
            await opened.setup()
            return await alive(opened, "async")

    assert asyncio.run(asynchronous()) == ids(expected)
    assert_sound(empty_uri)


def test_another_thing_than_a_pool_is_refused() -> None:
    given: Any = "postgresql://"
    with pytest.raises(TypeError, match="from_conn_string"):
        HoldfastSaver(given)


def test_eight_set_up_an_empty_database_at_once(empty_uri: str) -> None:
    """The official savers fail with UniqueViolation there."""
    together = threading.Barrier(8)

    def database(number: int) -> None:
        together.wait()
        Database(empty_uri).close()

    def pooled(number: int) -> None:
        with ConnectionPool(empty_uri, min_size=1, open=True) as pool:
            saver = HoldfastSaver(pool)
            together.wait()
            saver.setup()
            saver.close()

    kinds: list[Callable[[int], None]] = [database, pooled]
    with ThreadPoolExecutor(8) as threads:
        for job in [threads.submit(kinds[number % 2], number) for number in range(8)]:
            job.result()
    with Database.connect(empty_uri) as db:
        assert live(db.saver) == live(InMemorySaver())


LEFT_OPEN = {
    "database": "database = Database(); saver = database.saver",
    "saver of a database": "saver = Database().saver",
    "pool": "pool = ConnectionPool(os.environ['HOLDFAST_DATABASE_URI'], open=True); saver = HoldfastSaver(pool)",
}


@pytest.mark.parametrize("opened", LEFT_OPEN)
def test_the_interpreter_ends_though_nobody_closes_the_saver(opened: str, environment: dict[str, str]) -> None:
    """Without a word, and with everything saved."""
    program = (
        "import os\n"
        "from psycopg_pool import ConnectionPool\n"
        "from holdfast.checkpointing import Database, HoldfastSaver\n"
        "from tests.support.talks import on, said, talk\n"
        f"{LEFT_OPEN[opened]}\n"
        "talk(saver, 'plain').invoke(said(0, ''), on('t'), durability='async')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    with Database.connect(environment["HOLDFAST_DATABASE_URI"]) as db:
        assert talk(db.saver, "plain").get_state(on("t")).next == ()


def test_a_superstep_is_about_one_transaction(db: Database, database_uri: str) -> None:
    """A task's writes and the checkpoint after them are committed together."""
    graph = talk(db.saver, "plain")

    def transactions() -> int:
        with psycopg.connect(database_uri, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            return int(row[0])

    counts: list[float] = []
    for number in range(5):
        thread = str(number)
        before = transactions()
        graph.invoke(said(0, ""), on(thread), durability="sync")
        counts.append((transactions() - before - 1) / len(list(db.saver.list(on(thread)))))
    # Of several runs the best: on a busy machine writes may not wait for their checkpoint.
    assert min(counts) <= 1.3
