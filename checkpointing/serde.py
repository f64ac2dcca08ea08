"""The serializer: the official one, strict, and loud about what strictness keeps out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from .errors import HoldfastError, MissingExtra
from .integrity import Unsound, message_digest
from .revive import revive
from .visibility import Visibility

_refused: ContextVar[set[str] | None] = ContextVar("holdfast_refused_types", default=None)


class TypeNotAllowed(HoldfastError):
    """A checkpoint holds a value of a type that it may not bring back by naming it."""

    def __init__(self, types: Iterable[str]) -> None:
        self.types: Final = sorted(types)
        names = ", ".join(self.types)
        super().__init__(
            f"the state holds {names}: a type of yours is revived only where it is allowed, as in "
            f"Database(types=[{', '.join(name.rpartition('.')[2] for name in self.types)}]); nothing is lost"
        )


class StrictSerializer(JsonPlusSerializer):
    """`JsonPlusSerializer` that revives messages, LangGraph's own types, plain data and the types it is given.

    The official one is permissive by default (CVE-2026-28277), and where it is strict it hands a refused
    value on as plain data with one line in the log; this one raises `TypeNotAllowed`. No pickle.
    """

    def __init__(self, types: Iterable[type] = ()) -> None:
        super().__init__(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in types] or None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read a value back.

        Raises:
            TypeNotAllowed: it holds a type that is not allowed.
        """
        refused: set[str] = set()
        token = _refused.set(refused)
        try:
            value = super().loads_typed(data)
        finally:
            _refused.reset(token)
        if refused:
            raise TypeNotAllowed(refused)
        return value


class NotDecrypted(HoldfastError):
    """Something is stored in plain text, or under another key, where this saver's key is asked for."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}; it was refused. Open threads with the key that they were written with, "
            "and those from before encryption without one"
        )


class InvalidEncryptionKey(HoldfastError):
    """The key for encryption at rest does not have a length that AES takes."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"{ENCRYPTION_KEY} must be 16, 24 or 32 bytes long, not {size}; one can be made with: openssl rand -hex 16"
        )


class SealedSerializer(EncryptedSerializer):
    """`EncryptedSerializer` that refuses what it did not encrypt; the official one reads plain text as well."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read a value back.

        Raises:
            NotDecrypted: it is plain text, or was encrypted with another key, or was changed.
        """
        kind, _, cipher = data[0].partition("+")
        if not cipher:
            raise NotDecrypted("a stored value is not encrypted")
        return self.serde.loads_typed((kind, decrypted(self, cipher, data[1])))


def decrypted(serde: EncryptedSerializer, cipher: str, body: bytes) -> bytes:
    """What was encrypted.

    Raises:
        NotDecrypted: it was encrypted with another key, or was changed.
    """
    try:
        return serde.cipher.decrypt(cipher, body)
    except (ValueError, AssertionError) as error:
        raise NotDecrypted("a stored value does not decrypt with this key") from error


ENCRYPTION_KEY: Final = "HOLDFAST_ENCRYPTION_KEY"
_PLAIN: Final = "plain"
"""Stands for the cipher of what is left readable among what is encrypted."""
_KEY_SIZES: Final = (16, 24, 32)


def encrypted(serde: SerializerProtocol, key: str) -> MessageSerializer:
    """Everything that is stored encrypted with AES (the official `EncryptedSerializer`), but for visible messages.

    Raises:
        InvalidEncryptionKey: the key is not 16, 24 or 32 bytes long.
        MissingExtra: the packages for it are not installed.
    """
    secret = key.encode()
    if len(secret) not in _KEY_SIZES:
        raise InvalidEncryptionKey(len(secret))
    try:
        official = EncryptedSerializer.from_pycryptodome_aes(serde, key=secret)
    except ImportError as error:
        raise MissingExtra("encryption", "encryption at rest", instead=f"unset {ENCRYPTION_KEY}") from error
    digest_key = blake2b(secret, digest_size=32, person=b"holdfast-digest").digest()
    sealed = SealedSerializer(official.cipher, official.serde)
    return MessageSerializer(sealed, plain_visible=True, digest_key=digest_key)


