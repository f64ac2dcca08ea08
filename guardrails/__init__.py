"""Policies: LangChain middleware over decisions that are pure functions."""

from .answers import AnswerMiddleware
from .model_errors import MalformedAnswer, ModelCallFailed, ModelErrorMiddleware, is_transient
from .quotes import Located, locate, quoted_spans

__all__ = [
    "AnswerMiddleware",
    "Located",
    "MalformedAnswer",
    "ModelCallFailed",
    "ModelErrorMiddleware",
    "is_transient",
    "locate",
    "quoted_spans",
]
