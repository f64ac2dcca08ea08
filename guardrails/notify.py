"""Who is told of alerts and of approvals: the log, and whatever service takes messages."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

from typing_extensions import TypeVar

from ..checkpointing.errors import HoldfastError, MissingExtra
from .alerts import BudgetAlert

_FOREIGN: Final = (
    "apprise", "urllib3.connectionpool", "urllib3.util.retry", "requests_oauthlib", "oauthlib", "httpx", "httpcore",
    "httpcore.connection", "httpcore.http11", "httpcore.proxy",
)  # fmt: skip
_delivering: ContextVar[bool] = ContextVar("holdfast_delivering", default=False)


class Message(Protocol):
    """Something that people are to be told; its `str` is the text."""

    @property
    def title(self) -> str:
        """A few words."""
        ...

    @property
    def kind(self) -> str:
        """What happened, as `budget.alerted` or `approval.requested`; the logger is named by what is before the dot."""
        ...

    @property
    def at(self) -> datetime:
        """When, in UTC."""
        ...

    @property
    def identity(self) -> str:
        """The same for the same event, however often it is sent."""
        ...

    @property
    def urgent(self) -> bool:
        """Whether somebody has to do something."""
        ...

    def details(self) -> dict[str, Any]:
        """As JSON."""
        ...


M_contra = TypeVar("M_contra", bound=Message, contravariant=True, default=BudgetAlert)


class Notifier(Protocol[M_contra]):
    """Takes an alert, or another message, somewhere; may block, and may fail, which harms nobody else."""

    def __call__(self, alert: M_contra, /) -> None: ...


class InvalidNotifier(HoldfastError):
    """An address for alerts is missing, or none that `apprise` knows. It is not shown: it may hold a secret."""

    def __init__(self, number: int, of: int) -> None:
        super().__init__(
            "no address for alerts was given; see https://appriseit.com for what they look like"
            if not of
            else f"address {number} of {of} for alerts is none that apprise knows (it is not shown, as it may hold a "
            "secret); see https://appriseit.com for what they look like, and that the service's own packages are there"
        )


class NotDelivered(HoldfastError):
    """A service did not take an alert."""


class LogNotifier:
    """A line on the logger `holdfast.budget` or `holdfast.approval`, with the message's values as fields."""

    def __call__(self, alert: Message, /) -> None:
        topic = alert.kind.partition(".")[0]
        fields = {f"{topic}_{name}": value for name, value in alert.details().items()}
        level = logging.WARNING if alert.urgent else logging.INFO
        logging.getLogger(f"holdfast.{topic}").log(level, "%s", alert, extra=fields)


class AppriseNotifier:
    """Tells the services behind `apprise` addresses: chat, mail, pagers, a webhook (`json://host/path`).

    The addresses hold secrets. They are not in its `repr`, in its errors, or in the log: while it works, what
    `apprise` and the HTTP client under it log in that thread is dropped.

    It blocks until every service has answered: `AlertDesk` calls it in a thread of its own.

    Args:
        urls: the addresses; see https://appriseit.com.

    Raises:
        MissingExtra: `apprise` is not installed.
        InvalidNotifier: an address is none, or there is no address.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        try:
            from apprise import Apprise
        except ImportError as error:
            raise MissingExtra("notify", "telling services of alerts", instead="use LogNotifier") from error
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise InvalidNotifier(0, 0)
        with quietly():
            self._services: list[Any] = [Apprise.instantiate(url) for url in given]
        for number, service in enumerate(self._services, 1):
            if service is None:
                raise InvalidNotifier(number, len(given))

    def __repr__(self) -> str:
        return f"AppriseNotifier({', '.join(map(_kind, self._services))})"

    def __call__(self, alert: Message, /) -> None:
        """Tell each service, the others as well if one fails.

        Raises:
            NotDelivered: some did not take it.
        """
        failed: list[str] = []
        for number, service in enumerate(self._services, 1):
            if (why := _told(service, alert)) is not None:
                failed.append(f"service {number} of {len(self._services)} ({_kind(service)}) {why}")
        if failed:
            raise NotDelivered("; ".join(failed))


def _told(service: Any, alert: Message) -> str | None:
    """Tell a service; what went wrong, without its address."""
    with quietly():
        try:
            tone = "warning" if alert.urgent else "info"
            taken = service.notify(title=alert.title, body=str(alert), notify_type=tone)
        except Exception as error:  # its text may hold the address
            return f"failed with {type(error).__name__}"
    return None if taken else "did not take the alert"


def _kind(service: Any) -> str:
    """The plugin's own name, `JSON` or `Slack`: nothing of the address."""
    return str(service.service_name)


@contextmanager
def quietly() -> Generator[None]:
    """Drop what foreign loggers say meanwhile, in this thread: it may hold an address."""
    for name in _FOREIGN:
        logger = logging.getLogger(name)
        if _not_while_delivering not in logger.filters:
            logger.addFilter(_not_while_delivering)
    token = _delivering.set(True)
    try:
        yield
    finally:
        _delivering.reset(token)


def _not_while_delivering(_: logging.LogRecord) -> bool:
    return not _delivering.get()
