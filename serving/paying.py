"""What the outreach agent's calls cost, and out of which budgets they are paid."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel

from holdfast.checkpointing import Budget
from holdfast.guardrails import BudgetMiddleware, JournalMiddleware, Price, Prices, UnpricedModel
from holdfast.guardrails.budget import MAX_OUTPUT_TOKENS
from holdfast.guardrails.prices import model_of
from holdfast.nodes import OfflineExtractiveModel

from .errors import InvalidPrice

AGENT: Final = "agent:outreach"
"""The scope that all runs of the agent share."""
_OFFLINE: Final = OfflineExtractiveModel().model_name
_LONGEST: Final = 16_384
"""Tokens of an answer, and of the reasoning before it: a model that is cut off in that has said nothing."""
_PRICE: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,12})?)\s*,\s*(\d{1,9}(?:\.\d{1,12})?)\s*", re.ASCII)


def guardrails(
    model: BaseChatModel, *, budget: str | None = None, tenant: str | None = None, price: str | None = None
) -> list[AgentMiddleware[Any, Any, Any]]:
    """What stands around each call of an outreach run: what pays for it, and within that the journal.

    Args:
        model: the one that is called.
        budget: US dollars that one run may spend, under the scope `thread:…`; without it, all is counted only.
        tenant: whether the run says for whom it is, and that one pays too, under `tenant:…`.
        price: the model's, `IN,OUT` in US dollars for a million tokens; else the published one.

    Raises:
        UnpricedModel, MissingExtra: nobody knows what a call costs, so that no budget would hold.
        InvalidBudget, InvalidPrice: a number cannot be used.
    """
    name, provider = model_of(model)
    prices = Prices({_OFFLINE: Price.free(), **({name: price_of(price)} if price else {})})
    if not prices.knows(name, provider):
        raise UnpricedModel(name, provider)
    budgets = [
        Budget(AGENT),
        *([Budget("tenant:{tenant}")] if tenant else []),
        *([Budget("thread:{thread_id}", per_run=budget)] if budget else []),
    ]
    # Of a model whose limits nobody knows, more than the usual may be more than it takes.
    cap = _LONGEST if (model.profile or {}).get("max_output_tokens") else MAX_OUTPUT_TOKENS
    return [BudgetMiddleware(budgets, prices=prices, max_output_tokens=cap), JournalMiddleware()]


def price_of(text: str) -> Price:
    """A price as people write it, dollars for a million tokens of input and of output.

    Raises:
        InvalidPrice: it is none.

    >>> price_of("0.25,2").output
    Decimal('2')
    """
    given = _PRICE.fullmatch(text)
    if given is None:
        raise InvalidPrice(
            f"{text!r} is no price: US dollars for a million tokens of input and of output, as in 0.25,2; 0,0 is free"
        )
    return Price(input=Decimal(given[1]), output=Decimal(given[2]))
