"""How an inbox is run: who is believed, what is signed with which secret, how much is taken."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from holdfast.checkpointing import Audience, HoldfastError
from holdfast.checkpointing.embedded import home

SECRET: Final = "HOLDFAST_INBOX_SECRET"  # noqa: S105 - the name of a variable
_SHORTEST: Final = 32
_PRIVATE: Final = 0o077
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class InvalidInbox(HoldfastError):
    """The inbox is set up in a way that cannot work, or that would let anybody in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """How an inbox is run."""

    secret: str = field(repr=False)
    """What login tokens and sessions are signed with: 32 characters of chance or more."""
    trust_header: str | None = None
    """The header in which a reverse proxy says who is asking; believed from `trusted_proxies` only."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks, such as 127.0.0.1 or 10.0.0.0/8."""
    operators: tuple[str, ...] = ()
    """Who may look as an operator; `*` is everybody who is signed in."""
    auditors: tuple[str, ...] = ()
    """Who may look as an auditor, and as an operator."""
    session: timedelta = timedelta(hours=12)
    """How long a session lasts."""
    logins_a_minute: int = 10
    """From one address."""
    decisions_a_minute: int = 120
    """Of one person; one that is refused counts, too."""
    streams: int = 500
    """Pages that are kept up to date at once."""

    def __post_init__(self) -> None:
        if len(self.secret) < _SHORTEST:
            raise InvalidInbox(
                f"the inbox's secret is shorter than {_SHORTEST} characters: set {SECRET} to a longer one"
            )
        if self.trust_header is not None and not re.fullmatch(r"[A-Za-z0-9-]{1,100}", self.trust_header):
            raise InvalidInbox(f"{self.trust_header[:60]!r} is no name of a header: letters, digits and - only")
        if (self.trust_header is None) is not (not self.trusted_proxies):
            raise InvalidInbox("a header is believed from a proxy's address only: name both, the header and the proxy")
        self.networks()

    def networks(self) -> tuple[Network, ...]:
        """The trusted proxies' networks."""
        try:
            return tuple(ipaddress.ip_network(proxy) for proxy in self.trusted_proxies)
        except ValueError as error:
            raise InvalidInbox(f"no address of a proxy: {error}; give one such as 127.0.0.1 or 10.0.0.0/8") from None

    def audiences(self, name: str) -> tuple[Audience, ...]:
        """As whom a person may look at what happened."""
        auditor = name in self.auditors or "*" in self.auditors
        operator = auditor or name in self.operators or "*" in self.operators
        return (
            Audience.USER,
            *((Audience.OPERATOR,) if operator else ()),
            *((Audience.AUDITOR,) if auditor else ()),
        )


def from_environment(
    *,
    trust_header: str | None = None,
    trusted_proxies: tuple[str, ...] = (),
    environment: Mapping[str, str] = os.environ,
) -> InboxSettings:
    """The settings that the `HOLDFAST_INBOX_…` variables make; what is given goes first.

    Raises:
        InvalidInbox: they cannot work, or the secret's file is open to others.
    """
    return InboxSettings(
        secret=environment.get(SECRET) or kept_secret(),
        trust_header=trust_header or environment.get("HOLDFAST_INBOX_TRUST_HEADER") or None,
        trusted_proxies=trusted_proxies or _names(environment.get("HOLDFAST_INBOX_TRUSTED_PROXY")),
        operators=_names(environment.get("HOLDFAST_INBOX_OPERATORS")),
        auditors=_names(environment.get("HOLDFAST_INBOX_AUDITORS")),
    )


def kept_secret(file: Path | None = None) -> str:
    """The secret of this machine's user, made at first use; several processes may ask at once.

    Raises:
        InvalidInbox: the file cannot be read or made, or others can read it.
    """
    file = file or home() / "inbox-secret"
    try:
        if not file.exists():
            _make(file)
        if os.name == "posix" and file.stat().st_mode & _PRIVATE:
            raise InvalidInbox(f"others can read {str(file)!r}: `chmod 600` it, or remove it to have a new one made")
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInbox(f"the inbox's secret cannot be kept in {str(file)!r}: {error}; set {SECRET}") from error


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=file.parent, prefix=".inbox-")  # its mode is 0600
    try:
        with os.fdopen(number, "w", encoding="ascii") as opened:
            opened.write(secrets.token_urlsafe(48) + "\n")
        # A link, not a rename: who comes second must not replace what the first one signs with already.
        os.link(name, file)
    except FileExistsError:
        pass
    finally:
        os.unlink(name)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))
