"""How messages leave: by SMTP where the environment names a server, else into the outbox."""

from __future__ import annotations

import os

from holdfast.nodes import SmtpServer


def smtp_from_environment() -> SmtpServer | None:
    """The server of `HOLDFAST_SMTP_URL`; None without it.

    Raises:
        InvalidBrief: the URL cannot be used.
    """
    url = os.environ.get("HOLDFAST_SMTP_URL")
    return SmtpServer.from_url(url) if url else None
