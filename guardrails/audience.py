"""What one audience may see of a run's live stream: one decision for LangGraph's event stream and for its classic one.

Hidden are messages, wherever in a part they stand. A text that a node copied out of a message is only a text here, and
so are an exception's words: what must not be seen must not be written into another key, nor into an error.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar, Final, TypeGuard

from langchain_core.language_models.chat_model_stream import ChatModelStream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langgraph.stream import ProtocolEvent, StreamTransformer

from ..checkpointing.visibility import (
    ORDINARY_BLOCKS,
    Audience,
    Visibility,
    VisibilityPolicy,
    is_mapping,
)
from .sieve import HIDDEN, Sieve, or_none

_MODES: Final = frozenset({"values", "updates", "checkpoints", "tasks", "debug", "messages", "custom", "tools"})
_PART: Final = frozenset({"type", "ns", "data", "interrupts"})
_ORDINARY: Final = ORDINARY_BLOCKS | {"text-delta", "reasoning-delta", "data-delta"}


class AudienceTransformer(StreamTransformer):
    """Shows an audience no more of a run than it may see: `graph.stream_events(..., version="v3")`.

    Give it to `compile(transformers=[...])` or to `stream_events(transformers=[...])`; by itself it is for users and
    the default policy, `AudienceTransformer.of` makes it for others. It covers what LangGraph hands to transformers:
    the events themselves and every projection made of them (`messages`, `values`, `subgraphs`, ...). It does not cover
    `run.output` and `run.interrupts`, which LangGraph 1.2 takes before any transformer: put them through
    `visible_value`; events that another transformer puts out by itself, such as `lifecycle` with the text of an error;
    and `stream`, `invoke` and the older event versions: see `visible_stream`.

    A model's turn is shown when it is whole, as one message: whether it calls a tool is not known before.
    """

    before_builtins: ClassVar[bool] = True  # the projections take what they show when an event passes

    def __init__(
        self,
        scope: tuple[str, ...] = (),
        *,
        audience: Audience | str = Audience.USER,
        policy: VisibilityPolicy | None = None,
        live_nodes: Collection[str] = (),
    ) -> None:
        super().__init__(scope)
        self._view = _View(Audience(audience), policy or VisibilityPolicy(), frozenset(live_nodes))

    @classmethod
    def of(
        cls, audience: Audience | str, policy: VisibilityPolicy | None = None, *, live_nodes: Collection[str] = ()
    ) -> Callable[[tuple[str, ...]], AudienceTransformer]:
        """What LangGraph makes a filter of for each run and each subgraph; see `visible_stream` for the arguments.

        Raises:
            UnknownVisibility: there is no such audience.
        """
        return partial(cls, audience=Audience(audience), policy=policy, live_nodes=live_nodes)

    def init(self) -> dict[str, Any]:
        return {}

    def process(self, event: ProtocolEvent) -> bool:
        # Replaced, never changed: the data are the run's own state.
        params, mode = event["params"], event["method"]
        if _is_emptied(mode, params["data"]):
            return False  # a subgraph's filter meets what its parent's has emptied
        if "interrupts" in params:
            params["interrupts"] = self._view.interrupts(params["interrupts"])
        shown = self._view.data(mode, params["data"])
        if shown is HIDDEN:
            # False keeps an event out of the log only; the projections see it all the same, and must find nothing.
            params["data"] = (None, {}) if mode == "messages" else {}
            return False
        params["data"] = shown
        return True


def visible_stream(
    parts: Iterable[Any],
    audience: Audience | str,
    policy: VisibilityPolicy | None = None,
    *,
    live_nodes: Collection[str] = (),
) -> Generator[Any, None, None]:
    """What an audience may see of `graph.stream(...)`, part by part; hand it the parts as they come, whole and once.

    It understands every stream mode, several at once, `subgraphs=True` and both versions of parts. What it cannot look
    into is dropped; where a hidden message was a field or a node's whole update, None is left.

    A model's turn in `messages` is held back until its last chunk, and then comes as one: until then it may still turn
    out to call a tool. A turn that breaks off never comes.

    Rules for nodes need the writer of a message. `values` does not name it, so that a message of which no other part
    of this stream (`updates`, `messages`, `tasks`) told the writer is as strict as if any node had written it.

    Args:
        policy: what is hidden from whom; by default what `VisibilityPolicy` says.
        live_nodes: nodes whose turns pass token by token. If such a turn calls a tool after all, the call and what
            follows are hidden, but the text before it has been shown.

    Raises:
        UnknownVisibility: there is no such audience; raised here, not at the first part.
    """
    view = _View(Audience(audience), policy or VisibilityPolicy(), frozenset(live_nodes))

    def shown() -> Generator[Any, None, None]:
        try:
            for part in parts:
                if (seen := view.part(part)) is not HIDDEN:
                    yield seen
        finally:  # who stops reading stops the run
            if isinstance(parts, Generator):
                parts.close()

    return shown()


def avisible_stream(
    parts: AsyncIterable[Any],
    audience: Audience | str,
    policy: VisibilityPolicy | None = None,
    *,
    live_nodes: Collection[str] = (),
) -> AsyncGenerator[Any, None]:
    """`visible_stream` for `graph.astream(...)`.

    Raises:
        UnknownVisibility: there is no such audience; raised here, not at the first part.
    """
    view = _View(Audience(audience), policy or VisibilityPolicy(), frozenset(live_nodes))

    async def shown() -> AsyncGenerator[Any, None]:
        try:
            async for part in parts:
                if (seen := view.part(part)) is not HIDDEN:
                    yield seen
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    return shown()


def visible_value(value: Any, audience: Audience | str, policy: VisibilityPolicy | None = None) -> Any:
    """A state, an interrupt or any other value without what an audience may not see; None if nothing is left of it.

    Nothing is changed in place: what is shown as it is comes back as it is, the rest is copied.

    Raises:
        UnknownVisibility: there is no such audience.
    """
    shown = _View(Audience(audience), policy or VisibilityPolicy()).value(value)
    return None if shown is HIDDEN else shown


@dataclass(slots=True)
class _View:
    """One stream as one audience sees it. What it returns is the part to show, or `HIDDEN`."""

    audience: Audience
    policy: VisibilityPolicy
    live: frozenset[str] = frozenset()
    writers: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    chunks: dict[int, tuple[Any, list[AIMessageChunk]]] = field(default_factory=dict[int, Any])
    turns: dict[str, ChatModelStream] = field(default_factory=dict[str, ChatModelStream])
    cut: set[object] = field(default_factory=set[object])
    tools: set[str] = field(default_factory=set[str])

    def part(self, part: Any) -> Any:
        """A part of the classic stream, in whichever of its shapes."""
        if self.audience.sees(Visibility.ALWAYS_HIDDEN):
            return part
        if is_mapping(part) and {"type", "ns", "data"} <= set(part) <= _PART and _is_mode(part["type"]):
            shown = self.data(part["type"], part["data"])
            rest = {"interrupts": self.interrupts(part["interrupts"])} if "interrupts" in part else {}
            return HIDDEN if shown is HIDDEN else {**part, "data": shown, **rest}
        if _is_tuple(part) and len(part) in {2, 3} and _is_mode(part[-2]):
            shown = self.data(part[-2], part[-1])
            return HIDDEN if shown is HIDDEN else (*part[:-1], shown)
        if _is_tuple(part) and len(part) == 2:  # noqa: PLR2004 - (namespace, data), or a message with its metadata
            if _is_tuple(part[0]):
                shown = self.part(part[1])
                return HIDDEN if shown is HIDDEN else (part[0], shown)
            if isinstance(part[0], BaseMessage):
                return self.data("messages", part)
        if is_mapping(part) and str(part.get("event")).startswith("tool-"):
            return self.data("tools", part)
        return self.value(part)

    def data(self, mode: str, data: Any) -> Any:
        """What a part of this mode carries."""
        if self.audience.sees(Visibility.ALWAYS_HIDDEN):
            return data
        match mode:
            case "messages":
                return self._message(data)
            case "updates" if is_mapping(data):
                return {node: or_none(self.value(update, _name(node))) for node, update in data.items()}
            case "tasks" if is_mapping(data):
                return self._task(data)
            case "tools" if is_mapping(data):
                return self._tool(data)
            case _:
                return self.value(data)

    def interrupts(self, interrupts: Iterable[Any]) -> tuple[Any, ...]:
        """Each interrupt with its id; what its payload must not show is taken out of it."""
        return tuple(or_none(self.value(interrupt)) for interrupt in interrupts)

    def value(self, value: Any, node: str | None = None) -> Any:
        """Any value that `node` wrote, or of which the writer is unknown."""
        if self.audience.sees(Visibility.ALWAYS_HIDDEN):
            return value
        return Sieve(partial(self._hides, node=node)).sift(value)

    def _hides(self, message: BaseMessage, node: str | None) -> bool:
        if isinstance(message, AIMessageChunk) and message.chunk_position != "last":
            return True  # a piece of a turn that may yet call a tool
        return not all(
            self.audience.sees(self.policy.classify(message, node=writer)) for writer in self._writers(message, node)
        )

    def _writers(self, message: BaseMessage, node: str | None) -> Collection[str | None]:
        if not self.policy.nodes:
            return [node]
        known = self.writers.setdefault(message.id, set()) if message.id else set[str]()
        if node is not None:
            known.add(node)
        return known or [None, *self.policy.nodes]

    def _task(self, task: Mapping[str, Any]) -> dict[str, Any]:
        # Every key stays: LangGraph tells a task's start from its end by them.
        name = _name(task.get("name"))
        return {key: or_none(self.value(item, name if key == "result" else None)) for key, item in task.items()}

    def _tool(self, event: Mapping[str, Any]) -> Any:
        call = str(event.get("tool_call_id"))
        if event.get("event") == "tool-started":
            result = ToolMessage("", tool_call_id="", name=_name(event.get("tool_name")))
            if not self._hides(result, None):
                self.tools.add(call)
        return self.value(event) if call in self.tools else HIDDEN

    def _message(self, data: Any) -> Any:
        if not (_is_tuple(data) and len(data) == 2 and is_mapping(data[1])):  # noqa: PLR2004 - message and metadata
            return self.value(data)
        payload, metadata = data
        node = _name(metadata.get("langgraph_node"))
        if isinstance(payload, AIMessageChunk):
            shown = self._chunk(payload, metadata, node)
        elif is_mapping(payload) and "event" in payload:
            shown = self._turn(payload, str(metadata.get("run_id")), node)
        else:
            shown = self.value(payload, node)
        about = self.value(metadata)
        return HIDDEN if shown is HIDDEN or about is HIDDEN else (shown, about)

    def _chunk(self, chunk: AIMessageChunk, metadata: Any, node: str | None) -> Any:
        # Ids do not tell turns apart: a provider's stands on some chunks of a turn, LangChain's on the others. The
        # metadata do: one object for each call of a model. It is kept with the chunks, so that its id stays its own.
        key = id(metadata)
        if node in self.live:
            whole = chunk.model_copy(update={"chunk_position": "last"})
            if key in self.cut or self._hides(whole, node):
                self.cut.add(key)
                self.chunks[key] = (metadata, [])
                return HIDDEN
            return chunk
        _, held = self.chunks.setdefault(key, (metadata, []))
        held.append(chunk)
        if chunk.chunk_position != "last":
            return HIDDEN
        del self.chunks[key]
        try:
            return self.value(reduce(add, held), node)
        except Exception:  # pieces that do not fit together cannot be judged
            return HIDDEN

    def _turn(self, event: Mapping[str, Any], run: str, node: str | None) -> Any:
        """An event of LangGraph's protocol for streaming turns."""
        kind = event["event"]
        if kind == "message-start" and event.get("role") in {"ai", None}:  # LangChain marks its own calls by another
            self.turns[run] = ChatModelStream(message_id=event.get("id"))
        if run not in self.turns:
            return HIDDEN
        if node in self.live:
            return self._live(event, run, node)
        turn = self.turns[run]
        turn.dispatch(copy.deepcopy(event))
        if kind in {"message-finish", "error"}:
            del self.turns[run]
        return self.value(turn.output_message, node) if kind == "message-finish" else HIDDEN

    def _live(self, event: Mapping[str, Any], run: str, node: str | None) -> Any:
        block: Any = event.get("delta") or event.get("content") or event.get("content_block")
        if block and not (is_mapping(block) and block.get("type") in _ORDINARY):
            self.cut.add(run)
        ends = event["event"] in {"message-finish", "error"}
        if ends:
            del self.turns[run]
        if self._hides(AIMessage(""), node):
            return HIDDEN
        if ends:  # told even of a turn that was cut, or its reader would wait for it
            return {key: item for key, item in event.items() if key in {"event", "usage", "message"}}
        return HIDDEN if run in self.cut else event


def _is_mode(value: object) -> bool:
    return isinstance(value, str) and value in _MODES


def _is_emptied(mode: str, data: Any) -> bool:
    if mode == "messages":
        return _is_tuple(data) and data[:1] == (None,)
    return mode == "tools" and not data


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and not value.startswith("__") else None
