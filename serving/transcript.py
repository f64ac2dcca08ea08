"""A thread's messages, as text for people and as plain data for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from holdfast.checkpointing import Database, TypeNotAllowed
from holdfast.checkpointing.integrity import CheckpointCorrupted
from holdfast.checkpointing.messages import LoggedMessage
from holdfast.checkpointing.serde import NotDecrypted
from holdfast.checkpointing.visibility import is_mapping

from .errors import UnknownThread
from .progress import printable
from .state import utc


async def require_thread(database: Database, thread: str) -> None:
    """See that a thread without messages is there.

    Raises:
        UnknownThread: it is not.
    """
    try:
        found = await database.saver.aget_tuple({"configurable": {"thread_id": thread}})
    except (CheckpointCorrupted, TypeNotAllowed, NotDecrypted):
        return
    if found is None:
        raise UnknownThread(thread)


def as_json(logged: LoggedMessage) -> dict[str, Any]:
    """A message and what is known of it, as plain data."""
    return {
        "role": logged.message.type,
        "node": logged.node,
        "step": logged.step,
        "text": logged.message.text,
        "visibility": logged.visibility.value,
        "correlation_id": logged.correlation_id,
        "checkpoint_ns": logged.checkpoint_ns,
        "tokens": logged.tokens,
        "created_at": logged.created_at.isoformat(),
        "message": logged.message.model_dump(),
    }


def text(logged: LoggedMessage) -> str:
    """A heading and what was said below it, without control characters."""
    message = logged.message
    role = message.name if isinstance(message, ToolMessage) and message.name else message.type
    about = [
        f"{message.type} {role}" if role != message.type else role,
        logged.node and f"in {logged.node}",
        None if logged.step is None else f"step {logged.step}",
        f"{logged.tokens:,} tokens" if logged.tokens else None,
        f"{utc(logged.created_at)} UTC",
        None if logged.visibility == "visible" else logged.visibility.value,
    ]
    heading = " \u00b7 ".join(" ".join(part.split()) for part in about if part)
    body = (f"  {line}" for part in _parts(message) for line in part.splitlines() or [""])
    return printable("\n".join([heading, *body]))


def _parts(message: BaseMessage) -> Iterator[str]:
    """What a message consists of, each part a text."""
    content = message.content
    blocks: list[Any] = [content] if isinstance(content, str) else content
    for block in blocks:
        if block:
            yield block if isinstance(block, str) else _block(block)
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield f"calls {call['name']}({_short(call['args'])})"
        for wrong in message.invalid_tool_calls:
            yield f"calls {wrong['name']}({wrong['args']}), which cannot be parsed"


def _block(block: object) -> str:
    if not is_mapping(block):
        return _short(block)
    kind = str(block.get("type", "text"))
    for key in ("text", "refusal", "reasoning", "thinking"):
        if isinstance(said := block.get(key), str):
            return said if key == "text" else f"({key}) {said}"
    if kind in {"tool_use", "tool_call", "function_call"}:
        return f"calls {block.get('name')}({_short(block.get('input', block.get('args', block.get('arguments'))))})"
    return f"[{kind}{_media(block)}]"


def _media(block: Mapping[Any, Any]) -> str:
    """What can be said of an image, a sound or a file in a line: its type and address, never its data."""
    image: object = block.get("image_url")
    address: object = image.get("url") if is_mapping(image) else block.get("url", image)
    shown = [block.get("mime_type"), block.get("filename"), address]
    told = [part for part in shown if isinstance(part, str) and not part.startswith("data:")]
    return f": {', '.join(told)}" if told else ""


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
