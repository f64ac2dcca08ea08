"""The same spending by our ledger, by a naive one, and beside the journal; each in a child process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, LiteralString, Protocol

import psycopg
from _calls import ANSWER
from _proxy import CountingProxy
from psycopg import AsyncConnection

from holdfast.checkpointing import Budget, BudgetExceeded, Closing, Database, Reservation, Wanted
from holdfast.checkpointing.records import Effect, Settlement

ESTIMATE, COST = Decimal("0.02"), Decimal("0.0123")
FAR = Decimal(1_000_000)
"""A limit that is not reached."""
PAUSE = 0.003
"""Seconds that an unhurried worker's call takes, and the time until its next."""
Way = Literal["journal", "ledger", "both"]
Side = Literal["ours", "naive"]
SPENT: dict[Side, LiteralString] = {
    "ours": "SELECT sum(spent + reserved) FROM holdfast.windows WHERE kind = 'hour'",
    "naive": "SELECT sum(used) FROM naive WHERE start = 'hour'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What some workers' calls took."""

    durations: list[float]
    """Seconds that a call waited for the ledger, of each call that was let through."""
    whole: float
    """Seconds, all workers together, until all was durable."""
    asked: int
    spent: Decimal
    """What the windows of one hour say."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.asked / self.whole


class Purse(Protocol):
    """A ledger, as one worker uses it."""

    async def reserve(self, scope: str) -> object | None:
        """None: refused."""
        ...

    async def settle(self, reserved: Any) -> None: ...


class Ours:
    """All workers' calls go through the one ledger of their process."""

    def __init__(self, database: Database, limit: Decimal, *, wait: bool) -> None:
        self._ledger, self._limit, self._wait = database.ledger, limit, wait

    async def reserve(self, scope: str) -> Reservation | None:
        budget = Budget(scope, hourly=self._limit, daily=self._limit)
        try:
            return await self._ledger.areserve(Wanted(budgets=(budget,), usd=ESTIMATE, tokens=100, name="model"))
        except BudgetExceeded:
            return None

    async def settle(self, reserved: Reservation) -> None:
        await self._ledger.asettle(reserved, usd=COST, tokens=50, wait=self._wait)


class Naive:
    """A connection for each worker; one transaction to reserve and one to settle, under the windows' row locks."""

    def __init__(self, connection: AsyncConnection[Any], limit: Decimal) -> None:
        self._connection, self._limit = connection, limit

    async def reserve(self, scope: str) -> tuple[int, str] | None:
        connection = self._connection
        async with connection.transaction():
            found = await connection.execute(
                "SELECT used FROM naive WHERE scope = %s ORDER BY start FOR UPDATE", [scope], prepare=True
            )
            if any(used + ESTIMATE > self._limit for (used,) in await found.fetchall()):
                return None
            await connection.execute(
                "UPDATE naive SET used = used + %s WHERE scope = %s", [ESTIMATE, scope], prepare=True
            )
            made = await connection.execute(
                "INSERT INTO naive_reservations (scope, usd) VALUES (%s, %s) RETURNING id",
                [scope, ESTIMATE],
                prepare=True,
            )
            ((number,),) = await made.fetchall()
        return number, scope

    async def settle(self, reserved: tuple[int, str]) -> None:
        number, scope = reserved
        connection = self._connection
        async with connection.transaction():
            await connection.execute(
                "SELECT used FROM naive WHERE scope = %s ORDER BY start FOR UPDATE", [scope], prepare=True
            )
            await connection.execute(
                "UPDATE naive SET used = used + %s WHERE scope = %s", [COST - ESTIMATE, scope], prepare=True
            )
            await connection.execute(
                "UPDATE naive_reservations SET spent = %s WHERE id = %s", [COST, number], prepare=True
            )


@asynccontextmanager
async def _ours(
    uri: str, workers: int, limit: Decimal, scopes: Sequence[str], wait: bool
) -> AsyncGenerator[list[Purse]]:
    async with Database.open(uri) as database:
        purse = Ours(database, limit, wait=wait)
        for scope in dict.fromkeys(scopes):  # the hour's first call finds no window
            await Ours(database, FAR, wait=True).reserve(scope)
        yield [purse] * workers


@asynccontextmanager
async def _naive(
    uri: str, workers: int, limit: Decimal, scopes: Sequence[str], wait: bool
) -> AsyncGenerator[list[Purse]]:
    async with AsyncExitStack() as stack, await AsyncConnection.connect(uri, autocommit=True) as first:
        await first.execute("CREATE TABLE naive (scope text, start text, used numeric, PRIMARY KEY (scope, start))")
        await first.execute(
            "CREATE TABLE naive_reservations (id bigserial PRIMARY KEY, scope text, usd numeric, spent numeric)"
        )
        for scope in dict.fromkeys(scopes):
            await first.execute("INSERT INTO naive VALUES (%s, 'day', 0), (%s, 'hour', 0)", [scope, scope])
        purses: list[Purse] = []
        for _ in range(workers):
            connection = await stack.enter_async_context(await AsyncConnection.connect(uri, autocommit=True))
            purses.append(Naive(connection, limit))
        yield purses


def spend(
    uri: str,
    side: Side,
    workers: int,
    each: int,
    *,
    many: bool = False,
    wait: bool = False,
    limit: Decimal = FAR,
    pause: float = 0,
) -> Spending:
    """So many workers' calls, on one scope or each on its own."""
    scopes = [f"scope {number if many else 0}" for number in range(workers)]
    durations: list[float] = []

    async def work(purse: Purse, scope: str) -> None:
        for _ in range(each):
            began = time.perf_counter()
            reserved = await purse.reserve(scope)
            held = time.perf_counter()
            if reserved is None:
                continue
            if pause:
                await asyncio.sleep(pause)
            told = time.perf_counter()
            await purse.settle(reserved)
            durations.append(held - began + time.perf_counter() - told)
            if pause:
                await asyncio.sleep(pause)

    async def every() -> float:
        opened = _ours if side == "ours" else _naive
        async with opened(uri, workers, limit, scopes, wait) as purses:
            for purse, scope in zip(purses, scopes, strict=True):
                await purse.reserve(scope)
            began = time.perf_counter()
            await asyncio.gather(*(work(purse, scope) for purse, scope in zip(purses, scopes, strict=True)))
            # What was handed over is written in turn: this one comes last.
            await purses[0].reserve(scopes[0])
            return time.perf_counter() - began

    whole = asyncio.run(every())
    with psycopg.connect(uri) as connection:
        ((spent,),) = connection.execute(SPENT[side]).fetchall()
    return Spending(durations=durations, whole=whole, asked=workers * each, spent=spent)


def seldom(uri: str, number: int) -> list[float]:
    """Seconds of one durable commit in an event loop that pauses between: what has just slept is slower."""
    durations: list[float] = []

    async def every() -> None:
        async with await AsyncConnection.connect(uri, autocommit=True) as connection:
            await connection.execute("CREATE TABLE answers (number bigint PRIMARY KEY, body text)")
            for turn in range(number):
                began = time.perf_counter()
                await connection.execute("INSERT INTO answers VALUES (%s, %s)", (turn, ANSWER), prepare=True)
                durations.append(time.perf_counter() - began)
                await asyncio.sleep(PAUSE)

    asyncio.run(every())
    return durations


def trips(uri: str, each: int) -> float:
    """Round trips of a call, reserved and settled."""
    with Database.connect(uri):
        pass
    found: list[int] = []
    for number in (0, each):
        with CountingProxy(uri) as proxy:
            spend(proxy.uri, "ours", 1, number)
            time.sleep(0.2)  # the proxy counts an answer after it has passed it on
            found.append(proxy.trips)
    return (found[1] - found[0]) / each


def journaled(uri: str, way: Way, each: int) -> list[float]:
    """Seconds of calls that are claimed and settled, reserved and settled, or both in the same commits."""
    budget = Budget("scope 0", hourly=FAR, daily=FAR)
    durations: list[float] = []

    async def every() -> None:
        async with Database.open(uri) as database:
            act: Callable[[int], Awaitable[None]]

            async def ledger(number: int) -> None:
                wanted = Wanted(budgets=(budget,), usd=ESTIMATE, tokens=100, name="model")
                await database.ledger.asettle(await database.ledger.areserve(wanted), usd=COST, tokens=50)

            async def journal(number: int) -> None:
                wanted = Wanted(budgets=(budget,), usd=ESTIMATE, tokens=100, name="model", thread_id="t")
                claim = await database.journal.aclaim(
                    Effect(
                        thread_id="t",
                        effect_id=f"hf-{number}",
                        kind="model",
                        name="model",
                        request=b"request",
                        asked={"number": number},
                        task_id="task",
                        wanted=wanted if way == "both" else None,
                    )
                )
                closing = Closing(outcome="settled", usd=COST, tokens=50) if way == "both" else None
                await database.journal.asettle(
                    Settlement(claim=claim, state="completed", result=("text", ANSWER.encode()), closing=closing)
                )

            act = ledger if way == "ledger" else journal
            for number in range(-10, each):
                began = time.perf_counter()
                await act(number)
                durations.append(time.perf_counter() - began)

    asyncio.run(every())
    return durations[10:]
