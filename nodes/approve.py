"""Approve: a person sees the message before it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NotRequired, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt, interrupt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..checkpointing.requests import ApprovalRequest, DecisionType, NewRequest, Terms
from ..guardrails.actions import Work, acarry_out, carry_out
from ..guardrails.gating import asked, decided, opened, recorded
from ..guardrails.knowing import known
from ..guardrails.replies import NUDGE, InvalidReply, Said, understood
from ..guardrails.standing import UNKNOWN, Standing, decider_of, standing
from ..guardrails.verdicts import refusal
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


def approve_node(*, clock: Clock = utc_now, terms: Terms | None = None) -> Runnable[ApproveInput, ApproveUpdate]:
    """A node that pauses the graph until a person decides.

    The interrupt's value is LangChain's `HITLRequest` (with `arguments` beside `args`), its answer
    `{"decisions": [{"type": "approve"}]}`, or `edit`, or `reject`. Another answer is refused with a
    `pydantic.ValidationError`, nothing is saved, and the request can be answered again. A rejection
    is an update, not an error: an error would be replayed for ever.

    In a graph that Holdfast saves the request is on record, too: it can be decided there, by whoever is first, and
    expires as the terms say; and the answer may have any shape that `ApprovalMiddleware` understands. Elsewhere there
    is nobody but who resumes the graph.

    Args:
        clock: the time of approval, if it is not to be the record's.
        terms: who may decide, and until when; of the decisions, those of above.

    Raises:
        InvalidTerms: they allow none of these.
    """
    kinds = tuple(kind for kind in (terms or Terms()).allowed if kind != "respond")
    node = _Approving(replace(terms or Terms(), allowed=kinds), clock)

    def approve(state: ApproveInput, config: RunnableConfig) -> ApproveUpdate:
        return carry_out(node.decided(state, config))

    async def aapprove(state: ApproveInput, config: RunnableConfig) -> ApproveUpdate:
        return await acarry_out(node.decided(state, config))

    return RunnableLambda(approve, aapprove, name="approve")


@dataclass(frozen=True, slots=True)
class _Approving:
    terms: Terms
    clock: Clock

    def decided(self, state: ApproveInput, config: RunnableConfig) -> Work[ApproveUpdate]:
        place = standing(config)
        if place is not None:
            return (yield from self._on_record(place, state))
        decision = _reviewed(_request(state, self.terms.allowed))
        approval = Approval(decision="approved", by=decider_of(config) or UNKNOWN, at=self._at(None))
        if isinstance(decision, RejectDecision):
            return {"approval": {**approval, "decision": "rejected", "reason": decision.message}}
        if isinstance(decision, EditDecision):
            return {"approval": {**approval, "decision": "edited"}, "email": _edited(state, _changes(decision))}
        return {"approval": approval}

    def _at(self, decided_at: datetime | None) -> str:
        at = decided_at if decided_at is not None and self.clock is utc_now else self.clock()
        return at.isoformat(timespec="seconds")

    def _on_record(self, place: Standing, state: ApproveInput) -> Work[ApproveUpdate]:
        found = yield from recorded(place)
        seen, refused = bool(found), None
        if not found:
            found = yield from opened(place, lambda: self._new(place, state))
        (request,) = found
        for answer in place.heard() if seen and not request.settled else []:
            if answer == NUDGE:
                continue
            place.hand_back(_as_review(answer, request))
            decision = _reviewed(_request(state, request.terms.allowed))
            refused = yield from decided(place, [request], {request.request_id: _said(decision, request)})
            (request,) = yield from recorded(place)
        if request.settled:
            return self._update(state, request)
        value = _request(state, request.terms.allowed) | {"holdfast": asked([request])["holdfast"]}
        schema: dict[str, Any] = TypeAdapter(Review).json_schema()
        value |= {"refused": refused} if refused else {}
        raise GraphInterrupt((Interrupt.from_ns(value, place.checkpoint_ns, response_schema=schema),))

    def _new(self, place: Standing, state: ApproveInput) -> Work[list[NewRequest]]:
        about = yield from known(place, state)
        (action,) = _request(state, self.terms.allowed)["action_requests"]
        facts = {"company": state["company"], "evidence": state.get("evidence"), "problems": state.get("problems")}
        more = {name: fact for name, fact in facts.items() if fact}
        return [
            NewRequest(
                call_id=ACTION,
                name=ACTION,
                arguments=action["args"],
                description=action["description"],
                context=about.of(more),
                schema=_SCHEMA,
                terms=self.terms,
                **place.facts,
            )
        ]

    def _update(self, state: ApproveInput, request: ApprovalRequest) -> ApproveUpdate:
        approval = Approval(decision="approved", by=request.decided_by or UNKNOWN, at=self._at(request.decided_at))
        if not request.granted:
            reason = request.message if request.state == "rejected" else refusal(request)
            return {"approval": {**approval, "decision": "rejected", "reason": reason}}
        if request.edited is None:
            return {"approval": approval}
        try:
            # It may have been edited elsewhere, by the JSON schema alone.
            changes = EmailArgs.model_validate(request.edited).model_dump(exclude_none=True)
        except ValidationError as error:
            reason = f"the message as it was edited cannot be sent: {error.errors()[0]['msg']}"
            return {"approval": {**approval, "decision": "rejected", "reason": reason}}
        return {"approval": {**approval, "decision": "edited"}, "email": _edited(state, changes)}


def _schema() -> dict[str, Any]:
    """Of what may be changed, as JSON; what a header must not hold as far as a pattern says it."""
    schema = EmailArgs.model_json_schema()
    header = {"type": "string", "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$", "not": {"pattern": r"=\?"}}
    schema["properties"]["to"] = {**header, "minLength": 3}
    schema["properties"]["subject"] |= header
    return schema


_SCHEMA: Final = _schema()


def _reviewed(request: dict[str, Any]) -> ApproveDecision | EditDecision | RejectDecision:
    return interrupt(request, response_schema=Review).decisions[0]


def _as_review(answer: Any, request: ApprovalRequest) -> Any:
    """An answer in the shape of some approval UI, as a `Review`; one that is in none stays as it is."""
    try:
        said = understood(answer, [request])[request.request_id]
    except (InvalidReply, KeyError):
        return answer
    decision: dict[str, Any] = {"type": said.type}
    if said.type == "edit":
        decision["edited_action"] = {"name": request.name, "args": said.arguments}
    elif said.type == "reject":
        decision["message"] = said.message
    return {"decisions": [decision]}


def _said(decision: ApproveDecision | EditDecision | RejectDecision, request: ApprovalRequest) -> Said:
    if isinstance(decision, EditDecision):
        return Said(type="edit", arguments={**request.arguments, **_changes(decision)})
    message = decision.message if isinstance(decision, RejectDecision) else ""
    return Said(type=decision.type, message=message)


def _changes(decision: EditDecision) -> dict[str, Any]:
    return decision.edited_action.args.model_dump(exclude_none=True)


def _edited(state: ApproveInput, changes: Mapping[str, Any]) -> Email:
    return cast("Email", {**state["email"], **changes})


def _request(state: ApproveInput, allowed: Sequence[DecisionType]) -> dict[str, Any]:
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
        "review_configs": [{"action_name": ACTION, "allowed_decisions": [*allowed]}],
        "evidence": list(state.get("evidence", [])),
        "problems": list(state.get("problems", [])),
    }
