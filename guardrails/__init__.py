"""Policies: LangChain middleware over decisions that are pure functions."""

from ..checkpointing.budgets import Budget, BudgetExceeded, InvalidBudget
from .alert_desk import AlertDesk
from .alerts import AlertRule, BudgetAlert
from .answers import AnswerMiddleware
from .approval import ApprovalMiddleware, NotApproved
from .audience import AudienceTransformer, avisible_stream, visible_stream, visible_value
from .budget import BudgetMiddleware, OnExceeded
from .effect import effect
from .effects import DID_NOT_HAPPEN, CallAbandoned, NotDone, idempotency_key
from .envelope import ResultNotKept
from .journaled_model import journaled
from .journaling import JournalMiddleware
from .model_errors import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from .notices import ApprovalNotice
from .notify import AppriseNotifier, InvalidNotifier, LogNotifier, NotDelivered, Notifier
from .paying import ToolPrice
from .placing import JournalNeedsSaver, OnDoubt
from .policies import ApprovalPolicy, InvalidPolicy, Judge, Judgement
from .prices import Price, Prices, UnpricedModel
from .quotes import Located, locate, quoted_spans
from .replies import InvalidReply
from .routing import Route, RoutedModelFailed, RoutingMiddleware
from .scopes import BudgetNeedsLedger, UnknownScope
from .standing import ApprovalNeedsSaver
from .steps import StepTrackerMiddleware
from .steps_count import CallNotFound, StepState
from .trust import Bar, InvalidTrustRule, TrustRecord, TrustRule, wilson_lower
from .trust_policy import EarnedTrust
from .webhook import InvalidWebhook, Webhook
from .wrapping_up import PARTIAL, partial_of

__all__ = [
    "DID_NOT_HAPPEN",
    "PARTIAL",
    "AlertDesk",
    "AlertRule",
    "AnswerMiddleware",
    "AppriseNotifier",
    "ApprovalMiddleware",
    "ApprovalNeedsSaver",
    "ApprovalNotice",
    "ApprovalPolicy",
    "AudienceTransformer",
    "Bar",
    "Budget",
    "BudgetAlert",
    "BudgetExceeded",
    "BudgetMiddleware",
    "BudgetNeedsLedger",
    "CallAbandoned",
    "CallNotFound",
    "EarnedTrust",
    "InvalidBudget",
    "InvalidNotifier",
    "InvalidPolicy",
    "InvalidReply",
    "InvalidTrustRule",
    "InvalidWebhook",
    "JournalMiddleware",
    "JournalNeedsSaver",
    "Judge",
    "Judgement",
    "Located",
    "LogNotifier",
    "MalformedAnswer",
    "ModelCallFailed",
    "ModelErrorMiddleware",
    "NotApproved",
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
