"""What a `langgraph dev` of our tests serves: an agent whose calls somebody approves, and who may call."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langgraph_sdk import Auth

from holdfast.checkpointing import Terms
from holdfast.guardrails import ApprovalMiddleware, ApprovalPolicy, JournalMiddleware
from tests.support.approvals import MAIL, PAY, Asks

auth = Auth()


@auth.authenticate
async def user(headers: dict[bytes, bytes]) -> Auth.types.MinimalUserDict:
    """Whoever says who he is, is: this is a test."""
    return {"identity": headers.get(b"x-user", b"nobody").decode()}


def send(to: str, text: str = "") -> str:
    """Send a message."""
    return f"sent to {to}"


def pay(to: str, usd: float) -> str:
    """Pay somebody."""
    return f"paid {usd} to {to}"


graph: Any = create_agent(
    Asks(turns=[[MAIL, PAY]]),
    [send, pay],
    middleware=[
        ApprovalMiddleware({"send": "always", "pay": ApprovalPolicy(lambda arguments: arguments["usd"] > 1000)}),
        JournalMiddleware(),
    ],
)
careful: Any = create_agent(
    Asks(turns=[[PAY]]),
    [send, pay],
    middleware=[ApprovalMiddleware({"pay": ApprovalPolicy(terms=Terms(deciders=("ada", "bob"), quorum=2))})],
)
