"""Policies: LangChain middleware over decisions that are pure functions."""

from .answers import AnswerMiddleware
from .audience import AudienceTransformer, avisible_stream, visible_stream, visible_value
from .model_errors import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from .quotes import Located, locate, quoted_spans

__all__ = [
    "AnswerMiddleware",
    "AudienceTransformer",
    "Located",
    "MalformedAnswer",
    "ModelCallFailed",
    "ModelErrorMiddleware",
    "avisible_stream",
    "is_transient",
    "locate",
    "quoted_spans",
    "visible_stream",
    "visible_value",
]
