"""The JSON schemas of tools' arguments, as models are shown them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from langchain_core.tools import BaseTool
from pydantic import BaseModel

from ..checkpointing.forms import Unfit, stored_schema
from ..checkpointing.visibility import is_mapping

_log: Final = logging.getLogger("holdfast.approvals")


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

    def usable(self, name: str) -> Mapping[str, Any] | None:
        """The same, if an edit can be held against it: whoever wrote the tool may have written anything."""
        schema = self.of(name)
        if schema is None:
            return None
        try:
            stored_schema(schema)
        except Unfit as unfit:
            _log.warning("edits of calls of %r are not checked before they are made: its schema %s", name, unfit)
            return None
        return schema


def schema_of(tool: BaseTool) -> Mapping[str, Any] | None:
    """The JSON schema of a tool's arguments."""
    given: Any = tool.tool_call_schema
    if is_mapping(given):
        return given
    return given.model_json_schema() if isinstance(given, type) and issubclass(given, BaseModel) else None
