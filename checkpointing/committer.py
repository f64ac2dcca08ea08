"""Commits in company: what arrives while one commit is under way goes into the next, of whatever thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import psycopg
from langchain_core.runnables import RunnableConfig

from .batch import Batch
from .bridge import connection_errors, one_line
from .connections import BlockingConnections, Steps, is_lost, run_again_blocking
from .durable import Durable
from .errors import DatabaseUnavailable, LeaseLost, ThreadChanged
from .grouping import Waiter, tell
from .leases import Lease, Leases
from .memory import Memory
from .operations import Operation, Put, PutWrites, awaits
from .reading import settings_of
from .sql import queries
from .writing import Encoder

SQL: Final = queries("saver")
_COMPANY: Final = 0.002
"""Seconds that a task's writes wait for the checkpoint that mostly follows them: one commit then has both."""
_AT_ONCE: Final = 256
"""Operations in one commit, at the most."""
_STALE: Final = "HF001"
_ATTEMPTS: Final = 8
"""How often a commit is made anew whose threads upkeep changed meanwhile."""
_AHEAD: Final = 16
"""Checkpoints of a namespace that may be answered for before they are durable."""


class Committer:
    """Takes operations in order of arrival and says when each is durable; works in a thread of its own.

    A thread's operations are committed in the order in which they came, a checkpoint never before writes
    that it stands on. The rows are made when their commit begins: after a failure nothing is left that
    counted on what was not written. A blocking connection and no event loop, as a commit's way through one
    took longer than the commit.
    """

    def __init__(
        self,
        connections: BlockingConnections,
        memory: Memory,
        leases: Leases,
        durable: Durable,
        check: Callable[[], None],
    ) -> None:
        """`durable` is told what is saved; `check` raises `DatabaseClosed` where nothing can be committed any more."""
        self._durable = durable
        self._connections = connections
        self._memory = memory
        self._leases = leases
        self._check = check
        self._waiting: list[_Waiting] = []
        self._urgent = 0
        self._arrival = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._open: dict[tuple[str, str], list[_Waiting]] = defaultdict(list)
        """By thread and namespace: checkpoints that are not durable yet."""
        self._behind: dict[tuple[str, str], str] = {}
        """By thread and namespace: the newest checkpoint that writes in the queue are on."""
        self._failed: dict[str, BaseException] = {}
        """Threads of which such a checkpoint was lost: nothing may be built on it."""

    def commit(self, operation: Operation, encoder: Encoder) -> None:
        """Return when the operation is durable.

        Raises:
            DatabaseUnavailable: the database is lost; nothing of the operation may be assumed.
            LeaseLost: another worker has taken the run's thread over.
            DatabaseClosed: the database was closed, or opened by the process that forked this one.
        """
        done = Future[None]()
        with connection_errors():
            self._add(_Waiting(operation, encoder, done, self._leases.of(operation.config)))
            done.result()

    async def acommit(self, operation: Operation, encoder: Encoder) -> None:
        """`commit` on any asyncio loop; cancelling it, or the end of the loop, does not cut the work short."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with connection_errors():
            self._add(_Waiting(operation, encoder, done, self._leases.of(operation.config), loop))
            await done

    def pardon(self, config: RunnableConfig) -> None:
        """A thread is loaded, as a run begins: what comes now stands on what is there."""
        settings = settings_of(config)
        if not settings.get("checkpoint_ns"):  # a subgraph's load is within a run
            self._failed.pop(str(settings.get("thread_id")), None)

    def _add(self, waiting: _Waiting) -> None:
        self._check()
        key = waiting.operation.place[:2]
        waiting.urgent = waiting.operation.urgent or self._memory.waited(*key)
        with self._arrival:
            self._refuse(waiting)
            self._waiting.append(waiting)
            self._urgent += waiting.urgent
            if waiting.writes:
                self._behind[key] = max(waiting.operation.place[2], self._behind.get(key, ""))
            else:
                self._open[key].append(waiting)
            self._answer_early(key)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="holdfast-commits", daemon=True)
                self._thread.start()
            self._arrival.notify()

    def _refuse(self, waiting: _Waiting) -> None:
        if waiting.lease is not None and waiting.lease.lost:
            raise LeaseLost(waiting.lease.thread_id)
        if (lost := self._failed.get(waiting.operation.thread_id)) is not None:
            raise DatabaseUnavailable(
                f"an earlier checkpoint of this thread could not be saved ({one_line(lost)}); resume it from what was"
            ) from lost

    def _answer_early(self, key: tuple[str, str]) -> None:
        """Answer for checkpoints that have writes behind them in the queue.

        Under `durability="async"` LangGraph saves a checkpoint only when the one before is answered for; with
        fast nodes it would fall ever further behind. What is behind it is durable only after it, and a run's
        end waits for that. Under "sync" nothing can be behind: the nodes have not begun.
        """
        behind = self._behind.get(key)
        if behind is None or len(self._waiting) > _AT_ONCE:  # what is behind might be committed before
            return
        early = sum(put.early for put in self._open[key])
        for put in self._open[key]:
            if not put.early and put.operation.place[2] <= behind and early < _AHEAD:
                early += 1
                put.early = True
                _tell([(put, None)])

    def close(self) -> None:
        """Commit what is waiting, and end the thread."""
        with self._arrival:
            self._closing = True
            self._arrival.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._connections.close()

    def _work(self) -> None:
        try:
            while batch := self._next():
                settled: list[tuple[_Waiting, BaseException | None]] = []
                self._settle(batch, settled)
                _tell(settled)
        finally:
            # Without this thread nobody would be answered any more.
            with self._arrival:
                left, self._waiting, self._thread = self._waiting, [], None
                self._urgent = 0
            _tell([(waiting, DatabaseUnavailable("the thread that commits has ended")) for waiting in left])

    def _next(self) -> list[_Waiting]:
        """What is to be committed together; empty at the end."""
        with self._arrival:
            while not self._waiting:
                if self._closing:
                    return []
                self._arrival.wait()
            until = time.monotonic() + _COMPANY
            while not self._ready() and not self._closing and (left := until - time.monotonic()) > 0:
                self._arrival.wait(left)
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            self._urgent -= sum(waiting.urgent for waiting in batch)
            self._behind.clear()
            for waiting in self._waiting:
                if waiting.writes:
                    key = waiting.operation.place[:2]
                    self._behind[key] = max(waiting.operation.place[2], self._behind.get(key, ""))
            return batch

    def _ready(self) -> bool:
        """Whether there is something to commit at once, with all that it stands on."""
        if not self._urgent:
            return False
        operations = [waiting.operation for waiting in self._waiting]
        if unnamed := [write for write in operations if isinstance(write, PutWrites) and write.unnamed]:
            taken = {(put.thread_id, put.ns, put.stands_on) for put in operations if isinstance(put, Put)}
            if any(write.place[:3] not in taken for write in unnamed):
                return False
        # What comes from an event loop comes in order.
        puts = [waiting.operation for waiting in self._waiting if waiting.loop is None and not waiting.writes]
        return not any(isinstance(put, Put) and awaits(put, operations, self._memory) for put in puts)

    def _settle(self, batch: list[_Waiting], settled: list[tuple[_Waiting, BaseException | None]]) -> None:
        try:
            self._write(batch)
        except BaseException as error:
            self._forget(batch)
            if isinstance(error, ThreadChanged):
                self._failed[error.thread_id] = error
            if len(batch) > 1 and not is_lost(error):
                # One of them cannot be written; the others are not to suffer for it.
                for waiting in batch:
                    self._settle([waiting], settled)
            else:
                settled += [(waiting, error) for waiting in batch]
                for waiting in batch:
                    if not waiting.writes:
                        self._durable.failed(*waiting.operation.place[:3], error)
                if isinstance(error, LeaseLost):
                    self._lose(batch)
                    return
                self._failed.update({waiting.operation.thread_id: error for waiting in batch if waiting.early})
        else:
            settled += [(waiting, None) for waiting in batch]
            for waiting in batch:
                if not waiting.writes:
                    self._durable.note(*waiting.operation.place[:3])
        finally:
            self._close(batch)

    def _write(self, batch: list[_Waiting], attempt: int = 1) -> None:
        if any(waiting.lease is not None and waiting.lease.pulse.overdue for waiting in batch):
            self._look(batch)  # this process stood still, or the database did
        for waiting in batch:
            self._refuse(waiting)
        rows = Batch()
        for waiting in sorted(batch, key=lambda waiting: waiting.operation.place):
            epoch = waiting.lease.epoch if waiting.lease is not None else None
            waiting.encoder.encode(
                waiting.operation, rows, self._connections, must_stand=waiting.must_stand, epoch=epoch
            )
        parameters = rows.parameters()

        def steps() -> Steps[None]:
            yield SQL["commit"], parameters

        try:
            run_again_blocking(self._connections, steps)
        except psycopg.Error as error:
            if error.sqlstate != _STALE:
                raise
            if attempt == _ATTEMPTS:
                raise ThreadChanged(batch[0].operation.thread_id) from error
            self._forget(batch)
            for waiting in batch:
                waiting.must_stand = True
            self._look(batch)
            self._write(batch, attempt + 1)
            return
        rows.committed()

    def _look(self, batch: list[_Waiting]) -> None:
        self._leases.look([waiting.lease for waiting in batch if waiting.lease is not None], self._connections)

    def _lose(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            if waiting.lease is not None:
                waiting.lease.lost = True

    def _close(self, batch: list[_Waiting]) -> None:
        """Nothing more is to be answered for early among these."""
        with self._arrival:
            for waiting in batch:
                if not waiting.writes:
                    key = waiting.operation.place[:2]
                    if left := [put for put in self._open.pop(key, ()) if put is not waiting]:
                        self._open[key] = left

    def _forget(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            self._memory.forget(waiting.operation.thread_id)


@dataclass(slots=True)
class _Waiting:
    operation: Operation
    encoder: Encoder
    done: Future[None] | asyncio.Future[None]
    lease: Lease | None = None
    """Of the run whose operation it is; none, where it is not a run's."""
    loop: asyncio.AbstractEventLoop | None = None
    early: bool = False
    urgent: bool = True
    """Whether it is committed without waiting for company."""
    must_stand: bool = False
    """Whether to look that what it stands on is there still: its commit was refused."""

    @property
    def writes(self) -> bool:
        return self.operation.place[3] == 1


def _tell(settled: list[tuple[_Waiting, BaseException | None]]) -> None:
    tell((Waiter(waiting.done, waiting.loop), None, error) for waiting, error in settled)
