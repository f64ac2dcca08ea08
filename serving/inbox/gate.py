"""Who is asking, and whether a form is theirs: nothing is changed for anybody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .sessions import Session, Signatures, Used, is_name
from .settings import InboxSettings

COOKIE: Final = "holdfast_inbox"
FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of a field
_BODY: Final = 2_000_000
_FIELDS: Final = 2_000
_PATH: Final = 2_000


class Refused(Exception):
    """A request that is not answered as it was meant; shown as a page."""

    def __init__(self, status: int, title: str, text: str, headers: dict[str, str] | None = None) -> None:
        self.status: Final = status
        self.title: Final = title
        self.text: Final = text
        self.headers: Final = headers or {}
        super().__init__(title)


@dataclass(frozen=True, slots=True)
class Form:
    """What a form sent."""

    fields: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in reversed(self.fields) if key == name), "")

    def all(self, name: str) -> list[str]:
        """Every value of a name, once each."""
        return list(dict.fromkeys(value for key, value in self.fields if key == name))

    def values(self) -> dict[str, str]:
        """The last value of each name."""
        return dict(self.fields)


class Gate:
    """Knows people by their session's cookie or by what a trusted proxy says."""

    def __init__(self, settings: InboxSettings, now: Callable[[], datetime]) -> None:
        self.settings = settings
        self.now = now
        self.signatures = Signatures(settings.secret)
        self.used = Used()
        """Marks of forms that were sent."""
        self.ended = Used()
        """Sessions that were signed out of."""
        self._networks = settings.networks()
        self._limits = {
            "login": RateLimitItemPerMinute(settings.logins_a_minute),
            "decision": RateLimitItemPerMinute(settings.decisions_a_minute),
        }
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def visitor(self, request: Request) -> Session | None:
        """Who is asking; None, if nobody says so whom we believe."""
        known = self.signatures.session(request.cookies.get(COOKIE, ""), self.now())
        if known is not None and known.session_id in self.ended:
            known = None
        name = self._named_by_proxy(request)
        if name is None:
            # A session that a proxy began is worth nothing beside the proxy.
            return known if known is not None and known.by == "token" else None
        if known is not None and known.by == "proxy" and known.name == name:
            return known
        return self.signatures.begin(name, self.now() + self.settings.session, "proxy")

    def log_in(self, token: str) -> Session:
        """The session that a login token begins.

        Raises:
            InvalidToken: it is none, or has expired.
        """
        return self.signatures.logged_in(token.strip(), self.now(), self.settings.session)

    def keep(self, request: Request, response: Response, session: Session) -> None:
        """Have the browser keep the session, if it does not already."""
        if self.signatures.session(request.cookies.get(COOKIE, ""), self.now()) == session:
            return
        response.set_cookie(
            COOKIE,
            self.signatures.cookie(session),
            max_age=max(0, int((session.expires_at - self.now()).total_seconds())),
            path=base(request) or "/",
            httponly=True,
            samesite="lax",
            secure=self._is_secure(request),
        )

    def forget(self, request: Request, response: Response, session: Session) -> None:
        """Sign out: the cookie goes, and is worth nothing if somebody kept it."""
        self.ended.take(session.session_id)
        response.delete_cookie(COOKIE, path=base(request) or "/", httponly=True, samesite="lax")

    def check_site(self, request: Request) -> None:
        """See that a form was sent by a page of ours.

        Raises:
            Refused: it came from another site, or the browser does not say from where.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            ours = site == "same-origin"
        else:  # sent over plain HTTP by a browser that is not on this machine
            ours = origin is not None and urlsplit(origin).netloc.lower() == self._host(request)
        if not ours:
            raise Refused(
                403, "From another site", "This form was not sent by a page of this inbox; nothing was changed."
            )

    def check_form(self, request: Request, form: Form, session: Session) -> None:
        """See that a form was sent by a page of ours that was made in this session.

        Raises:
            Refused: it was not.
        """
        self.check_site(request)
        if not self.signatures.is_form_token(session, form[FORM_TOKEN]):
            text = "The page is of another session, or none of ours; open it again. Nothing was changed."
            raise Refused(403, "An old page", text)

    def check_rate(self, what: Literal["login", "decision"], who: str, times: int = 1) -> None:
        """See that nobody does too much in a minute.

        Raises:
            Refused: they do.
        """
        limit = self._limits[what]
        # At once: what is refused takes nothing from what is left.
        if times and not self._limiter.hit(limit, what, who, cost=times):
            text = f"No more than {limit.amount} in a minute; wait a moment. Nothing was changed."
            raise Refused(429, "Too many at once", text, {"retry-after": "60"})

    def address(self, request: Request) -> str:
        """Where a request comes from: behind a trusted proxy, what that says."""
        forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        host = request.client.host if request.client else "?"
        return forwarded[:60] if forwarded and self._is_proxy(request) else host

    def _named_by_proxy(self, request: Request) -> str | None:
        if self.settings.trust_header is None or not self._is_proxy(request):
            return None
        given = request.headers.getlist(self.settings.trust_header)
        if len(given) != 1:  # twice: one of them is not the proxy's
            return None
        try:
            name = given[0].encode("latin-1").decode("utf-8").strip()
        except UnicodeError:
            return None
        return name if is_name(name) else None

    def _is_proxy(self, request: Request) -> bool:
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)

    def _is_secure(self, request: Request) -> bool:
        said = request.headers.get("x-forwarded-proto", "") if self._is_proxy(request) else ""
        return "https" in (request.url.scheme, said.strip().lower())

    def _host(self, request: Request) -> str:
        said = request.headers.get("x-forwarded-host", "") if self._is_proxy(request) else ""
        return (said or request.headers.get("host", "")).strip().lower()


def base(request: Request) -> str:
    """The path under which the inbox is mounted, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def own_path(text: str) -> str:
    """A path of ours to go on to, whatever was asked for: no other site can be named by it.

    >>> own_path("/requests/apr-1?x=2"), own_path("//evil.example"), own_path("https://evil.example")
    ('/requests/apr-1?x=2', '/', '/')
    """
    printable = text.isascii() and text.isprintable() and not set(text) & set('\\ "<>')
    plain = printable and len(text) <= _PATH and text.startswith("/") and not text.startswith("//")
    return text if plain and "//" not in urlsplit(text).path else "/"


async def read_form(request: Request) -> Form:
    """What a form sent, of a bounded size.

    Raises:
        Refused: it is too large, or no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Refused(415, "Not a form", "Only forms of this inbox are taken here. Nothing was changed.")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > _BODY:
                raise Refused(413, "Too large", "What was sent is too large for this page. Nothing was changed.")
    except ClientDisconnect:
        raise Refused(400, "Not complete", "The connection ended before all was sent. Nothing was changed.") from None
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise Refused(400, "Not a form", "What was sent cannot be read. Nothing was changed.") from None
    return Form(tuple(pairs))
