"""The official Postgres store, usable sync and async from any loop."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph.store.base import BaseStore, Op, Result
from langgraph.store.postgres.aio import AsyncPostgresStore

from .bridge import Bridge


class HoldfastStore(BaseStore):
    """`AsyncPostgresStore` at home on the database's loop; every store method goes through `batch`."""

    supports_ttl = AsyncPostgresStore.supports_ttl

    def __init__(self, bridge: Bridge, inner: AsyncPostgresStore) -> None:
        self._bridge = bridge
        self._inner = inner

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return self._bridge.call(self._inner.abatch, ops)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await self._bridge.acall(self._inner.abatch, ops)
