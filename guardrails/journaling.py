"""`JournalMiddleware`: model and tool calls are made once, whatever happens to the worker."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from ..checkpointing.journal import SPOKEN
from .actions import Action, ToItsEnd, acarry_out, carry_out, never
from .asking import verdict_of
from .effects import Codec, made
from .envelope import opened, sealed
from .journaled_model import journaled
from .paid_tool import ToolPayment, unwrapped
from .placing import Call, OnDoubt, Payment, checked, placed
from .stops import stopping
from .tracing import traced
from .written import told

ON_DOUBT: Final = "on_doubt"
"""In a tool's `metadata`: its `OnDoubt`."""


class JournalMiddleware(AgentMiddleware[Any, Any, Any]):
    """Claims every model and tool call in Postgres before it is made, and answers from the record after.

    The innermost middleware of an agent; for a hand-made graph `ToolNode(tools,
    wrap_tool_call=journal.wrap_tool_call, awrap_tool_call=journal.awrap_tool_call)`. The graph is to be compiled
    with Holdfast's saver, which is found through the run.

    A tool call that was begun by a worker that is gone is *in doubt*: its tool says what to do then, by
    `on_doubt` here or in its `metadata`. What is marked as read-only (`readOnlyHint`) is called again, what is
    idempotent (`idempotentHint`) too, with the same `idempotency_key()`; of all else a person says what became
    of it, through an interrupt.
    """

    def __init__(self, on_doubt: Mapping[str, OnDoubt] | None = None) -> None:
        """`on_doubt`: by a tool's name, what to do about a call whose outcome is unknown.

        Raises:
            ValueError: that is none of the ways.
        """
        super().__init__()
        self._on_doubt: dict[str, OnDoubt] = {name: checked(given) for name, given in (on_doubt or {}).items()}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        with stopping():
            return handler(request.override(model=journaled(request.model)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        with stopping():
            return await handler(request.override(model=journaled(request.model)))

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        with stopping():
            request, payment = unwrapped(request)
            call = self._placed(request, payment)
            return carry_out(_tool(call, request, Action(lambda: handler(request), never)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        ending = ToItsEnd()
        request, payment = unwrapped(request)
        threaded = getattr(request.tool, "coroutine", None) is None
        with stopping():
            act = Action(never, lambda: ending.of(handler(request)) if threaded else handler(request))
            result = await acarry_out(_tool(self._placed(request, payment), request, act))
        ending.check()
        return result

    def _placed(self, request: ToolCallRequest, payment: ToolPayment | None) -> Call:
        call = request.tool_call
        on_doubt: OnDoubt | None = self._on_doubt.get(call["name"])
        return placed(
            "tool",
            call["name"],
            call["id"] or f"{call['name']} {told(call['args'])}",
            [call["name"], call["args"]],
            asked={"args": call["args"]},
            on_doubt=on_doubt or declared(request.tool),
            config=request.runtime.config,
            payment=payment,
        )


def declared(tool: BaseTool | None) -> OnDoubt:
    """What a tool says of itself, in its metadata."""
    metadata: Mapping[str, Any] = (tool.metadata if tool is not None else None) or {}
    if (given := metadata.get(ON_DOUBT)) is not None:
        return checked(given)
    if metadata.get("readOnlyHint"):
        return "retry"
    return "idempotent" if metadata.get("idempotentHint") else "ask"


def _tool(call: Call, request: ToolCallRequest, act: Action) -> Any:
    return made(call, act, _Results(request, call.payment))


class _Results(Codec):
    """What a tool call returns."""

    def __init__(self, request: ToolCallRequest, payment: Payment | None) -> None:
        self._request = request
        self._payment = payment

    def traced(self, said: Mapping[str, Any]) -> None:
        # A call that is replayed has no run of its own, and of others the node gives no hold: its own run lists them.
        traced(self._request.runtime.config, {**said, "tool_call_id": self._request.tool_call["id"] or ""})

    def sealed(self, call: Call, result: Any) -> tuple[str, bytes]:
        for number, message in enumerate(_messages(result)):
            if message.id is None:  # the state would give it another on each replay
                message.id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{call.effect.effect_id} {number}"))
        return sealed(call.effect.name, result, call.saver.serializer)

    def opened(self, call: Call, kept: tuple[str, bytes]) -> Any:
        if kept[0] != SPOKEN:
            found: Any = opened(kept, call.saver.serializer)
            # `reconcile` may give what the tool itself would have returned.
            return found if _native(found) else self._message(call, found)
        return self._message(call, verdict_of(kept))

    def abandoned(self, call: Call) -> Any:
        text = "this call was given up by a person; it is not known whether it happened"
        return self._message(call, text, status="error")

    def _message(self, call: Call, content: Any, **given: Any) -> ToolMessage:
        asked = self._request.tool_call
        text = content if isinstance(content, str) else told(content)
        return ToolMessage(
            content=text if isinstance(text, str) else str(text),
            name=asked["name"],
            tool_call_id=asked["id"] or "",
            id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{call.effect.effect_id} 0")),
            **given,
        )

    def told(self, result: Any) -> dict[str, Any]:
        said = [message.text for message in _messages(result)]
        details: dict[str, Any] = {"result": told("\n".join(said) if said else str(result))}
        if not isinstance(self._payment, ToolPayment):
            return {"details": details}
        bill = self._payment.bill()
        return {"details": {**details, "cost": bill.cost}, "cost": bill.usd, "closing": bill.closing}


def _native(result: Any) -> bool:
    return isinstance(result, Command) or bool(_messages(result))


def _messages(result: Any) -> list[ToolMessage]:
    """The tool messages in a result, those in a Command's update too."""
    items: Any = result
    if isinstance(result, ToolMessage):
        return [result]
    if isinstance(result, Command):
        return _messages(items.update)
    if isinstance(result, Mapping):
        return [found for item in items.values() for found in _messages(item)]
    if isinstance(result, list):
        return [found for item in items for found in _messages(item)]
    return []
