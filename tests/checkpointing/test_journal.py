"""The journal: a call with a record is never made again, and one in doubt only if somebody said so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.conninfo import conninfo_to_dict

from holdfast.checkpointing import Database
from holdfast.checkpointing.errors import DatabaseUnavailable, LeaseLost
from holdfast.checkpointing.journal import Journal, Said, Verdict
from holdfast.checkpointing.records import Claim, Effect, JournalMismatch, OnDoubt, Settlement, State
from tests.conftest import new_database

EFFECTS = ("pay", "tell", "look")
ENDS: tuple[State, ...] = ("completed", "failed", "raised", "suspended")
KEPT: dict[str, str] = {"happened": "completed", "did not happen": "failed", "abandoned": "abandoned"}


def effect(thread: str, name: str, request: bytes = b"asked", on_doubt: OnDoubt = "ask") -> Effect:
    """A call of a tool."""
    return Effect(
        thread_id=thread,
        effect_id=f"hf-{name}",
        kind="tool",
        name=name,
        request=request,
        asked={"name": name},
        on_doubt=on_doubt,
        task_id="task",
    )


def result(text: str) -> tuple[str, bytes]:
    return ("json", json.dumps(text).encode())


@dataclass(slots=True)
class Known:
    """What is known of a call by who watched."""

    state: str = "new"
    result: tuple[str, bytes] | None = None
    attempts: int = 0
    live: Claim | None = None
    """Under which it may be settled."""
    stale: list[Claim] = field(default_factory=list[Claim])
    allowed: bool = True
    """Whether it may be made without harm: it was not begun, or somebody said that it did not happen."""


class Calls(RuleBasedStateMachine):
    """Workers that claim, make, settle and forget calls of one thread, and persons who say what became of them."""

    journal: Journal
    numbers: Iterator[int]

    @initialize()
    def begin(self) -> None:
        self.thread = f"thread {next(self.numbers)}"
        self.known = {name: Known() for name in EFFECTS}
        self.calls = 0

    @rule(name=st.sampled_from(EFFECTS), again=st.booleans())
    def claim(self, name: str, again: bool) -> None:
        """Only what is harmless is claimed; what has a record answers with it."""
        known = self.known[name]
        if known.live is not None:  # who asks does not know of the other: its worker is gone
            known.stale.append(known.live)
            known.live = None
        found = self.journal.claim(effect(self.thread, name), again=again)
        if known.state in ("completed", "abandoned"):
            assert (found.outcome, found.result) == (known.state, known.result)
        elif known.allowed or again:
            assert found.outcome == "claimed"
            known.attempts += 1
            known.state, known.live, known.allowed, known.result = "claimed", found, False, None
        else:
            assert found.outcome == "in_doubt"
        assert found.attempt == known.attempts

    @rule(name=st.sampled_from(EFFECTS), again=st.booleans())
    def claim_another(self, name: str, again: bool) -> None:
        """A call that is not the one that was written down is refused, and changes nothing."""
        if self.known[name].state == "new":
            return
        with pytest.raises(JournalMismatch):
            self.journal.claim(effect(self.thread, name, b"something else"), again=again)

    @rule(name=st.sampled_from(EFFECTS), state=st.sampled_from(ENDS), text=st.text(max_size=5))
    def settle(self, name: str, state: State, text: str) -> None:
        """Who holds the claim says what became of it; twice the same is once."""
        known = self.known[name]
        if known.live is None:
            return
        known.result = result(text) if state == "completed" else None
        end = Settlement(claim=known.live, state=state, result=known.result)
        self.journal.settle(end)
        self.journal.settle(end)
        known.stale.append(known.live)
        known.live, known.state, known.allowed = None, state, state in ("failed", "suspended")

    @rule(name=st.sampled_from(EFFECTS), state=st.sampled_from(ENDS), data=st.data())
    def settle_late(self, name: str, state: State, data: st.DataObject) -> None:
        """An end that is told under an old claim is refused, or is the one that is written down already."""
        known = self.known[name]
        if not known.stale:
            return
        claim = data.draw(st.sampled_from(known.stale))
        newest = claim is known.stale[-1] and known.live is None and known.attempts == claim.attempt
        if newest and known.state in ("claimed", state):
            return  # nobody has taken it over: it is not old
        with pytest.raises(LeaseLost):
            self.journal.settle(Settlement(claim=claim, state=state, result=result("late")))

    @rule(name=st.sampled_from(EFFECTS))
    def crash(self, name: str) -> None:
        """The worker forgets what it had begun."""
        known = self.known[name]
        if known.live is not None:
            known.stale.append(known.live)
            known.live = None

    @rule(name=st.sampled_from(EFFECTS), verdict=st.sampled_from(tuple(KEPT)), text=st.text(max_size=5))
    def resolve(self, name: str, verdict: Verdict, text: str) -> None:
        """Somebody says what became of a call; only where that is unknown."""
        known = self.known[name]
        said = result(text) if verdict == "happened" else None
        done = self.journal.resolve(self.thread, f"hf-{name}", Said(verdict, "a person", said))
        assert done == (known.state in ("claimed", "raised"))
        if done:
            if known.live is not None:
                known.stale.append(known.live)
                known.live = None
            known.state, known.result, known.allowed = KEPT[verdict], said, verdict == "did not happen"
            for claim in known.stale[-1:]:
                with pytest.raises(LeaseLost):
                    self.journal.settle(Settlement(claim=claim, state="completed", result=result("late")))

    @precondition(lambda self: hasattr(self, "known"))
    @invariant()
    def unknown(self) -> None:
        """What is begun and has no end is in doubt, and nothing else."""
        doubts = {doubt.name: doubt.state for doubt in self.journal.doubts(self.thread)}
        assert doubts == {
            name: known.state for name, known in self.known.items() if known.state in ("claimed", "raised")
        }


@pytest.mark.slow
def test_every_history_of_calls(db: Database) -> None:
    """Whatever workers and persons do, no call is made that has a record, or that is in doubt and not allowed."""
    Calls.journal, Calls.numbers = db.journal, iter(range(10**9))
    run_state_machine_as_test(
        cast("Any", Calls),
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_a_verdict_is_of_one_attempt(db: Database) -> None:
    """What is said of an attempt says nothing of one that was begun since: its end is still accepted."""
    db.journal.claim(effect("t", "pay"))
    (doubt,) = db.journal.doubts("t")
    claim = db.journal.claim(effect("t", "pay"), again=True)
    assert not db.journal.resolve("t", "hf-pay", Said("did not happen", "a person", attempt=doubt.attempt))
    db.journal.settle(Settlement(claim=claim, state="completed", result=result("paid")))


def events(uri: str, thread: str) -> list[str]:
    """The kinds of a thread's events, in order."""
    with psycopg.connect(uri) as connection:
        return [
            kind
            for (kind,) in connection.execute(
                "SELECT kind FROM holdfast.events WHERE thread_id = %s ORDER BY number", (thread,)
            )
        ]


