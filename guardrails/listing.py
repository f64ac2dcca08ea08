"""Published prices of models, from the data that `genai-prices` brings; nothing is fetched."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

from ..checkpointing.errors import MissingExtra
from .providers import provider_named
from .rates import Rate, Rates

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

LONGEST_CALL: Final = timedelta(hours=1)
"""How long a call may take: a price that begins within that time may be the one that is billed."""
_NAMED_INPUT: Final = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "input_audio_mtok")
_NAMED_OUTPUT: Final = ("output_mtok", "output_audio_mtok", "output_reasoning_mtok")
_REQUESTS: Final = Decimal(1000)


class Listed:
    """A model in the price data: what it costs at which time, and by which tier of service."""

    def __init__(self, info: ModelInfo, *, tiered: bool) -> None:
        """`tiered`: the tiers' prices hold too; not where a model is listed by another provider than asked."""
        self._info = info
        self._variants = (info.price_variants or []) if tiered else []
        self._kept: dict[int, Rates | None] = {}

    def at(self, when: datetime, tier: str | None = None) -> Rates | None:
        """The rates at a time; None where the model is not billed by tokens of input and output."""
        if tier is None or not self._variants:
            price = self._info.get_prices(when)  # one of the data's own, which last as long as this
            if id(price) not in self._kept:
                self._kept[id(price)] = _rates(price)
            return self._kept[id(price)]
        context: dict[str, str] = {"service_tier": tier, "processing": tier, "speed": tier}
        return _rates(self._info.get_prices(when, context))

    def possible(self, when: datetime, tier: str | None) -> Iterator[Rates | None]:
        """Every rate by which a call that begins now may be billed.

        The standard one is among them always: a tier that has no room serves by it. `auto` leaves the choice to
        the provider.
        """
        tiers = {None, tier} if tier != "auto" else {None, *self._tiers()}
        for begun in (when, when + LONGEST_CALL):
            for one in tiers:
                yield self.at(begun, one)

    def _tiers(self) -> Iterator[str]:
        for variant in self._variants:
            yield from (value for key, value in variant.when.items() if key == "service_tier")


def find(model: str, provider: str | None) -> Listed | None:
    """The listed model of that name; a provider's name before it, and `models/`, may be left out.

    Raises:
        MissingExtra: the price data is not installed.
    """
    snapshot = _snapshot()
    for spelling, by in _spellings(snapshot, model, provider):
        try:
            found, info = snapshot.find_provider_model(spelling, None, by, None)
        except LookupError:
            continue
        return Listed(info, tiered=any(info is own for own in found.models))
    return None


def provider_at(address: str) -> str | None:
    """The provider whose API has that address; None if the data knows none, or is not installed."""
    if not _installed():
        return None
    return next((found.id for found in _snapshot().providers if re.match(found.api_pattern, address)), None)


@cache
def load() -> None:
    """Read the price data, if it is installed; it takes 0.2 to 0.4 s, for which no event loop should wait."""
    if _installed():
        with suppress(MissingExtra):  # for who has no price of their own to say
            _snapshot()


def loaded() -> bool:
    """Whether nothing is left to be read."""
    return load.cache_info().currsize > 0


@cache
def _installed() -> bool:
    return importlib.util.find_spec("genai_prices") is not None


@cache
def _snapshot() -> DataSnapshot:
    # Its own, because the package's is another after `UpdatePrices`, which asks the network. Importing the data
    # takes 0.2 to 0.4 s, which is for those who need a price.
    try:
        from genai_prices.data import providers
        from genai_prices.data_snapshot import DataSnapshot
    except ImportError as error:
        raise MissingExtra("budgets", "the price list of models", instead="give the model's Price yourself") from error
    return DataSnapshot(providers=providers, from_auto_update=False)


def _spellings(snapshot: DataSnapshot, model: str, provider: str | None) -> Iterator[tuple[str, str | None]]:
    name = model.strip().removeprefix("models/")
    yield model.strip(), provider
    yield name, provider
    prefix, colon, rest = name.partition(":")
    # `llama3:8b` and `ft:gpt-4o` have colons too, but no provider before them.
    if colon and (before := _known(snapshot, prefix)) is not None:
        yield rest.removeprefix("models/"), provider or before


def _known(snapshot: DataSnapshot, name: str) -> str | None:
    if (known := provider_named(name)) is None:
        return None
    try:
        return snapshot.find_provider(None, known, None).id
    except LookupError:
        return None


def _rates(price: ModelPrice) -> Rates | None:
    by_name: dict[str, Rate] = {}
    request = Decimal(0)
    for name, value in price.__dict__.items():
        if isinstance(value, Decimal):
            by_name[name] = Rate(value)
        elif value is not None:
            by_name[name] = Rate(value.base, tuple((tier.start, tier.price) for tier in value.tiers))
    if "requests_kcount" in by_name:
        request = by_name["requests_kcount"].base / _REQUESTS
    if "input_mtok" not in by_name or "output_mtok" not in by_name:
        return None
    plain, output = by_name["input_mtok"], by_name["output_mtok"]
    written = by_name.get("cache_write_mtok", plain)
    tokens = [name for name in by_name if name.endswith("_mtok")]
    return Rates(
        input=plain,
        output=output,
        cache_read=by_name.get("cache_read_mtok", plain),
        cache_write=written,
        cache_write_1h=by_name.get("cache_write_1h_mtok", written),
        input_audio=by_name.get("input_audio_mtok", plain),
        output_audio=by_name.get("output_audio_mtok", output),
        reasoning=by_name.get("output_reasoning_mtok", output),
        request=request,
        further_input=tuple(
            by_name[name] for name in tokens if not name.startswith("output_") and name not in _NAMED_INPUT
        ),
        further_output=tuple(
            by_name[name] for name in tokens if name.startswith("output_") and name not in _NAMED_OUTPUT
        ),
    )
