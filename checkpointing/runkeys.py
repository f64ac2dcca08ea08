"""What tells a thread's runs apart, however often each is resumed: the checkpoint of its input."""

from __future__ import annotations

from typing import Final

from langchain_core.runnables import RunnableConfig

from .bridge import Bridge
from .connections import Connections, Steps, run_again
from .durable import Durable, NotResumable
from .leases import Leases
from .reading import settings_of
from .sql import queries

SQL: Final = queries("leases")


class RunKeys:
    """A run begins with an input and is the same when it is resumed, by whatever process.

    LangGraph's own run ids change with every resume, so that a limit for a run would begin anew after each crash.
    """

    def __init__(self, bridge: Bridge, connections: Connections, durable: Durable, leases: Leases) -> None:
        self._bridge = bridge
        self._connections = connections
        self._durable = durable
        self._leases = leases

    def of(self, config: RunnableConfig) -> str:
        """The key of the run that a config belongs to."""
        if (known := self._known(config)) is not None:
            return known
        lease = self._leases.of(config)
        try:
            self._durable.wait(config, lease.loop if lease is not None else None)
        except NotResumable:
            return self._without(config)
        return self._bridge.call(self._find, config)

    async def aof(self, config: RunnableConfig) -> str:
        """`of` on any asyncio loop."""
        if (known := self._known(config)) is not None:
            return known
        try:
            await self._durable.await_(config)
        except NotResumable:
            return self._without(config)
        return await self._bridge.acall(self._find, config)

    def _known(self, config: RunnableConfig) -> str | None:
        lease = self._leases.of(config)
        return lease.run_key if lease is not None else None

    def _without(self, config: RunnableConfig) -> str:
        """Of a run that leaves no checkpoint to be resumed from."""
        lease = self._leases.of(config)
        thread_id = str(settings_of(config).get("thread_id"))
        return f"{thread_id}/{lease.run_id or lease.epoch}" if lease is not None else thread_id

    async def _find(self, config: RunnableConfig) -> str:
        thread_id = str(settings_of(config).get("thread_id"))

        def steps() -> Steps[str]:
            rows = yield SQL["input"], {"thread_id": thread_id}
            return f"{thread_id}/{rows[0][0]}" if rows else thread_id

        key = await run_again(self._connections, steps)
        if (lease := self._leases.of(config)) is not None:
            lease.run_key = key
        return key
