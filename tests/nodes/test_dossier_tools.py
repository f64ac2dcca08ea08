"""What the tools of research promise."""

from __future__ import annotations

import importlib.util
import json
import logging
from typing import Any

import pytest
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from holdfast.checkpointing import Database, Document
from holdfast.nodes import dossier_tools, web_tools
from holdfast.nodes.dossier_tools import PAGE, DossierState
from tests.support.scripted import ScriptedModel, calling

LONG = Document(name="long.txt", text="".join(f"line {number}\n" for number in range(3000)))
PUMPS = Document(name="pumps.md", text="On Monday the pump failed twice.")


def not_installed(_name: str) -> None:
    """What `find_spec` says of a package that is not there."""


def result_of(db: Database, tool: str, **arguments: Any) -> str:
    """What a tool answers when an agent calls it."""
    model = ScriptedModel(script=[calling((tool, arguments)), AIMessage("done")])
    agent: Any = create_agent(  # pyright: ignore[reportUnknownVariableType]
        model, dossier_tools(lambda: db.documents), state_schema=DossierState
    )
    dossier_id = db.documents.save([LONG, PUMPS])
    return agent.invoke({"messages": "go", "dossier_id": dossier_id})["messages"][-2].text


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_there_is_no_web(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TAVILY_API_KEY", key)
    assert web_tools() == []


def test_a_key_without_its_package_is_said_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-secret")
    monkeypatch.setattr(importlib.util, "find_spec", not_installed)
    with caplog.at_level(logging.WARNING):
        assert web_tools() == []
    assert "pip install 'holdfast[web]'" in caplog.text
    assert "tvly-secret" not in caplog.text


def test_with_a_key_there_is_one_tool_that_searches_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-test")
    assert [tool.name for tool in web_tools()] == ["tavily_search"]


def test_the_tools_are_made_before_any_database_is_open() -> None:
    def closed() -> Any:
        raise AssertionError("asked for too early")

    assert [tool.name for tool in dossier_tools(closed)] == ["search", "read_document"]


def test_a_model_is_never_asked_for_the_dossier_or_the_runtime(db: Database) -> None:
    search, read = (
        convert_to_openai_tool(tool)["function"]["parameters"] for tool in dossier_tools(lambda: db.documents)
    )
    assert set(search["properties"]) == {"query"}
    assert set(read["properties"]) == {"document", "position"}


def test_search_answers_with_passages_as_json(db: Database) -> None:
    assert json.loads(result_of(db, "search", query="pumps")) == [
        {"document": "pumps.md", "position": 0, "text": PUMPS.text}
    ]


def test_search_without_a_hit_is_an_empty_list(db: Database) -> None:
    assert json.loads(result_of(db, "search", query="zebra")) == []


def test_a_long_document_comes_in_pages_that_join_to_the_whole(db: Database) -> None:
    text, position = "", 0
    while True:
        page = json.loads(result_of(db, "read_document", document="long.txt", position=position))
        assert len(page["text"]) <= PAGE
        text += page["text"]
        if "next_position" not in page:
            break
        position = page["next_position"]
    assert text == LONG.text


def test_reading_past_the_end_is_an_empty_last_page(db: Database) -> None:
    page = json.loads(result_of(db, "read_document", document="pumps.md", position=10_000))
    assert page == {"document": "pumps.md", "position": 10_000, "text": ""}


@pytest.mark.parametrize("name", ["pump.md", "\ud83d", ""])
def test_a_misspelt_document_is_answered_with_the_known_names(db: Database, name: str) -> None:
    assert "it holds: long.txt, pumps.md" in result_of(db, "read_document", document=name)
