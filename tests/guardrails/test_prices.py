"""What a model call costs, and what it can cost at most."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import SecretStr

from holdfast.guardrails.journaled_model import journaled
from holdfast.guardrails.prices import Price, Prices, Served, UnpricedModel, model_of, served, tier_of
from holdfast.guardrails.rates import Tokens
from tests.support.published import DOLLARS, PRICE, TOKENS, TOOL_CALLS, published_usage

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
PRICES = Prices(clock=lambda: NOON)
KNOWN = [
    ("claude-sonnet-4-5-20250929", "anthropic"),
    ("claude-haiku-4-5", "anthropic"),
    ("gpt-5-mini-2025-08-07", "openai"),
    ("gpt-4.1", "openai"),
    ("gpt-4o-realtime-preview", "openai"),
    ("gemini-2.5-pro", "google"),
    ("gemini-2.5-flash", "google"),
    ("deepseek-chat", "deepseek"),
    ("mistral-large-latest", "mistral"),
]
LISTED = [
    (model.id, provider.id)
    for provider in providers
    for model in provider.models
    if PRICES.knows(model.id, provider.id)
]

counts = st.integers(0, 400_000)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    """Any way in which LangChain reports a call's tokens: each of them of one kind."""
    plain, read, minutes, hour, heard, output, spoken, reasoning = draw(st.tuples(*[counts] * 8))
    written = {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour, "cache_creation": 0}
    general = {"cache_creation": minutes + hour}
    return {
        "input_tokens": plain + read + minutes + hour + heard,
        "output_tokens": output + spoken + reasoning,
        "input_token_details": {"cache_read": read, "audio": heard, **draw(st.sampled_from([written, general]))},
        "output_token_details": {"audio": spoken, "reasoning": reasoning},
    }


@pytest.mark.parametrize(("model", "provider"), KNOWN)
@given(plain=counts, read=counts, minutes=counts, hour=counts, output=counts)
def test_costs_are_those_of_the_price_data(
    model: str, provider: str, plain: int, read: int, minutes: int, hour: int, output: int
) -> None:
    """To the last digit, with caches and tiers of context."""
    total = plain + read + minutes + hour
    usage = Usage(
        input_tokens=total,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=minutes + hour,
        cache_write_1h_tokens=hour,
    )
    expected = calc_price(usage, model, provider_id=provider, genai_request_timestamp=NOON).total_price
    details = {"cache_read": read, "ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour}
    reported = {"input_tokens": total, "output_tokens": output, "input_token_details": details}
    assert PRICES.cost(model, reported, provider=provider) == expected


@given(heard=counts, plain=counts, spoken=counts, output=counts)
def test_sound_has_prices_of_its_own(heard: int, plain: int, spoken: int, output: int) -> None:
    usage = Usage(
        input_tokens=plain + heard,
        input_audio_tokens=heard,
        output_tokens=output + spoken,
        output_audio_tokens=spoken,
    )
    model = "gpt-4o-realtime-preview"
    expected = calc_price(usage, model, provider_id="openai", genai_request_timestamp=NOON).total_price
    reported = {
        "input_tokens": plain + heard,
        "output_tokens": output + spoken,
        "input_token_details": {"audio": heard},
        "output_token_details": {"audio": spoken},
    }
    assert PRICES.cost(model, reported, provider="openai") == expected


@pytest.mark.parametrize(
    ("model", "provider", "tier", "context"),
    [
        ("claude-haiku-4-5", "anthropic", "batch", {"processing": "batch"}),
        ("gpt-5-mini", "openai", "batch", {"processing": "batch"}),
        ("gpt-5-mini", "openai", "flex", {"service_tier": "flex"}),
        ("gpt-5-mini", "openai", "priority", {"service_tier": "priority"}),
        ("gemini-2.5-pro", "google", "batch", {"processing": "batch"}),
        ("gemini-2.5-pro", "google", "standard", {}),
    ],
)
def test_tiers_of_service_have_prices_of_their_own(
    model: str, provider: str, tier: str, context: Mapping[str, str]
) -> None:
    usage = Usage(input_tokens=9000, output_tokens=700)
    calculated = calc_price(
        usage, model, provider_id=provider, genai_request_timestamp=NOON, price_context=context or None
    )
    reported = {"input_tokens": 9000, "output_tokens": 700}
    assert PRICES.cost(model, reported, provider=provider, tier=tier) == calculated.total_price


def test_the_names_of_details_tell_the_tier() -> None:
    """langchain-openai writes the tier before them."""
    told = {
        "input_tokens": 100,
        "output_tokens": 50,
        "input_token_details": {"priority": 60, "priority_cache_read": 40},
        "output_token_details": {"priority": 40, "priority_reasoning": 10},
    }
    plain = {"input_tokens": 100, "output_tokens": 50, "input_token_details": {"cache_read": 40}}
    assert PRICES.cost("gpt-5", told) == PRICES.cost("gpt-5", plain, tier="priority") > PRICES.cost("gpt-5", plain)


@given(listed=st.sampled_from(LISTED), usage=usages(), tier=st.sampled_from([None, "batch", "flex"]), more=counts)
def test_the_worst_case_is_never_exceeded(
    listed: tuple[str, str], usage: dict[str, Any], tier: str | None, more: int
) -> None:
    """For every model of the price data, however the tokens fall, and for fewer tokens than reserved."""
    model, provider = listed
    most = PRICES.worst(model, usage["input_tokens"] + more, usage["output_tokens"] + more, provider=provider)
    assert PRICES.cost(model, usage, provider=provider, tier=tier) <= most


@given(listed=st.sampled_from(LISTED), usage=usages(), tier=st.sampled_from(["priority", "fast"]))
def test_a_dearer_tier_that_is_asked_for_is_reserved(listed: tuple[str, str], usage: dict[str, Any], tier: str) -> None:
    model, provider = listed
    totals = usage["input_tokens"], usage["output_tokens"]
    most = PRICES.worst(model, *totals, provider=provider, tier=tier)
    assert max(PRICES.cost(model, usage, provider=provider, tier=one) for one in (tier, None)) <= most
    if tier == "priority":
        assert most <= PRICES.worst(model, *totals, provider=provider, tier="auto")


def test_most_of_the_price_data_can_be_used() -> None:
    assert len(LISTED) > 1500
    assert len({provider for _, provider in LISTED}) > 30


money = st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=4)


