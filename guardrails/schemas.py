"""The JSON schemas of tools' arguments, as models are shown them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.tools import BaseTool
from pydantic import BaseModel

from ..checkpointing.visibility import is_mapping


class Schemas:
    """By a tool's name; each is made when it is asked for first."""

    def __init__(self, tools: Iterable[Any] = ()) -> None:
        self._tools: dict[str, BaseTool] = {}
        self._made: dict[str, tuple[BaseTool, Mapping[str, Any] | None]] = {}
        self.learn(tools)

    def learn(self, tools: Iterable[Any]) -> None:
        """Know these tools too; what is only described to a model, such as a provider's own tools, has none."""
        for tool in tools:
            if isinstance(tool, BaseTool):
                self._tools[tool.name] = tool

    def of(self, name: str) -> Mapping[str, Any] | None:
        """The schema of a tool's arguments, without those that a run injects; None if nothing is known of it."""
        tool = self._tools.get(name)
        if tool is None:
            return None
        made = self._made.get(name)
        if made is None or made[0] is not tool:
            made = self._made[name] = (tool, schema_of(tool))
        return made[1]


def schema_of(tool: BaseTool) -> Mapping[str, Any] | None:
    """The JSON schema of a tool's arguments."""
    given: Any = tool.tool_call_schema
    if is_mapping(given):
        return given
    return given.model_json_schema() if isinstance(given, type) and issubclass(given, BaseModel) else None
