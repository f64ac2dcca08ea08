"""What the ledger's tests have in common: calls that want money, and what the tables say of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from holdfast.checkpointing import Budget, Charge, Database, Wanted
from holdfast.checkpointing.records import Effect

D = Decimal
START = datetime(2026, 11, 21, 18, 59, 30, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        """Forward, or back."""
        self.at += timedelta(**by)


def wanted(*budgets: Budget, usd: str = "1", tokens: int = 100, **more: Any) -> Wanted:
    """A call of a model that may cost so much."""
    return Wanted(budgets=budgets, usd=D(usd), tokens=tokens, name="model", **more)


def charge(**details: Any) -> Charge:
    """What a trail is told of a call."""
    return Charge(input_tokens=10, output_tokens=1, details=details)


def call(thread: str, name: str, want: Wanted | None, request: bytes = b"asked", **more: Any) -> Effect:
    """A call of a model that the journal knows, and that costs."""
    return Effect(
        thread_id=thread,
        effect_id=f"hf-{name}",
        kind="model",
        name=name,
        request=request,
        asked={"name": name},
        task_id="task",
        wanted=want,
        **more,
    )


def stand(db: Database, scope: str, window: str = "hour", unit: str = "usd") -> tuple[Decimal, Decimal]:
    """What a scope has spent and reserved in the newest such window."""
    found = [each for each in db.ledger.windows(scope) if (each.window, each.unit) == (window, unit)]
    return (found[0].spent, found[0].reserved) if found else (D(0), D(0))


def told(uri: str, thread: str | None = None) -> list[tuple[str, Decimal | None]]:
    """The kinds and costs of events, in order."""
    with psycopg.connect(uri) as connection:
        return connection.execute(
            "SELECT kind, cost FROM holdfast.events WHERE %(thread)s::text IS NULL OR thread_id = %(thread)s "
            "ORDER BY thread_id, number",
            {"thread": thread},
        ).fetchall()


def costs(uri: str) -> Decimal:
    """The sum of all events' costs."""
    return sum((cost for _, cost in told(uri) if cost is not None), D(0))


@contextmanager
def lost_answer(grouped: Any, monkeypatch: Any) -> Generator[None]:
    """The next statement is committed, and its answer is lost with the connection."""
    connections, lost = grouped._connections, False
    run = connections.run

    def lossy(steps: Any) -> Any:
        nonlocal lost
        found = run(steps)
        if not lost:
            lost = True
            connections.close()
            raise psycopg.OperationalError("the connection was lost")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(connections, "run", lossy)
        yield
    assert lost
