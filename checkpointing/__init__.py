"""Durable facts in Postgres: the floor that everything else stands on."""

from .database import Database, ThreadRecord
from .documents import Document, Documents, Passage
from .errors import (
    DatabaseUnavailable,
    EmbeddedPostgresFailed,
    HoldfastError,
    InvalidDatabaseURI,
    MissingExtra,
    ThreadBusy,
    UnknownDocument,
)
from .migrate import SchemaTooNew, SetupRefused
from .saver import HoldfastSaver
from .store import HoldfastStore

__all__ = [
    "Database",
    "DatabaseUnavailable",
    "Document",
    "Documents",
    "EmbeddedPostgresFailed",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "InvalidDatabaseURI",
    "MissingExtra",
    "Passage",
    "SchemaTooNew",
    "SetupRefused",
    "ThreadBusy",
    "ThreadRecord",
    "UnknownDocument",
]
