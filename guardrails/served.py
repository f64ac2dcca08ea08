"""Which model was asked, and which one answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from .listing import provider_at
from .providers import provider_named
from .rates import is_mapping

_STANDARD: Final = {"standard", "default", "auto", "on_demand"}


class Served(NamedTuple):
    """A model as it is billed."""

    model: str
    provider: str | None = None
    """As the price data names it; None where nobody said."""
    tier: str | None = None
    """`batch`, `priority`, `flex`, `fast`; None is the standard one."""


def model_of(model: BaseChatModel) -> tuple[str, str | None]:
    """A model's name and its provider, as the price data names it.

    Behind another address than its own class's (a router, a gateway), it is the provider at that address, where
    the price data knows one.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> model_of(FakeListChatModel(responses=[]))
    ('fake-list-chat-model', 'fakelistchatmodel')
    """
    inner = getattr(model, "inner", None)
    if isinstance(inner, BaseChatModel):  # a model around another, as a journaled one is
        return model_of(inner)
    params: Mapping[str, Any] = model._get_ls_params()  # pyright: ignore[reportPrivateUsage]
    name = params.get("ls_model_name") or getattr(model, "model_name", None) or getattr(model, "model", None)
    address = getattr(model, "openai_api_base", None)
    elsewhere = provider_at(address) if isinstance(address, str) else None
    return str(name or model._llm_type), elsewhere or provider_named(params.get("ls_provider"))  # pyright: ignore[reportPrivateUsage]


def served(message: BaseMessage, model: str, provider: str | None = None) -> Served:
    """Which model an answer says that it came from, and by which tier of service.

    `model` and `provider`: what was asked, for what the answer does not say. A fallback, a router or an alias
    makes the two differ, and the bill is for the one that answered.
    """
    said: Mapping[str, Any] = message.response_metadata
    name = said.get("model_name") or said.get("model")
    usage: Any = said.get("usage")
    heard = [
        said.get("service_tier"),
        *([usage.get(key) for key in ("service_tier", "speed")] if is_mapping(usage) else []),
    ]
    tiers = [tier.lower() for tier in heard if isinstance(tier, str) and tier.lower() not in _STANDARD]
    return Served(
        name if isinstance(name, str) and name else model,
        provider_named(said.get("model_provider")) or provider,
        tiers[0] if tiers else None,
    )


def tier_of(model: BaseChatModel, asked: Mapping[str, Any]) -> str | None:
    """The tier of service that a call with such keywords asks for; `auto` leaves it to the provider."""
    for name in ("service_tier", "speed"):
        tier = asked.get(name) or getattr(model, name, None)
        if isinstance(tier, str) and (tier == "auto" or tier.lower() not in _STANDARD):
            return tier.lower()
    return None
