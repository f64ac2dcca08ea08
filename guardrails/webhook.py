"""Messages to a program of yours: posted, signed as Standard Webhooks says, and tried again for a while."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ..checkpointing.errors import HoldfastError, MissingExtra
from .notify import Message, NotDelivered, quietly

if TYPE_CHECKING:
    import httpx

_PREFIX: Final = "whsec_"
_SHORTEST: Final = 24
_LONGEST: Final = 64
_GONE: Final = 410
_MOST: Final = 10
PAUSES: Final = (0.5, 2.0)
"""Seconds between attempts."""
TIMEOUT: Final = 10.0
"""Seconds for each of: to connect, to send, to be answered."""


class InvalidWebhook(HoldfastError, ValueError):
    """An address or a secret of a webhook that cannot be used. It is not shown: both may be secret."""


class Webhook:
    """Posts each message to an address, as JSON, signed so that the receiver knows who sent it.

    The format is Standard Webhooks 1.0 (https://www.standardwebhooks.com): `webhook-id` is the same for the same event,
    however often it is sent, so that a receiver can drop what it has; `webhook-timestamp` is the attempt's;
    `webhook-signature` is `v1,` and the HMAC-SHA256 of both and the body. Every library of that name verifies it:

        standardwebhooks.Webhook(secret).verify(body, headers)

    An answer of 2xx is a delivery. Anything else is tried again, but for 410: there the receiver wants no more. No
    redirect is followed. Neither the address nor the secret is in its `repr`, in its errors or in the log. It blocks
    while it tries: `AlertDesk` and `Announcer` call it in threads of their own.

    Args:
        url: `https://…`, or `http://…` for a receiver in your own network.
        secret: as the receiver has it, `whsec_` and 24 to 64 random bytes in base64; several, while one replaces
            another: each message is then signed with each of them.
        pauses: seconds between two attempts; so many attempts and one are made.
        timeout: seconds to connect, to send, and to be answered, each.

    Raises:
        MissingExtra: `httpx` or `standardwebhooks` is not installed.
        InvalidWebhook: the address or a secret cannot be used.
    """

    def __init__(
        self,
        url: str,
        secret: str | Sequence[str],
        *,
        pauses: Sequence[float] = PAUSES,
        timeout: float = TIMEOUT,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        try:
            import httpx
            from standardwebhooks import Webhook as Signer
        except ImportError as error:
            raise MissingExtra("notify", "telling a webhook", instead="use LogNotifier") from error
        secrets = [secret] if isinstance(secret, str) else list(secret)
        if not secrets:
            raise InvalidWebhook("a webhook needs a secret; make one with Webhook.new_secret()")
        if len(pauses) > _MOST:
            raise InvalidWebhook(f"a webhook tries again {_MOST} times at the most, not {len(pauses)}")
        self._url = _checked(url)
        self._signers = [Signer(_key(one, number, len(secrets))) for number, one in enumerate(secrets, 1)]
        self._pauses = tuple(pauses)
        self._wait = wait
        self._clock = clock
        self._client: Callable[[], httpx.Client] = lambda: httpx.Client(timeout=timeout, follow_redirects=False)

    @staticmethod
    def new_secret() -> str:
        """A secret to share with the receiver.

        >>> Webhook.new_secret()[:6]
        'whsec_'
        """
        import secrets

        return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()

    def __repr__(self) -> str:
        return f"Webhook({len(self._signers)} secrets)" if len(self._signers) > 1 else "Webhook()"

    def __call__(self, alert: Message, /) -> None:
        """Post a message, until it was taken or no attempt is left.

        Raises:
            NotDelivered: it was not.
        """
        body = payload(alert)
        number = f"msg_{hashlib.sha256(alert.identity.encode('utf-8', 'replace')).hexdigest()[:32]}"
        with quietly(), self._client() as client:
            why, again = self._sent(client, number, body)
            for pause in self._pauses:
                if not again:
                    break
                self._wait(pause)
                why, again = self._sent(client, number, body)
        if why is not None:
            raise NotDelivered(f"the webhook's receiver {why}")

    def _sent(self, client: httpx.Client, number: str, body: bytes) -> tuple[str | None, bool]:
        """One attempt: what went wrong, without the address, and whether another makes sense."""
        import httpx

        now = self._clock().astimezone(UTC)
        signed = " ".join(signer.sign(number, now, body.decode()) for signer in self._signers)
        headers = {
            "content-type": "application/json",
            "user-agent": "holdfast",
            "webhook-id": number,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signed,
        }
        try:
            # The body of an answer is not wanted, and may have any length.
            with client.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            return f"could not be reached ({type(error).__name__})", True
        if httpx.codes.is_success(status):
            return None, False
        return f"answered {status}", status != _GONE


def payload(message: Message) -> bytes:
    """The body: `type`, `timestamp` and `data`, as the format recommends."""
    body = {"type": message.kind, "timestamp": message.at.astimezone(UTC).isoformat(), "data": message.details()}
    return json.dumps(body, ensure_ascii=True, separators=(",", ":"), default=str).encode()


def _checked(url: str) -> str:
    import httpx

    try:
        usable = urlsplit(url).hostname and httpx.URL(url).scheme in ("http", "https")
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise InvalidWebhook("the address of the webhook must be https://host/path (it is not shown: it may be secret)")
    return url


def _key(secret: str, number: int, of: int) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        which = "the secret" if of == 1 else f"secret {number} of {of}"
        raise InvalidWebhook(
            f"{which} of the webhook must be {_PREFIX} and {_SHORTEST} to {_LONGEST} bytes in base64 (it is not "
            "shown); make one with Webhook.new_secret()"
        )
    return key
