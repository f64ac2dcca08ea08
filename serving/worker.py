"""`Worker`: works the queue off, a segment of a thread at a time, and takes over what others leave behind.

It may be added, drained and killed at will: what it was doing goes back to the queue, or is taken over when it has
been silent for a while. The thread's lease sees to it that two never run the same thread, whatever the queue says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from langgraph.runtime import RunControl
from procrastinate import App
from procrastinate.exceptions import ConnectorException
from procrastinate.job_context import JobContext
from procrastinate.worker import Worker as QueueWorker

from holdfast.checkpointing import Database, DatabaseUnavailable, HoldfastError, ThreadBusy
from holdfast.checkpointing.errors import LeaseLost, ThreadBegun, ThreadChanged
from holdfast.checkpointing.sql import queries
from holdfast.guardrails import is_transient

from .dispatch import Dispatcher, queued
from .engine import GIVE_BACK, Later, app_on
from .errors import RunFailed, UnusableGraphs
from .jobs import ADVANCE, TEND, TENDING, Cause, queue_of
from .registry import Opener
from .segments import Outcome, advance
from .sweeps import Sweeps

SQL: Final = queries("jobs")
_CONTENDED: Final = (ThreadBusy, ThreadBegun, ThreadChanged, LeaseLost)
_BUSY: Final = 30.0
_ERROR: Final = 2000
"""Characters of an error that are kept."""
_log: Final = logging.getLogger("holdfast.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often a worker does what, in seconds.

    With these, what a killed worker was doing is taken over within 20 seconds.
    """

    poll: float = 0.5
    """Between looks into the queue; new jobs are also notified of, where the connection lets that through."""
    beat: float = 4.0
    """Between signs of life."""
    silent: float = 15.0
    """After so long without one, others take a worker's jobs over."""
    sweep: float = 2.0
    """Between looks at what is due, or was overlooked."""
    busy: float = 1.0
    """Until a thread is tried again that somebody else runs; twice as long each time, to half a minute."""
    pauses: tuple[float, ...] = (2.0, 10.0, 60.0)
    """Between attempts after failures that may pass; as many as there are, and then it has failed."""

    def __post_init__(self) -> None:
        """Raises ValueError: a worker would count as silent between its signs of life."""
        if self.silent < 2 * self.beat:
            raise ValueError(f"silent must be at least twice beat ({self.beat:g} s), not {self.silent:g} s")


