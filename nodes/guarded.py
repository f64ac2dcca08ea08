"""For a node that calls a model itself, without an agent around it."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel

from ..guardrails.budget import BudgetMiddleware
from ..guardrails.journaled_model import journaled


def guarded(model: BaseChatModel, *, budget: BudgetMiddleware | None = None) -> BaseChatModel:
    """A model whose calls are claimed before they are made, and answered from the record when they come again.

    It is used as the model itself: `guarded(model).bind_tools(tools).invoke(messages)`, streamed or not, within a
    node of a graph that is compiled with Holdfast's saver.

    With a budget its calls are paid for: one that would exceed it is `BudgetExceeded`, whatever the budget's
    `on_exceeded`. `budget.ask` does as that says.
    """
    return journaled(model) if budget is None else budget.paid(journaled(model))
