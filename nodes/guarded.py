"""For a node that calls a model itself, without an agent around it."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel

from ..guardrails.journaled_model import journaled


def guarded(model: BaseChatModel) -> BaseChatModel:
    """A model whose calls are claimed before they are made, and answered from the record when they come again.

    It is used as the model itself: `guarded(model).bind_tools(tools).invoke(messages)`, streamed or not, within a
    node of a graph that is compiled with Holdfast's saver.
    """
    return journaled(model)
