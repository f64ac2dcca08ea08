"""Pages that stay up to date: one connection listens for changes, and every open page is told."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import Connection

from holdfast.checkpointing.approvals import CHANNEL

_log = logging.getLogger(__name__)
_LOOK: Final = 0.5
"""Seconds between two looks at whether anybody still listens."""
_AGAIN: Final = 2.0
_GATHER: Final = 0.2
"""Seconds for which changes are gathered before a page is told."""
_BEAT: Final = 15.0
_MOST: Final = 100


@dataclass(eq=False, slots=True)
class _Page:
    loop: asyncio.AbstractEventLoop
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    requests: set[str] = field(default_factory=set[str])
    """Which requests have changed; the empty name stands for any."""

    def tell(self, request_id: str) -> None:
        self.requests.add(request_id if len(self.requests) < _MOST else "")
        self.changed.set()


class Live:
    """Tells pages of changes. Its connection is opened for the first page and closed after the last."""

    def __init__(self, uri: Callable[[], str], *, limit: int, beat: float = _BEAT) -> None:
        self._uri = uri
        self._limit = limit
        self._beat = beat
        self._pages: set[_Page] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def full(self) -> bool:
        """Whether as many pages are told as may be."""
        return len(self._pages) >= self._limit

    async def follow(self, valid: Callable[[], bool]) -> AsyncGenerator[list[str] | None]:
        """The ids of requests that have changed, a list at a time, and None when nothing has for a while.

        The first list is empty: whoever follows looks once now. It ends when the process does, or with `valid`.
        """
        page = _Page(asyncio.get_running_loop())
        self._join(page)
        try:
            yield []
            while valid() and not self._stopped:
                try:
                    await asyncio.wait_for(page.changed.wait(), self._beat)
                except TimeoutError:
                    yield None
                    continue
                await asyncio.sleep(_GATHER)
                page.changed.clear()
                changed, page.requests = sorted(page.requests), set()
                if not self._stopped:
                    yield changed
        finally:
            with self._lock:
                self._pages.discard(page)

    def stop(self) -> None:
        """End every stream: the process is about to end."""
        self._stopped = True
        self._tell("")

    def _join(self, page: _Page) -> None:
        with self._lock:
            self._pages.add(page)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="holdfast-inbox", daemon=True)
                self._thread.start()

    def _listen(self) -> None:
        """A thread, as psycopg's async connections do not run on every loop that a server may have."""
        while self._wanted():
            try:
                with Connection[tuple[object, ...]].connect(
                    self._uri(), autocommit=True, application_name="holdfast inbox"
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._tell("")  # whatever came before, or while the connection was lost
                    self._hear(connection)
            except psycopg.Error as error:
                if not self._wanted():
                    return
                _log.warning("open pages are not told of changes for a moment: %s", type(error).__name__)
                threading.Event().wait(_AGAIN)
            except Exception:
                _log.exception("open pages are not told of changes")
                threading.Event().wait(_AGAIN)

    def _hear(self, connection: Connection[tuple[object, ...]]) -> None:
        while self._wanted():
            for notify in connection.notifies(timeout=_LOOK, stop_after=_MOST):
                self._tell(notify.payload)

    def _wanted(self) -> bool:
        """Whether this thread is to go on; another may have been started once it was told not to."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if self._pages and not self._stopped:
                return True
            self._thread = None
            return False

    def _tell(self, request_id: str) -> None:
        with self._lock:
            pages = list(self._pages)
        for page in pages:
            try:
                page.loop.call_soon_threadsafe(page.tell, request_id)
            except RuntimeError:  # its loop is closed
                with self._lock:
                    self._pages.discard(page)
