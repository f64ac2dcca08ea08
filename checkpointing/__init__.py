"""Durable facts in Postgres: the floor that everything else stands on."""

from .audit import AuditEvent, AuditTrail, NewEvent, NothingAudited
from .budgets import Budget, BudgetExceeded, InvalidBudget, SetBudget, SpentWindow
from .chain import ChainFinding, ChainHead
from .costs import CostLine, Costs
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
from .journal import Doubt, Journal
from .leases import Lease, Leases
from .ledger import Ledger, Outstanding
from .messages import LoggedMessage
from .migrate import SchemaDiffers, SchemaTooNew, SetupRefused
from .records import JournalMismatch
from .rollback import UnknownCheckpoint
from .saver import HoldfastSaver
from .serde import InvalidEncryptionKey, NotDecrypted, StrictSerializer, TypeNotAllowed
from .spending import Charge, Closing, Nearest, Reservation, Wanted
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
    "Budget",
    "BudgetExceeded",
    "ChainFinding",
    "ChainHead",
    "Charge",
    "CheckpointCorrupted",
    "Closing",
    "CostLine",
    "Costs",
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
    "InvalidBudget",
    "InvalidDatabaseURI",
    "InvalidEncryptionKey",
    "Journal",
    "JournalMismatch",
    "Lease",
    "LeaseLost",
    "Leases",
    "Ledger",
    "LoggedMessage",
    "MissingExtra",
    "Nearest",
    "NewEvent",
    "NotDecrypted",
    "NotResumable",
    "NothingAudited",
    "NothingStored",
    "Outstanding",
    "Passage",
    "Reservation",
    "SchemaDiffers",
    "SchemaTooNew",
    "SetBudget",
    "SetupRefused",
    "Severity",
    "SpentWindow",
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
    "Wanted",
    "message_in",
    "strictest",
    "tagged",
]
