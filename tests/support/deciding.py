"""Calls that are asked about and decided, for tests of trust and of what is told of it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.checkpointing import ApprovalRequest, Database, Decided, NewRequest, Terms

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    """A time that goes on by a minute whenever it is asked for."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


class Calls:
    """Asks and decides on one database, by its own clock."""

    def __init__(self, database: Database, thread_id: str = "t") -> None:
        self.db = database
        self.thread_id = thread_id
        self.clock = Clock()
        database.approvals.clock = self.clock
        self._numbers = itertools.count()

    def skip(self, number: int) -> None:
        """Number its tasks from here on."""
        self._numbers = itertools.count(number)

    def ask(self, tool: str = "send", *, terms: Terms | None = None, **options: Any) -> ApprovalRequest:
        """Record a request."""
        number = next(self._numbers)
        new = NewRequest(
            thread_id=self.thread_id, task_id=f"task-{number}", call_id=f"call-{number}", name=tool,
            arguments={"to": f"nr{number}@example.org"}, terms=terms or Terms(), **options,
        )  # fmt: skip
        return self.db.approvals.open([new])[0]

    def run(self, tool: str = "send", *, ring: int = 1, pattern: str | None = None, **trust: Any) -> ApprovalRequest:
        """Record a call that was made without being asked about."""
        found = {"ring": ring, "review": True, "pattern": pattern or tool, "checks": "passed", **trust}
        return self.ask(tool, waived=f"ring {ring}", context={"trust": found})

    def say(self, request: ApprovalRequest, kind: Any, by: str = "ada", **options: Any) -> ApprovalRequest:
        """Decide."""
        return self.db.approvals.decide(
            request.request_id, Decided(type=kind, by=by, digest=request.digest, **options)
        )  # fmt: skip

    def decided(self, kind: Any, tool: str = "send", by: str = "ada", **options: Any) -> ApprovalRequest:
        """Ask, and decide."""
        given: dict[str, Any] = {}
        if kind == "edit":
            given["arguments"] = {"to": "somebody@example.org"}
        if kind in ("reject", "respond"):
            given["message"] = "no"
        return self.say(self.ask(tool, **options), kind, by, **given)
