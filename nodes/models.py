"""A chat model by name: any that `init_chat_model` knows, or the offline one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Final, cast

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from ..checkpointing.errors import HoldfastError, MissingExtra
from ..guardrails.model_errors import brief
from .errors import UnknownModel
from .offline import NAME as OFFLINE
from .offline import OfflineExtractiveModel

_EXTRAS: Final = {"openai": "langchain_openai", "anthropic": "langchain_anthropic"}
"""The providers that have an extra, and the package that each brings."""


def load_model(name: str = OFFLINE, *, timeout: float = 60.0, max_retries: int = 2) -> BaseChatModel:
    """The model of that name, such as `anthropic:claude-sonnet-4-5`; by default the offline one.

    Args:
        name: `provider:model` as `init_chat_model` takes it, or `offline`.
        timeout: seconds that one request may take before it fails; clients wait for minutes by default.
        max_retries: how often the client itself repeats a request that failed for a passing reason.

    Raises:
        UnknownModel: no such provider, or its client refuses (most often a missing key).
        MissingExtra: the provider's package is not installed.
    """
    if name == OFFLINE:
        return OfflineExtractiveModel()
    provider = name.partition(":")[0]
    try:
        return _client(name, provider, timeout, max_retries)
    except HoldfastError:
        raise
    except Exception as error:  # each client raises its own: a missing key is OpenAIError, ValidationError, KeyError
        raise UnknownModel(
            f"no model {brief(name, 60)!r}: {brief(str(error), 200)} (expected provider:model, such as openai:gpt-5, "
            f"with the provider's key in the environment; or {OFFLINE})"
        ) from error


def _client(name: str, provider: str, timeout: float, max_retries: int) -> BaseChatModel:
    if (package := _EXTRAS.get(provider)) and importlib.util.find_spec(package) is None:
        raise MissingExtra(provider, f"the model {name}")
    if provider == "anthropic" and not (os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")):
        raise KeyError("ANTHROPIC_API_KEY is not set")  # its client would notice only at the first call
    # Behind a gateway langchain-openai does not ask for the usage of a stream, and its cost would read as nothing.
    options: dict[str, Any] = {"stream_usage": True} if provider == "openai" else {}
    create = cast("Callable[..., BaseChatModel]", init_chat_model)
    return create(name or ":", timeout=timeout, max_retries=max_retries, **options)


def model_name(model: BaseChatModel) -> str:
    """What the model calls itself, for people to read."""
    name = getattr(model, "model_name", None) or getattr(model, "model", None)
    return str(name or type(model).__name__)
