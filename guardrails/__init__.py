"""Policies: LangChain middleware over decisions that are pure functions."""

from .answers import AnswerMiddleware
from .audience import AudienceTransformer, avisible_stream, visible_stream, visible_value
from .effect import effect
from .effects import DID_NOT_HAPPEN, CallAbandoned, NotDone, idempotency_key
from .envelope import ResultNotKept
from .journaled_model import journaled
from .journaling import JournalMiddleware
from .model_errors import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from .placing import JournalNeedsSaver, OnDoubt
from .quotes import Located, locate, quoted_spans

__all__ = [
    "DID_NOT_HAPPEN",
    "AnswerMiddleware",
    "AudienceTransformer",
    "CallAbandoned",
    "JournalMiddleware",
    "JournalNeedsSaver",
    "Located",
    "MalformedAnswer",
    "ModelCallFailed",
    "ModelErrorMiddleware",
    "NotDone",
    "OnDoubt",
    "ResultNotKept",
    "avisible_stream",
    "effect",
    "idempotency_key",
    "is_transient",
    "journaled",
    "locate",
    "quoted_spans",
    "visible_stream",
    "visible_value",
]
