"""`Prices`: what a model call costs, and what it can cost at most."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from langchain_core.messages import AIMessage

from ..checkpointing.errors import HoldfastError, MissingExtra
from . import listing
from .listing import Listed
from .providers import provider_named
from .rates import Rate, Rates, Tokens, tier_in
from .served import Served, model_of, served, tier_of

__all__ = ["Price", "Prices", "Served", "Spent", "UnpricedModel", "model_of", "served", "tier_of"]

_KNOWN: Final = 1024
_EDITION: Final = re.compile(r"(?:[-@](?:20\d{2}-?[01]\d-?[0-3]\d|latest))(?=$|-v\d)")
"""What names one edition of a model: `gpt-5-mini-2025-08-07`, `claude-haiku-4-5@20251001`, `mistral-large-latest`."""


class UnpricedModel(HoldfastError):
    """A model was to be called, or was called, of which no price is known."""

    def __init__(self, model: str, provider: str | None) -> None:
        self.model: Final = model
        self.provider: Final = provider
        by = f" of provider {provider!r}" if provider else ""
        super().__init__(
            f"no price is known for model {model!r}{by}, so that no budget can hold: correct its name, or give "
            f"its price in dollars per million tokens, Prices({{{model!r}: Price(input=..., output=...)}}), "
            "Price.free() if it costs nothing; for `holdfast run`, --price IN,OUT"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price of one's own: US dollars for a million tokens.

    What is left out costs as much as plain input or output.

    >>> Price(input=Decimal("0.25"), output=Decimal(2)).cache_read is None
    True
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    input_audio: Decimal | None = None
    output_audio: Decimal | None = None
    batch: Decimal = Decimal(1)
    """What a batch costs as a part of that; half of it at most providers."""

    def __post_init__(self) -> None:
        """Refuse what is no price.

        Raises:
            ValueError: a number is negative, infinite or not a number, or is no Decimal.
        """
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if not isinstance(value, Decimal):
                raise ValueError(f"{field.name} must be a Decimal, such as Decimal('0.25'), not {value!r}")
            if not value.is_finite() or value < 0:
                raise ValueError(f"{field.name} must be a number of dollars, 0 or more, not {value}")

    @classmethod
    def free(cls) -> Price:
        """Of a model that costs nothing, such as one on a machine of one's own."""
        return cls(input=Decimal(0), output=Decimal(0))

    def rates(self, tier: str | None = None) -> Rates:
        """The same for calculations; of the tiers of service a batch alone has another price."""
        read, written, heard = (self.input if rate is None else rate for rate in self._further())
        standard = Rates(
            input=Rate(self.input),
            output=Rate(self.output),
            cache_read=Rate(read),
            cache_write=Rate(written),
            cache_write_1h=Rate(written),
            input_audio=Rate(heard),
            output_audio=Rate(self.output if self.output_audio is None else self.output_audio),
            reasoning=Rate(self.output),
        )
        return standard.times(self.batch) if tier == "batch" else standard

    def _further(self) -> tuple[Decimal | None, ...]:
        return self.cache_read, self.cache_write, self.input_audio


@dataclass(frozen=True, slots=True)
class Spent:
    """What an answer cost."""

    cost: Decimal
    """Dollars, not rounded."""
    tokens: Tokens
    served: Served
    """The model by which it was priced."""


