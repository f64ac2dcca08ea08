"""Placeholder until leases are merged."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig


@dataclass(frozen=True, slots=True)
class Lease:
    thread_id: str
    epoch: int
    worker: str

    def check(self) -> None: ...


class Leases:
    def of(self, config: RunnableConfig) -> Lease | None:
        return None
