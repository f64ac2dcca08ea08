"""`HoldfastSaver`: the official Postgres saver, usable sync and async from any loop."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from .bridge import Bridge


class HoldfastSaver(BaseCheckpointSaver[str]):
    """A checkpoint saver on the official tables, at home on the database's own loop.

    It is got from `Database.saver`. The stock async saver works only on the loop it was made on,
    and the stock sync saver not at all under `ainvoke`; this one serves both, in one process,
    from any thread and any asyncio loop.
    """

    def __init__(self, bridge: Bridge, inner: AsyncPostgresSaver) -> None:
        super().__init__(serde=inner.serde)
        self._bridge = bridge
        self._inner = inner

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> HoldfastSaver:
        """A clone that may also revive these (module, name) types from msgpack."""
        inner = self._inner.with_allowlist(extra_allowlist)
        assert isinstance(inner, AsyncPostgresSaver)
        clone = copy.copy(self)
        clone._inner, clone.serde = inner, inner.serde
        return clone

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The official saver's channel versions."""
        return self._inner.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._bridge.call(self._inner.aget_tuple, config)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._bridge.acall(self._inner.aget_tuple, config)

    async def aget(self, config: RunnableConfig) -> Checkpoint | None:
        # The LangGraph server wants this overridden on the class.
        found = await self.aget_tuple(config)
        return found.checkpoint if found else None

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        yield from self._bridge.call(self._listed, config, filter, before, limit)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for found in await self._bridge.acall(self._listed, config, filter, before, limit):
            yield found

    async def _listed(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Sequence[CheckpointTuple]:
        return [found async for found in self._inner.alist(config, filter=filter, before=before, limit=limit)]

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._bridge.call(self._inner.aput, config, checkpoint, metadata, new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await self._bridge.acall_to_end(self._inner.aput, config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._bridge.call(self._inner.aput_writes, config, writes, task_id, task_path)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._bridge.acall_to_end(self._inner.aput_writes, config, writes, task_id, task_path)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self._bridge.call(self._inner.aget_delta_channel_history, config=config, channels=channels)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._bridge.acall(self._inner.aget_delta_channel_history, config=config, channels=channels)

    def delete_thread(self, thread_id: str) -> None:
        self._bridge.call(self._inner.adelete_thread, thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        await self._bridge.acall_to_end(self._inner.adelete_thread, thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._bridge.call(self._inner.aprune, thread_ids, strategy=_official(strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self._bridge.acall_to_end(self._inner.aprune, thread_ids, strategy=_official(strategy))


def _official(strategy: str) -> str:
    # The LangGraph server asks for "delete_all"; the official saver calls the same thing "delete".
    return "delete" if strategy == "delete_all" else strategy
