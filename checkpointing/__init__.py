"""Durable facts in Postgres: the floor that everything else stands on."""

from .audit import AuditEvent, AuditTrail, NewEvent, NothingAudited
from .chain import ChainFinding, ChainHead
from .database import Database
from .documents import Document, Documents, Passage
from .durable import NotResumable
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
from .journal import Doubt, Journal, JournalMismatch
from .leases import Lease, Leases
from .messages import LoggedMessage
from .migrate import SchemaDiffers, SchemaTooNew, SetupRefused
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
    "AuditEvent",
    "AuditTrail",
    "ChainFinding",
    "ChainHead",
    "CheckpointCorrupted",
    "Damage",
    "Database",
    "DatabaseClosed",
    "DatabaseUnavailable",
    "Document",
    "Documents",
    "Doubt",
    "EmbeddedPostgresFailed",
    "Finding",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "InvalidDatabaseURI",
    "InvalidEncryptionKey",
    "Journal",
    "JournalMismatch",
    "Lease",
    "LeaseLost",
    "Leases",
    "LoggedMessage",
    "MissingExtra",
    "NewEvent",
    "NotDecrypted",
    "NotResumable",
    "NothingAudited",
    "NothingStored",
    "Passage",
    "SchemaDiffers",
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