def test_many_threads_at_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 64 threads ask at once goes in few statements, and each gets its own answer."""
    statements = 0
    grouped: Any = db.journal._grouped  # pyright: ignore[reportPrivateUsage]
    carry_out = grouped._carry_out

    def counted(kind: str, asked: list[Any]) -> None:
        nonlocal statements
        statements += bool(asked)
        carry_out(kind, asked)

    monkeypatch.setattr(grouped, "_carry_out", counted)
    together = threading.Barrier(64)

    def work(number: int) -> Claim:
        one = effect(f"t{number % 8}", f"call {number}")
        together.wait()
        claim = db.journal.claim(one)
        db.journal.settle(Settlement(claim=claim, state="completed", result=result(str(number))))
        return db.journal.claim(one)

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(work, range(64)))
    assert [(claim.outcome, claim.result) for claim in found] == [
        ("completed", result(str(number))) for number in range(64)
    ]
    assert [claim.effect.name for claim in found] == [f"call {number}" for number in range(64)]
    assert statements < 192  # one for each would be 3 times 64


def test_one_bad_request_harms_no_other(db: Database) -> None:
    """Asked beside one that the database cannot take, a claim is had."""
    bad = replace(effect("t", "bad"), name="\0")
    with ThreadPoolExecutor(16) as pool:
        good = [pool.submit(db.journal.claim, effect("t", str(number))) for number in range(15)]
        with pytest.raises(psycopg.DataError):
            pool.submit(db.journal.claim, bad).result()
        assert {claim.result().outcome for claim in good} == {"claimed"}


def kill_connections(uri: str) -> None:
    """End every connection of ours, as an administrator would."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'holdfast'"
        )


