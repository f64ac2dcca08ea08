"""How many tokens a call can come to, before it is made."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr

from holdfast.guardrails.estimates import Margin, counted, output_cap
from tests.support.scripted import ScriptedModel

KEY = SecretStr("none")
requests = st.integers(0, 2_000_000)
margins = st.builds(Margin, factor=st.floats(1.05, 50), overhead=st.integers(0, 10_000))


@given(margin=margins, ours=requests, theirs=requests)
def test_what_was_observed_is_covered(margin: Margin, ours: int, theirs: int) -> None:
    """At once, by the bound of the same request."""
    assert margin.observed(ours, theirs).bound(ours) >= theirs


@given(margin=margins, ours=requests, more=requests)
def test_a_longer_request_has_no_lower_bound(margin: Margin, ours: int, more: int) -> None:
    assert ours <= margin.bound(ours) <= margin.bound(ours + more)


@given(margin=margins, ours=requests, theirs=requests, more=requests, probe=requests)
def test_a_greater_surprise_makes_no_lower_bound(margin: Margin, ours: int, theirs: int, more: int, probe: int) -> None:
    assert margin.observed(ours, theirs).bound(probe) <= margin.observed(ours, theirs + more).bound(probe)


@given(margin=margins, seen=st.lists(st.tuples(st.integers(-5, 10**7), st.integers(-5, 10**30)), max_size=30))
def test_it_stays_a_number_above_its_floor(margin: Margin, seen: list[tuple[int, int]]) -> None:
    """Whatever a provider claims."""
    for ours, theirs in seen:
        margin = margin.observed(ours, theirs)
        assert 1.05 <= margin.factor < math.inf
        assert margin.overhead >= 0


@given(margin=margins, ours=requests, part=st.floats(0, 1))
def test_it_falls_slowly(margin: Margin, ours: int, part: float) -> None:
    """By a fiftieth of the way with each request that came to less."""
    after = margin.observed(ours, int(ours * part))
    assert after.factor >= margin.factor * 0.98
    assert after.overhead >= margin.overhead * 0.98


def test_it_comes_near_to_what_is_usual() -> None:
    """A tokenizer that needs a fifth more than ours leads to a bound of about a third more, from either side."""
    for begun in (Margin(), Margin(factor=9)):
        margin = begun
        for _ in range(500):
            margin = margin.observed(10_000, 12_000)
        assert 12_000 < margin.bound(10_000) < 13_600


def test_a_small_request_does_not_spoil_the_factor() -> None:
    """Five tokens that became 400, by the provider's own instructions, say nothing of long texts."""
    margin = Margin().observed(5, 400)
    assert margin.factor == Margin().factor
    assert margin.bound(5) >= 400
    assert margin.bound(100_000) < 151_000


def test_no_request_is_expected_to_be_longer_than_the_window() -> None:
    assert Margin(factor=30).bound(100_000, 200_000) == 200_000
    assert Margin().bound(1000, 200_000) == Margin().bound(1000)


@pytest.mark.parametrize("factor", [1.0, 0.0, -1.0, math.inf, math.nan])
def test_what_is_no_margin_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        Margin(factor=factor)


def payload(model: Any, **kwargs: Any) -> dict[str, Any]:
    """What a client would send."""
    sent: dict[str, Any] = model._get_request_payload([HumanMessage("a")], **kwargs)
    return sent


@tool
def look(query: str, limit: int = 3) -> str:
    """Look something up in the documents that were given."""
    return f"{query} {limit}"


def test_tools_and_all_messages_count() -> None:
    messages: list[BaseMessage] = [SystemMessage("a" * 400), HumanMessage("b" * 4000)]
    calling = AIMessage("", tool_calls=[{"name": "look", "args": {"query": "c" * 400}, "id": "1"}])
    more = [*messages, calling, ToolMessage("d" * 40_000, tool_call_id="1")]
    assert 1100 <= counted(messages) < 1150
    assert counted(more) > counted(messages) + 10_100
    assert counted(messages, [look]) > counted(messages) + 30
    assert counted(messages, [{"type": "function", "function": {"name": "x" * 400}}]) > counted(messages) + 100
    assert counted([]) == 0


def test_other_scripts_count_by_their_length_in_bytes() -> None:
    """A Chinese character is near a token of its own, not a quarter of one."""
    text = "\u6f22\u5b57" * 500
    assert counted([HumanMessage(text)]) >= 750
    assert counted([HumanMessage([{"type": "text", "text": text}])]) >= 750
    assert counted([HumanMessage("a" * 1000)]) < 260


def test_an_image_counts_as_a_large_one_and_not_by_its_letters() -> None:
    block = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    assert 1600 <= counted([HumanMessage([block])]) < 1700


def odd() -> list[BaseMessage]:
    return [
        HumanMessage([{"type": "text", "text": None}]),
        HumanMessage(["text", {"of": "no known kind"}, {}]),
        HumanMessage.model_construct(content=None),
        HumanMessage.model_construct(content=["a", 7, object()]),
        HumanMessage("a lone surrogate \ud800 of no encoding"),
    ]


