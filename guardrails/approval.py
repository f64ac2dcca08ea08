"""`ApprovalMiddleware`: a gated tool call waits in Postgres for a person, and runs as it was approved or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain_core.messages import ToolCall
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest

from ..checkpointing.errors import HoldfastError
from ..checkpointing.forms import TEXT
from ..checkpointing.requests import ApprovalRequest, InvalidRequest, NewRequest, action_digest
from ..checkpointing.verdicts import row_of
from .actions import Action, Work, acarry_out, carry_out, never
from .gating import settled
from .knowing import known, waiting_turn
from .model_errors import brief
from .policies import ApprovalPolicy, Policies, When
from .schemas import Schemas
from .standing import ApprovalNeedsSaver, Standing, graph_of, standing
from .steps_count import messages_of
from .steps_text import noted
from .stops import stopping
from .verdicts import answer_of, note_of, unshown, verdicts, with_note

MESSAGES: Final = "messages"


class NotApproved(HoldfastError):
    """A call that somebody has to approve was to be made, and as it stands nobody has."""

    def __init__(self, name: str, call_id: str, why: str) -> None:
        self.call_id: Final = call_id
        super().__init__(
            f"call {brief(repr(call_id), 60)} of {brief(name, 60)} was not made: {why}. What was approved is the tool "
            "and its arguments as they were shown; nothing may change them after ApprovalMiddleware.after_model, and "
            "nothing may call the tool without it"
        )


class ApprovalMiddleware(AgentMiddleware[Any, Any, Any]):
    """Asks people before the calls that its policies name, in one interrupt a turn, and lets none run without.

    Between the middleware that counts and the one that pays: `[StepTrackerMiddleware(...), ApprovalMiddleware(...),
    BudgetMiddleware(...), JournalMiddleware()]`. The agent is compiled with Holdfast's saver.

    A policy is evaluated once for a call and recorded, with all requests of the turn in one transaction; then the
    graph is paused by `interrupt()`, and no process need live until somebody has decided: through the interrupt
    (LangChain's `HITLRequest`), the inbox, the command line or `db.approvals`. Who decides through the interrupt is
    who has resumed the run, as the LangGraph server has authenticated him (`langgraph_auth_user_id`), or elsewhere as
    the program that runs the graph says (`configurable["actor"]`), never as the answer says.

    All calls of a turn wait until the last of them is decided. Those that were approved are made; an edited one with
    the arguments of the edit, of which the model is told; the others are answered with what was decided.

    >>> approval = ApprovalMiddleware({"send_email": "always", "pay": lambda arguments: arguments["usd"] > 100})
    """

    def __init__(
        self,
        policies: Mapping[str, When | ApprovalPolicy],
        *,
        default: When | ApprovalPolicy = "never",
        tools: Sequence[BaseTool] = (),
        messages_key: str = MESSAGES,
    ) -> None:
        """Ask as the policies say.

        Args:
            policies: by a tool's name.
            default: for the tools that are not named.
            tools: those whose arguments an edit is checked against; an agent's own are found when its model is
                asked, in a hand-made graph they are to be named.
            messages_key: where a hand-made graph keeps its messages.

        Raises:
            InvalidPolicy: a policy says nothing.
            InvalidTerms: nobody could decide under its terms.
        """
        super().__init__()
        self.policies: Final = Policies.of(policies, default)
        self._schemas = Schemas(tools)
        self._key = messages_key

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return carry_out(self.gate(state))

    async def aafter_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return await acarry_out(self.gate(state))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        self._schemas.learn(request.tools)
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        self._schemas.learn(request.tools)
        return await handler(request)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        with stopping():
            return carry_out(self._guarded(request, Action(lambda: handler(request), never)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        with stopping():
            return await acarry_out(self._guarded(request, Action(never, lambda: handler(request))))

    def gate(self, state: Any) -> Work[dict[str, Any] | None]:
        """Ask about the calls of the newest turn, and what the decisions change in the state.

        Raises:
            GraphInterrupt: somebody has to decide.
            ApprovalNeedsSaver: the graph has another saver, or none.
        """
        turn, calls = waiting_turn(messages_of(state, self._key))
        if turn is None or not calls:
            return None
        place = standing()
        if place is None:
            raise ApprovalNeedsSaver
        problems = {_id(call): unrecordable(call) for call in calls}
        shown = [call for call in calls if problems[_id(call)] is None]
        requests = yield from settled(place, partial(self._made, place, state, shown), list(map(_id, shown)))
        strange = [unshown(call, problem) for call in calls if (problem := self._refused(call, problems)) is not None]
        update = [*verdicts(turn, requests), *strange]
        return {self._key: update} if update else None

    def _refused(self, call: ToolCall, problems: Mapping[str, str | None]) -> str | None:
        return None if self.policies[call["name"]].never else problems[_id(call)]

    def _made(self, place: Standing, state: Any, calls: Sequence[ToolCall]) -> Work[list[NewRequest]]:
        """A request for each call of the turn, waived or not; none if nobody is ever asked about any of them."""
        if all(self.policies[call["name"]].never for call in calls):
            return []
        about = yield from known(place, state, calls, self._key)
        requests: list[NewRequest] = []
        for call in calls:
            policy = self.policies[call["name"]]
            judged = yield from policy.judged(call, place)
            more = {**judged.context, **(policy.known(call, state) if judged.ask else {})}
            requests.append(
                NewRequest(
                    call_id=_id(call),
                    name=call["name"],
                    arguments=call["args"],
                    description=policy.described(call)[:TEXT] if judged.ask else "",
                    context=about.of(more, judged.why) if judged.ask else {},
                    schema=self._schemas.of(call["name"]) if judged.ask else None,
                    terms=judged.terms or policy.terms,
                    waived=None if judged.ask else (judged.why or "its policy does not ask")[:TEXT],
                    **place.facts,
                )
            )
        return requests

    def _guarded(self, request: ToolCallRequest, act: Action) -> Work[Any]:
        """Make a call if it may be made as it stands."""
        call = request.tool_call
        if self.policies[call["name"]].never:
            return (yield act)
        place = standing(request.runtime.config)
        if place is None:
            raise ApprovalNeedsSaver
        approvals, thread_id = place.approvals, place.thread_id
        asked: list[ApprovalRequest] = yield Action(
            lambda: approvals.of_call(thread_id, _id(call)), lambda: approvals.aof_call(thread_id, _id(call))
        )
        found = nearest(asked, place.checkpoint_ns)
        if (problem := unapproved(call, found)) is not None or found is None:
            raise NotApproved(call["name"], _id(call), problem or "")
        if not found.granted:
            return answer_of(found)
        result = yield act
        if found.state != "edited":
            return result
        note = note_of(found)
        return noted(result, call["id"], self._key, lambda message: with_note(message, note))


def unrecordable(call: ToolCall) -> str | None:
    """Why a call cannot be put on record: a model may make up any name, and arguments of any size."""
    try:
        row_of(NewRequest(thread_id="", task_id="", call_id=_id(call), name=call["name"], arguments=call["args"]))
    except InvalidRequest as error:
        return str(error)
    return None


def nearest(asked: Sequence[ApprovalRequest], checkpoint_ns: str) -> ApprovalRequest | None:
    """The request about a call that a task makes: the newest of its own graph, else of the nearest graph around it.

    Agents beside each other in one thread may use the same call ids.
    """
    graph = graph_of(checkpoint_ns)
    while True:
        for request in asked:
            if graph_of(request.checkpoint_ns) == graph:
                return request
        if not graph:
            return None
        graph = graph_of(graph)


def unapproved(call: ToolCall, found: ApprovalRequest | None) -> str | None:
    """Why a call must not get here; None if it may be made, or has its answer (a stock tool node comes with those)."""
    if found is None:
        return "nobody was asked about it"
    if not found.settled:
        return "nobody has decided on it yet"
    # The record may hold the arguments in another form: Postgres keeps no NUL.
    approved = found.digest if found.edited is None else action_digest(found.name, found.edited)
    if action_digest(call["name"], call["args"]) != approved:
        return f"it is not the call that was {found.state}: its name or arguments have changed"
    return None


def _id(call: ToolCall) -> str:
    return call["id"] or ""
