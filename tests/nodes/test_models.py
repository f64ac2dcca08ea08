"""What `load_model` promises."""

from __future__ import annotations

import importlib.util
import os

import pytest

from holdfast.checkpointing import HoldfastError
from holdfast.checkpointing.errors import MissingExtra
from holdfast.nodes import OfflineExtractiveModel, UnknownModel, load_model
from holdfast.nodes.models import model_name
from tests.support.scripted import ScriptedModel


def not_installed(_name: str) -> None:
    """What `find_spec` says of a package that is not there."""


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in os.environ:
        if name.startswith(("OPENAI_", "ANTHROPIC_", "AZURE_")):
            monkeypatch.delenv(name)


def test_the_default_model_is_the_offline_one() -> None:
    assert isinstance(load_model(), OfflineExtractiveModel)
    assert isinstance(load_model("offline"), OfflineExtractiveModel)


@pytest.mark.parametrize("name", ["nosuch:model", "nosuchmodel", "", ":", "openai", "offline:x", "\x00", "a" * 10_000])
def test_a_name_that_no_provider_has_is_unknown_and_says_what_was_expected(name: str) -> None:
    with pytest.raises(UnknownModel, match="expected provider:model") as caught:
        load_model(name)
    assert "offline" in str(caught.value)


@pytest.mark.parametrize("name", ["openai:gpt-5", "gpt-5", "anthropic:claude-sonnet-4-5"])
def test_a_model_without_its_key_is_refused_before_it_is_used(name: str) -> None:
    with pytest.raises(UnknownModel, match="key"):
        load_model(name)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_model_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", not_installed)
    with pytest.raises(MissingExtra, match=rf"pip install 'holdfast\[{provider}\]'") as caught:
        load_model(f"{provider}:any")
    assert caught.value.extra == provider
    assert isinstance(caught.value, HoldfastError)


def test_the_offline_model_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", not_installed)
    assert isinstance(load_model(), OfflineExtractiveModel)


@pytest.mark.parametrize("name", ["openai:gpt-5", "anthropic:claude-sonnet-4-5"])
def test_with_a_key_the_model_is_loaded_with_the_given_limits(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    model = load_model(name, timeout=7.0, max_retries=1)
    assert 7.0 in {getattr(model, "request_timeout", None), getattr(model, "default_request_timeout", None)}
    assert getattr(model, "max_retries", None) == 1
    assert model_name(model) == name.partition(":")[2]


def test_an_unknown_model_never_repeats_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with pytest.raises(UnknownModel) as caught:
        load_model("nosuch:model")
    assert "sk-very-secret" not in str(caught.value)


def test_a_model_has_a_name_for_people() -> None:
    assert model_name(OfflineExtractiveModel()) == "offline-extractive"
    assert model_name(ScriptedModel(script=[], model_name="")) == "ScriptedModel"
