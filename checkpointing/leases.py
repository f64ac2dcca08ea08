"""One runner a thread: a run holds its thread's lease, and who lost it can write nothing any more.

A lease is taken before anything is read and given back after the run's last write. Whether its worker lives is a
row in the database that the worker renews, by the database's clock. The fence is `holdfast.heads.generation`, which
every commit is checked against: it changes in the transaction in which another worker takes the thread over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
from langchain_core.runnables import RunnableConfig
from psycopg_pool import PoolClosed, PoolTimeout

from .arrays import IntArray, TextArray
from .audit import storable
from .bridge import Bridge
from .connections import BlockingConnections, Connections, Rows, Steps, run_again, run_again_blocking
from .errors import DatabaseClosed, DatabaseUnavailable, LeaseLost, ThreadBusy
from .reading import settings_of
from .runs import at_async_end, at_end, resumes
from .sql import queries
from .workers import is_gone, new_worker

SQL: Final = queries("leases")
LEASE_TTL: Final = timedelta(seconds=6)
SHORTEST: Final = timedelta(seconds=1)
"""Of a lease's life: below it, a worker that is merely slow would lose its threads."""
_BEATS: Final = 3
"""How often in a lease's life its worker says that it lives."""
_UNREACHED: Final = (psycopg.Error, PoolTimeout, PoolClosed, DatabaseUnavailable, DatabaseClosed, OSError)
_ERROR: Final = 2000
"""Characters of an error's text in the audit trail."""
_RUNTIME: Final = "__pregel_runtime"
_log: Final = logging.getLogger("holdfast.checkpointing")


def checked_ttl(ttl: timedelta) -> timedelta:
    """How long a lease lives without a sign of its worker.

    >>> checked_ttl(timedelta(milliseconds=10))
    Traceback (most recent call last):
    ValueError: lease_ttl must be at least 1 s, not 0.01 s
    """
    if ttl < SHORTEST:
        raise ValueError(f"lease_ttl must be at least {SHORTEST.total_seconds():g} s, not {ttl.total_seconds():g} s")
    return ttl


@dataclass(slots=True)
class Pulse:
    """Until when this worker surely counts as alive, on this process's own clock."""

    until: float = 0.0

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.until


@dataclass(slots=True, weakref_slot=True, eq=False, kw_only=True)
class Lease:
    """The right of one run to be the only one of its thread."""

    thread_id: str
    worker: str
    """Who holds it: one process's handle on the database."""
    control: object
    """The run, as LangGraph knows it: one object for it and all its subgraphs."""
    pulse: Pulse
    correlation_id: str | None = None
    """Of all that the run does: as its metadata say, else its own."""
    run_id: str | None = None
    began: float = field(default_factory=time.monotonic)
    loop: asyncio.AbstractEventLoop | None = None
    """Where a run of the async API saves its checkpoints."""
    waits: bool = False
    """Whether the run has come to an interrupt."""
    answers: bool = True
    """Whether its caller may have answered one; what LangGraph has kept of earlier answers is not his."""
    run_key: str | None = None
    """The same however often the run is resumed; None until somebody asks for it."""
    epoch: int = 0
    """Grows with every lease of the database; 0 until it is taken."""
    lost: bool = False
    """Whether another worker is known to have taken the thread over."""
    ended: bool = False

    @property
    def abandoned(self) -> bool:
        """Whether its run can never go on: the loop that it ran on is closed."""
        return self.loop is not None and self.loop.is_closed()

    def check(self) -> None:
        """Ask, without the database, whether it is still ours: before a call that cannot be taken back.

        Raises:
            LeaseLost: it is known lost, or nobody could renew it for as long as it lives.
        """
        if self.lost or self.pulse.overdue:
            raise LeaseLost(self.thread_id)


