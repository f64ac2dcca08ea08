"""What an operator does with threads: look whether they are sound, go back, remove old ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .findings import Finding
from .rollback import Rollbacks
from .upkeep import Upkeep
from .verify import Verifier
from .visibility import Audience

Progress = Callable[[int, int], None]
"""Told how many threads are done, and of how many."""


@dataclass(slots=True)
class Care:
    """Behind the methods of `Database` that have these names; runs on the database's loop."""

    upkeep: Upkeep

    @property
    def _verifier(self) -> Verifier:
        return Verifier(self.upkeep.connections, self.upkeep.loader.serde)

    async def verify(self, thread_id: str | None, progress: Progress | None) -> list[Finding]:
        verifier = self._verifier
        if thread_id is not None:
            return await verifier.verify(thread_id)
        threads = await verifier.threads()
        findings: list[Finding] = []
        for done, each in enumerate(threads):
            if progress:
                progress(done, len(threads))
            findings += await verifier.verify(each, missing_ok=True)
        return findings

    async def rollback(self, thread_id: str, checkpoint_id: str) -> str:
        upkeep = self.upkeep
        return await Rollbacks(upkeep.loader, upkeep.memory, upkeep.connections).rollback(thread_id, checkpoint_id)

    async def prune(
        self, older_than: timedelta, keep: Audience | None, now: datetime | None, dry_run: bool
    ) -> list[str]:
        before = (now or datetime.now(UTC)) - older_than
        look = self.upkeep.idle if dry_run else self.upkeep.prune_idle
        return await look(before, keep=keep)
