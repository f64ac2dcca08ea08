"""Durable facts in Postgres: the floor that everything else stands on."""

from .database import Database
from .documents import Document, Documents, Passage
from .errors import (
    DatabaseClosed,
    DatabaseUnavailable,
    EmbeddedPostgresFailed,
    HoldfastError,
    InvalidDatabaseURI,
    LeaseLost,
    MissingExtra,
    ThreadBusy,
    ThreadChanged,
    UnknownDocument,
)
from .findings import Finding, Severity
from .integrity import CheckpointCorrupted, Damage
from .leases import Lease, Leases
from .messages import LoggedMessage
from .migrate import SchemaTooNew, SetupRefused
from .rollback import UnknownCheckpoint
from .saver import HoldfastSaver
from .serde import InvalidEncryptionKey, NotDecrypted, StrictSerializer, TypeNotAllowed
from .store import HoldfastStore
from .threads import ThreadRecord, Threads
from .upkeep import ThreadExists
from .verify import NothingStored
from .visibility import (
    Audience,
    UnknownVisibility,
    UnreadablePolicy,
    Visibility,
    VisibilityPolicy,
    message_in,
    strictest,
    tagged,
)

__all__ = [
    "Audience",
    "CheckpointCorrupted",
    "Damage",
    "Database",
    "DatabaseClosed",
    "DatabaseUnavailable",
    "Document",
    "Documents",
    "EmbeddedPostgresFailed",
    "Finding",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "InvalidDatabaseURI",
    "InvalidEncryptionKey",
    "Lease",
    "LeaseLost",
    "Leases",
    "LoggedMessage",
    "MissingExtra",
    "NotDecrypted",
    "NothingStored",
    "Passage",
    "SchemaTooNew",
    "SetupRefused",
    "Severity",
    "StrictSerializer",
    "ThreadBusy",
    "ThreadChanged",
    "ThreadExists",
    "ThreadRecord",
    "Threads",
    "TypeNotAllowed",
    "UnknownCheckpoint",
    "UnknownDocument",
    "UnknownVisibility",
    "UnreadablePolicy",
    "Visibility",
    "VisibilityPolicy",
    "message_in",
    "strictest",
    "tagged",
]
