"""Who may see a message: decided from the message, the node that wrote it and a policy; nothing is read or written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeGuard, TypeVar, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from .errors import HoldfastError

MessageT = TypeVar("MessageT", bound=BaseMessage)

TAG: Final = "visibility"
"""The key in `additional_kwargs` under which one message says who may see it."""

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_TOOL_ROLES: Final = frozenset({"tool", "function"})
_ROLES: Final = _SYSTEM_ROLES | _TOOL_ROLES | {"user", "human", "assistant", "ai", "remove", "chat"}
_CALL_KEYS: Final = ("tool_calls", "invalid_tool_calls", "tool_call_chunks", "function_call")
_CALL_BLOCK: Final = re.compile(r"(^|_)tool_(call|use|result)|^function_call")
ORDINARY_BLOCKS: Final = frozenset({
    "text", "text-plain", "input_text", "output_text", "refusal", "reasoning", "thinking", "redacted_thinking",
    "image", "image_url", "input_image", "audio", "input_audio", "video", "file", "input_file", "document", "media",
})  # fmt: skip
"""What a message may consist of without being about a tool. Providers invent blocks for their tools all the time, so
that the list is of these: a block that nobody has heard of counts as a tool's."""


class UnknownVisibility(HoldfastError, ValueError):
    """A visibility or an audience is named that does not exist.

    A `ValueError` too, as an enum's own is, so that pydantic reports it as a field that does not fit.
    """


class UnreadablePolicy(HoldfastError, TypeError):
    """A visibility policy is given in a shape that is none: its rules are mappings from names to visibilities."""


def _unknown(value: object, kind: str, known: Iterable[str]) -> NoReturn:
    raise UnknownVisibility(f"{value!r} is no {kind}; use one of: {', '.join(known)}")


class Visibility(StrEnum):
    """Who may see a message, from everyone to nobody but an auditor.

    Compare with `stricter`, never with `<`: the members are strings, and their alphabet is not their order.

    >>> Visibility.VISIBLE.stricter(Visibility.USER_HIDDEN)
    <Visibility.USER_HIDDEN: 'user_hidden'>

    Raises:
        UnknownVisibility: `Visibility("hiden")`.
    """

    VISIBLE = "visible"
    USER_HIDDEN = "user_hidden"
    ALWAYS_HIDDEN = "always_hidden"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        _unknown(value, "visibility", cls)

    @property
    def strictness(self) -> int:
        """0 for visible, 1 for user_hidden, 2 for always_hidden."""
        return list(Visibility).index(self)

    def stricter(self, other: Visibility) -> Visibility:
        """The one of the two that shows less."""
        return strictest([self, other])


def strictest(given: Iterable[Visibility]) -> Visibility:
    """The one that shows least; visible if none is given."""
    return max(given, key=lambda visibility: visibility.strictness, default=Visibility.VISIBLE)


class Audience(StrEnum):
    """Who is looking: a user sees what is visible, an operator what is hidden from users too, an auditor everything.

    >>> Audience.OPERATOR.sees(Visibility.USER_HIDDEN), Audience.OPERATOR.sees(Visibility.ALWAYS_HIDDEN)
    (True, False)

    Raises:
        UnknownVisibility: `Audience("usr")`.
    """

    USER = "user"
    OPERATOR = "operator"
    AUDITOR = "auditor"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        _unknown(value, "audience", cls)

    def sees(self, visibility: Visibility) -> bool:
        """Whether this audience may see what has this visibility."""
        return visibility.strictness <= list(Audience).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibilityPolicy:
    """Which messages are hidden from whom.

    The first that speaks decides: the message's own tag, its tools, its node, the default. By default a system message
    is always_hidden; tool results and assistant turns with tool calls are user_hidden; the rest is visible.

    - A tag may come from a model's provider or from a tool's output, so that it can only make a message stricter. One
      that is no visibility is taken for always_hidden: it must not show anything, and must not stop a stream either.
    - A turn that calls several tools is as strict as the strictest of them. A tool's message without a name may be any
      tool's, and is as strict as the strictest of all rules for tools.
    - A system message is hidden whatever its node: a rule for a node means what that node says, not its instructions.
    - A `RemoveMessage` is visible unless its node is hidden: it has no content, and a screen that never learns of it
      goes on showing what was taken back.

    Attributes:
        tools: by the name of a tool.
        nodes: by the name of the node that wrote the message.
        trust_tags: let a tag loosen too. Only for a state into which no model and no tool can write a tag.

    Raises:
        UnknownVisibility: a rule names a visibility that does not exist.
        UnreadablePolicy: `tools` or `nodes` is no mapping from strings.
    """

    tools: Mapping[str, Visibility] = field(default_factory=dict[str, Visibility])
    nodes: Mapping[str, Visibility] = field(default_factory=dict[str, Visibility])
    trust_tags: bool = False

    def __post_init__(self) -> None:
        # Copied: a rule must not change under a running stream.
        object.__setattr__(self, "tools", _rules("tools", self.tools))
        object.__setattr__(self, "nodes", _rules("nodes", self.nodes))

    def classify(self, message: BaseMessage, *, node: str | None = None) -> Visibility:
        """The visibility of a message that `node` wrote; `None` stands for no node, such as a caller's input."""
        ruled, tag = self._ruled(message, node), _tag(message)
        if tag is None:
            return ruled
        return tag if self.trust_tags else tag.stricter(ruled)

    def _ruled(self, message: BaseMessage, node: str | None) -> Visibility:
        if isinstance(message, SystemMessage) or _role(message) in _SYSTEM_ROLES:
            return Visibility.ALWAYS_HIDDEN
        tools = list(_tools(message))
        default = Visibility.USER_HIDDEN if tools else Visibility.VISIBLE
        otherwise = default if node is None else self.nodes.get(node, default)
        return strictest(self._of_tool(tool, otherwise) for tool in tools) if tools else otherwise

    def _of_tool(self, tool: object, otherwise: Visibility) -> Visibility:
        if isinstance(tool, str) and tool:
            return self.tools.get(tool, otherwise)
        return strictest([otherwise, *self.tools.values()])


