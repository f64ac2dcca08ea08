"""The tools of research: search a dossier, read a document, and the web where there is a key."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable
from typing import Annotated, Any, Final

from langchain.agents import AgentState
from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, tool
from pydantic import Field

from ..checkpointing.documents import Documents
from ..checkpointing.errors import MissingExtra, UnknownDocument

logger = logging.getLogger(__name__)
READ_ONLY: Final = {"readOnlyHint": True}
"""A tool's metadata as the Model Context Protocol names it: to call it again does no harm."""
PAGE: Final = 12_000
"""Characters of a document that one call returns."""


class DossierState(AgentState[Any]):
    """The state of an agent that works on a dossier."""

    dossier_id: str


def dossier_tools(documents: Callable[[], Documents]) -> list[BaseTool]:
    """`search` and `read_document`, over the dossier that the agent's state names.

    `documents` is called when a tool is, so a graph can be built before a database is open.
    """

    @tool
    def search(
        query: Annotated[str, Field(description="What to look for, in a few words.")],
        runtime: ToolRuntime[None, DossierState],
    ) -> str:
        """Search the dossier. Returns the best passages as JSON, each with its document and position."""
        found = documents().search(runtime.state["dossier_id"], query)
        return json.dumps(
            [{"document": hit.document, "position": hit.position, "text": hit.text} for hit in found],
            ensure_ascii=False,
        )

    @tool
    def read_document(
        document: Annotated[str, Field(description="The document's name, as search gives it.")],
        runtime: ToolRuntime[None, DossierState],
        position: Annotated[int, Field(ge=0, description="The character to start from.")] = 0,
    ) -> str:
        """Read a document of the dossier from a position on. Long documents come in pages."""
        try:
            text = documents().read(runtime.state["dossier_id"], document).text
        except UnknownDocument as error:
            return str(error)  # the model may have misspelt it: the error lists the names
        end = position + PAGE
        page: dict[str, Any] = {"document": document, "position": position, "text": text[position:end]}
        if end < len(text):
            page["next_position"] = end
        return json.dumps(page, ensure_ascii=False)

    for reading in (search, read_document):
        reading.metadata = dict(READ_ONLY)
    return [search, read_document]


def web_tools() -> list[BaseTool]:
    """Web search through Tavily where `TAVILY_API_KEY` is set, else nothing.

    The web informs the model; it is never quoted, because only the dossier's documents are kept.
    A key without the `web` extra is said in the log.
    """
    if not os.environ.get("TAVILY_API_KEY"):
        return []
    if importlib.util.find_spec("langchain_tavily") is None:
        logger.warning("TAVILY_API_KEY is set but not used: %s", MissingExtra("web", "web search"))
        return []
    from langchain_tavily import TavilySearch

    return [TavilySearch(max_results=5, metadata=dict(READ_ONLY))]