class Prices:
    """What calls cost: by one's own prices, else by the price data of `genai-prices` as it was installed.

    Nothing is fetched. Tokens are priced, and fees for a request; not searches and other tools that a provider
    runs and bills by themselves, of which LangChain's usage says nothing.

    >>> prices = Prices({"local": Price.free(), "mine": Price(input=Decimal(1), output=Decimal(4))})
    >>> prices.cost("mine", {"input_tokens": 1000, "output_tokens": 500})
    Decimal('0.003000')
    """

    def __init__(
        self, own: Mapping[str, Price] | None = None, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`own`: by a model's name, or `provider:name` where two providers serve the same one.

        A name without an edition stands for all of its editions: `gpt-5` prices `gpt-5-2025-08-07` too.
        """
        self._own = {_plain(name): price for name, price in (own or {}).items()}
        self._clock = clock
        self._found = lru_cache(_KNOWN)(self._find)

    def knows(self, model: str, provider: str | None = None) -> bool:
        """Whether a call of the model can be priced; without the price data, by one's own prices alone."""
        try:
            self._rates(self._found(model, provider), model, provider, self._clock(), None)
        except (UnpricedModel, MissingExtra):
            return False
        return True

    def cost(
        self,
        model: str,
        usage: Mapping[str, Any],
        *,
        provider: str | None = None,
        at: datetime | None = None,
        tier: str | None = None,
    ) -> Decimal:
        """What a call cost, in dollars, not rounded.

        Args:
            model: the one that answered.
            usage: LangChain's `usage_metadata`.
            provider: LangChain's name of it, or the price data's; without, it is told by the model's name.
            at: when it was billed; now, if not given.
            tier: of service, such as `batch` or `priority`; without, what the usage tells of it.

        Raises:
            UnpricedModel: no price is known.
            MissingExtra: nor is the price data installed.
        """
        rates = self._rates(
            self._found(model, provider), model, provider, at or self._clock(), _tier(tier) or tier_in(usage)
        )
        return rates.cost(Tokens.of(usage))

    def worst(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        provider: str | None = None,
        tier: str | None = None,
        at: datetime | None = None,
    ) -> Decimal:
        """The most that a call with at most so many tokens can cost, in dollars.

        Whatever part of them is written to a cache for an hour, or is sound; at every size of context up to that;
        now or within the hour that a call may take. `tier`: the one that is asked for, or `auto`.

        Raises:
            UnpricedModel: no price is known.
            MissingExtra: nor is the price data installed.
        """
        found, when = self._found(model, provider), at or self._clock()
        if isinstance(found, Listed):
            possible = [rates for rates in found.possible(when, _tier(tier)) if rates is not None]
        else:
            possible = [found.rates(asked) for asked in {None, _tier(tier)}] if found is not None else []
        if not possible:
            raise UnpricedModel(model, provider)
        return max(rates.worst(max(input_tokens, 0), max(output_tokens, 0)) for rates in possible)

    def spent(
        self, message: AIMessage, model: str, provider: str | None = None, *, at: datetime | None = None
    ) -> Spent | None:
        """What an answer cost, by the model that it says it came from; None where it tells no usage.

        `model` and `provider`: what was asked, which is also the price of an answer from a model without one: the
        call was made, and some gateways answer with names of their own.

        Raises:
            UnpricedModel: neither has a price.
            MissingExtra: nor is the price data installed.
        """
        usage: Any = message.usage_metadata
        if not usage:
            return None
        answered = served(message, model, provider)
        if answered.tier is None:
            answered = answered._replace(tier=tier_in(usage))
        billed = next(
            (one for one in _candidates(answered, model, provider) if self.knows(one.model, one.provider)), None
        )
        if billed is None:
            raise UnpricedModel(answered.model, answered.provider)
        cost = self.cost(billed.model, usage, provider=billed.provider, at=at, tier=billed.tier)
        return Spent(cost, Tokens.of(usage), billed)

    def _rates(
        self, found: Price | Listed | None, model: str, provider: str | None, when: datetime, tier: str | None
    ) -> Rates:
        if found is None:
            raise UnpricedModel(model, provider)
        rates = found.at(when, tier) if isinstance(found, Listed) else found.rates(tier)
        if rates is None:
            raise UnpricedModel(model, provider)
        return rates

    def _find(self, model: str, provider: str | None) -> Price | Listed | None:
        known = provider_named(provider)
        for name in _own_names(model, known):
            if (price := self._own.get(name)) is not None:
                return price
        return listing.find(model, known)


def _candidates(answered: Served, model: str, provider: str | None) -> Iterator[Served]:
    """As what an answer may be billed, the likeliest first."""
    # langchain-openai says "openai" whatever it spoke to: a router, a gateway, Azure.
    if answered.provider == "openai" and provider is not None:
        yield answered._replace(provider=provider)
    yield answered
    yield answered._replace(provider=provider)
    yield Served(model, provider, answered.tier)


def _own_names(model: str, provider: str | None) -> Iterator[str]:
    """Under which names a price of one's own may stand, the most exact first."""
    name = _plain(model)
    _, colon, rest = name.partition(":")
    for full in [name, *([rest] if colon else [])]:
        for one in dict.fromkeys((full, _EDITION.sub("", full))):
            if provider is not None:
                yield f"{provider}:{one}"
            yield one


def _plain(name: str) -> str:
    """A name as prices are looked up by: lower case, the provider as the price data has it."""
    plain = name.strip().lower().removeprefix("models/")
    prefix, colon, rest = plain.partition(":")
    return f"{provider_named(prefix) or ''}:{rest.removeprefix('models/')}" if colon else plain


def _tier(tier: str | None) -> str | None:
    return None if tier in (None, "standard", "default") else str(tier).lower()
