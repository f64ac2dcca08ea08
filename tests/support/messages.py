"""Messages of every kind, as Hypothesis builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

text: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
block: Final[st.SearchStrategy[Any]] = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": text}),
    st.fixed_dictionaries({"type": st.just("reasoning"), "reasoning": text, "extras": st.just({"signature": "s"})}),
    text.map(lambda url: {"type": "image_url", "image_url": {"url": url}}),
    text,
)
content: Final[st.SearchStrategy[Any]] = text | st.lists(block, max_size=3)
names: Final = st.none() | text.filter(bool)
extra: Final = st.dictionaries(text, plain, max_size=2)
call: Final = st.fixed_dictionaries(
    {
        "name": text,
        "args": st.dictionaries(text, plain, max_size=2),
        "id": names,
        "type": st.just("tool_call"),
    }
)
usage: Final = st.none() | st.integers(0, 1000).map(
    lambda count: {
        "input_tokens": count,
        "output_tokens": 7,
        "total_tokens": count + 7,
        "input_token_details": {"cache_read": count},
    }
)
_common: Final[dict[str, Any]] = {"content": content, "id": names, "additional_kwargs": extra}
_ai: Final[dict[str, Any]] = {
    **_common,
    "name": names,
    "response_metadata": extra,
    "tool_calls": st.lists(call, max_size=2),
    "usage_metadata": usage,
}
_tool: Final[dict[str, Any]] = {
    **_common,
    "tool_call_id": text,
    "artifact": plain,
    "status": st.sampled_from(["success", "error"]),
}


def _of(kind: Callable[..., BaseMessage], fields: dict[str, Any], **more: Any) -> st.SearchStrategy[BaseMessage]:
    # Not `builds`, which would look at the types of what is not given.
    return st.fixed_dictionaries({**fields, **more}).map(lambda given: kind(**given))


simple: Final[st.SearchStrategy[BaseMessage]] = st.one_of(
    _of(HumanMessage, _common, name=names),
    _of(SystemMessage, _common),
    _of(AIMessage, _ai),
    _of(ToolMessage, _tool),
    _of(ChatMessage, _common, role=text),
    _of(FunctionMessage, _common, name=text),
    _of(RemoveMessage, {}, id=text),
)
"""Those that are read quickly."""

odd: Final[st.SearchStrategy[BaseMessage]] = st.one_of(
    _of(AIMessageChunk, {}, content=text, id=names),
    _of(HumanMessage, {}, content=text, of_our_own=plain),
    text.map(lambda given: ToolMessage(given, tool_call_id="1", artifact={"raw": {given, "x"}, 1: given})),
)
"""Those that only the official serializer knows."""

messages: Final = simple | odd
