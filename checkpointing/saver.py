"""`HoldfastSaver`: a drop-in for the official Postgres saver that stores each message once and checks what it reads."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import INTERRUPT
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .approvals import Approvals
from .bridge import Bridge
from .committer import Committer
from .connections import BlockingConnections, Connections, LoopConnections, ThreadConnections
from .costs import Costs
from .deltas import delta_history
from .durable import Durable
from .errors import ThreadBegun
from .grouping import Grouped
from .histories import history
from .journal import Journal
from .leases import LEASE_TTL, Leases, checked_ttl, run_control
from .ledger import Ledger
from .loading import Loader, Policy
from .memory import Memory
from .migrate import migrate
from .notices import Notices
from .opened import Done, OpenedSaver
from .operations import Put, PutWrites
from .reading import config_of, settings_of
from .runkeys import RunKeys
from .runs import current_run
from .serde import MessageSerializer, StrictSerializer
from .statements import statements
from .trust import Trust
from .upkeep import Upkeep
from .visibility import VisibilityPolicy
from .writing import Encoder

P = ParamSpec("P")
T = TypeVar("T")
NEW_THREAD: Final = "__holdfast_new_thread"
"""In `configurable`: the thread that the run gives its first input; it is `ThreadBegun` where it has one."""


class HoldfastSaver(BaseCheckpointSaver[str]):
    """A checkpoint saver on the official tables, sync and async, from any thread and any asyncio loop.

    It is got from `Database.saver`, or built as the official savers are: `from_conn_string`, or with a pool.
    Threads of the official `PostgresSaver` open in it and go on.
    """

    def __init__(
        self,
        pool: ConnectionPool[Any] | AsyncConnectionPool[Any],
        *,
        serde: SerializerProtocol | None = None,
        policy: VisibilityPolicy | None = None,
        on_corruption: Policy = "raise",
        lease_ttl: timedelta = LEASE_TTL,
    ) -> None:
        """A saver on a pool of yours; call `setup()` once for a database that Holdfast has not set up.

        Args:
            pool: blocking connections, or asynchronous ones of the loop that runs now.
            serde: what writes and reads state; else `StrictSerializer()`.
            policy: which messages whom is shown; else the usual one.
            on_corruption: what `get_tuple` does when a thread's newest checkpoint is damaged: `raise`
                `CheckpointCorrupted`, or `fallback` to the newest good one, with an error in the log.
            lease_ttl: how long a process may be silent before another may take its threads over.

        Raises:
            TypeError: it is not a pool.
            ValueError: `lease_ttl` is below a second.
        """
        checked_ttl(lease_ttl)
        connections: LoopConnections | ThreadConnections
        if isinstance(pool, AsyncConnectionPool):
            self._foreign_loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            connections = LoopConnections(pool, self._foreign_loop)
            commits, journal = connections.blocking(), connections.blocking()
        elif isinstance(pool, ConnectionPool):  # pyright: ignore[reportUnnecessaryIsInstance]
            connections = ThreadConnections(pool)
            commits, journal = connections.blocking(), connections.blocking()
        else:
            raise TypeError(
                f"HoldfastSaver takes a psycopg_pool.ConnectionPool or AsyncConnectionPool, not {type(pool).__name__}; "
                "for a URI there is HoldfastSaver.from_conn_string(uri)"
            )
        messages = MessageSerializer(serde or StrictSerializer())
        self._owns_bridge = True
        self._start(
            Bridge(), connections, commits, journal, messages, policy or VisibilityPolicy(), on_corruption, lease_ttl
        )
        self._dedicated: Callable[[], Awaitable[AsyncConnection[DictRow]]] = partial(_dedicated, pool)

    _owner: object = None
    """Kept alive, for who keeps the saver only."""

    @classmethod
    def on(
        cls,
        bridge: Bridge,
        connections: Connections,
        *,
        commits: BlockingConnections,
        journal: BlockingConnections,
        dedicated: Callable[[], Awaitable[AsyncConnection[DictRow]]],
        owner: object,
        serde: MessageSerializer,
        policy: VisibilityPolicy,
        on_corruption: Policy,
        lease_ttl: timedelta = LEASE_TTL,
    ) -> HoldfastSaver:
        """The saver of a `Database`, its `owner`: on its loop, with a connection of its own for commits."""
        saver = cls.__new__(cls)
        saver._owns_bridge = False
        saver._start(bridge, connections, commits, journal, serde, policy, on_corruption, lease_ttl)
        saver._dedicated = dedicated
        saver._owner = owner
        return saver

    @staticmethod
    def from_conn_string(
        conn_string: str,
        *,
        serde: SerializerProtocol | None = None,
        policy: VisibilityPolicy | None = None,
        on_corruption: Policy = "raise",
        lease_ttl: timedelta = LEASE_TTL,
    ) -> OpenedSaver:
        """A saver for the length of a `with` or `async with` block, on a database that is set up first."""
        return OpenedSaver(conn_string, serde, policy, on_corruption, lease_ttl)

    def _start(
        self,
        bridge: Bridge,
        connections: Connections,
        commits: BlockingConnections,
        journal: BlockingConnections,
        serde: MessageSerializer,
        policy: VisibilityPolicy,
        on_corruption: Policy,
        lease_ttl: timedelta,
    ) -> None:
        super().__init__(serde=serde.serde)
        self._foreign_loop = getattr(self, "_foreign_loop", None)
        self._bridge = bridge
        self._connections = connections
        self.policy = policy
        self._memory = Memory()
        self.leases = Leases(bridge, connections, lease_ttl, owner=self)
        self._durable = Durable()
        self._committer = Committer(commits, self._memory, self.leases, self._durable, bridge.check)
        grouped = Grouped(journal, bridge.check, statements(self._now))
        self.journal = Journal(bridge, connections, grouped, self._durable, self.leases)
        self.run_keys = RunKeys(bridge, connections, self._durable, self.leases)
        self.ledger = Ledger(bridge, connections, grouped, self.leases.worker)
        self.costs = Costs(bridge, connections)
        self.approvals = Approvals(bridge, connections, self.leases.worker)
        self.trust = Trust(bridge, connections, self.leases.worker, self._approval_time)
        self.notices = Notices(bridge, connections, self.leases.worker)
        self._loader = Loader(connections, serde, self._memory, on_corruption, self.get_next_version)
        self._encoder = Encoder(serde, policy, self._memory, self.leases)
        self.upkeep = Upkeep(self._loader, self._memory, connections)

    def _now(self) -> datetime | None:
        return self.ledger.clock()

    def _approval_time(self) -> datetime | None:
        return self.approvals.clock()

    def setup(self) -> Done:
        """Create or upgrade the tables, however many do so at once; done when it returns, and may be awaited.

        Raises:
            SchemaTooNew, SchemaDiffers, SetupRefused, DatabaseUnavailable: as `Database`.
        """
        self._bridge.call(self._set_up)
        return Done()

    async def _set_up(self) -> None:
        async with await self._dedicated() as connection:
            await migrate(connection)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> HoldfastSaver:
        """A clone that may also revive these (module, name) types from msgpack."""
        serde = self._loader.serde.with_allowlist(extra_allowlist)
        if serde is self._loader.serde:
            return self
        clone = copy.copy(self)
        clone.serde = serde.serde
        clone._loader = replace(self._loader, serde=serde)
        clone._encoder = replace(self._encoder, serde=serde)
        return clone

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The official saver's channel versions."""
        return BasePostgresSaver.get_next_version(self, current, channel)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        """Commit what is waiting and end the saver's threads; a pool that was handed in stays open."""
        self._committer.close()
        self.journal.close()
        if self._bridge.usable and not self._on_foreign_loop:
            self._bridge.call(self.leases.close)
        if self._owns_bridge:
            self._bridge.close()

    def _call(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        self._refuse_own_loop()
        return self._bridge.call(func, *args, **kwargs)

    @property
    def _on_foreign_loop(self) -> bool:
        return self._foreign_loop is not None and _running_loop() is self._foreign_loop

    def _refuse_own_loop(self) -> None:
        if self._on_foreign_loop:
            raise RuntimeError(
                "a sync call on the loop of the pool's connections would wait for itself; use the async methods, "
                "or give HoldfastSaver a ConnectionPool"
            )

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest; at a run's beginning, with the thread's lease.

        Raises:
            ThreadBusy: it is a run's beginning, and another run of the thread goes on.
            CheckpointCorrupted: it is damaged (`on_corruption="fallback"`: and so are all before it).
            TypeNotAllowed, NotDecrypted: it holds what this saver may not revive, or cannot decrypt.
            DatabaseUnavailable: the database cannot be reached.
        """
        self._committer.pardon(config)
        return self._call(self._opened, config, current_run(), None)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self._committer.pardon(config)
        return await self._bridge.acall(self._opened, config, current_run(), asyncio.get_running_loop())

    async def _opened(
        self, config: RunnableConfig, run: UUID | None, loop: asyncio.AbstractEventLoop | None
    ) -> CheckpointTuple | None:
        await self.leases.acquire(config, run, loop)
        found = await self._loader.load(config)
        settings = settings_of(config)
        if (
            found is not None
            and settings.get(NEW_THREAD) == settings["thread_id"]
            and not settings.get("checkpoint_ns")
        ):
            raise ThreadBegun(settings["thread_id"])
        if run_control(config) is not None:  # no run stands on what others look at, and it would crowd the rest out
            checkpoint_id = found.checkpoint["id"] if found else None
            self._durable.note(str(settings["thread_id"]), str(settings.get("checkpoint_ns", "")), checkpoint_id)
        return found

    @property
    def serializer(self) -> MessageSerializer:
        """What writes and reads state, and the results of calls."""
        return self._loader.serde

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
        """Checkpoints, newest first; message objects are shared between them."""
        yield from self._call(history, self._loader, config, filter, before, limit)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for found in await self._bridge.acall(history, self._loader, config, filter, before, limit):
            yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; durable when this returns, with all writes that came before it."""
        operation = Put(config, checkpoint, metadata, new_versions)
        self._refuse_own_loop()
        self._committer.commit(operation, self._encoder)
        return config_of(operation.thread_id, operation.ns, checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        operation = Put(config, checkpoint, metadata, new_versions)
        await self._committer.acommit(operation, self._encoder)
        return config_of(operation.thread_id, operation.ns, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote; durable when this returns."""
        operation = self._writes(config, writes, task_id, task_path)
        self._refuse_own_loop()
        self._committer.commit(operation, self._encoder)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        operation = self._writes(config, writes, task_id, task_path)
        await self._committer.acommit(operation, self._encoder)

    def _writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> PutWrites:
        lease = self.leases.of(config)
        if lease is not None and any(channel == INTERRUPT for channel, _ in writes):
            lease.waits = True
        return PutWrites(config, writes, task_id, task_path)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self._call(delta_history, self._loader, config, channels)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._bridge.acall(delta_history, self._loader, config, channels)

    def delete_thread(self, thread_id: str) -> None:
        """Remove everything of a thread."""
        self._call(self.upkeep.delete_threads, [thread_id])

    async def adelete_thread(self, thread_id: str) -> None:
        await self._bridge.acall_to_end(self.upkeep.delete_threads, [thread_id])

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of these runs; what later checkpoints stand on stays."""
        self._call(self.upkeep.delete_for_runs, run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._bridge.acall_to_end(self.upkeep.delete_for_runs, run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history.

        Raises:
            ThreadExists: the target has checkpoints.
            CheckpointCorrupted: a row of the source is damaged.
        """
        self._call(self.upkeep.copy_thread, source_thread_id, target_thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._bridge.acall_to_end(self.upkeep.copy_thread, source_thread_id, target_thread_id)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove all checkpoints of these threads but the newest ones, or (`delete`, `delete_all`) everything.

        Raises:
            ValueError: there is no such strategy.
            TypeError: `thread_ids` is a single text.
        """
        self._call(self.upkeep.prune, thread_ids, strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self._bridge.acall_to_end(self.upkeep.prune, thread_ids, strategy)


async def _dedicated(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> AsyncConnection[DictRow]:
    kwargs: Any = pool.kwargs
    options: dict[str, Any] = {**(kwargs if isinstance(kwargs, dict) else {}), "autocommit": True}
    conninfo = pool.conninfo if isinstance(pool.conninfo, str) else ""
    connection: AsyncConnection[Any] = await AsyncConnection.connect(conninfo, **options)
    connection.row_factory = dict_row
    return connection


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