@given(
    price=st.builds(
        Price,
        input=money,
        output=money,
        cache_read=st.none() | money,
        cache_write=st.none() | money,
        input_audio=st.none() | money,
        output_audio=st.none() | money,
        batch=st.decimals(0, 2, places=2),
    ),
    usage=usages(),
    tier=st.sampled_from([None, "batch"]),
)
def test_the_worst_case_holds_for_prices_of_ones_own(price: Price, usage: dict[str, Any], tier: str | None) -> None:
    prices = Prices({"mine": price})
    most = prices.worst("mine", usage["input_tokens"], usage["output_tokens"], tier=tier)
    assert 0 <= prices.cost("mine", usage, tier=tier) <= most


def test_a_price_that_rises_while_a_call_is_under_way_is_reserved() -> None:
    """deepseek-chat costs twice as much from 00:30 on."""
    before = Prices(clock=lambda: datetime(2026, 11, 20, 0, 20, tzinfo=UTC))
    usage = {"input_tokens": 1000, "output_tokens": 1000}
    after = before.cost("deepseek-chat", usage, at=datetime(2026, 11, 20, 0, 40, tzinfo=UTC))
    assert before.cost("deepseek-chat", usage) < after == before.worst("deepseek-chat", 1000, 1000)


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("gpt-5-mini", "openai"),
        ("gpt-5-mini", None),
        ("openai:gpt-5-mini", None),
        ("OpenAI:gpt-5-mini-2025-08-07", "openai"),
        (" gpt-5-mini-20250807 ", "openai"),
    ],
)
def test_a_model_is_found_by_each_of_its_names(name: str, provider: str | None) -> None:
    usage = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    assert PRICES.cost(name, usage, provider=provider) == Decimal("2.25")


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("models/gemini-2.5-flash", "google_genai"),
        ("google_vertexai:gemini-2.5-flash", None),
        ("google_genai:models/gemini-2.5-flash", None),
    ],
)
def test_googles_names_are_understood(name: str, provider: str | None) -> None:
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    assert PRICES.cost(name, usage, provider=provider) == PRICES.cost("gemini-2.5-flash", usage, provider="google")


@pytest.mark.parametrize(
    ("name", "provider"),
    [("gpt-99", "openai"), ("llama3:8b", "ollama"), ("gpt-5", "somebodys-gateway"), ("", None), ("scripted", None)],
)
def test_a_model_without_a_price_is_refused(name: str, provider: str | None) -> None:
    """Before the call and after it; the error says what to do."""
    assert not PRICES.knows(name, provider)
    with pytest.raises(UnpricedModel, match=r"Prices\(\{.*Price\(input") as raised:
        PRICES.worst(name, 1, 1, provider=provider)
    assert (raised.value.model, raised.value.provider) == (name, provider)
    with pytest.raises(UnpricedModel):
        PRICES.cost(name, {"input_tokens": 0, "output_tokens": 0}, provider=provider)


