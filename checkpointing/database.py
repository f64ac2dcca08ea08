"""`Database`: the one handle on everything durable."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar, cast

import psycopg
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from . import embedded
from .audit import AuditTrail
from .bridge import Bridge, one_line
from .care import Care, Progress
from .connections import KeptConnection, OwnConnections
from .costs import Costs
from .documents import Documents
from .errors import DatabaseUnavailable, InvalidDatabaseURI
from .findings import Finding
from .leases import LEASE_TTL, checked_ttl
from .loading import Policy
from .messages import LoggedMessage, MessageLog
from .migrate import migrate
from .saver import HoldfastSaver
from .serde import ENCRYPTION_KEY, MessageSerializer, StrictSerializer, encrypted
from .store import HoldfastStore
from .threads import Threads
from .visibility import Audience, VisibilityPolicy

T = TypeVar("T")
_CONNECT_TIMEOUT: Final = 10
_POOL_SIZE: Final = 10


class Database:
    """A pool of connections, its own event loop, and what Holdfast keeps in Postgres.

    `saver` goes to `compile(checkpointer=…)`, `store` to `compile(store=…)`; both work under
    `invoke` and `ainvoke`, from any thread and any asyncio loop.
    """

    _shared: ClassVar[Database | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        uri: str | None = None,
        *,
        types: Sequence[type] = (),
        serde: SerializerProtocol | None = None,
        policy: VisibilityPolicy | None = None,
        on_corruption: Policy = "raise",
        lease_ttl: timedelta = LEASE_TTL,
    ) -> None:
        """Open it; `open` and `connect` are the same with an end, which is what you want."""
        self.uri: Final = uri or os.environ.get("HOLDFAST_DATABASE_URI") or ""
        if self.uri:
            _check_uri(self.uri)
        checked_ttl(lease_ttl)
        self._bridge = Bridge()
        try:
            plain = serde or StrictSerializer(types)
            key = os.environ.get(ENCRYPTION_KEY)
            messages = encrypted(plain, key) if key else MessageSerializer(plain)
            self._bridge.call(self._start, messages, policy or VisibilityPolicy(), on_corruption, lease_ttl)
        except BaseException:
            self._bridge.close()
            raise
        # Who forgets to close it would else end with a loop that still runs.
        atexit.register(_close, weakref.ref(self))

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        uri: str | None = None,
        *,
        types: Sequence[type] = (),
        serde: SerializerProtocol | None = None,
        policy: VisibilityPolicy | None = None,
        on_corruption: Policy = "raise",
        lease_ttl: timedelta = LEASE_TTL,
    ) -> AsyncGenerator[Database]:
        """A database for the length of an `async with` block.

        Args:
            uri: a Postgres URI; else `HOLDFAST_DATABASE_URI`; else the embedded Postgres.
            types: the dataclasses, pydantic models and enums that state may hold, besides messages,
                LangGraph's own types and plain data; another is `TypeNotAllowed` when it is read.
            serde: what writes and reads state, instead of `StrictSerializer(types)`.
            policy: which messages are shown to whom; else the usual `VisibilityPolicy()`.
            on_corruption: what a load does when a thread's newest checkpoint is damaged: `raise`
                `CheckpointCorrupted`, or `fallback` to the newest good one, with an error in the log.
            lease_ttl: how long a process may be silent before another may take its threads over.

        Raises:
            ValueError: `lease_ttl` is below a second.
            InvalidDatabaseURI: the URI cannot be parsed.
            DatabaseUnavailable: nobody answers there, or it refuses us.
            MissingExtra, EmbeddedPostgresFailed: the embedded default cannot be had.
            SetupRefused, SchemaTooNew, SchemaDiffers: the schema cannot be brought to this version.
        """
        database = await asyncio.to_thread(
            cls, uri, types=types, serde=serde, policy=policy, on_corruption=on_corruption, lease_ttl=lease_ttl
        )
        try:
            yield database
        finally:
            await asyncio.to_thread(database.close)

    @classmethod
    @contextmanager
    def connect(
        cls,
        uri: str | None = None,
        *,
        types: Sequence[type] = (),
        serde: SerializerProtocol | None = None,
        policy: VisibilityPolicy | None = None,
        on_corruption: Policy = "raise",
        lease_ttl: timedelta = LEASE_TTL,
    ) -> Generator[Database]:
        """`open` for sync code."""
        database = cls(uri, types=types, serde=serde, policy=policy, on_corruption=on_corruption, lease_ttl=lease_ttl)
        try:
            yield database
        finally:
            database.close()

    @classmethod
    def shared(cls) -> Database:
        """The process's own database, opened at first use and closed at exit.

        For graphs that a server imports by name and that therefore cannot be handed one. Opening
        blocks; from async code call it through `asyncio.to_thread`.
        """
        with cls._shared_lock:
            if cls._shared is None or not cls._shared.usable:
                cls._shared = cls()
            return cls._shared

    @classmethod
    def close_shared(cls) -> None:
        """Close the process's own database, if it is open; `shared` opens a new one."""
        with cls._shared_lock:
            database, cls._shared = cls._shared, None
        if database is not None:
            database.close()
            if not database.uri:
                embedded.release()

    def messages(self, thread_id: str, *, audience: Audience = Audience.USER) -> list[LoggedMessage]:
        """The messages of a thread that an audience may see, oldest first, removed ones included.

        Raises:
            CheckpointCorrupted: a message is not what was written.
            NotDecrypted: it is encrypted with another key than `HOLDFAST_ENCRYPTION_KEY`.
        """
        return self._bridge.call(self._log.read, thread_id, audience)

    async def amessages(self, thread_id: str, *, audience: Audience = Audience.USER) -> list[LoggedMessage]:
        return await self._bridge.acall(self._log.read, thread_id, audience)

    def verify(self, thread_id: str | None = None, *, progress: Progress | None = None) -> list[Finding]:
        """What is damaged in a thread, or in all of them, each as it is at one moment; see `Finding`.

        Raises:
            NothingStored: there is no such thread.
        """
        return self._bridge.call(self._care.verify, thread_id, progress)

    async def averify(self, thread_id: str | None = None, *, progress: Progress | None = None) -> list[Finding]:
        return await self._bridge.acall(self._care.verify, thread_id, progress)

    def rollback(self, thread_id: str, checkpoint_id: str) -> str:
        """Make an older checkpoint the newest, by a copy whose id is returned; see `Rollbacks.rollback`.

        Raises:
            UnknownCheckpoint: the thread has no such checkpoint.
            CheckpointCorrupted: it is damaged; the thread stays as it is.
        """
        return self._bridge.call(self._care.rollback, thread_id, checkpoint_id)

    async def arollback(self, thread_id: str, checkpoint_id: str) -> str:
        return await self._bridge.acall_to_end(self._care.rollback, thread_id, checkpoint_id)

    def prune(
        self, older_than: timedelta, *, keep: Audience | None = None, now: datetime | None = None, dry_run: bool = False
    ) -> list[str]:
        """Remove threads that were last active so long ago, but for messages to `keep` for an audience; returns them.

        A thread that waits for a person is removed as well, once it has waited that long.
        """
        return self._bridge.call(self._care.prune, older_than, keep, now, dry_run)

    async def aprune(
        self, older_than: timedelta, *, keep: Audience | None = None, now: datetime | None = None, dry_run: bool = False
    ) -> list[str]:
        return await self._bridge.acall_to_end(self._care.prune, older_than, keep, now, dry_run)

    def transact(self, work: Callable[[AsyncConnection[DictRow]], Awaitable[T]]) -> T:
        """Do some work on one connection, in one transaction: all of it is committed, or nothing.

        It runs on the database's own loop, so it must not call sync methods of the `Database`.
        """
        return self._bridge.call(self._transact, work)

    async def atransact(self, work: Callable[[AsyncConnection[DictRow]], Awaitable[T]]) -> T:
        return await self._bridge.acall_to_end(self._transact, work)

    @property
    def usable(self) -> bool:
        """Whether it is open, and was opened by this very process."""
        return self._bridge.usable

    def close(self) -> None:
        """Finish what is under way and close every connection; closing twice is harmless."""
        if self.usable:
            self.saver.close()
            self._bridge.call(self._stop)
            self._bridge.close()

    async def _transact(self, work: Callable[[AsyncConnection[DictRow]], Awaitable[T]]) -> T:
        async with self._pool.connection() as connection, connection.transaction():
            return await work(connection)

    async def _start(
        self, serde: MessageSerializer, policy: VisibilityPolicy, on_corruption: Policy, lease_ttl: timedelta
    ) -> None:
        uri = await self._set_up()
        self.conninfo = uri
        """What its connections connect to: `uri`, or the embedded Postgres. It may hold a password."""
        self._pool = AsyncConnectionPool[AsyncConnection[DictRow]](
            uri,
            min_size=1,
            max_size=_POOL_SIZE,
            timeout=_CONNECT_TIMEOUT,
            open=False,
            # The pool's own look before it hands a connection out: after a restart of the server
            # the stale ones are replaced here instead of failing a checkpoint.
            check=cast("Any", AsyncConnectionPool.check_connection),
            kwargs={**_CONNECTION_OPTIONS, "row_factory": dict_row},
        )
        try:
            await self._pool.open(wait=True, timeout=_CONNECT_TIMEOUT)
        except BaseException:
            await self._pool.close()
            raise
        connections = OwnConnections(self._pool)
        self._log = MessageLog(connections, serde)
        self.audit = AuditTrail(self._bridge, connections)
        self.costs = Costs(self._bridge, connections)
        self.saver = HoldfastSaver.on(
            self._bridge,
            connections,
            commits=KeptConnection(lambda: Connection.connect(uri, **_CONNECTION_OPTIONS)),
            journal=KeptConnection(lambda: Connection.connect(uri, **_CONNECTION_OPTIONS)),
            dedicated=lambda: _connect(uri),
            owner=self,
            serde=serde,
            policy=policy,
            on_corruption=on_corruption,
            lease_ttl=lease_ttl,
        )
        self.journal = self.saver.journal
        self.ledger = self.saver.ledger
        self.approvals = self.saver.approvals
        self.trust = self.saver.trust
        self.notices = self.saver.notices
        self._care = Care(self.saver.upkeep)
        self.store = HoldfastStore(self._bridge, AsyncPostgresStore(self._pool))
        self.documents = Documents(self._bridge, self._pool)
        self.threads = Threads(self._bridge, self._pool, lambda: _connect(uri))

    async def _stop(self) -> None:
        await self._pool.close()

    async def _set_up(self) -> str:
        attempts = 1 if self.uri else 3
        for attempt in range(1, attempts + 1):
            uri = self.uri or await asyncio.to_thread(embedded.start)
            try:
                async with await _connect(uri) as connection:
                    await migrate(connection)
                return uri
            except DatabaseUnavailable:
                # After a kill of the embedded server its files may point at the dead one for a moment.
                if attempt == attempts:
                    raise
                await asyncio.sleep(0.3 * attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")


_CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    "autocommit": True,
    "prepare_threshold": 0,
    "connect_timeout": _CONNECT_TIMEOUT,
    "application_name": "holdfast",
}


def _close(database: weakref.ref[Database]) -> None:
    if (found := database()) is not None:
        found.close()


def _check_uri(uri: str) -> None:
    try:
        conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        # Not libpq's own words, and not as a cause: they quote the part that holds the password.
        raise InvalidDatabaseURI(
            "not a Postgres URI: expected postgresql://user:password@host:5432/database, with % @ : / # and spaces in "
            "the password written as %25 %40 %3A %2F %23 %20 (in HOLDFAST_DATABASE_URI or given to Database)"
        ) from None


async def _connect(uri: str) -> AsyncConnection[DictRow]:
    try:
        return await AsyncConnection[DictRow].connect(uri, row_factory=dict_row, **_CONNECTION_OPTIONS)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"cannot connect to the database: {one_line(error)}; check HOLDFAST_DATABASE_URI and that the server runs"
        ) from error
