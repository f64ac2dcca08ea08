"""One statement for all who ask at once: what arrives while one is under way goes into the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

import psycopg

from .bridge import connection_errors
from .connections import BlockingConnections, Rows, Steps, run_again_blocking
from .errors import DatabaseUnavailable

_AT_ONCE: Final = 256


class Grouped:
    """Requests of some kinds, each kind one statement that answers with a row for each; in a thread of its own.

    A request that was handed over is carried out even if who asked for it is gone. Alone, it is at once.
    """

    def __init__(
        self,
        connections: BlockingConnections,
        check: Callable[[], None],
        statements: Mapping[str, tuple[bytes, Callable[[Sequence[Any]], Mapping[str, Any]]]],
    ) -> None:
        """By kind: the statement, and what makes its parameters of requests.

        `check` raises `DatabaseClosed` where nothing can be done any more.
        """
        self._connections = connections
        self._check = check
        self._statements = statements
        self._waiting: list[tuple[str, Any, Future[tuple[Any, ...]]]] = []
        self._arrival = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def ask(self, kind: str, request: Any) -> Future[tuple[Any, ...]]:
        """The answer's row, once its transaction is durable."""
        self._check()
        done = Future[tuple[Any, ...]]()
        with self._arrival:
            self._waiting.append((kind, request, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="holdfast-journal", daemon=True)
                self._thread.start()
            self._arrival.notify()
        return done

    def close(self) -> None:
        """Do what is waiting, and end the thread."""
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
                for kind in self._statements:
                    self._carry_out(kind, [(request, done) for of, request, done in batch if of == kind])
        finally:
            # Without this thread nobody would be answered any more.
            with self._arrival:
                left, self._waiting, self._thread = self._waiting, [], None
            for _, _, done in left:
                _refuse(done, DatabaseUnavailable("the thread that writes the journal has ended"))

    def _next(self) -> list[tuple[str, Any, Future[tuple[Any, ...]]]]:
        with self._arrival:
            self._arrival.wait_for(lambda: self._waiting or self._closing)
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            return batch

    def _carry_out(self, kind: str, asked: list[tuple[Any, Future[tuple[Any, ...]]]]) -> None:
        if not asked:
            return
        statement, parameters = self._statements[kind]

        def steps() -> Steps[Rows]:
            return (yield statement, parameters([request for request, _ in asked]))

        try:
            rows = run_again_blocking(self._connections, steps)
        except BaseException as error:
            if len(asked) > 1 and not isinstance(error, psycopg.OperationalError):
                # One of them cannot be done; the others are not to suffer for it.
                for one in asked:
                    self._carry_out(kind, [one])
                return
            for _, done in asked:
                _refuse(done, error)
        else:
            for (_, done), row in zip(asked, rows, strict=True):
                if done.set_running_or_notify_cancel():
                    done.set_result(row)


def _refuse(done: Future[tuple[Any, ...]], error: BaseException) -> None:
    if done.set_running_or_notify_cancel():
        done.set_exception(error)


def answer(done: Future[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Wait for an answer.

    Raises:
        DatabaseUnavailable: the database is lost; nothing of the request may be assumed.
    """
    with connection_errors():
        return done.result()


async def aanswer(done: Future[tuple[Any, ...]]) -> tuple[Any, ...]:
    """`answer` on any asyncio loop; cancelling it does not take the request back."""
    with connection_errors():
        return await asyncio.shield(asyncio.wrap_future(done))
