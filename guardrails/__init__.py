"""Policies: LangChain middleware over decisions that are pure functions."""

from ..checkpointing.budgets import Budget, BudgetExceeded, InvalidBudget
from .alert_desk import AlertDesk
from .alerts import AlertRule, BudgetAlert
from .answers import AnswerMiddleware
from .audience import AudienceTransformer, avisible_stream, visible_stream, visible_value
from .budget import BudgetMiddleware, OnExceeded
from .effect import effect
from .effects import DID_NOT_HAPPEN, CallAbandoned, NotDone, idempotency_key
from .envelope import ResultNotKept
from .journaled_model import journaled
from .journaling import JournalMiddleware
from .model_errors import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from .notify import AppriseNotifier, InvalidNotifier, LogNotifier, Message, NotDelivered, Notifier
from .paying import ToolPrice
from .placing import JournalNeedsSaver, OnDoubt
from .prices import Price, Prices, UnpricedModel
from .quotes import Located, locate, quoted_spans
from .routing import Route, RoutedModelFailed, RoutingMiddleware
from .scopes import BudgetNeedsLedger, UnknownScope
from .steps import StepTrackerMiddleware
from .steps_count import CallNotFound, StepState
from .trust import Bar, InvalidTrustRule, TrustRecord, TrustRule, wilson_lower
from .webhook import InvalidWebhook, Webhook
from .wrapping_up import PARTIAL, partial_of

__all__ = [
    "DID_NOT_HAPPEN",
    "PARTIAL",
    "AlertDesk",
    "AlertRule",
    "AnswerMiddleware",
    "AppriseNotifier",
    "AudienceTransformer",
    "Bar",
    "Budget",
    "BudgetAlert",
    "BudgetExceeded",
    "BudgetMiddleware",
    "BudgetNeedsLedger",
    "CallAbandoned",
    "CallNotFound",
    "InvalidBudget",
    "InvalidNotifier",
    "InvalidTrustRule",
    "InvalidWebhook",
    "JournalMiddleware",
    "JournalNeedsSaver",
    "Located",
    "LogNotifier",
    "MalformedAnswer",
    "Message",
    "ModelCallFailed",
    "ModelErrorMiddleware",
    "NotDelivered",
    "NotDone",
    "Notifier",
    "OnDoubt",
    "OnExceeded",
    "Price",
    "Prices",
    "ResultNotKept",
    "Route",
    "RoutedModelFailed",
    "RoutingMiddleware",
    "StepState",
    "StepTrackerMiddleware",
    "ToolPrice",
    "TrustRecord",
    "TrustRule",
    "UnknownScope",
    "UnpricedModel",
    "Webhook",
    "avisible_stream",
    "effect",
    "idempotency_key",
    "is_transient",
    "journaled",
    "locate",
    "partial_of",
    "quoted_spans",
    "visible_stream",
    "visible_value",
    "wilson_lower",
]
