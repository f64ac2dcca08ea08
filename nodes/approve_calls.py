"""Approve calls: a hand-made graph asks before its tools run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda

from ..guardrails.approval import ApprovalMiddleware
from ..guardrails.policies import ApprovalPolicy, When


def approve_calls_node(
    approval: ApprovalMiddleware | Mapping[str, When | ApprovalPolicy],
) -> Runnable[Any, dict[str, Any]]:
    """A node between the model and `each_call`, which pauses the graph until the turn's calls are decided.

    The same middleware is to guard the tool node, so that a call that comes past this node does not run:

        approval = ApprovalMiddleware({"send_email": "always"}, tools=[send_email])
        builder.add_node("approve", approve_calls_node(approval))
        builder.add_node("tools", tool_node([send_email], around=[approval]))
        builder.add_edge("model", "approve")
        builder.add_conditional_edges("approve", each_call())

    The state's messages are to have LangGraph's reducer `add_messages`, by which an edited turn takes the place of
    the model's.

    Args:
        approval: says of which calls somebody is asked; or its policies alone, by the tools' names.

    Raises:
        InvalidPolicy: a policy says nothing.
    """
    asking = approval if isinstance(approval, ApprovalMiddleware) else ApprovalMiddleware(approval)

    def approve(state: Any) -> dict[str, Any]:
        return asking.after_model(state, None) or {}

    async def aapprove(state: Any) -> dict[str, Any]:
        return await asking.aafter_model(state, None) or {}

    return RunnableLambda(approve, aapprove, name="approve_calls")
