"""The usage of a published run, of which only the totals are known: 369 tool calls, 9.7 M tokens, 2.74 dollars."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from langchain_core.messages.ai import InputTokenDetails, UsageMetadata

from holdfast.guardrails.prices import Price

TOOL_CALLS: Final = 369
TOKENS: Final = 9_700_000
DOLLARS: Final = Decimal("2.74")
PRICE: Final = Price(input=Decimal("0.25"), cache_read=Decimal("0.025"), output=Decimal(2))
"""gpt-5-mini's, under which the totals below come to the dollars exactly."""
_PLAIN: Final = 7_150_000
_CACHED: Final = 2_100_000
_OUTPUT: Final = 450_000


def published_usage() -> list[UsageMetadata]:
    """The usage of each model call: one before each tool call, each with more context than the one before, and the
    answer."""
    parts = zip(*(_spread(total, TOOL_CALLS + 1) for total in (_PLAIN, _CACHED, _OUTPUT)), strict=True)
    return [
        UsageMetadata(
            input_tokens=plain + cached,
            output_tokens=output,
            total_tokens=plain + cached + output,
            input_token_details=InputTokenDetails(cache_read=cached),
        )
        for plain, cached, output in parts
    ]


def _spread(total: int, parts: int) -> Iterator[int]:
    """Whole numbers that grow and add up to the total."""
    weights = parts * (parts + 1) // 2
    begun = 0
    for part in range(1, parts + 1):
        ended = total * (part * (part + 1) // 2) // weights
        yield ended - begun
        begun = ended
