"""The inbox as a server of its own."""

from __future__ import annotations

import socket
from types import FrameType

import click
import uvicorn

from holdfast.checkpointing import Database

from .application import create_app
from .settings import InboxSettings, InvalidInbox
from .wiring import Inbox


class _Server(uvicorn.Server):
    """Ends the streams of open pages as soon as it is to stop: they have no end of their own."""

    def __init__(self, config: uvicorn.Config, inbox: Inbox) -> None:
        super().__init__(config)
        self._inbox = inbox

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._inbox.stop()
        super().handle_exit(sig, frame)


def serve(settings: InboxSettings, host: str, port: int) -> None:
    """Serve until a signal comes.

    Raises:
        InvalidInbox: nobody can listen there.
        DatabaseUnavailable, SchemaDiffers, …: see `Database`.
    """
    with Database.connect() as database:
        app = create_app(database, settings)
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            # Whose address a request comes from is for us to judge, by the proxies that are trusted here.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=5,
            lifespan="off",
        )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((host, port))
            except OSError as error:
                raise InvalidInbox(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
            shown = f"[{host}]" if ":" in host else host
            click.echo(f"the inbox is at http://{shown}:{listening.getsockname()[1]}/", err=True)
            click.echo("`holdfast inbox token NAME` makes a link to sign in with; Ctrl-C stops", err=True)
            inbox: Inbox = app.state.inbox
            _Server(config, inbox).run(sockets=[listening])
