"""Kill the process at a named point of a running graph, as the kernel would: no clean-up, no goodbye."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

Moment = Literal["start", "model", "model_end", "tool", "tool_end", "end"]
"""When in a node: as it starts or ends, or as a model or tool call inside it starts or ends.

"end" is after the node's own code and before LangGraph saves what it returned. What fails or pauses does not end.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPoint:
    """A moment in a node of a graph.

    >>> KillPoint.parse("draft:model")
    KillPoint(node='draft', moment='model')
    """

    node: str
    moment: Moment

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        """Read `node:moment`.

        Raises:
            ValueError: no such moment; the text lists them.
        """
        node, _, moment = text.partition(":")
        for known in get_args(Moment):
            if node and moment == known:
                return cls(node=node, moment=known)
        raise ValueError(f"{text!r} is not NODE:MOMENT with a moment of {', '.join(get_args(Moment))}")


def kill_this_process() -> None:
    """SIGKILL to ourselves; on Windows, which has none, TerminateProcess."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


class KillSwitch(BaseCallbackHandler):
    """A LangChain callback handler that strikes once a point is reached.

    Callbacks see every graph, whoever compiled it, so nothing is wrapped and nothing patched.
    `strike` is what happens; it is called once for each time the point is passed, in subgraphs too.
    """

    raise_error = True
    run_inline = True

    def __init__(self, point: KillPoint, strike: Callable[[], None] = kill_this_process) -> None:
        self.point: Final = point
        self._strike = strike
        self._inside: Final[dict[UUID, Moment]] = {}

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, tags: list[str] | None = None, **kwargs: Any
    ) -> None:
        # Whatever runs inside a node may carry its name; only the node's own run carries LangGraph's tag as well.
        if kwargs.get("name") == self.point.node and any(tag.startswith("graph:step:") for tag in tags or ()):
            self._entered(run_id, "start", "end")

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._left(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._inside.pop(run_id, None)

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: Any, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        self._called(run_id, metadata, "model", "model_end")

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: Any, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        self._called(run_id, metadata, "model", "model_end")

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._left(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._inside.pop(run_id, None)

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        self._called(run_id, metadata, "tool", "tool_end")

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._left(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._inside.pop(run_id, None)

    def _called(self, run_id: UUID, metadata: dict[str, Any] | None, start: Moment, end: Moment) -> None:
        # One level "name:task" for each graph around the call, and bare numbers that tell a subgraph's calls apart.
        levels = str((metadata or {}).get("langgraph_checkpoint_ns", "")).split("|")
        if any(level.startswith(f"{self.point.node}:") for level in levels):
            self._entered(run_id, start, end)

    def _entered(self, run_id: UUID, start: Moment, end: Moment) -> None:
        self._inside[run_id] = end
        self._reached(start)

    def _left(self, run_id: UUID) -> None:
        if moment := self._inside.pop(run_id, None):
            self._reached(moment)

    def _reached(self, moment: Moment) -> None:
        if moment == self.point.moment:
            self._strike()


_switch: ContextVar[KillSwitch | None] = ContextVar("holdfast_kill_switch", default=None)
register_configure_hook(_switch, inheritable=True)


@contextmanager
def kill_at(point: KillPoint | str, strike: Callable[[], None] = kill_this_process) -> Generator[KillSwitch]:
    """Arm a switch for every graph that runs within the block.

    >>> with kill_at("draft:model", strike=lambda: None) as switch:
    ...     switch.point.node
    'draft'
    """
    switch = KillSwitch(KillPoint.parse(point) if isinstance(point, str) else point, strike)
    token = _switch.set(switch)
    try:
        yield switch
    finally:
        _switch.reset(token)
