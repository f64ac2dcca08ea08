"""`Announcer`: tells people of requests for approval, each of several workers a part, and nobody twice."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from holdfast.checkpointing import Database, DatabaseClosed, DatabaseUnavailable, Due, HoldfastError, UnknownRequest
from holdfast.checkpointing.notices import KINDS, NoticeKind
from holdfast.guardrails import AppriseNotifier, ApprovalNotice, Notifier, Webhook
from holdfast.guardrails.alert_desk import Courier

from .errors import NothingToTell

MOST: Final = 8
"""How often a notice is tried."""
FIRST: Final = timedelta(seconds=30)
LONGEST: Final = timedelta(hours=1)
"""Between two tries: 30 seconds, then twice as long each time, no longer than this."""
POLL: Final = 2.0
_log: Final = logging.getLogger("holdfast.approval")


class Announcer:
    """Takes what is to be told to notifiers, in threads of their own, and tries again what they do not take.

        announcer = Announcer(db, {"ops": Webhook(url, secret)}, inbox="https://inbox.example.org")
        await announcer.run()

    Of several workers with the same receivers one tells: who claims a notice first in the database. One that is
    killed while it tells has it told again by another; a webhook's `webhook-id` is then the same. No run waits for
    it, and no run fails by it.
    """

    def __init__(
        self,
        database: Database,
        receivers: Mapping[str, Notifier[ApprovalNotice]],
        *,
        inbox: str | None = None,
        arguments: bool = False,
        kinds: Sequence[NoticeKind] = KINDS,
    ) -> None:
        """Tell these.

        Args:
            database: whose requests.
            receivers: whom, each by a name that is the same for every worker.
            inbox: where the inbox is, for links; without it there are none.
            arguments: tell the arguments of calls, too; they leave the database by it.
            kinds: of what.
        """
        self._database = database
        self._inbox = inbox.rstrip("/") if inbox else None
        self._arguments = arguments
        self._kinds = tuple(kinds)
        self._couriers = {
            name: Courier[_Parcel]([_Receipt(database, notifier)]) for name, notifier in receivers.items()
        }

    @classmethod
    def from_environment(cls, database: Database) -> Announcer | None:
        """As the environment says; None if it names nobody.

        `HOLDFAST_WEBHOOK_URL` with `HOLDFAST_WEBHOOK_SECRET`, and `HOLDFAST_NOTIFY`, addresses of apprise with spaces
        between; `HOLDFAST_INBOX_URL`, where the inbox is; `HOLDFAST_NOTIFY_ARGUMENTS=yes` to tell arguments, too.

        Raises:
            InvalidWebhook, InvalidNotifier: an address or a secret cannot be used.
            MissingExtra: the packages are not installed.
        """
        receivers: dict[str, Notifier[ApprovalNotice]] = {}
        if url := os.environ.get("HOLDFAST_WEBHOOK_URL"):
            receivers["webhook"] = Webhook(url, os.environ.get("HOLDFAST_WEBHOOK_SECRET", "").split())
        if addresses := os.environ.get("HOLDFAST_NOTIFY", "").split():
            receivers["notify"] = AppriseNotifier(addresses)
        if not receivers:
            return None
        wanted = os.environ.get("HOLDFAST_NOTIFY_ARGUMENTS", "").lower() in ("1", "yes", "true")
        return cls(database, receivers, inbox=os.environ.get("HOLDFAST_INBOX_URL"), arguments=wanted)

    @property
    def receivers(self) -> tuple[str, ...]:
        """Whom it tells."""
        return tuple(self._couriers)

    async def announce(self) -> int:
        """Hand out what is due; how many notices that were. It does not wait until they are told: `flush` does."""
        # Nothing more for one that is slow: what it has not come to is for other workers.
        idle = [name for name, courier in self._couriers.items() if courier.idle]
        due = await self._database.notices.aclaim(idle, kinds=self._kinds) if idle else []
        for one in due:
            with suppress(UnknownRequest):  # its thread was removed this very moment
                self._couriers[one.receiver].carry(_Parcel(one, await self._notice(one)))
        return len(due)

    async def run(self, *, poll: float = POLL) -> None:
        """`announce` every few seconds until it is cancelled; a database that goes away is waited for.

        Raises:
            DatabaseClosed: the database was closed.
        """
        while True:
            try:
                await self.announce()
            except DatabaseClosed:
                raise
            except DatabaseUnavailable as error:
                _log.warning("requests for approval cannot be told of: %s", error)
            await asyncio.sleep(poll)

    def flush(self, timeout: float) -> bool:
        """Wait, so many seconds at most for each receiver, until all that was handed out was told or put off."""
        done = [courier.flush(timeout) for courier in self._couriers.values()]
        return all(done)

    async def _notice(self, due: Due) -> ApprovalNotice:
        request = await self._database.approvals.aget(due.request_id)
        link = f"{self._inbox}/requests/{request.request_id}" if self._inbox else None
        return ApprovalNotice(
            request=request, change=due.kind, at=due.at, number=due.number, link=link, arguments=self._arguments
        )


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A notice on its way, with its place in the database."""

    due: Due
    notice: ApprovalNotice

    def __str__(self) -> str:
        return self.notice.title


class _Receipt:
    """Tells a notifier, and writes down whether it took it."""

    def __init__(self, database: Database, notifier: Notifier[ApprovalNotice]) -> None:
        self._notices = database.notices
        self._notifier = notifier

    def __call__(self, parcel: _Parcel, /) -> None:
        due = parcel.due
        if not self._notices.begin(due):
            return
        try:
            self._notifier(parcel.notice)
        except Exception as error:
            # Our own errors are known to hold no address; another's text and traceback may.
            why = f"{type(error).__name__}: {error}" if isinstance(error, HoldfastError) else type(error).__name__
            self._failed(due, why)
        else:
            self._notices.told(due)

    def _failed(self, due: Due, why: str) -> None:
        if due.tries >= MOST:
            _log.error("%r was not told of request %s (%s), and is not tried again", due.receiver, due.request_id, why)
            self._notices.give_up(due, why)
            return
        pause = min(FIRST * 2 ** (due.tries - 1), LONGEST)
        said = "%r was not told of request %s (%s); again in %d s"
        _log.warning(said, due.receiver, due.request_id, why, pause.total_seconds())
        self._notices.later(due, pause)


def required(database: Database) -> Announcer:
    """The environment's announcer.

    Raises:
        NothingToTell: it names nobody.
    """
    if (announcer := Announcer.from_environment(database)) is None:
        raise NothingToTell
    return announcer
