"""Messages as RFC 5322 has them, and the two ways out: a folder, or SMTP."""

from __future__ import annotations

import hashlib
import json
import os
import smtplib
import ssl
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from .contracts import Email
from .errors import DeliveryFailed, InvalidBrief
from .headers import address_problem, header_problem

TIMEOUT: Final = 30.0
LINE_LIMIT: Final = 998
"""Bytes in a line, RFC 5322 section 2.1.1."""


def compose(email: Email, *, thread_id: str, at: datetime, readable: bool = False) -> EmailMessage:
    """The message, the same bytes for the same input: a repeated send is recognisable as one.

    Args:
        email: what to send.
        thread_id: goes into a header, and with the content into the Message-ID.
        at: when it was approved; the message's date.
        readable: keep the body as it is (8bit, RFC 6152) where its lines allow that, for reading and
            searching the file; not every SMTP server takes it.

    Raises:
        InvalidBrief: an address or the subject cannot stand in a header.
    """
    for name in ("sender", "to"):
        if (address := email.get(name)) is not None and (problem := address_problem(str(address))):
            raise InvalidBrief(f"{name!r} is not an e-mail address: {problem}")
    if problem := header_problem(email["subject"]):
        raise InvalidBrief(f"the subject {problem}")
    message = EmailMessage(policy=SMTP)
    message["From"] = email["sender"]
    if to := email.get("to"):
        message["To"] = to
    message["Subject"] = email["subject"]
    message["Date"] = format_datetime(at)
    content = json.dumps([thread_id, email.get("to", ""), email["subject"], email["body"]])
    message["Message-ID"] = f"<{hashlib.sha256(content.encode()).hexdigest()[:32]}@holdfast.invalid>"
    message["X-Holdfast-Thread"] = quote(thread_id, safe=" ,:;@+/")[: LINE_LIMIT // 2]
    message["X-Holdfast-Model"] = quote(email["drafted_by"], safe=" ,:;@+/")[: LINE_LIMIT // 2]
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
            usable = parts.scheme in {"smtp", "smtps"} and parts.hostname and parts.port != 0
        except ValueError:
            parts, usable = urlsplit(""), None
        # An unescaped / or # in a password ends the host early, and the rest would be mail for somebody else.
        if not usable or parts.path.strip("/") or parts.query or parts.fragment:
            raise InvalidBrief(
                "HOLDFAST_SMTP_URL is not of the form smtp://user:password@host:port (or smtps://), "
                "with / # and ? in a password written as %2F %23 and %3F"
            )
        tls = parts.scheme == "smtps"
        return cls(
            host=str(parts.hostname),
            port=parts.port or (465 if tls else 587),
            tls=tls,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    def deliver(self, message: EmailMessage) -> None:
        """Hand the message to the server.

        Raises:
            DeliveryFailed: it was not accepted, or nobody knows whether it was.
        """
        sender, recipient = (message[name].addresses[0].addr_spec for name in ("From", "To"))
        try:
            session = self._session()
            try:
                if self.username:
                    session.login(self.username, self.password)
                # Not send_message: it would write a line "From me" as ">From me".
                session.sendmail(sender, [recipient], message.as_bytes())
            finally:
                # Once the message is taken, a server that says goodbye badly changes nothing about that.
                with suppress(smtplib.SMTPException, OSError):
                    session.quit()
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            kind = type(error).__name__
            raise DeliveryFailed(f"{self.host}:{self.port} did not take the message: {kind}: {error}") from error

    def _session(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self.tls:
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT, context=context)
        session = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT)
        try:
            session.ehlo()
            if session.has_extn("starttls"):
                session.starttls(context=context)
            elif self.username:
                raise smtplib.SMTPException("no encryption is offered, and a password would go in the clear")
        except BaseException:
            session.close()
            raise
        return session