@pytest.mark.parametrize("message", odd())
def test_odd_content_harms_no_count(message: BaseMessage) -> None:
    """What stands beside it counts all the same."""
    assert counted([HumanMessage("a" * 4000), message], [{"odd": object()}, look]) > 1000


@given(content=st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text()) | st.text()))
def test_every_content_can_be_counted(content: list[Any]) -> None:
    assert counted([HumanMessage(content)]) > 0


def test_the_cap_that_somebody_chose_holds() -> None:
    """In the call, or in the model."""
    for own in (None, 900):
        model = ChatOpenAI(model="gpt-5", api_key=KEY).model_copy(update={"max_tokens": own})
        cap = output_cap(model, {"max_tokens": 50}, 4096)
        assert (cap.tokens, cap.settings) == (50, {})
    cap = output_cap(ChatOpenAI(model="gpt-5", api_key=KEY), {"max_completion_tokens": 50}, 4096)
    assert (cap.tokens, cap.settings) == (50, {})
    chosen = ChatAnthropic(
        model_name="claude-sonnet-4-5", api_key=KEY, max_tokens_to_sample=700, timeout=None, stop=None
    )
    assert output_cap(chosen, {}, 4096).tokens == 700
    further = ChatOpenAI(model="gpt-5", api_key=KEY).model_copy(update={"model_kwargs": {"max_completion_tokens": 80}})
    assert output_cap(further, {}, 4096).tokens == 80


def test_of_two_caps_under_different_names_the_larger_is_reserved() -> None:
    """langchain-openai sends the model's own instead of the call's, where the call's has the name of the endpoint."""
    plain = ChatOpenAI(model="gpt-5", api_key=KEY, use_responses_api=True)
    model = plain.model_copy(update={"max_tokens": 900})
    assert payload(model, max_output_tokens=50)["max_output_tokens"] == 900
    assert output_cap(model, {"max_output_tokens": 50}, 4096).tokens == 900


def test_without_one_the_default_is_set() -> None:
    """Under the name that the endpoint knows."""
    for model, name in (
        (ChatOpenAI(model="gpt-5", api_key=KEY), "max_completion_tokens"),
        (ChatOpenAI(model="gpt-5", api_key=KEY, use_responses_api=True), "max_output_tokens"),
        (ChatAnthropic(model_name="claude-sonnet-4-5", api_key=KEY, timeout=None, stop=None), "max_tokens"),
    ):
        cap = output_cap(model, {}, 4096)
        assert (cap.tokens, cap.held, cap.model) == (4096, True, model)
        assert payload(model, **cap.settings)[name] == 4096


def test_the_profile_of_a_model_bounds_the_default() -> None:
    model = ChatAnthropic(model_name="claude-sonnet-4-5", api_key=KEY, timeout=None, stop=None)
    most = (model.profile or {}).get("max_output_tokens")
    assert most is not None
    assert model.max_tokens == most, "langchain-anthropic fills it in"
    assert output_cap(model, {}, 10**9).settings == {"max_tokens": most}


def test_all_answers_of_a_call_are_reserved() -> None:
    model = ChatOpenAI(model="gpt-5", api_key=KEY, n=3)
    assert output_cap(model, {}, 100).tokens == 300
    assert output_cap(model, {"n": 2, "max_tokens": 10}, 100).tokens == 20
    assert output_cap(model, {"n": 2}, 100).settings == {"max_tokens": 100}


def test_thinking_lies_within_the_cap() -> None:
    """Anthropic refuses a cap that is not above the budget for thinking."""
    thinking = {"type": "enabled", "budget_tokens": 9000}
    plain = ChatAnthropic(model_name="claude-sonnet-4-5", api_key=KEY, timeout=None, stop=None)
    model = plain.model_copy(update={"thinking": thinking})
    assert output_cap(model, {}, 4096).settings == output_cap(plain, {"thinking": thinking}, 4096).settings
    assert output_cap(model, {}, 4096).tokens == 13_096


class OtherClient(FakeListChatModel):
    """A client that names its cap in its own way, and would not take it in a call."""

    responses: list[str] = Field(default_factory=list[str])
    num_predict: int | None = None


def test_elsewhere_it_is_set_on_a_copy_of_the_model() -> None:
    """Not as a keyword, which the client may refuse; and not on the model that was given."""
    model = OtherClient()
    cap = output_cap(model, {}, 500)
    assert (cap.tokens, cap.settings, cap.held) == (500, {}, True)
    assert isinstance(cap.model, OtherClient)
    assert (cap.model.num_predict, model.num_predict) == (500, None)
    assert output_cap(OtherClient(num_predict=70), {}, 500).tokens == 70
    assert output_cap(OtherClient(num_predict=-1), {}, 500).tokens == 500


def test_a_model_that_knows_no_cap_is_not_given_one() -> None:
    """The most that it writes is reserved, if it is known."""
    cap = output_cap(ScriptedModel(script=[]), {}, 500)
    assert (cap.tokens, cap.settings, cap.held) == (500, {}, False)
    known: BaseChatModel = ScriptedModel(script=[], profile={"max_output_tokens": 8000})
    assert output_cap(known, {}, 500).tokens == 8000


def test_a_default_that_caps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="default"):
        output_cap(ScriptedModel(script=[]), {}, 0)
