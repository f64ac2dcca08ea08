"""Commits in company: what arrives while one commit is under way goes into the next, of whatever thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from .batch import Batch
from .bridge import connection_errors
from .connections import BlockingConnections, Steps, run_again_blocking
from .errors import DatabaseUnavailable
from .memory import Memory
from .sql import queries
from .writing import Encoder, Place, Put, PutWrites, awaits

SQL: Final = queries("saver")
_COMPANY: Final = 0.002
"""Seconds that a task's writes wait for the checkpoint that mostly follows them: one commit then has both."""
_AT_ONCE: Final = 256
"""Operations in one commit, at the most."""
_STALE: Final = "HF001"
_BEHIND: Final = 16
"""Checkpoints of a namespace that may be answered for before they are durable."""


class Committer:
    """Takes operations in order of arrival and says when each is durable; works in a thread of its own.

    A thread's operations are committed in the order in which they came, a checkpoint never before writes
    that it stands on. The rows are made when their commit begins: after a failure nothing is left that
    counted on what was not written. A blocking connection and no event loop, as a commit's way through one
    took longer than the commit.
    """

    def __init__(self, connections: BlockingConnections, memory: Memory, check: Callable[[], None]) -> None:
        """`check` raises `DatabaseClosed` where nothing can be committed any more."""
        self._connections = connections
        self._memory = memory
        self._check = check
        self._waiting: list[_Waiting] = []
        self._flying: list[_Waiting] = []
        self._urgent = 0
        self._arrival = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._early: dict[tuple[str, str], int] = defaultdict(int)
        """By thread and namespace: checkpoints that were answered for before they were durable."""
        self._failed: dict[str, BaseException] = {}
        """Threads of which such a checkpoint was lost: nothing may be built on it."""

    def commit(self, operation: Put | PutWrites, encoder: Encoder) -> None:
        """Return when the operation is durable.

        Raises:
            DatabaseUnavailable: the database is lost; nothing of the operation may be assumed.
            DatabaseClosed: the database was closed, or opened by the process that forked this one.
        """
        done = Future[None]()
        with connection_errors():
            self._add(_Waiting(operation, encoder, done))
            done.result()

    async def acommit(self, operation: Put | PutWrites, encoder: Encoder) -> None:
        """`commit` on any asyncio loop; cancelling it, or the end of the loop, does not cut the work short."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with connection_errors():
            self._add(_Waiting(operation, encoder, done, loop))
            await done

    def pardon(self, thread_id: str) -> None:
        """A thread is loaded: what comes now stands on what is there."""
        self._failed.pop(thread_id, None)

    def _add(self, waiting: _Waiting) -> None:
        self._check()
        with self._arrival:
            self._refuse(waiting.operation.thread_id)
            self._waiting.append(waiting)
            self._answer_early(waiting.operation.place)
            self._urgent += waiting.operation.urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="holdfast-commits", daemon=True)
                self._thread.start()
            self._arrival.notify()

    def _refuse(self, thread_id: str) -> None:
        if (lost := self._failed.get(thread_id)) is not None:
            raise DatabaseUnavailable(
                "an earlier checkpoint of this thread could not be saved; resume it from what was"
            ) from lost

    def _answer_early(self, place: Place) -> None:
        """Answer for checkpoints that have writes behind them in the queue.

        Under `durability="async"` LangGraph saves a checkpoint only when the one before is answered for; with
        fast nodes it would fall ever further behind. What is behind it is durable only after it, and a run's
        end waits for that. Under "sync" nothing can be behind: the nodes have not begun.
        """
        key = place[:2]
        if len(self._waiting) > _AT_ONCE:
            return  # what is behind might be committed before
        evidence = max(
            (other.operation.place[2] for other in self._waiting if other.writes and other.operation.place[:2] == key),
            default="",
        )
        for other in (*self._flying, *self._waiting):
            operation = other.operation
            if (
                other.writes
                or other.early
                or other.settled
                or operation.place[:2] != key
                or operation.place[2] > evidence
            ):
                continue
            if self._early[key] >= _BEHIND:
                return
            self._early[key] += 1
            other.early = True
            _tell([(other, None)])

    def close(self) -> None:
        """Commit what is waiting, and end the thread."""
        with self._arrival:
            self._closing = True
            self._arrival.notify()
        if self._thread is not None:
            self._thread.join()
        self._connections.close()

    def _work(self) -> None:
        while batch := self._next():
            settled: list[tuple[_Waiting, BaseException | None]] = []
            self._settle(batch, settled)
            with self._arrival:
                self._flying = []
            _tell(settled)

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
            self._urgent -= sum(waiting.operation.urgent for waiting in batch)
            self._flying = batch
            return batch

    def _ready(self) -> bool:
        """Whether there is something to commit at once, with all that it stands on."""
        if not self._urgent:
            return False
        operations = [waiting.operation for waiting in self._waiting[:_AT_ONCE]]
        return not any(isinstance(put, Put) and awaits(put, operations, self._memory) for put in operations)

    def _settle(self, batch: list[_Waiting], settled: list[tuple[_Waiting, BaseException | None]]) -> None:
        try:
            self._write(batch)
        except BaseException as error:
            self._forget(batch)
            if len(batch) > 1 and not isinstance(error, psycopg.OperationalError):
                # One of them cannot be written; the others are not to suffer for it.
                for waiting in batch:
                    self._settle([waiting], settled)
            else:
                settled += [(waiting, error) for waiting in batch]
                self._failed.update({waiting.operation.thread_id: error for waiting in batch if waiting.early})
        else:
            settled += [(waiting, None) for waiting in batch]
        finally:
            self._forget_early(batch)

    def _write(self, batch: list[_Waiting], attempts: int = 3) -> None:
        for waiting in batch:
            self._refuse(waiting.operation.thread_id)
        rows = Batch()
        for waiting in sorted(batch, key=lambda waiting: waiting.operation.place):
            waiting.encoder.encode(waiting.operation, rows, self._connections)
        parameters = rows.parameters()

        def steps() -> Steps[None]:
            yield SQL["commit"], parameters

        try:
            run_again_blocking(self._connections, steps)
        except psycopg.Error as error:
            if error.sqlstate != _STALE or attempts == 1:
                raise
            self._forget(batch)
            self._write(batch, attempts - 1)
            return
        rows.committed()

    def _forget_early(self, batch: list[_Waiting]) -> None:
        with self._arrival:
            for waiting in batch:
                if waiting.early and not waiting.settled:
                    key = waiting.operation.place[:2]
                    self._early[key] -= 1
                    if not self._early[key]:
                        del self._early[key]
                waiting.settled = True

    def _forget(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            self._memory.forget(waiting.operation.thread_id)


@dataclass(slots=True)
class _Waiting:
    operation: Put | PutWrites
    encoder: Encoder
    done: Future[None] | asyncio.Future[None]
    loop: asyncio.AbstractEventLoop | None = None
    early: bool = False
    settled: bool = False

    @property
    def writes(self) -> bool:
        return isinstance(self.operation, PutWrites)


def _tell(settled: list[tuple[_Waiting, BaseException | None]]) -> None:
    """Say to all who wait what became of it; those of one event loop in one go."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Any, BaseException | None]]] = defaultdict(list)
    for waiting, error in settled:
        if waiting.loop is not None:
            loops[waiting.loop].append((waiting.done, error))
        else:
            _resolve([(waiting.done, error)])
    for loop, results in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the caller's loop has ended meanwhile; what it asked for is done
            continue


def _resolve(results: list[tuple[Any, BaseException | None]]) -> None:
    for done, error in results:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
