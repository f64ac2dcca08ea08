"""Approve: a person sees the message before it leaves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.types import interrupt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from .contracts import Approval, Email, Evidence, Problem, one_header
from .headers import address_problem

ACTION = "send_email"
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present, aware, in UTC; the default clock."""
    return datetime.now(UTC)


class ApproveInput(TypedDict):
    """What the reviewer is shown."""

    company: str
    email: Email
    evidence: NotRequired[list[Evidence]]
    problems: NotRequired[list[Problem]]


class ApproveUpdate(TypedDict):
    """The verdict, and the message as it was approved."""

    approval: Approval
    email: NotRequired[Email]


def _address(text: str) -> str:
    if problem := address_problem(text):
        raise ValueError(problem)
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmailArgs(_Strict):
    """What a reviewer may change."""

    to: Annotated[str, AfterValidator(_address)] | None = None
    subject: Annotated[str, Field(min_length=1, max_length=998), AfterValidator(one_header)]
    body: str = Field(min_length=1)


class EditedAction(_Strict):
    """The message as the reviewer wants it."""

    name: Literal["send_email"]
    args: EmailArgs


class ApproveDecision(_Strict):
    """Send it as it stands."""

    type: Literal["approve"]


class EditDecision(_Strict):
    """Send this instead."""

    type: Literal["edit"]
    edited_action: EditedAction


class RejectDecision(_Strict):
    """Do not send it."""

    type: Literal["reject"]
    message: str = ""


class Review(_Strict):
    """The answer to the interrupt: exactly one decision."""

    decisions: list[Annotated[ApproveDecision | EditDecision | RejectDecision, Field(discriminator="type")]] = Field(
        min_length=1, max_length=1
    )


def approve_node(*, clock: Clock = utc_now) -> Runnable[ApproveInput, ApproveUpdate]:
    """A node that pauses the graph until a person decides.

    The interrupt's value is LangChain's `HITLRequest` (with `arguments` beside `args`), its answer
    `{"decisions": [{"type": "approve"}]}`, or `edit`, or `reject`. Another answer is refused with a
    `pydantic.ValidationError`, nothing is saved, and the request can be answered again. A rejection
    is an update, not an error: an error would be replayed for ever.
    """

    def approve(state: ApproveInput, config: RunnableConfig) -> ApproveUpdate:
        email = state["email"]
        review = interrupt(_request(state), response_schema=Review)
        decision = review.decisions[0]
        approval = Approval(decision="approved", by=_actor(config), at=clock().isoformat(timespec="seconds"))
        if isinstance(decision, RejectDecision):
            return {"approval": {**approval, "decision": "rejected", "reason": decision.message}}
        if isinstance(decision, EditDecision):
            edited = decision.edited_action.args.model_dump(exclude_none=True)
            return {"approval": {**approval, "decision": "edited"}, "email": cast("Email", {**email, **edited})}
        return {"approval": approval}

    return RunnableLambda(approve, name="approve")


def _actor(config: RunnableConfig) -> str:
    configurable = config.get("configurable", {})
    return str(configurable.get("langgraph_auth_user_id") or configurable.get("actor") or "unknown")


def _request(state: ApproveInput) -> dict[str, Any]:
    arguments = {key: value for key, value in state["email"].items() if key in EmailArgs.model_fields}
    return {
        "action_requests": [
            {
                "name": ACTION,
                "args": arguments,
                "arguments": arguments,
                "description": f"Send this message to {state['company']}?",
            }
        ],
        "review_configs": [{"action_name": ACTION, "allowed_decisions": ["approve", "edit", "reject"]}],
        "evidence": list(state.get("evidence", [])),
        "problems": list(state.get("problems", [])),
    }
