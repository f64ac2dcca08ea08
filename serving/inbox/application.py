"""The inbox as an ASGI application: routes, what every answer carries, and errors as pages."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.checkpointing import Database, HoldfastError

from .deciding import Deciding
from .gate import Refused
from .reading import Reading
from .rendering import SecurityHeaders
from .settings import InboxSettings, InvalidInbox, from_environment
from .wiring import Inbox, NotSignedIn

_log = logging.getLogger(__name__)
_INTERNAL: Final = 500


def create_app(
    database: Database | Callable[[], Database] | None = None, settings: InboxSettings | None = None
) -> Starlette:
    """The inbox, at the root of what it is mounted as.

    Args:
        database: an open one, or what opens one when the first page is asked for; else the process's shared one.
        settings: how it is run; else as the `HOLDFAST_INBOX_…` variables say.
    """
    opened = database
    opening = (lambda: opened) if isinstance(opened, Database) else (opened or Database.shared)
    return _application(Inbox(opening, settings or from_environment()))


def mounted_path() -> str:
    """Where the inbox lies in a server that has other pages, too: `/inbox`, or what `HOLDFAST_INBOX_PATH` says.

    Raises:
        InvalidInbox: that is no path.
    """
    path = os.environ.get("HOLDFAST_INBOX_PATH") or "/inbox"
    if not re.fullmatch(r"(/[A-Za-z0-9_-]+)+", path):
        raise InvalidInbox(f"HOLDFAST_INBOX_PATH={path[:80]!r} is no path: letters, digits, _ - and /, as in /inbox")
    return path


def mounted() -> Starlette:
    """The inbox for a LangGraph server's `http.app`, below a path of its own: the server has `/threads`, too.

    Raises:
        InvalidInbox: the settings cannot work.
    """
    return Starlette(routes=[Mount(mounted_path(), create_app())])


def _application(inbox: Inbox) -> Starlette:
    read, change = Reading(inbox), Deciding(inbox)
    one = "/requests/{request_id:str}"

    def get(path: str, endpoint: Callable[[Request], object]) -> Route:
        return Route(path, endpoint, methods=["GET"], include_in_schema=False)

    def post(path: str, endpoint: Callable[[Request], object]) -> Route:
        return Route(path, endpoint, methods=["POST"], include_in_schema=False)

    app = Starlette(
        routes=[
            get("/", read.listing),
            get("/rows", read.list_part),
            get("/events", read.events),
            get("/trail", read.trail),
            get("/thread", read.thread),
            get("/login", change.login_page),
            post("/login", change.login),
            post("/logout", change.logout),
            post("/decide", change.bulk),
            get(one, read.one),
            get(f"{one}/standing", read.standing_part),
            get(f"{one}/arguments", read.arguments),
            get(f"{one}/edit", change.edit_page),
            post(f"{one}/edit", change.edit),
            post(f"{one}/decide", change.decide),
            get(f"{one}/previous", read.previous),
            get(f"{one}/next", read.next),
            get("/static/{name:str}", read.static),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(_Errors, inbox=inbox)],
    )
    app.state.inbox = inbox
    # Not Starlette's own pages, which say little to people and would be sent without our headers.
    for kind in (HTTPException, Refused):
        app.add_exception_handler(kind, _raise)
    return app


def _raise(_: Request, error: Exception) -> Response:
    raise error


class _Errors:
    """Makes a page of every error; what is not ours to explain is in the log, under the number on the page."""

    def __init__(self, app: ASGIApp, inbox: Inbox) -> None:
        self.app = app
        self.inbox = inbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if started:
                raise
            response = self._page(Request(scope, receive), error)
            await response(scope, receive, send)

    def _page(self, request: Request, error: Exception) -> HTMLResponse:
        if isinstance(error, NotSignedIn) and request.method == "GET":
            # The form in place of the page, so that signing in leads to it.
            onward = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
            onward += f"?{request.url.query}" if request.url.query else ""
            return self.inbox.pages.render(request, "login.html", None, 401, onward=onward, problem="")
        status, title, text, headers = _explained(error)
        response = self.inbox.pages.render(request, "error.html", None, status, title=title, text=text)
        response.headers.update(headers)
        return response


def _explained(error: Exception) -> tuple[int, str, str, dict[str, str]]:
    if isinstance(error, Refused):
        return error.status, error.title, error.text, error.headers
    if isinstance(error, HTTPException):
        text = {404: "There is no such page.", 405: "This page cannot be asked for in that way."}
        return error.status_code, "Nothing here", text.get(error.status_code, "This cannot be answered."), {}
    number = secrets.token_hex(4)
    _log.error("the inbox failed (%s)", number, exc_info=error)
    if isinstance(error, HoldfastError):
        return 503, "Not available", f"The database cannot be asked at the moment. It is in the log as {number}.", {}
    return _INTERNAL, "Something is broken", f"This is our mistake. It is in the log as {number}.", {}
