"""Runs that spent known amounts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

from holdfast.checkpointing import NewEvent

TOOL_CALLS = 369
TOKENS = 9_700_000
COST = Decimal("2.74")
_MODEL_CALLS = 412
_PARTS = 10**9


def published_run() -> Iterator[NewEvent]:
    """A run of 369 tool calls, 9.7 million tokens and 2.74 dollars in many uneven parts, the same each time."""
    draw = random.Random(5)  # noqa: S311 - nothing secret
    tokens, amounts = _parts(draw, TOKENS, _MODEL_CALLS), _parts(draw, int(COST * _PARTS), _MODEL_CALLS)
    for number, (used, amount) in enumerate(zip(tokens, amounts, strict=True)):
        told = used * 9 // 10
        charged = {"model": draw.choice(["gpt-5", "gpt-5-mini", "small"]), "tenant": draw.choice(["acme", "globex"])}
        if number % 3 == 0:
            charged["tool"] = draw.choice(["search", "read"])
        yield NewEvent(
            thread_id=f"run-{number % 4}",
            kind=draw.choice(["model.answered", "model.charged"]),
            actor="research",
            node=draw.choice(["plan", "research", None]),
            run_id=draw.choice(["r1", "r2", None]),
            correlation_id=draw.choice(["case-7", None]),
            input_tokens=told,
            output_tokens=used - told,
            cost=Decimal(amount) / _PARTS,
            details={"name": "ChatModel", "cost": charged},
        )
        if number < TOOL_CALLS:
            name = draw.choice(["search", "read", "book"])
            yield NewEvent(thread_id="run-0", kind="tool.called", actor="tools", details={"name": name})
            yield NewEvent(thread_id="run-0", kind="tool.completed", actor="tools", details={"name": name})


def _parts(draw: random.Random, whole: int, count: int) -> list[int]:
    """Uneven whole numbers that add up."""
    cuts = [0, *sorted(draw.sample(range(1, whole), count - 1)), whole]
    return [after - before for before, after in pairwise(cuts)]
