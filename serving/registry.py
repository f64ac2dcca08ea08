"""The graphs that a worker knows: outreach, and those that a `langgraph.json` names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from holdfast.checkpointing import Database
from holdfast.checkpointing.visibility import is_mapping

from .errors import UnusableGraphs
from .jobs import LONGEST
from .runs import outreach_runner
from .segments import Prepared
from .state import GRAPH, Compiled

Settings = Mapping[str, Any]
Opener = Callable[[Database, str, Settings], Awaitable[Prepared]]
"""Makes a thread's graph ready, given how it is run: what was kept when it was submitted."""
_METADATA: Final = ("correlation_id", "tenant")


async def outreach(database: Database, thread_id: str, _: Settings) -> Prepared:
    """An outreach thread, run as it was started."""
    runner = await outreach_runner(database, thread_id, actor=None)
    return Prepared(graph=runner.graph, config=runner.config, control=runner.control)


def known_graphs(file: str | Path | None = None) -> dict[str, Opener]:
    """Outreach, and the graphs of a `langgraph.json`, by their names there.

    Raises:
        UnusableGraphs: the file or a graph in it cannot be used.
    """
    graphs = {} if file is None else {name: opener(name, place, Path(file)) for name, place in named_in(file).items()}
    return {**graphs, GRAPH: outreach}


def named_in(file: str | Path) -> dict[str, str]:
    """The graphs that a `langgraph.json` names, and where each is; nothing is imported.

    Raises:
        UnusableGraphs: it cannot be read, or names none.
    """
    try:
        given: object = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableGraphs(f"{str(file)!r} cannot be read as JSON: {error}") from error
    graphs = given.get("graphs") if is_mapping(given) else None
    if not is_mapping(graphs) or not graphs:
        raise UnusableGraphs(f'{str(file)!r} names no graphs: expected {{"graphs": {{"name": "module:attribute"}}}}')
    named: dict[str, str] = {}
    for name, place in graphs.items():
        path: object = place.get("path") if is_mapping(place) else place
        if not isinstance(path, str) or ":" not in path or not 0 < len(name) <= LONGEST or not name.isprintable():
            raise UnusableGraphs(f"{str(file)!r}: graph {name!r} is not given as module:attribute or file.py:attribute")
        named[name] = path
    return named


def opener(name: str, place: str, file: Path) -> Opener:
    """How to open a graph that is at `module:attribute` or `file.py:attribute`, as seen from the file that names it.

    Raises:
        UnusableGraphs: there is none.
    """
    found = _load(name, place, file)
    if not _is_graph(found) and not callable(found):
        raise UnusableGraphs(f"graph {name!r}: {place} is a {type(found).__name__} and no graph")

    async def opened(database: Database, thread_id: str, settings: Settings) -> Prepared:
        config: RunnableConfig = {
            "configurable": {"thread_id": thread_id, "graph_id": name},
            "metadata": {key: settings[key] for key in _METADATA if settings.get(key)},
        }
        return Prepared(graph=_compiled(name, place, await _made(found, config), database), config=config)

    return opened


def _load(name: str, place: str, file: Path) -> object:
    module, _, attribute = place.rpartition(":")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = getattr(
            _by_path(file.parent / module) if module.endswith(".py") else _by_name(module), attribute
        )
    except Exception as error:
        raise UnusableGraphs(f"graph {name!r}: {place} cannot be loaded: {type(error).__name__}: {error}") from error
    return found


def _by_name(module: str) -> object:
    return importlib.import_module(module)


def _by_path(path: Path) -> object:
    # Its name enters the checkpoints as that of its state's types: the file's own, wherever it lies.
    if (known := sys.modules.get(path.stem)) is not None:
        if _is_at(known, path):
            return known
        raise ImportError(f"another module is called {path.stem!r}: rename the file, or name the graph by its module")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _is_at(module: object, path: Path) -> bool:
    at: object = getattr(module, "__file__", None)
    return isinstance(at, str) and Path(at).resolve() == path.resolve()


def _is_graph(found: object) -> bool:
    return isinstance(found, StateGraph | Pregel)


async def _made(found: object, config: RunnableConfig) -> object:
    """A graph is what it is; a function makes one, given a config if it takes one."""
    if _is_graph(found):
        return found
    factory = cast("Callable[..., object]", found)
    made = factory(config) if inspect.signature(factory).parameters else factory()
    return await made if inspect.isawaitable(made) else made


def _compiled(name: str, place: str, made: object, database: Database) -> Compiled:
    if isinstance(made, StateGraph):
        return made.compile(  # pyright: ignore[reportUnknownVariableType] - its state's type is not known here
            checkpointer=database.saver, store=database.store, name=name
        )
    if isinstance(made, Pregel):
        graph = cast("Compiled", made)
        if isinstance(graph.checkpointer, bool) or graph.checkpointer is None:
            return graph.copy({"checkpointer": database.saver, "store": graph.store or database.store})
        raise UnusableGraphs(f"graph {name!r}: {place} has a checkpointer of its own; compile it without one")
    raise UnusableGraphs(f"graph {name!r}: {place} made a {type(made).__name__} and no graph")
