"""`RoutingMiddleware`: which model answers, by the node that asks and by the money that is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, cast

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from ..checkpointing.durable import NotResumable
from ..checkpointing.errors import HoldfastError
from .actions import Action, Work, acarry_out, carry_out
from .effects import PlainCodec, made
from .model_errors import brief
from .placing import JournalNeedsSaver, placed
from .rates import is_mapping
from .runway import runway_of
from .served import model_of
from .stops import stopping

Create = Callable[[str], BaseChatModel]
_INIT: Final = cast("Create", init_chat_model)
_NAME: Final = "route"


class RoutedModelFailed(HoldfastError):
    """A route names a model that cannot be created."""

    def __init__(self, name: str, error: BaseException) -> None:
        self.name: Final = name
        super().__init__(
            f"the routing table names the model {brief(name, 60)!r}, which cannot be created: {brief(str(error), 200)} "
            "(expected provider:model, such as openai:gpt-5, its package installed and its key in the environment; "
            "or give the model itself)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A row of the table: a model, and when it answers.

    >>> Route(model="openai:gpt-5-mini", nodes=("research",), below=0.2).below
    0.2
    """

    model: BaseChatModel | str
    """The model, or its name for `init_chat_model`."""
    nodes: tuple[str, ...] = ()
    """Graph nodes in which it answers, at any depth; empty: in all."""
    below: float | None = None
    """It answers once less than this part of the nearest limit is left, 0 to 1; None: whatever is left."""

    def __post_init__(self) -> None:
        """Refuse what would never match as it was meant.

        Raises:
            ValueError: `below` is not above 0 and up to 1, or `nodes` is a single text.
        """
        if self.below is not None and not 0 < self.below <= 1:
            raise ValueError(f"below must be a part of the limit, above 0 and up to 1, not {self.below}")
        if isinstance(self.nodes, str):
            raise ValueError(f"nodes must be several names, such as ({self.nodes!r},), not one text")

    def matches(self, nodes: Collection[str], left: float | None) -> bool:
        """Whether it answers in these nodes with that part of the limit left; None: nobody knows, so plenty."""
        if self.nodes and not any(name in self.nodes for name in nodes):
            return False
        return self.below is None or (left is not None and left < self.below)


def route(table: Sequence[Route], nodes: Collection[str], left: float | None) -> int | None:
    """The first row that matches, by its place in the table; None if none does.

    >>> table = [Route(model="small", below=0.2), Route(model="large", nodes=("plan",))]
    >>> [route(table, ["plan"], left) for left in (None, 0.5, 0.1)]
    [1, 1, 0]
    """
    return next((place for place, row in enumerate(table) if row.matches(nodes, left)), None)


def by_money(table: Sequence[Route], nodes: Collection[str]) -> bool:
    """Whether what is left makes a difference in these nodes."""
    probes = [None, *(row.below / 2 for row in table if row.below is not None)]
    thresholds = [row.below for row in table if row.below is not None and row.below < 1]
    return len({route(table, nodes, left) for left in [*probes, *thresholds]}) > 1


def nodes_of(checkpoint_ns: str) -> tuple[str, ...]:
    """The nodes in which a task runs, the outermost first.

    LangGraph's namespace joins a node and its task by `:`, and levels, as well as the number of a repeated
    subgraph, by `|`; neither may stand in a node's name.

    >>> nodes_of("research:0b9|1|model:7c2")
    ('research', 'model')
    """
    return tuple(level.partition(":")[0] for level in checkpoint_ns.split("|") if ":" in level)


