"""Templates and static files, read once: an event loop never waits for the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .gate import FORM_TOKEN, Gate, base
from .sessions import Session
from .showing import FILTERS
from .views import people

_HERE: Final = Path(__file__).parent
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: with that a browser says `Origin: null` of our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that goes out as it is."""

    body: bytes
    media_type: str
    version: str
    """Of its contents: where it is in the address, the file may be kept for ever."""


@cache
def static_files() -> Mapping[str, StaticFile]:
    """The package's static files by name."""
    found: dict[str, StaticFile] = {}
    for file in sorted((_HERE / "static").iterdir()):
        if file.suffix in _TYPES:
            body = file.read_bytes()
            found[file.name] = StaticFile(body, _TYPES[file.suffix], hashlib.sha256(body).hexdigest()[:16])
    return found


@cache
def _environment() -> Environment:
    sources = {file.name: file.read_text(encoding="utf-8") for file in (_HERE / "templates").glob("*.html")}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update({**FILTERS, "people": people})
    for name in sources:
        environment.get_template(name)
    return environment


def prepare() -> None:
    """Read what there is to read from the disk."""
    static_files()
    _environment()


class Pages:
    """Renders templates for whoever asks."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        prepare()

    def render(
        self, request: Request, name: str, session: Session | None, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A page, or a part of one; the browser keeps the session with it."""
        path = base(request)
        text = (
            _environment()
            .get_template(name)
            .render(
                base=path,
                static={file: f"{path}/static/{file}?v={known.version}" for file, known in static_files().items()},
                form_token_name=FORM_TOKEN,
                me=session,
                form_token=self._gate.signatures.form_token(session) if session else "",
                now=self._gate.now(),
                here=request.url.path.removeprefix(path) + (f"?{request.url.query}" if request.url.query else ""),
                **values,
            )
        )
        response = HTMLResponse(text, status, {"cache-control": "no-store", "vary": "Cookie, HX-Request"})
        if session is not None:
            self._gate.keep(request, response, session)
        return response


def static_response(name: str, version: str | None) -> Response | None:
    """A static file; None, if there is none of that name."""
    known = static_files().get(name)
    if known is None:
        return None
    kept = "public, max-age=31536000, immutable" if version == known.version else "no-cache"
    return Response(known.body, media_type=known.media_type, headers={"cache-control": kept})


class SecurityHeaders:
    """Sets the headers of every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message.get("headers", [])}
                extra = [(name.encode(), text.encode()) for name, text in HEADERS.items() if name.encode() not in known]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
