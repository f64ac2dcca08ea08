"""Durable facts in Postgres: the floor that everything else stands on."""

from .database import Database
from .documents import Document, Documents, Passage
from .errors import (
    DatabaseClosed,
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
from .serde import StrictSerializer, TypeNotAllowed
from .store import HoldfastStore
from .threads import ThreadRecord, Threads

__all__ = [
    "Database",
    "DatabaseClosed",
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
    "StrictSerializer",
    "ThreadBusy",
    "ThreadRecord",
    "Threads",
    "TypeNotAllowed",
    "UnknownDocument",
]