class RoutingMiddleware(AgentMiddleware[Any, Any, Any]):
    """Asks the model that the table names: the first row that matches, else `default`, else the agent's own.

    Outside of what prices and journals calls, which are to see the model that is asked. Tools, structured output
    and settings of the request stay; settings that only one provider knows are to be given to its model instead.

    What is left is what `runway_of` knows in this process, of the limit nearest to its end: without a budget, and in
    a new process until the thread's first reservation, that is nothing, which counts as plenty.

    **After a crash.** A row with `below` may choose otherwise on the re-execution, and the journal, which knows a
    call by its model too, would have another call made and paid. In nodes where that can be, the choice is
    therefore recorded before the call, as an effect of its own, and read back: the same call is asked of the same
    model, and its record answers. That costs as much as a journaled tool call (two commits); choices by node alone
    cost nothing, and are the same for as long as the table is. Where the recorded model has left the table, or the
    graph is not saved by Holdfast, it is chosen anew; the second call is then the only one that is paid twice.
    """

    def __init__(
        self,
        table: Sequence[Route],
        *,
        default: BaseChatModel | str | None = None,
        create: Create = _INIT,
    ) -> None:
        """`create` makes a model from a name, once for each, when it is first asked.

        Raises:
            ValueError: a row can never match, because one before it always does.
        """
        super().__init__()
        for place, row in enumerate(table[:-1]):
            if not row.nodes and row.below is None:
                raise ValueError(f"row {place + 1} of the routing table always matches: no row after it can")
        self._table = tuple(table)
        self._default = default
        self._create = create
        self._created: dict[str, BaseChatModel] = {}
        self._lock = Lock()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        with stopping():
            request = carry_out(self._routed(request))
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        with stopping():
            request = await acarry_out(self._routed(request))
        return await handler(request)

    def _routed(self, request: ModelRequest[Any]) -> Work[ModelRequest[Any]]:
        info = getattr(request.runtime, "execution_info", None)
        nodes = nodes_of(info.checkpoint_ns) if info is not None else ()
        thread_id = None if info is None or info.thread_id is None else str(info.thread_id)
        place = yield from self._chosen(nodes, thread_id)
        model = self._default if place is None else self._table[place].model
        if model is None:
            return request
        if isinstance(model, str):
            model = yield from self._by_name(model)
        return request.override(model=model)

    def _chosen(self, nodes: tuple[str, ...], thread_id: str | None) -> Work[int | None]:
        runway = None if thread_id is None else runway_of(thread_id)
        left = None if runway is None else runway.fraction
        place = route(self._table, nodes, left)
        if thread_id is None or not by_money(self._table, nodes):
            return place
        said = {"row": place, "model": self._called(place)}

        async def soon() -> Any:
            return said

        try:
            asked = {"nodes": list(nodes), "left": left}
            # What is left may differ on a re-execution, so that it is no part of what identifies the choice.
            call = placed("effect", _NAME, _NAME, [_NAME], asked=asked, on_doubt="retry")
            recorded: Any = yield from made(call, Action(lambda: said, soon), PlainCodec())
        except (JournalNeedsSaver, NotResumable):
            return place
        return self._found(recorded, place)

    def _found(self, recorded: Any, otherwise: int | None) -> int | None:
        """The place of a recorded choice in the table as it is now."""
        if not is_mapping(recorded):
            return otherwise
        row, name = recorded.get("row"), recorded.get("model")
        places = [*range(len(self._table)), None]
        return next((place for place in [row, *places] if place in places and self._called(place) == name), otherwise)

    def _called(self, place: int | None) -> str:
        model = self._default if place is None else self._table[place].model
        if model is None:
            return "the agent's own"
        return model if isinstance(model, str) else model_of(model)[0]

    def _by_name(self, name: str) -> Work[BaseChatModel]:
        if (known := self._created.get(name)) is not None:
            return known
        # Clients read certificates and import much, for which no event loop should wait.
        made_now: BaseChatModel = yield Action(lambda: self._make(name), lambda: asyncio.to_thread(self._make, name))
        return made_now

    def _make(self, name: str) -> BaseChatModel:
        with self._lock:
            if name not in self._created:
                try:
                    self._created[name] = self._create(name)
                except HoldfastError:
                    raise
                except Exception as error:  # each client raises its own
                    raise RoutedModelFailed(name, error) from error
            return self._created[name]
