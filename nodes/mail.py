"""Messages as RFC 5322 has them, and the two ways out: a folder, or SMTP."""

from __future__ import annotations

import hashlib
import os
import smtplib
import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime
from email.errors import HeaderParseError, MessageError
from email.headerregistry import AddressHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .contracts import Email
from .errors import DeliveryFailed, InvalidBrief

TIMEOUT: Final = 30.0
LINE_LIMIT: Final = 998
"""Bytes in a line, RFC 5322 section 2.1.1."""


def address_problem(text: str) -> str | None:
    """Why a text is not exactly one e-mail address, or None when it is.

    >>> address_problem("Ada <ada@example.com>") is None
    True
    >>> address_problem("ada at example")
    "'ada at example' lacks an @"
    """
    if any(ord(character) < 32 for character in text):  # noqa: PLR2004 - the first printable character
        return f"{text!r} holds control characters"
    if "@" not in text:
        return f"{text!r} lacks an @"
    try:
        header = HeaderRegistry()("To", text)
    except (HeaderParseError, MessageError, ValueError, IndexError) as error:
        return f"{text!r} cannot be parsed: {error}"
    if not isinstance(header, AddressHeader) or len(header.addresses) != 1 or header.defects:
        return f"{text!r} is not exactly one address"
    address = header.addresses[0]
    return None if address.username and "." in f"{address.domain}." and address.domain else f"{text!r} is incomplete"


def compose(email: Email, *, thread_id: str, at: datetime, readable: bool = False) -> EmailMessage:
    """The message, the same bytes for the same input: a repeated send is recognisable as one.

    Args:
        email: what to send.
        thread_id: goes into a header, and with the content into the Message-ID.
        at: when it was approved; the message's date.
        readable: keep the body as it is (8bit, RFC 6152) where its lines allow that, for reading and
            searching the file; not every SMTP server takes it.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = email["sender"]
    if to := email.get("to"):
        message["To"] = to
    message["Subject"] = email["subject"]
    message["Date"] = format_datetime(at)
    content = "\x00".join((thread_id, email.get("to", ""), email["subject"], email["body"]))
    message["Message-ID"] = f"<{hashlib.sha256(content.encode()).hexdigest()[:32]}@holdfast.invalid>"
    message["X-Holdfast-Thread"] = thread_id.encode("ascii", "backslashreplace").decode()
    message["X-Holdfast-Model"] = email["drafted_by"].encode("ascii", "backslashreplace").decode()
    fits = max(map(len, email["body"].encode().splitlines()), default=0) <= LINE_LIMIT
    message.set_content(email["body"], cte="8bit" if readable and fits else "quoted-printable")
    return message


def write_eml(message: EmailMessage, outbox: Path) -> Path:
    """Put the message into a folder as one `.eml` file, whole or not at all; twice is the same as once.

    Raises:
        DeliveryFailed: the folder cannot be written.
    """
    name = str(message["Message-ID"]).strip("<>").partition("@")[0]
    target = outbox / f"{name}.eml"
    try:
        outbox.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return target
        with tempfile.NamedTemporaryFile(dir=outbox, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                file.write(message.as_bytes())
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(target)
    except OSError as error:
        raise DeliveryFailed(f"cannot write into the outbox {outbox}: {error.strerror or error}") from error
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """Where to deliver. `repr` leaves the password out."""

    host: str
    port: int
    tls: bool
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"SmtpServer(host={self.host!r}, port={self.port}, tls={self.tls}, username={self.username!r})"

    @classmethod
    def from_url(cls, url: str) -> SmtpServer:
        """`smtp://user:password@host:587` (STARTTLS where offered) or `smtps://…` (TLS from the start).

        Raises:
            InvalidBrief: the URL is not of that form. The text does not repeat it: it holds a password.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in {"smtp", "smtps"} or not host:
            raise InvalidBrief("HOLDFAST_SMTP_URL is not of the form smtp://user:password@host:port (or smtps://)")
        tls = parts.scheme == "smtps"
        return cls(
            host=host,
            port=port or (465 if tls else 587),
            tls=tls,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    def deliver(self, message: EmailMessage) -> None:
        """Hand the message to the server.

        Raises:
            DeliveryFailed: it was not accepted, or nobody knows whether it was.
        """
        try:
            with self._session() as session:
                if self.username:
                    session.login(self.username, self.password)
                session.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            kind = type(error).__name__
            raise DeliveryFailed(f"{self.host}:{self.port} did not take the message: {kind}: {error}") from error

    def _session(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self.tls:
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT, context=context)
        session = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT)
        session.ehlo()
        if session.has_extn("starttls"):
            session.starttls(context=context)
        elif self.username:
            session.close()
            raise smtplib.SMTPException("the server offers no encryption, and a password would be sent in the clear")
        return session