class MessageSerializer:
    """The saver's serializer, and how it is used for messages: each by itself, under the digest of its content."""

    def __init__(self, serde: SerializerProtocol, *, plain_visible: bool = False, digest_key: bytes = b"") -> None:
        """`plain_visible`: of encrypted messages, leave those readable that every user may see.

        Without a `digest_key` the digest of an encrypted message lets its content be guessed at.
        """
        if isinstance(serde, EncryptedSerializer) and not isinstance(serde, SealedSerializer):
            serde = SealedSerializer(serde.cipher, serde.serde)
        self.serde: Final = serde
        self.encrypts: Final = isinstance(serde, SealedSerializer)
        self.dump: Final = serde.dumps_typed
        self._plain: Final = serde.serde if isinstance(serde, SealedSerializer) else serde
        self._plain_visible: Final = plain_visible
        self._digest_key: Final = digest_key
        self._official: Final = isinstance(self._plain, JsonPlusSerializer)

    def with_allowlist(self, extra: Collection[tuple[str, ...]]) -> MessageSerializer:
        """One that may also revive these (module, name) types from msgpack."""
        plain = self._plain
        if not isinstance(plain, JsonPlusSerializer):
            return self
        wider = plain.with_msgpack_allowlist(extra)
        if wider is plain:
            return self
        serde = SealedSerializer(self.serde.cipher, wider) if isinstance(self.serde, SealedSerializer) else wider
        return MessageSerializer(serde, plain_visible=self._plain_visible, digest_key=self._digest_key)

    def load(self, data: tuple[str, bytes]) -> Any:
        """Read a value back.

        Raises:
            NotDecrypted: it is encrypted and no key was given, or it does not decrypt with this one.
            TypeNotAllowed: it holds a type that is not allowed.
        """
        if not self.encrypts and "+" in data[0]:
            raise NotDecrypted("a stored value is encrypted, and no key was given")
        return self.serde.loads_typed(data)

    def dump_message(self, message: BaseMessage) -> tuple[bytes, str, bytes]:
        """A message's digest and its plain serialised form."""
        kind, plain = self._plain.dumps_typed(message)
        return message_digest(kind, plain, self._digest_key), kind, plain

    def seal_message(self, kind: str, plain: bytes, visibility: Visibility) -> tuple[str, bytes]:
        """The form in which a message is stored."""
        if not isinstance(self.serde, SealedSerializer):
            return kind, plain
        if self._plain_visible and visibility is Visibility.VISIBLE:
            return f"{kind}+{_PLAIN}", plain
        cipher, body = self.serde.cipher.encrypt(plain)
        return f"{kind}+{cipher}", body

    def open_message(self, digest: bytes, kind: str, body: bytes, visibility: str) -> tuple[str, bytes]:
        """The plain serialised form of a stored message.

        Raises:
            Unsound: it is not what was stored under this digest.
            NotDecrypted: it was encrypted with another key, or for this saver without one.
        """
        plain_kind, _, cipher = kind.partition("+")
        if not isinstance(self.serde, SealedSerializer):
            if cipher:
                raise NotDecrypted("a message is encrypted, and no key was given")
        elif cipher == _PLAIN:
            if visibility != Visibility.VISIBLE or not self._plain_visible:
                raise NotDecrypted("a hidden message is not encrypted")
        elif not cipher:
            raise NotDecrypted("a message is not encrypted")
        else:
            body = decrypted(self.serde, cipher, body)
        if message_digest(plain_kind, body, self._digest_key) != digest:
            if self.encrypts:
                raise NotDecrypted("a message is not what was stored with this key")
            raise Unsound("a message does not match its digest", f"holdfast.messages ({digest.hex()})")
        return plain_kind, body

    def load_message(self, kind: str, plain: bytes) -> Any:
        """A message, given its plain serialised form, which its digest has shown to be as it was."""
        quick = revive(plain) if self._official and kind == "msgpack" else None
        return self._plain.loads_typed((kind, plain)) if quick is None else quick


def _listen(event: SerdeEvent) -> None:
    refused = _refused.get()
    if refused is not None and event["kind"].endswith("_blocked"):
        refused.add(f"{event['module']}.{event['name']}")


register_serde_event_listener(_listen)
