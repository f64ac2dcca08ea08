"""What a model is told of decisions on its calls: in place of a result, and before one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage

from ..checkpointing.requests import ApprovalRequest
from ..checkpointing.visibility import is_mapping
from .model_errors import brief

_SHOWN: Final = 300
"""Characters of an argument in a note."""
_AGAIN: Final = "Do not make this call again unless you are asked to."


def verdicts(turn: AIMessage, requests: Sequence[ApprovalRequest]) -> list[BaseMessage]:
    """What the decisions change in the messages: the turn as it was edited, and answers to calls that are not made."""
    edits = {request.call_id: dict(request.final_arguments) for request in requests if request.state == "edited"}
    answers = [answer_of(request) for request in requests if not request.granted]
    return [*([edited(turn, edits)] if edits else []), *answers]


def answer_of(request: ApprovalRequest) -> ToolMessage:
    """In place of the result of a call that is not made."""
    responded = request.state == "responded"
    return ToolMessage(
        content=request.message if responded else refusal(request),
        name=request.name,
        tool_call_id=request.call_id,
        status="success" if responded else "error",
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, request.request_id)),
    )


def unshown(call: ToolCall, problem: str) -> ToolMessage:
    """The answer to a call that nobody can be asked about as it stands."""
    text = f"Not called: nobody can be asked to approve this call as it stands: {brief(problem)}"
    return ToolMessage(text, name=call["name"], tool_call_id=call["id"] or "", status="error")


def spent(call: ToolCall) -> ToolMessage:
    """The answer to a call whose approval was made use of before."""
    text = (
        "Not called: what was approved was carried out before, and is not done again. A new call would be asked about."
    )
    return ToolMessage(text, name=call["name"], tool_call_id=call["id"] or "", status="error")


def refusal(request: ApprovalRequest) -> str:
    """Why a call is not made."""
    if request.state == "expired":
        by = request.expires_at or request.decided_at
        when = f" by {by.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if by is not None else " in time"
        return f"Not called: nobody approved this call{when}. {_AGAIN}"
    if request.state == "withdrawn":
        why = f": {request.message}" if request.message else ""
        return f"Not called: the request to approve this call was withdrawn by {request.decided_by}{why}"
    said = f" The reason: {request.message}" if request.message else f" {_AGAIN}"
    return f"Not called: {request.decided_by} rejected this call.{said}"


def note_of(request: ApprovalRequest) -> str:
    """For a model whose call was edited: by whom, and what is different."""
    before, after = request.arguments, request.final_arguments
    changes = [
        f"- {name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in {**before, **after}
        if before.get(name, _MISSING) != after.get(name, _MISSING)
    ]
    why = f" The reason: {request.message}" if request.message else ""
    lines = [
        f"Note: {request.decided_by} changed the arguments of this call before it was made; what you asked for was "
        f"not done. This is intended: do not make your own call again.{why}",
        *(changes or ["- nothing is different"]),
    ]
    return "\n".join(lines)


def with_note(message: ToolMessage, note: str) -> ToolMessage:
    """A copy that begins with the note; blocks get one more block."""
    content = message.content
    if isinstance(content, list):
        return message.model_copy(update={"content": [{"type": "text", "text": note}, *content]})
    return message.model_copy(update={"content": f"{note}\n\nThe result:\n{content}" if content else note})


def edited(turn: AIMessage, edits: Mapping[str, Mapping[str, Any]]) -> AIMessage:
    """A turn with other arguments of some calls, wherever providers have them stand."""
    calls = [{**call, "args": dict(edits.get(call["id"] or "", call["args"]))} for call in turn.tool_calls]
    update: dict[str, Any] = {"tool_calls": calls}
    if isinstance(turn.content, list):
        update["content"] = [_block(block, edits) for block in turn.content]
    if given := turn.additional_kwargs.get("tool_calls"):
        raw = [_raw(call, edits) for call in given]
        update["additional_kwargs"] = {**turn.additional_kwargs, "tool_calls": raw}
    return turn.model_copy(update=update)


class _Missing:
    pass


_MISSING: Final = _Missing()


def _shown(arguments: Mapping[str, Any], name: str) -> str:
    return brief(json.dumps(arguments[name], ensure_ascii=False), _SHOWN) if name in arguments else "not given"


def _block(block: Any, edits: Mapping[str, Mapping[str, Any]]) -> Any:
    """A block of content, if it is a call: Anthropic's, LangChain's own, OpenAI's."""
    if not is_mapping(block):
        return block
    given: Mapping[str, Any] = block
    arguments = edits.get(given.get("call_id") or given.get("id") or "")
    if arguments is None:
        return given
    if given.get("type") == "tool_use":
        return {**given, "input": dict(arguments)}
    if given.get("type") == "tool_call":
        return {**given, "args": dict(arguments)}
    return {**given, "arguments": json.dumps(arguments)} if given.get("type") == "function_call" else given


def _raw(call: Any, edits: Mapping[str, Mapping[str, Any]]) -> Any:
    arguments = edits.get(call.get("id") or "")
    if arguments is None or "function" not in call:
        return call
    return {**call, "function": {**call["function"], "arguments": json.dumps(arguments)}}
