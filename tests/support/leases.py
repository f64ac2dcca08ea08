"""Who runs which thread, looked at and meddled with from outside; and runs that wait until a thread is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import psycopg

from holdfast.checkpointing import ThreadBusy

T = TypeVar("T")
TTL: Final = timedelta(seconds=1)
"""The shortest that a lease may live: a killed process's threads are soon free."""
TABLES: Final = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "holdfast.messages", "holdfast.heads")


def when_free(run: Callable[[], T]) -> T:
    """Run it as soon as nobody else runs the thread."""
    while True:
        try:
            return run()
        except ThreadBusy:
            time.sleep(0.02)


async def awhen_free(run: Callable[[], Awaitable[T]]) -> T:
    """`when_free` for the async API."""
    while True:
        try:
            return await run()
        except ThreadBusy:
            await asyncio.sleep(0.02)


def held(uri: str) -> list[str]:
    """The threads that somebody runs, as the database knows."""
    with psycopg.connect(uri) as connection:
        found = connection.execute("SELECT thread_id FROM holdfast.leases WHERE held ORDER BY thread_id").fetchall()
    return [row[0] for row in found]


def workers(uri: str) -> list[str]:
    """The workers that count as alive, or did until they fell silent."""
    with psycopg.connect(uri) as connection:
        return [row[0] for row in connection.execute("SELECT worker FROM holdfast.workers").fetchall()]


def rows(uri: str) -> dict[str, list[Any]]:
    """All that runs write."""
    with psycopg.connect(uri) as connection:
        return {
            table: connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall()  # noqa: S608  # names of ours
            for table in TABLES
        }


def steal(uri: str, thread: str) -> None:
    """Take a thread over, as a successor does whose holder has been silent for too long."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            "DELETE FROM holdfast.workers WHERE worker = (SELECT worker FROM holdfast.leases WHERE thread_id = %s)",
            [thread],
        )
        connection.execute("INSERT INTO holdfast.workers VALUES ('thief', now() + interval '1 hour')")
        taken = connection.execute("SELECT holdfast.acquire(%s, 'thief')", [thread]).fetchone()
        assert taken is not None
        assert taken[0] is not None