def test_a_lost_connection_makes_no_doubt(db: Database, database_uri: str) -> None:
    """A claim and its end are sent again over another connection, and are what they would have been."""
    db.journal.claim(effect("t", "before"))
    kill_connections(database_uri)
    claim = db.journal.claim(effect("t", "pay"))
    assert (claim.outcome, claim.attempt) == ("claimed", 1)
    kill_connections(database_uri)
    db.journal.settle(Settlement(claim=claim, state="completed", result=result("paid")))
    assert db.journal.claim(effect("t", "pay")).result == result("paid")
    assert [kind for kind in events(database_uri, "t") if kind == "tool.in_doubt"] == []


@pytest.mark.parametrize("kind", ["claim", "settle"])
def test_an_answer_that_was_lost(kind: str, db: Database, database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed and not answered, it is sent again, and is the very same claim, and the very same end."""
    connections: Any = db.journal._grouped._connections  # pyright: ignore[reportPrivateUsage]
    run, lost = connections.run, 0

    def lossy(steps: Any) -> Any:
        nonlocal lost
        found = run(steps)
        if not lost:
            lost += 1
            connections.close()
            raise psycopg.OperationalError("the connection was lost")
        return found

    claim = db.journal.claim(effect("t", "pay")) if kind == "settle" else None
    monkeypatch.setattr(connections, "run", lossy)
    claim = claim or db.journal.claim(effect("t", "pay"))
    assert (claim.outcome, claim.attempt) == ("claimed", 1)
    db.journal.settle(Settlement(claim=claim, state="completed", result=result("paid")))
    assert lost == 1
    assert events(database_uri, "t") == ["tool.called", "tool.completed"]
    assert db.journal.claim(effect("t", "pay")).result == result("paid")


@contextmanager
def gone(server_uri: str, uri: str) -> Generator[None]:
    """The database takes no connections, and has none, for the length of the block."""
    name = conninfo_to_dict(uri)["dbname"]
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


def test_no_database_no_claim(server_uri: str, template: str) -> None:
    """Without the database there is no claim, so that no call is made; back again, there is nothing in doubt."""
    with new_database(server_uri, template) as uri, Database.connect(uri) as db:
        with gone(server_uri, uri), pytest.raises(DatabaseUnavailable):
            db.journal.claim(effect("t", "pay"))
        assert db.journal.doubts("t") == []
        assert db.journal.claim(effect("t", "pay")).outcome == "claimed"


def test_no_database_at_the_end(server_uri: str, template: str) -> None:
    """A call whose end cannot be written is in doubt, not done."""
    with new_database(server_uri, template) as uri, Database.connect(uri) as db:
        claim = db.journal.claim(effect("t", "pay"))
        with gone(server_uri, uri), pytest.raises(DatabaseUnavailable):
            db.journal.settle(Settlement(claim=claim, state="completed", result=result("paid")))
        assert [doubt.name for doubt in db.journal.doubts("t")] == ["pay"]
        assert db.journal.claim(effect("t", "pay")).outcome == "in_doubt"


async def test_claims_of_a_loop(db: Database) -> None:
    """The asynchronous methods do the same."""
    claim = await db.journal.aclaim(effect("t", "pay"))
    await db.journal.asettle(Settlement(claim=claim, state="raised"))
    assert (await db.journal.aclaim(effect("t", "pay"))).outcome == "in_doubt"
    assert [doubt.state for doubt in await db.journal.adoubts("t")] == ["raised"]
    assert await db.journal.aresolve("t", "hf-pay", Said("abandoned", "a person"))
    assert (await db.journal.aclaim(effect("t", "pay"))).outcome == "abandoned"


async def test_an_end_on_its_way_comes_before_a_new_claim(db: Database) -> None:
    """A call whose end is still to be written is not made again, even where it might be."""
    call = effect("t", "look", on_doubt="retry")
    end = Settlement(claim=await db.journal.aclaim(call), state="completed", result=result("seen"))
    with db.journal._grouped._arrival:  # pyright: ignore[reportPrivateUsage] - both go into one batch
        settled = asyncio.ensure_future(db.journal.asettle(end))
        again = asyncio.ensure_future(db.journal.aclaim(call, again=True))
        await asyncio.sleep(0)
    assert (await again).outcome == "completed"
    await settled