def test_ones_own_price_goes_before_the_published_one() -> None:
    """For all editions of the model, unless one of them is named; by the provider that is named, if one is."""
    own = {
        "gpt-5-mini": Price(input=Decimal(1), output=Decimal(1)),
        "gpt-5-mini-2026-01-01": Price(input=Decimal(2), output=Decimal(2)),
        "azure_openai:gpt-5-mini": Price(input=Decimal(3), output=Decimal(3)),
    }
    prices = Prices(own)
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    assert prices.cost("gpt-5-mini-2025-08-07", usage, provider="openai") == 1
    assert prices.cost("openai:gpt-5-mini", usage) == 1
    assert prices.cost("GPT-5-mini-2026-01-01", usage, provider="openai") == 2
    assert prices.cost("gpt-5-mini", usage, provider="azure") == 3
    assert prices.cost("gpt-5", usage) == PRICES.cost("gpt-5", usage)


def test_a_local_model_can_be_free() -> None:
    prices = Prices({"llama3:8b": Price.free()})
    assert prices.worst("llama3:8b", 10**6, 10**6, provider="ollama") == 0


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal(-1), 0.25, 1, None])
@pytest.mark.parametrize("name", ["input", "output", "batch"])
def test_what_is_no_price_is_refused(name: str, value: Any) -> None:
    given: dict[str, Any] = {"input": Decimal(1), "output": Decimal(1), name: value}
    with pytest.raises(ValueError, match=name):
        Price(**given)


def test_a_cheaper_cache_is_priced_as_one() -> None:
    price = Price(input=Decimal(10), output=Decimal(0), cache_read=Decimal(1), cache_write=Decimal(20))
    details = {"cache_read": 500_000, "cache_creation": 250_000}
    usage = {"input_tokens": 1_000_000, "output_tokens": 0, "input_token_details": details}
    assert Prices({"m": price}).cost("m", usage) == Decimal("2.5") + Decimal("0.5") + 5


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, Tokens()),
        ({"input_tokens": None, "output_tokens": -5, "input_token_details": None}, Tokens()),
        (
            {"input_tokens": 5, "output_tokens": 5, "input_token_details": {"cache_read": "many"}},
            Tokens(plain=5, output=5),
        ),
        # Some leave what came from the cache out of the total.
        ({"input_tokens": 5, "input_token_details": {"cache_read": 90}}, Tokens(cache_read=90)),
        # Some leave reasoning out of the output.
        ({"input_tokens": 5, "output_tokens": 5, "total_tokens": 30}, Tokens(plain=5, output=25)),
        # What was written to a cache is told in general and by lifetime at once.
        (
            {
                "input_tokens": 50,
                "input_token_details": {
                    "cache_creation": 30,
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 20,
                },
            },
            Tokens(plain=20, cache_write=10, cache_write_1h=20),
        ),
    ],
)
def test_usage_that_does_not_add_up_is_charged(usage: dict[str, Any], tokens: Tokens) -> None:
    assert Tokens.of(usage) == tokens


@given(usage=usages())
def test_no_token_is_counted_twice_or_not_at_all(usage: dict[str, Any]) -> None:
    tokens = Tokens.of(usage)
    assert tokens.input == usage["input_tokens"]
    assert tokens.output + tokens.output_audio + tokens.reasoning == usage["output_tokens"]


def answer(said: dict[str, Any], usage: UsageMetadata | None = None) -> AIMessage:
    return AIMessage("", response_metadata=said, usage_metadata=usage)


USAGE = UsageMetadata(input_tokens=1_000_000, output_tokens=0, total_tokens=1_000_000)


def test_an_answer_says_who_gave_it() -> None:
    """Anthropic tells the tier within its usage, OpenAI beside it."""
    assert served(answer({}), "gpt-5", "openai") == Served("gpt-5", "openai", None)
    said = {"model_name": "gpt-5-2025-08-07", "model_provider": "openai", "service_tier": "flex"}
    assert served(answer(said), "gpt-5") == Served("gpt-5-2025-08-07", "openai", "flex")
    said = {"model": "claude-haiku-4-5", "model_provider": "anthropic", "usage": {"service_tier": "batch"}}
    assert served(answer(said), "gpt-5", "openai") == Served("claude-haiku-4-5", "anthropic", "batch")
    assert served(answer({"model_name": "m", "service_tier": "default"}), "m").tier is None


