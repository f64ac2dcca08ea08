"""A brain for `OpenAIServer`: the offline extractive model, behind OpenAI's wire format."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages

from holdfast.nodes import OfflineExtractiveModel
from tests.support.openai_server import ChatRequest, Reply, ToolCall


def extractive(request: ChatRequest) -> Reply:
    """Answer as `OfflineExtractiveModel` does.

    A `response_format` is offered to it as one more tool, and what it puts into that tool is sent as text.
    """
    schema = _schema(request)
    offered = [_plain(tool) for tool in request.tools] + ([{"type": "function", "function": schema}] if schema else [])
    answer = OfflineExtractiveModel().bind_tools(offered).invoke(_messages(request))
    for call in answer.tool_calls:
        if schema and call["name"] == schema["name"]:
            return Reply(text=json.dumps(call["args"]))
    calls = tuple(ToolCall(call["name"], json.dumps(call["args"])) for call in answer.tool_calls)
    return Reply(text=answer.text, tool_calls=calls)


def _schema(request: ChatRequest) -> dict[str, Any] | None:
    """The asked-for shape of the answer as a function, if there is one."""
    if not request.response_format or request.response_format["type"] != "json_schema":
        return None
    asked: dict[str, Any] = request.response_format["json_schema"]
    return {"name": asked["name"], "parameters": asked["schema"]}


def _plain(tool: dict[str, Any]) -> dict[str, Any]:
    """A strict tool as it was before: strictness lists every argument as required, those with a default too."""
    function: dict[str, Any] = tool["function"]
    if not function.get("strict"):
        return tool
    parameters: dict[str, Any] = function["parameters"]
    required = [name for name, field in parameters["properties"].items() if "default" not in field]
    return {**tool, "function": {**function, "parameters": {**parameters, "required": required}}}


def _messages(request: ChatRequest) -> list[BaseMessage]:
    """The request's messages; tool results get back the tool's name, which the wire format leaves out."""
    messages = convert_to_messages(request.messages)
    calls = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    names = {call["id"]: call["name"] for call in calls}
    for message in messages:
        if isinstance(message, ToolMessage):
            message.name = names[message.tool_call_id]
    return messages
