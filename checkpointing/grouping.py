"""One statement for all who ask at once: what arrives while one is under way goes into the next."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from .bridge import connection_errors, one_line
from .connections import BlockingConnections, Rows, Steps, is_lost, run_again_blocking
from .errors import DatabaseUnavailable

_AT_ONCE: Final = 256
_log: Final = logging.getLogger("holdfast.checkpointing")


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for an answer: a thread, or a coroutine on a loop."""

    done: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None = None


def tell(answers: Iterable[tuple[Waiter, Any, BaseException | None]]) -> None:
    """Give to all who wait a result, or an error; to those of one event loop in one go."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Any, Any, BaseException | None]]] = defaultdict(list)
    for waiter, result, error in answers:
        if waiter.loop is not None:
            loops[waiter.loop].append((waiter.done, result, error))
        else:
            _resolve([(waiter.done, result, error)])
    for loop, results in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the caller's loop has ended meanwhile; what it asked for is done
            continue


def _resolve(results: list[tuple[Any, Any, BaseException | None]]) -> None:
    for done, result, error in results:
        if not done.done():
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)


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
        self._waiting: list[_Request] = []
        self._arrival = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def ask(self, kind: str, asked: Any) -> tuple[Any, ...]:
        """The answer's row, once its transaction is durable.

        Raises:
            DatabaseUnavailable: the database is lost; nothing of the request may be assumed.
        """
        done = Future[tuple[Any, ...]]()
        with connection_errors():
            self._add(_Request(kind, asked, Waiter(done)))
            return done.result()

    async def aask(self, kind: str, asked: Any) -> tuple[Any, ...]:
        """`ask` on any asyncio loop; cancelling it does not take the request back."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[Any, ...]] = loop.create_future()
        with connection_errors():
            self._add(_Request(kind, asked, Waiter(done, loop)))
            return await done

    def hand_over(self, kind: str, asked: Any) -> None:
        """`ask` without waiting for the answer; an error is logged."""
        done = Future[tuple[Any, ...]]()
        done.add_done_callback(_log_failure)
        self._add(_Request(kind, asked, Waiter(done)))

    def _add(self, request: _Request) -> None:
        self._check()
        with self._arrival:
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="holdfast-journal", daemon=True)
                self._thread.start()
            self._arrival.notify()

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
                    self._carry_out(kind, [request for request in batch if request.kind == kind])
        finally:
            # Without this thread nobody would be answered any more.
            with self._arrival:
                left, self._waiting, self._thread = self._waiting, [], None
            ended = DatabaseUnavailable("the thread that writes the journal has ended")
            tell((request.waiter, None, ended) for request in left)

    def _next(self) -> list[_Request]:
        with self._arrival:
            self._arrival.wait_for(lambda: self._waiting or self._closing)
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            return batch

    def _carry_out(self, kind: str, requests: list[_Request]) -> None:
        if not requests:
            return
        statement, parameters = self._statements[kind]

        def steps() -> Steps[Rows]:
            return (yield statement, parameters([request.asked for request in requests]))

        try:
            rows = run_again_blocking(self._connections, steps)
        except BaseException as error:
            if len(requests) > 1 and not is_lost(error):
                # One of them cannot be done; the others are not to suffer for it.
                for request in requests:
                    self._carry_out(kind, [request])
            else:
                failed = error
                tell((request.waiter, None, failed) for request in requests)
        else:
            tell((request.waiter, row, None) for request, row in zip(requests, rows, strict=True))


def _log_failure(done: Future[tuple[Any, ...]]) -> None:
    if (error := done.exception()) is not None:
        _log.warning("what was handed over could not be written: %s", one_line(error))


@dataclass(frozen=True, slots=True)
class _Request:
    kind: str
    asked: Any
    waiter: Waiter
