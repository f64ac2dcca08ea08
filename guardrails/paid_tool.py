"""A tool whose calls have a price."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest

from ..checkpointing.spending import Charge, Closing
from .actions import Action, Work, acarry_out, carry_out, never
from .effects import NotDone
from .paying import TOOL_PRICE, Bill, Payer, ToolQuote, reserved
from .placing import Call
from .scopes import Where
from .stops import stopping


class PaidTool(BaseTool):
    """A tool around another: its price is reserved before a call and settled after.

    Inside the journal it only says who pays: what is answered from the record is free.
    """

    inner: BaseTool
    quote: Any
    """A `ToolQuote`, of one call."""

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the other tool is run")

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        with stopping():
            return carry_out(
                _made(self.quote, config, Action(lambda: self.inner.invoke(input, config, **kwargs), never))
            )

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        with stopping():
            act = Action(never, lambda: self.inner.ainvoke(input, config, **kwargs))
            return await acarry_out(_made(self.quote, config, act))


def paid_tool(request: ToolCallRequest, payer: Payer) -> ToolCallRequest:
    """The call, of a tool that is paid for, if it has a price."""
    tool, call = request.tool, request.tool_call
    if tool is None:
        return request
    if isinstance(tool, PaidTool):  # two middlewares
        quote = replace(tool.quote, payer=payer.beside(tool.quote.payer))
        return request.override(tool=tool.model_copy(update={"quote": quote}))
    declared: Mapping[str, Any] = tool.metadata or {}
    quote = payer.tool_quote(call["name"], call["args"], declared.get(TOOL_PRICE))
    if quote is None:
        return request
    given: dict[str, Any] = {
        "name": tool.name, "description": tool.description, "args_schema": tool.args_schema, "metadata": tool.metadata,
    }  # fmt: skip
    return request.override(tool=PaidTool(inner=tool, quote=quote, **given))


def unwrapped(request: ToolCallRequest) -> tuple[ToolCallRequest, ToolPayment | None]:
    """The call of the plain tool, and who pays for it."""
    if not isinstance(request.tool, PaidTool):
        return request, None
    return request.override(tool=request.tool.inner), ToolPayment(request.tool.quote)


class ToolPayment:
    """Of a journaled call of a tool."""

    def __init__(self, quote: ToolQuote) -> None:
        self._quote = quote
        self._where: Where | None = None

    def wanted(self, call: Call) -> Work[Any]:
        self._where, wanted = yield from self._quote.wanted(call.config)
        return wanted

    def failed(self, error: BaseException) -> Closing | None:
        """It may have happened, and then it was billed."""
        return None

    def bill(self) -> Bill:
        assert self._where is not None
        return self._quote.bill(self._where)


def _made(quote: ToolQuote, config: Any, act: Action) -> Work[Any]:
    """A call that no journal knows of."""
    where, wanted = yield from quote.wanted(config)
    reservation = yield from reserved(where, wanted)
    began = time.monotonic()
    try:
        result = yield act
    except BaseException as error:
        if isinstance(error, NotDone | GraphBubbleUp):  # an interrupted call is made again from its beginning
            where.ledger.release(reservation, wait=False)
        else:
            where.ledger.presume(reservation, wait=False)
        raise
    bill = quote.bill(where)
    charge = Charge(
        event="tool.charged",
        run_id=where.run_id,
        checkpoint_ns=where.checkpoint_ns,
        step=where.step,
        duration=time.monotonic() - began,
        details={"name": quote.name, "cost": bill.cost},
    )
    where.ledger.settle(reservation, usd=bill.usd, tokens=0, charge=charge, wait=False)
    return result
