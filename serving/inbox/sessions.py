"""What is signed: login tokens, sessions, and the one-time marks of forms. Nothing is read or written."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from itsdangerous import BadData, URLSafeSerializer

from holdfast.checkpointing import HoldfastError
from holdfast.checkpointing.requests import name_problem
from holdfast.checkpointing.visibility import is_mapping

_REMEMBERED: Final = 100_000
_LONGEST: Final = 8_192
By = Literal["token", "proxy"]


class InvalidToken(HoldfastError):
    """A login token is not one of ours, was changed, or has expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who is asking, and until when that is believed."""

    name: str
    session_id: str
    expires_at: datetime
    by: By
    """How it was found out who it is."""


def is_name(text: str) -> bool:
    """Whether a text can name a person who decides: no space around it, and what the record takes as a name."""
    return text == text.strip() and name_problem(text) is None


class Signatures:
    """Signs with one secret; what is signed for one purpose is worth nothing for another."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def login_token(self, name: str, expires_at: datetime) -> str:
        """A token with which `name` signs in until then, any number of times."""
        return self._dumps("login", {"n": name, "e": expires_at.timestamp(), "x": secrets.token_urlsafe(6)})

    def logged_in(self, token: str, now: datetime, lasting: timedelta) -> Session:
        """The session that a login token begins; it does not outlive the token.

        Raises:
            InvalidToken: it is none, or has expired.
        """
        given = self._loads("login", token)
        name, expiry = given.get("n"), _moment(given.get("e"))
        if not isinstance(name, str) or expiry is None or not is_name(name):
            raise InvalidToken("this is no login token of this inbox; `holdfast inbox token NAME` makes one")
        if expiry <= now:
            raise InvalidToken("this login token has expired; `holdfast inbox token NAME` makes a new one")
        return self.begin(name, min(expiry, now + lasting), "token")

    @staticmethod
    def begin(name: str, expires_at: datetime, by: By) -> Session:
        """A new session."""
        return Session(name=name, session_id=secrets.token_urlsafe(16), expires_at=expires_at, by=by)

    def cookie(self, session: Session) -> str:
        """A session as its cookie."""
        given = {"n": session.name, "s": session.session_id, "e": session.expires_at.timestamp(), "b": session.by}
        return self._dumps("session", given)

    def session(self, cookie: str, now: datetime) -> Session | None:
        """The session of a cookie; None, if it is not ours or is over."""
        given = self._loads("session", cookie)
        name, session_id, by, expiry = given.get("n"), given.get("s"), given.get("b"), _moment(given.get("e"))
        if not isinstance(name, str) or not isinstance(session_id, str) or by not in ("token", "proxy"):
            return None
        if expiry is None or expiry <= now:
            return None
        return Session(name=name, session_id=session_id, expires_at=expiry, by=by)

    def form_token(self, session: Session) -> str:
        """What every form of a session carries: another site cannot know it."""
        return hmac.digest(self._secret.encode(), f"form\0{session.session_id}".encode(), "sha256").hex()

    def is_form_token(self, session: Session, given: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode("utf-8", "replace"))

    def mark(self, session: Session, request_id: str, digest: str) -> str:
        """The mark of one form: good once, for one request with these very arguments."""
        given = {"s": session.session_id, "r": request_id, "d": digest, "x": secrets.token_urlsafe(12)}
        return self._dumps("form", given)

    def marked(self, session: Session, mark: str) -> tuple[str, str, str] | None:
        """Of a form's mark the request, its digest, and what makes it this one; None, if it is not of this session."""
        given = self._loads("form", mark)
        parts = tuple(given.get(key) for key in ("r", "d", "x"))
        if given.get("s") != session.session_id or not all(isinstance(part, str) for part in parts):
            return None
        request_id, digest, nonce = (str(part) for part in parts)
        return request_id, digest, nonce

    def _dumps(self, purpose: str, given: Mapping[str, Any]) -> str:
        return str(self._serializer(purpose).dumps(dict(given)))

    def _loads(self, purpose: str, text: str) -> Mapping[str, Any]:
        if len(text) > _LONGEST:
            return {}
        try:
            loaded: object = self._serializer(purpose).loads(text)
        except (BadData, ValueError, RecursionError):
            return {}
        return loaded if is_mapping(loaded) else {}

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        return URLSafeSerializer(self._secret, salt=f"holdfast.inbox.{purpose}", signer_kwargs=options)


class Used:
    """Remembers what may be used once; the oldest is forgotten first. Of this process: the record holds everywhere."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._limit = limit

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def take(self, key: str) -> bool:
        """Whether this is its first use."""
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return True


def _moment(value: object) -> datetime | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return None
