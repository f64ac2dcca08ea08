"""Named queries and migrations, loaded from the .sql files beside this module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

_FILES = files(__name__.rpartition(".")[0])
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema; `statements` runs in one transaction."""

    version: int
    name: str
    statements: bytes

    @property
    def digest(self) -> str:
        """Of the statements, hexadecimal; the same whatever line ends a checkout gave them."""
        return sha256(self.statements.replace(b"\r\n", b"\n")).hexdigest()


def queries(name: str) -> dict[str, bytes]:
    """The named queries of `queries/<name>.sql`.

    >>> sorted(queries("threads"))
    ['list_threads', 'recall_thread', 'remember_thread', 'try_lock_thread', 'unlock_thread']
    """
    text = (_FILES / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {key: _compact(body).encode() for key, body in zip(parts[::2], parts[1::2], strict=True)}


def _compact(body: str) -> str:
    # psycopg keeps the parsed form of statements below 4,096 characters.
    return " ".join(line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("--"))


def migrations() -> list[Migration]:
    """All migrations, in order."""
    return sorted(_migrations(), key=lambda migration: migration.version)


def _migrations() -> Iterator[Migration]:
    for file in (_FILES / "migrations").iterdir():
        if file.name.endswith(".sql"):
            version, _, name = file.name.removesuffix(".sql").partition("_")
            yield Migration(version=int(version), name=name, statements=file.read_bytes())
