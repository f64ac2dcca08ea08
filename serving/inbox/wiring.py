"""What the endpoints share: the database, the gate, the pages, and what keeps them up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request

from holdfast.checkpointing import Database, embedded

from .gate import Gate, Refused
from .live import Live
from .rendering import Pages
from .sessions import Session
from .settings import InboxSettings


class NotSignedIn(Refused):
    """Nobody is known to be asking."""

    def __init__(self) -> None:
        super().__init__(401, "Sign in", "Sign in to see what waits.")


class Inbox:
    """One inbox; its database is opened when the first page is asked for."""

    def __init__(self, database: Callable[[], Database], settings: InboxSettings) -> None:
        self._open = database
        self._database: Database | None = None
        self._live: Live | None = None
        self.gate = Gate(settings, self.now)
        self.pages = Pages(self.gate)

    def now(self) -> datetime:
        """The time by which requests expire: the record's clock, if one is injected."""
        database = self._database
        return (database.approvals.clock() if database is not None else None) or datetime.now(UTC)

    async def database(self) -> Database:
        """The database."""
        if self._database is None or not self._database.usable:
            self._database = await asyncio.to_thread(self._open)
        return self._database

    async def live(self) -> Live:
        """What tells open pages of changes."""
        database = await self.database()
        if self._live is None:
            self._live = Live(lambda: database.uri or embedded.start(), limit=self.gate.settings.streams)
        return self._live

    def session(self, request: Request) -> Session:
        """Who is asking.

        Raises:
            NotSignedIn: nobody says so whom we believe.
        """
        if (session := self.gate.visitor(request)) is None:
            raise NotSignedIn
        return session

    def stop(self) -> None:
        """End what has no end of its own."""
        if self._live is not None:
            self._live.stop()