def tagged(message: MessageT, visibility: Visibility | str) -> MessageT:
    """A copy of a message that says itself who may see it; see `VisibilityPolicy` for how far that is believed.

    Raises:
        UnknownVisibility: `visibility` does not exist.
    """
    # As plain text: strict checkpoint readers revive no enum of ours.
    tags = {**message.additional_kwargs, TAG: Visibility(visibility).value}
    return message.model_copy(update={"additional_kwargs": tags})


def message_in(value: object) -> BaseMessage | None:
    """The message that a value is or stands for, None if it is something else.

    What a node returns has not met a reducer yet: it may be a dict with a role or a type, a serialised message, a
    (role, content) pair, or a tool's call without its turn. What looks like a message and cannot be read as one is
    returned as a system message, which nobody but an auditor sees.
    """
    if isinstance(value, BaseMessage):
        return value
    if is_mapping(value):
        return _from_mapping(value)
    if isinstance(value, tuple | list):
        pair = cast("Sequence[object]", value)
        if len(pair) == 2 and isinstance(pair[1], str) and _role_named(pair[0]):  # noqa: PLR2004 - a pair
            return _read((str(pair[0]).strip().lower(), pair[1]))
    return None


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """`isinstance`, of which type checkers understand that nothing is known of keys and values."""
    return isinstance(value, Mapping)


def _from_mapping(value: Mapping[Any, Any]) -> BaseMessage | None:
    kind = value.get("type")
    if kind == "constructor" and value.get("lc") == 1:
        name = str(value.get("id")).rstrip("]'")  # the path to a class; the last part is its name
        return _read(value) if name.endswith(("Message", "MessageChunk")) else None
    if isinstance(kind, str) and _CALL_BLOCK.search(kind):
        return AIMessage([dict(value)])
    role = _role_named(value.get("role")) or _role_named(kind)
    if role and is_mapping(value.get("data")):  # what langchain_core's messages_to_dict writes
        return _from_mapping({**value["data"], "role": role})
    if role and ("content" in value or any(key in value for key in _CALL_KEYS)):
        rest = {key: item for key, item in value.items() if key != "type"}
        return _read({"content": "", **rest, "role": role})
    return None


def _role_named(value: object) -> str:
    """The role that a text names, chunks' class names included; empty if it names none."""
    role = value.strip().lower().removesuffix("messagechunk") if isinstance(value, str) else ""
    return role if role in _ROLES else ""


def _read(value: Any) -> BaseMessage:
    try:
        return convert_to_messages([dict(value) if is_mapping(value) else value])[0]
    except Exception:  # whatever is wrong with it, it must not pass
        return SystemMessage("")


def _rules(of: str, given: object) -> dict[str, Visibility]:
    if not is_mapping(given):
        raise UnreadablePolicy(f"{of} of a visibility policy must map names to visibilities, not be {given!r}")
    rules: dict[str, Visibility] = {}
    for name, visibility in given.items():
        if not isinstance(name, str):
            raise UnreadablePolicy(f"{of} of a visibility policy are named by text, not by {name!r}")
        try:
            rules[name] = Visibility(visibility)
        except UnknownVisibility as error:
            raise UnknownVisibility(f"{of}[{name!r}]: {error}") from None
    return rules


def _tag(message: BaseMessage) -> Visibility | None:
    if TAG not in message.additional_kwargs:
        return None
    try:
        return Visibility(message.additional_kwargs[TAG])
    except Exception:  # an unhashable tag is as malformed as a misspelt one
        return Visibility.ALWAYS_HIDDEN


def _role(message: BaseMessage) -> str:
    role = message.role if isinstance(message, ChatMessage) else message.type
    return role.strip().lower().removesuffix("messagechunk")


def _tools(message: BaseMessage) -> Iterator[object]:
    """The name of each tool that a message calls or answers for; None where it does not say which."""
    if isinstance(message, ToolMessage | FunctionMessage) or _role(message) in _TOOL_ROLES:
        yield message.name
    for key in _CALL_KEYS:
        yield from _called(getattr(message, key, None))
        yield from _called(message.additional_kwargs.get(key))  # what providers send, before it is parsed
    for block in message.content if isinstance(message.content, list) else ():
        if not isinstance(block, str) and not _is_ordinary(block):
            yield block.get("name")


def _called(calls: object) -> Iterator[object]:
    if not calls:
        return
    for call in cast("list[object]", calls) if isinstance(calls, list) else [calls]:
        named: Mapping[Any, Any] = call if is_mapping(call) else {}
        function = named.get("function")
        yield function.get("name") if is_mapping(function) else named.get("name")


def _is_ordinary(block: Mapping[Any, Any]) -> bool:
    if "type" not in block:
        return set(block) <= {"text", "id", "index"}
    return isinstance(block["type"], str) and block["type"] in ORDINARY_BLOCKS