@dataclass(slots=True, eq=False)
class _Running:
    """A segment that this worker runs."""

    task: asyncio.Task[Any]
    control: RunControl | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """Runs segments of the graphs that it knows, so many at once, until it is drained."""

    database: Database
    graphs: Mapping[str, Opener]
    concurrency: int = 4
    timing: Timing = field(default_factory=Timing)
    listen: bool = True
    """Whether to be notified of new jobs; not through a pooler that lends sessions out for a transaction each."""
    _running: dict[int, _Running] = field(init=False, default_factory=dict[int, _Running])
    _queue: QueueWorker | None = field(init=False, default=None)
    _draining: str | None = field(init=False, default=None)

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until `drain` or `stop`, or until nothing is left; a server that goes away and comes back is waited for.

        Raises:
            SetupRefused, DatabaseUnavailable: the queue cannot be had.
        """
        dispatcher = await Dispatcher.aattach(self.database)
        app = app_on(self.database.conninfo)
        app.task(name=ADVANCE, pass_context=True, retry=GIVE_BACK)(self._advance)
        app.task(name=TEND, retry=GIVE_BACK)(self._tend)
        sweeps = Sweeps(self.database, app, silent=self.timing.silent)
        try:
            async with app.open_async():
                if until_idle:
                    await sweeps.sweep(None, set())
                sweeping = asyncio.create_task(self._sweep(sweeps))
                try:
                    while self._draining is None and not (until_idle and await self._idle()):
                        await self._work(self._new_queue(app, wait=not until_idle))
                finally:
                    sweeping.cancel()
                    with suppress(asyncio.CancelledError):
                        await sweeping
        finally:
            dispatcher.detach()

    def drain(self, reason: str) -> None:
        """Finish the step that each running graph is in, give the rest back to the queue, and end."""
        self._draining = reason
        for running in self._running.values():
            if running.control is not None:
                running.control.request_drain(reason)
        if self._queue is not None:
            self._queue.stop()  # type: ignore[no-untyped-call]

    def stop(self, reason: str) -> None:
        """End at once: what is running is cancelled, and goes back to the queue."""
        self.drain(reason)
        for running in self._running.values():
            running.task.cancel()

    async def _idle(self) -> bool:
        """Whether no thread of a graph that it knows waits for a worker, or has one."""
        return all(one.state == "failed" or one.graph not in self.graphs for one in await queued(self.database))

    def _new_queue(self, app: App, *, wait: bool) -> QueueWorker:
        return QueueWorker(
            app,
            queues=[*(queue_of(name) for name in self.graphs), TENDING],
            name="holdfast",
            concurrency=self.concurrency,
            wait=wait,
            fetch_job_polling_interval=self.timing.poll,
            update_heartbeat_interval=self.timing.beat,
            stalled_worker_timeout=self.timing.silent,
            listen_notify=self.listen,
            delete_jobs="always",  # what became of a thread is in its record
            install_signal_handlers=False,
        )

    async def _work(self, queue: QueueWorker) -> None:
        self._queue = queue
        try:
            await queue.run()  # type: ignore[no-untyped-call]
        except ConnectorException as error:
            _log.warning("the queue could not be worked off, and is tried again: %s", error.__cause__ or error)
        if self._draining is None:
            await asyncio.sleep(self.timing.poll)

    async def _sweep(self, sweeps: Sweeps) -> None:
        while True:
            queue = self._queue
            try:
                await sweeps.sweep(queue.worker_id if queue is not None else None, set(self._running))
            except (HoldfastError, ConnectorException) as error:
                _log.warning("what is due could not be looked at, and is tried again: %s", error)
            except Exception:
                _log.exception("what is due could not be looked at, and is tried again")
            await asyncio.sleep(self.timing.sweep)

    async def _tend(self) -> None:
        try:
            await self.database.approvals.atend()
        except DatabaseUnavailable:
            raise Later(self.timing.sweep) from None

    async def _advance(
        self, context: JobContext, thread_id: str, graph: str, cause: Cause, given: Mapping[str, Any] | None
    ) -> None:
        """A job of the queue: see `segments.advance`."""
        job, task = context.job.id, asyncio.current_task()
        assert job is not None
        assert task is not None
        running = self._running[job] = _Running(task)
        try:
            if self._draining is not None:
                raise Later(0)
            await self._segment(running, thread_id, graph, cause, given, context.job.attempts)
        except asyncio.CancelledError:
            if self._draining is None:
                raise
            raise Later(0) from None
        finally:
            del self._running[job]

    async def _segment(
        self,
        running: _Running,
        thread_id: str,
        graph: str,
        cause: Cause,
        given: Mapping[str, Any] | None,
        attempts: int,
    ) -> None:
        try:
            outcome = await self._run(running, thread_id, graph, cause, given, again=attempts > 0)
        except Exception as error:
            await self._failed(thread_id, graph, error, attempts)
            raise
        if outcome == "drained":
            raise Later(0)
        await self._forget(thread_id)
        _log.info("thread %s (%s): %s", thread_id, graph, _SAID[outcome])

    async def _run(
        self,
        running: _Running,
        thread_id: str,
        graph: str,
        cause: Cause,
        given: Mapping[str, Any] | None,
        *,
        again: bool,
    ) -> Outcome:
        if graph not in self.graphs:
            raise UnusableGraphs(f"this worker does not know the graph {graph!r}")
        settings = await self.database.threads.arecall(thread_id)
        prepared = await self.graphs[graph](self.database, thread_id, settings)
        running.control = prepared.control
        if self._draining is not None:
            prepared.control.request_drain(self._draining)
        return await advance(self.database, prepared, cause=cause, given=given, again=again)

    async def _failed(self, thread_id: str, graph: str, error: Exception, before: int) -> None:
        """Keep why a thread does not go on.

        Raises:
            Later: it is to be tried again.
        """
        cause = error.__cause__ if isinstance(error, RunFailed) and error.__cause__ is not None else error
        if isinstance(cause, _CONTENDED):
            raise Later(min(self.timing.busy * 2 ** min(before, 5), _BUSY)) from None
        if isinstance(cause, DatabaseUnavailable):  # nothing can be written down, and it is nobody's fault
            raise Later(self.timing.sweep) from None
        transient = is_transient(cause)
        attempts = await self._record(thread_id, graph, error, transient=transient)
        if transient and attempts <= len(self.timing.pauses):
            pause = self.timing.pauses[attempts - 1]
            _log.warning("thread %s (%s): %s; tried again in %g s", thread_id, graph, error, pause)
            raise Later(pause) from None
        _log.error("thread %s (%s): %s", thread_id, graph, error)

    async def _record(self, thread_id: str, graph: str, error: Exception, *, transient: bool) -> int:
        text = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
        parameters = {
            "thread_id": thread_id,
            "graph": graph,
            "error": text.replace("\0", "")[:_ERROR],
            "transient": transient,
        }

        async def recorded(connection: Any) -> int:
            row = await (await connection.execute(SQL["record_failure"], parameters)).fetchone()
            return int(row["attempts"])

        try:
            return await self.database.atransact(recorded)
        except DatabaseUnavailable:
            raise Later(self.timing.sweep) from None

    async def _forget(self, thread_id: str) -> None:
        async def forgotten(connection: Any) -> None:
            await connection.execute(SQL["forget_failure"], {"thread_id": thread_id})

        with suppress(DatabaseUnavailable):
            await self.database.atransact(forgotten)


_SAID: Final[Mapping[Outcome, str]] = {
    "ended": "finished",
    "waits": "waits",
    "nothing": "had nothing to do",
    "drained": "given back",
}
