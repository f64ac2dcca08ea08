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
    "ApprovalPolicy",
    "AudienceTransformer",
    "Budget",
    "BudgetAlert",
    "BudgetExceeded",
    "BudgetMiddleware",
    "BudgetNeedsLedger",
    "CallAbandoned",
    "CallNotFound",
    "InvalidBudget",
    "InvalidNotifier",
    "InvalidPolicy",
    "InvalidReply",
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
    "UnknownScope",
    "UnpricedModel",
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
]
