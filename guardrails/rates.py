"""What tokens cost: a model's rates, and the sums that are made with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeGuard

_MILLIONTH: Final = Decimal("0.000001")
_NOTHING: Final = Decimal(0)
_TIERS: Final = ("priority", "flex")
"""Service tiers that langchain-openai writes before the names of a usage's details."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of one call, each counted once."""

    plain: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    output: int = 0
    """Without those that follow."""
    output_audio: int = 0
    reasoning: int = 0

    @property
    def input(self) -> int:
        """All of the request's tokens."""
        return self.plain + self.cache_read + self.cache_write + self.cache_write_1h + self.input_audio

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> Tokens:
        """From LangChain's `usage_metadata`, whose totals include its details.

        What does not add up is read so that no token is free: details beyond a total count all the same, and what
        `total_tokens` has more than its parts is output (some providers leave reasoning out of `output_tokens`).

        >>> Tokens.of({"input_tokens": 10, "output_tokens": 2, "input_token_details": {"cache_read": 8}}).plain
        2
        """
        total_input, total_output = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
        total_output = max(total_output, _count(usage.get("total_tokens")) - total_input)
        given, got = _details(usage, "input_token_details"), _details(usage, "output_token_details")
        # langchain-anthropic moves what was written to a cache from the general name to those with a lifetime.
        for_minutes, for_an_hour = given.get("ephemeral_5m_input_tokens", 0), given.get("ephemeral_1h_input_tokens", 0)
        written = max(given.get("cache_creation", 0), for_minutes + for_an_hour) - for_an_hour
        read, heard = given.get("cache_read", 0), given.get("audio", 0)
        spoken, reasoning = got.get("audio", 0), got.get("reasoning", 0)
        return cls(
            plain=max(total_input - read - written - for_an_hour - heard, 0),
            cache_read=read,
            cache_write=written,
            cache_write_1h=for_an_hour,
            input_audio=heard,
            output=max(total_output - spoken - reasoning, 0),
            output_audio=spoken,
            reasoning=reasoning,
        )


def tier_in(usage: Mapping[str, Any]) -> str | None:
    """The service tier that the names of a usage's details tell, as langchain-openai writes them.

    >>> tier_in({"output_token_details": {"flex": 7, "flex_reasoning": 2}})
    'flex'
    """
    for name in ("input_token_details", "output_token_details"):
        details: Any = usage.get(name)
        if is_mapping(details):
            for tier in _TIERS:
                if tier in details:
                    return tier
    return None


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars for a million tokens.

    A request with more than `start` tokens of input pays a tier's price for all of its tokens, as all providers
    in the price data have it.
    """

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    """Ascending by `start`."""

    def of(self, context: int) -> Decimal:
        """For a request with so many tokens of input."""
        found = self.base
        for start, price in self.tiers:
            if context > start:
                found = price
        return found

    def highest(self, context: int) -> Decimal:
        """The most that a request with at most so many tokens of input pays."""
        return max([self.base, *(price for start, price in self.tiers if context > start)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a model's tokens cost, by kind; a kind without a rate of its own is billed as plain input or output."""

    input: Rate
    output: Rate
    cache_read: Rate
    cache_write: Rate
    cache_write_1h: Rate
    input_audio: Rate
    output_audio: Rate
    reasoning: Rate
    request: Decimal = _NOTHING
    """Dollars for a request, whatever its length."""
    further_input: tuple[Rate, ...] = ()
    """Of kinds that a usage does not tell apart: images, videos."""
    further_output: tuple[Rate, ...] = ()

    def cost(self, tokens: Tokens) -> Decimal:
        """In dollars, not rounded."""
        context = tokens.input
        counts = (
            (tokens.plain, self.input),
            (tokens.output, self.output),
            (tokens.cache_read, self.cache_read),
            (tokens.cache_write, self.cache_write),
            (tokens.cache_write_1h, self.cache_write_1h),
            (tokens.input_audio, self.input_audio),
            (tokens.output_audio, self.output_audio),
            (tokens.reasoning, self.reasoning),
        )
        spent = sum((count * rate.of(context) for count, rate in counts if count), _NOTHING)
        return spent * _MILLIONTH + self.request

    def worst(self, input_tokens: int, output_tokens: int) -> Decimal:
        """No way to bill at most so many tokens comes to more, whichever kinds and tiers they fall under."""
        given = (self.input, self.cache_read, self.cache_write, self.cache_write_1h, self.input_audio)
        got = (self.output, self.output_audio, self.reasoning)
        dearest_input = max(rate.highest(input_tokens) for rate in (*given, *self.further_input))
        dearest_output = max(rate.highest(input_tokens) for rate in (*got, *self.further_output))
        return (input_tokens * dearest_input + output_tokens * dearest_output) * _MILLIONTH + self.request

    def times(self, factor: Decimal) -> Rates:
        """The same, dearer or cheaper by a factor."""

        def scaled(rate: Rate) -> Rate:
            return Rate(rate.base * factor, tuple((start, price * factor) for start, price in rate.tiers))

        return Rates(
            input=scaled(self.input),
            output=scaled(self.output),
            cache_read=scaled(self.cache_read),
            cache_write=scaled(self.cache_write),
            cache_write_1h=scaled(self.cache_write_1h),
            input_audio=scaled(self.input_audio),
            output_audio=scaled(self.output_audio),
            reasoning=scaled(self.reasoning),
            request=self.request * factor,
            further_input=tuple(map(scaled, self.further_input)),
            further_output=tuple(map(scaled, self.further_output)),
        )


def is_mapping(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """What is read by keys, in answers of which nobody knows the shape."""
    return isinstance(value, Mapping)


def _details(usage: Mapping[str, Any], name: str) -> dict[str, int]:
    """A usage's details, without the tiers before their names."""
    found: dict[str, int] = {}
    details: Any = usage.get(name)
    if is_mapping(details):
        for key, value in details.items():
            plain = str(key)
            for tier in _TIERS:
                plain = plain.removeprefix(f"{tier}_")
            found[plain] = found.get(plain, 0) + _count(value)
    return found


def _count(value: Any) -> int:
    """A number of tokens; what a provider left out or made up counts as none."""
    return value if isinstance(value, int) and value > 0 else 0