def test_an_answer_is_priced_as_the_model_that_gave_it() -> None:
    """A fallback's, and that of a router's model, not as the one that was asked."""
    said = {"model_name": "claude-haiku-4-5-20251001", "model_provider": "anthropic"}
    spent = PRICES.spent(answer(said, USAGE), "gpt-5", "openai")
    assert spent is not None
    assert (spent.cost, spent.served.provider) == (1, "anthropic")
    said = {"model_name": "anthropic/claude-haiku-4.5", "model_provider": "openai"}
    routed = PRICES.spent(answer(said, USAGE), "anthropic/claude-haiku-4.5", "openrouter")
    assert routed is not None
    assert (routed.cost, routed.served.provider) == (1, "openrouter")


def test_an_answer_under_an_unknown_name_is_priced_as_what_was_asked() -> None:
    spent = PRICES.spent(answer({"model_name": "deployment-7"}, USAGE), "gpt-5-mini", "openai")
    assert spent is not None
    assert (spent.cost, spent.served.model) == (Decimal("0.25"), "gpt-5-mini")
    with pytest.raises(UnpricedModel, match="deployment-7"):
        PRICES.spent(answer({"model_name": "deployment-7"}, USAGE), "alias", "openai")


def test_an_answer_without_usage_says_nothing_of_its_cost() -> None:
    assert PRICES.spent(answer({}), "gpt-5", "openai") is None


def test_models_are_known_by_name_and_provider() -> None:
    """The journaled ones too; a model behind a router is the router's."""
    key = SecretStr("none")
    mini = ChatOpenAI(model="gpt-5-mini", api_key=key)
    assert model_of(mini) == model_of(journaled(mini)) == ("gpt-5-mini", "openai")
    claude = ChatAnthropic(model_name="claude-haiku-4-5", api_key=key, timeout=None, stop=None)
    assert model_of(claude) == ("claude-haiku-4-5", "anthropic")
    azure = AzureChatOpenAI(model="gpt-4.1", api_key=key, azure_endpoint="https://x.openai.azure.com", api_version="1")
    assert model_of(azure) == ("gpt-4.1", "azure")
    routed = ChatOpenAI(model="openai/gpt-5-mini", api_key=key, base_url="https://openrouter.ai/api/v1")
    assert model_of(routed) == ("openai/gpt-5-mini", "openrouter")
    gateway = ChatOpenAI(model="gpt-5-mini", api_key=key, base_url="https://gateway.example/v1")
    assert model_of(gateway) == ("gpt-5-mini", "openai")
    assert all(PRICES.knows(*model_of(model)) for model in (mini, claude, azure, routed, gateway))


def test_a_call_says_which_tier_it_asks_for() -> None:
    plain = ChatOpenAI(model="gpt-5", api_key=SecretStr("none"))
    assert tier_of(plain, {}) is None
    assert tier_of(plain, {"service_tier": "priority"}) == "priority"
    assert tier_of(plain.model_copy(update={"service_tier": "auto"}), {}) == "auto"
    assert tier_of(plain.model_copy(update={"service_tier": "default"}), {}) is None


def test_nothing_is_fetched() -> None:
    """A price is found in a process that may not open a socket."""
    code = """
import socket, sys
class Refused:
    def __init__(self, *given, **named): raise AssertionError("a socket was opened")
from holdfast.guardrails.prices import Prices
assert not any(name.startswith("genai_prices") for name in sys.modules), "imported before it was needed"
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = Refused
print(f"{Prices().cost('gpt-5-mini', {'input_tokens': 4_000_000, 'output_tokens': 0}):.2f}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1.00", "")


def test_without_the_extra_only_ones_own_prices_are_known() -> None:
    code = """
import sys
sys.modules["genai_prices"] = None
from holdfast.checkpointing.errors import MissingExtra
from holdfast.guardrails.prices import Price, Prices
prices = Prices({"mine": Price.free()})
assert prices.cost("mine", {"input_tokens": 1}) == 0
try:
    prices.worst("gpt-5", 1, 1)
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'holdfast[budgets]'" in done.stdout
    assert done.stderr == ""


def test_the_calls_of_a_published_run_add_up_to_its_bill() -> None:
    """369 tool calls, 9.7 M tokens, 2.74 dollars."""
    calls = published_usage()
    assert len(calls) == TOOL_CALLS + 1
    assert sum(usage["total_tokens"] for usage in calls) == TOKENS
    for prices in (PRICES, Prices({"gpt-5-mini": PRICE})):
        costs = [prices.cost("gpt-5-mini", usage, provider="openai") for usage in calls]
        assert sum(costs) == DOLLARS
