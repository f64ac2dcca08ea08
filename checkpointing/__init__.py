"""Durable facts in Postgres: the floor that everything else stands on."""

from .approvals import Also, AlsoBlocking, Approvals
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
from .evidence import AutomaticRun, Case, Evidence, InvalidEvidence, NotReviewable, Outcome, Pin, Place, Ring
from .findings import Finding, Severity
from .integrity import CheckpointCorrupted, Damage
from .journal import Doubt, Journal
from .leases import Lease, Leases
from .ledger import Ledger, Outstanding
from .messages import LoggedMessage
from .migrate import SchemaDiffers, SchemaTooNew, SetupRefused
from .notices import Due, NoticeKind, Notices
from .records import JournalMismatch
from .refusals import (
    AlreadyDecided,
    AlreadyVoted,
    ArgumentsChanged,
    DecisionNotAllowed,
    DecisionRefused,
    InvalidDecision,
    NotADecider,
    RequestExpired,
    UnknownRequest,
)
from .requests import (
    ApprovalRequest,
    Change,
    Decided,
    DecisionType,
    InvalidRequest,
    InvalidTerms,
    NewRequest,
    OnExpiry,
    RequestState,
    Terms,
    action_digest,
    request_id_of,
)
from .rollback import UnknownCheckpoint
from .saver import HoldfastSaver
from .serde import InvalidEncryptionKey, NotDecrypted, StrictSerializer, TypeNotAllowed
from .spending import Charge, Closing, Nearest, Reservation, Wanted
from .store import HoldfastStore
from .threads import ThreadRecord, Threads
from .trust import Trust
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
    "AlreadyDecided",
    "AlreadyVoted",
    "Also",
    "AlsoBlocking",
    "ApprovalRequest",
    "Approvals",
    "ArgumentsChanged",
    "Audience",
    "AuditEvent",
    "AuditTrail",
    "AutomaticRun",
    "Budget",
    "BudgetExceeded",
    "Case",
    "ChainFinding",
    "ChainHead",
    "Change",
    "Charge",
    "CheckpointCorrupted",
    "Closing",
    "CostLine",
    "Costs",
    "Damage",
    "Database",
    "DatabaseClosed",
    "DatabaseUnavailable",
    "Decided",
    "DecisionNotAllowed",
    "DecisionRefused",
    "DecisionType",
    "Document",
    "Documents",
    "Doubt",
    "Due",
    "EmbeddedPostgresFailed",
    "Evidence",
    "Finding",
    "HoldfastError",
    "HoldfastSaver",
    "HoldfastStore",
    "InvalidBudget",
    "InvalidDatabaseURI",
    "InvalidDecision",
    "InvalidEncryptionKey",
    "InvalidEvidence",
    "InvalidRequest",
    "InvalidTerms",
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
    "NewRequest",
    "NotADecider",
    "NotDecrypted",
    "NotResumable",
    "NotReviewable",
    "NothingAudited",
    "NothingStored",
    "NoticeKind",
    "Notices",
    "OnExpiry",
    "Outcome",
    "Outstanding",
    "Passage",
    "Pin",
    "Place",
    "RequestExpired",
    "RequestState",
    "Reservation",
    "Ring",
    "SchemaDiffers",
    "SchemaTooNew",
    "SetBudget",
    "SetupRefused",
    "Severity",
    "SpentWindow",
    "StrictSerializer",
    "Terms",
    "ThreadBusy",
    "ThreadChanged",
    "ThreadExists",
    "ThreadRecord",
    "Threads",
    "Trust",
    "TypeNotAllowed",
    "UnknownCheckpoint",
    "UnknownDocument",
    "UnknownRequest",
    "UnknownVisibility",
    "UnreadablePolicy",
    "Visibility",
    "VisibilityPolicy",
    "Wanted",
    "action_digest",
    "message_in",
    "request_id_of",
    "strictest",
    "tagged",
]