@dataclass(slots=True)
class Leases:
    """The leases of one worker; all that changes them happens on the bridge's loop."""

    bridge: Bridge
    connections: Connections
    ttl: timedelta = LEASE_TTL
    worker: str = field(init=False, default_factory=new_worker)
    owner: object = field(default=None, repr=False)
    """The saver whose runs hold them."""
    _pulse: Pulse = field(init=False, default_factory=Pulse)
    _running: dict[str, Lease] = field(init=False, default_factory=dict[str, Lease])
    """By thread: who runs it in this process."""
    _by_run: dict[tuple[str, int], Lease] = field(init=False, default_factory=dict[tuple[str, int], Lease])
    """By thread and run, those that were lost among them: their runs go on, and must find out."""
    _unsure: bool = field(init=False, default=False)
    """Whether the database may hold a lease for us that no run has."""
    _beating: asyncio.Task[None] | None = field(init=False, default=None)
    _beat_lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _closed: bool = field(init=False, default=False)

    def of(self, config: RunnableConfig) -> Lease | None:
        """The lease of the run that a config belongs to; none in `get_state`, `update_state` and ended runs."""
        control = run_control(config)
        if control is None:
            return None
        return self._by_run.get((str(settings_of(config).get("thread_id")), id(control)))

    async def acquire(self, config: RunnableConfig, run: UUID | None, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take the lease for a run that begins, by the async API on `loop`; not for subgraphs, and outside of runs.

        Raises:
            ThreadBusy: another worker, or another run of this process, holds it.
        """
        control, settings = run_control(config), settings_of(config)
        if control is None or settings.get("checkpoint_ns"):
            return
        thread_id = str(settings["thread_id"])
        if (thread_id, id(control)) in self._by_run:
            return
        holder = self._running.get(thread_id)
        if holder is not None and holder.abandoned:
            self._drop(holder)
        elif holder is not None and not holder.lost:
            raise ThreadBusy(thread_id)
        lease = Lease(
            thread_id=thread_id,
            worker=self.worker,
            control=control,
            pulse=self._pulse,
            correlation_id=correlation_of(config) or (str(run) if run is not None else None),
            run_id=str(run) if run is not None else None,
            loop=loop,
            answers=run is None or resumes(run),
        )
        self._running[thread_id] = self._by_run[thread_id, id(control)] = lease
        _owners[thread_id, id(control)] = self
        taking = asyncio.ensure_future(self._take(lease))
        if run is not None:
            if loop is not None:
                at_async_end(run, partial(self._aended, lease, taking))
            else:
                at_end(run, partial(self._ended, lease, taking))
        # Who is cancelled meanwhile gives it back when its end is known.
        await asyncio.shield(taking)

    async def _take(self, lease: Lease) -> None:
        try:
            await self._alive()
            names = {
                "thread_id": lease.thread_id,
                "worker": self.worker,
                "correlation": lease.correlation_id,
                "run": lease.run_id,
            }
            rows = await run_again(self.connections, lambda: _all("acquire", names))
            if rows[0][0] is None and await self._bury(lease.thread_id):
                rows = await run_again(self.connections, lambda: _all("acquire", names))
        except BaseException:
            self._unsure = True
            self._drop(lease)
            raise
        if rows[0][0] is None:
            self._drop(lease)
            raise ThreadBusy(lease.thread_id)
        lease.epoch = rows[0][0]

    async def _bury(self, thread_id: str) -> bool:
        """Whether a thread's runner was a process of this machine that is dead: nobody need wait for its end."""
        ((runner,),) = await run_again(self.connections, lambda: _all("runner", {"thread_id": thread_id}))
        if runner is None or not is_gone(runner):
            return runner is None
        await run_again(self.connections, lambda: _all("leave", {"worker": runner}))
        return True

    def _drop(self, lease: Lease) -> None:
        lease.ended = True
        self._by_run.pop((lease.thread_id, id(lease.control)), None)
        _owners.pop((lease.thread_id, id(lease.control)), None)
        if self._running.get(lease.thread_id) is lease:
            del self._running[lease.thread_id]

    def _ended(self, lease: Lease, taking: asyncio.Task[None], error: BaseException | None) -> None:
        try:
            if self.bridge.is_here:  # an abandoned stream is collected wherever the collector happens to run
                self.bridge.begin(self._release, lease, taking, error)
            else:
                self.bridge.call(self._release, lease, taking, error)
        except _UNREACHED as unreached:
            _log.debug("a lease's end could not be told: %s", unreached)

    async def _aended(self, lease: Lease, taking: asyncio.Task[None], error: BaseException | None) -> None:
        try:
            await self.bridge.acall_to_end(self._release, lease, taking, error)
        except _UNREACHED as unreached:
            _log.debug("a lease's end could not be told: %s", unreached)

    async def _release(self, lease: Lease, taking: asyncio.Task[None], error: BaseException | None) -> None:
        await asyncio.gather(taking, return_exceptions=True)
        if lease.ended:
            return
        self._drop(lease)
        try:
            await self.connections.run(lambda: _all("end", _told(lease, error)))
        except _UNREACHED:
            self._unsure = True  # the next heartbeats try again
            raise

    def look(self, leases: Collection[Lease], connections: BlockingConnections) -> None:
        """Find out which of these are lost."""
        if leases:
            threads = {"threads": TextArray(lease.thread_id for lease in leases)}
            _mark(leases, run_again_blocking(connections, lambda: _all("epochs", threads)))

    async def _alive(self) -> None:
        """Return when the database knows that this worker lives."""
        async with self._beat_lock:
            # After a rest what is left of its life may be shorter than the time to the next heartbeat.
            if self._beating is None or self._pulse.overdue:
                await self._beat()
            if self._beating is None and not self._closed:
                self._beating = asyncio.ensure_future(self._beats())

    async def _beats(self) -> None:
        """Renew what the worker holds, for as long as it holds anything."""
        pause = self.ttl.total_seconds() / _BEATS
        try:
            while True:
                await asyncio.sleep(pause)
                if not self._running and not self._unsure:
                    return
                try:
                    async with self._beat_lock:
                        await self._beat()
                    if self._unsure:
                        await self._settle()
                except (PoolClosed, RuntimeError):  # nobody will open it again
                    return
                except _UNREACHED as error:
                    _log.warning("this worker could not say that it lives: %s", error)
                    self._unsure = True  # a server that fell may have forgotten what was given back last
        finally:
            self._beating = None

    async def _beat(self) -> None:
        sent = time.monotonic()
        names = {"worker": self.worker, "ttl": self.ttl}
        ((was_alive,),) = await self.connections.run(lambda: _all("beat", names))
        held = [lease for lease in self._by_run.values() if lease.epoch]
        if held and not was_alive:
            threads = {"threads": TextArray(lease.thread_id for lease in held)}
            _mark(held, await self.connections.run(lambda: _all("epochs", threads)))
        self._pulse.until = sent + self.ttl.total_seconds()

    async def _settle(self) -> None:
        """Give back what the database holds for us and no run has."""
        self._unsure = False
        try:
            held = await self.connections.run(lambda: _all("held", {"worker": self.worker}))
            # Who takes one now is among the running before the database knows; an epoch that was read is older.
            left = [(thread_id, epoch) for thread_id, epoch in held if thread_id not in self._running]
            if left:
                await self.connections.run(lambda: _all("release", _keys(left)))
        except BaseException:
            self._unsure = True
            raise

    async def close(self) -> None:
        """Give everything back; the worker is gone."""
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        if not self._pulse.until:
            return
        held = [(lease.thread_id, lease.epoch) for lease in self._running.values()]
        try:
            await self.connections.run(lambda: _all("release", _keys(held)))
            await self.connections.run(lambda: _all("leave", {"worker": self.worker}))
        except _UNREACHED as error:
            _log.debug("this worker's end could not be told: %s", error)
        for lease in list(self._running.values()):
            self._drop(lease)


def run_control(config: RunnableConfig) -> object | None:
    """What tells the runs apart: LangGraph's one `RunControl` of each; none where nothing runs."""
    return getattr(settings_of(config).get(_RUNTIME), "control", None)


_owners: Final[dict[tuple[str, int], Leases]] = {}
"""By thread and run: who holds its lease, in this process."""


def owner_of(config: RunnableConfig) -> object | None:
    """The saver that saves the run that a config belongs to: a LangGraph server hands its runs a wrapper of it."""
    held = _owners.get((str(settings_of(config).get("thread_id")), id(run_control(config))))
    return held.owner if held is not None else None


def correlation_of(config: RunnableConfig) -> str | None:
    """The correlation id that a config's metadata give."""
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    given = metadata.get("correlation_id", settings_of(config).get("correlation_id"))
    return None if given is None else str(given).replace("\0", "")


def _told(lease: Lease, error: BaseException | None) -> dict[str, Any]:
    """How a run has ended."""
    outcome = "interrupted" if lease.waits else "finished"
    details: dict[str, Any] = {}
    if error is not None:
        outcome = "failed" if isinstance(error, Exception) else "cancelled"
        details = {"error": f"{type(error).__name__}: {error}"[:_ERROR]}
    return {
        "thread_id": lease.thread_id,
        "epoch": lease.epoch,
        "correlation": lease.correlation_id,
        "run": lease.run_id,
        "ms": (time.monotonic() - lease.began) * 1000,
        "details": storable({"outcome": outcome, **details}),
    }


def _mark(leases: Collection[Lease], rows: Rows) -> None:
    epochs: dict[str, int] = dict(rows)
    for lease in leases:
        lease.lost = lease.lost or epochs.get(lease.thread_id) != lease.epoch


def _keys(held: Collection[tuple[str, int]]) -> dict[str, Any]:
    return {"threads": TextArray(key[0] for key in held), "epochs": IntArray(key[1] for key in held)}


def _all(name: str, parameters: Mapping[str, Any]) -> Steps[Rows]:
    return (yield SQL[name], parameters)
