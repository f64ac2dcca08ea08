"""What was spent, and on what: the costs of the audit trail's events, by model, node, tool, tenant and more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Final, Literal

from .bridge import Bridge
from .connections import Connections, Steps, run_again
from .sql import queries

SQL: Final = queries("costs")
Grouping = Literal["model", "node", "tool", "tenant", "thread", "run", "correlation", "day"]
EXACT: Final = Context(prec=150_000)
"""In which amounts are added without rounding: PostgreSQL's `numeric` has up to 147,455 digits (its manual, 8.1.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """What the events of one group come to."""

    key: str | None
    """The model's, node's, … name, or the day in UTC as 2026-03-01; None: the events that say none."""
    model_calls: int
    """That ended, well or not, or cost something; those answered from the record are not among them."""
    tool_calls: int
    """Likewise; functions under `effect` among them."""
    replayed: int
    """Calls that were answered from the record, and so were not made and not paid."""
    input_tokens: int
    output_tokens: int
    cost: Decimal
    """US dollars: the sum of the events that have a price."""
    unseen: Decimal
    """The part of `cost` that no middleware saw, and a callback found."""
    estimated: Decimal
    """The part of `cost` that stands for usage which the provider did not report."""
    unpriced: int
    """Answers of models that have no price, and are not in `cost`."""

    @property
    def calls(self) -> int:
        """Of models and of tools."""
        return self.model_calls + self.tool_calls

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens


def total(lines: Iterable[CostLine]) -> CostLine:
    """What lines come to together, not rounded; its key is None.

    >>> total([]).cost
    Decimal('0')
    """
    known = list(lines)
    return CostLine(
        key=None,
        model_calls=sum(line.model_calls for line in known),
        tool_calls=sum(line.tool_calls for line in known),
        replayed=sum(line.replayed for line in known),
        input_tokens=sum(line.input_tokens for line in known),
        output_tokens=sum(line.output_tokens for line in known),
        cost=_sum(line.cost for line in known),
        unseen=_sum(line.unseen for line in known),
        estimated=_sum(line.estimated for line in known),
        unpriced=sum(line.unpriced for line in known),
    )


class Costs:
    """Got from `Database.costs`; methods have an async twin `a…`.

    Events stay when their thread is deleted, and so does what it cost. A database role that may not see an event's
    row (`holdfast_user`, `holdfast_operator`) gets a report of those that it sees.

        for line in db.costs.report("tenant", since=datetime(2026, 3, 1, tzinfo=UTC)):
            print(line.key, line.cost)  # acme 12.30
    """

    def __init__(self, bridge: Bridge, connections: Connections) -> None:
        self._bridge = bridge
        self._connections = connections

    def report(
        self,
        by: Grouping = "model",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        thread_id: str | None = None,
        correlation_id: str | None = None,
        tenant: str | None = None,
    ) -> list[CostLine]:
        """What was spent, a line for each group, the dearest first; by day, the earliest first.

        The events are those of one moment. Whatever the grouping, the lines come to the sum of all events that are
        asked for: what says no model, tool, … is a line of its own, with the key None.

        Args:
            by: what a line is of.
            since: the earliest moment.
            until: the moment before which it ends.
            thread_id: only this thread's.
            correlation_id: only this decision's; it may span threads.
            tenant: only what was charged to this tenant.

        Raises:
            ValueError: a moment has no time zone.
        """
        return self._bridge.call(self._report, by, since, until, thread_id, correlation_id, tenant)

    async def areport(
        self,
        by: Grouping = "model",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        thread_id: str | None = None,
        correlation_id: str | None = None,
        tenant: str | None = None,
    ) -> list[CostLine]:
        return await self._bridge.acall(self._report, by, since, until, thread_id, correlation_id, tenant)

    async def _report(
        self,
        by: Grouping,
        since: datetime | None,
        until: datetime | None,
        thread_id: str | None,
        correlation_id: str | None,
        tenant: str | None,
    ) -> list[CostLine]:
        parameters = {
            "by": by,
            "since": _aware("since", since),
            "until": _aware("until", until),
            "thread": thread_id,
            "correlation": correlation_id,
            "tenant": tenant,
        }

        def steps() -> Steps[list[CostLine]]:
            return [_line(*row) for row in (yield SQL["report"], parameters)]

        return await run_again(self._connections, steps)


def _line(*row: Any) -> CostLine:
    key, model_calls, tool_calls, replayed, tokens_in, tokens_out, cost, unseen, estimated, unpriced = row
    return CostLine(
        key=key,
        model_calls=model_calls,
        tool_calls=tool_calls,
        replayed=replayed,
        input_tokens=int(tokens_in),
        output_tokens=int(tokens_out),
        cost=cost,
        unseen=unseen,
        estimated=estimated,
        unpriced=unpriced,
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    result = Decimal(0)
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


def _aware(name: str, moment: datetime | None) -> datetime | None:
    if moment is not None and moment.utcoffset() is None:
        raise ValueError(f"{name}={moment.isoformat()} has no time zone; give it one, as in {moment.isoformat()}+00:00")
    return moment
