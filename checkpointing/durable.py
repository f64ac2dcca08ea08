"""Which checkpoints are in the database, so that nothing is begun under an id that a crash would change."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from .errors import HoldfastError
from .reading import settings_of

_NAMESPACES: Final = 65_536
"""Those of running tasks are looked at again and again, and stay among the newest."""
_IDS: Final = 64


class NotResumable(HoldfastError):
    """A call was to be made where a crash would lose the id under which it is written down."""


class Durable:
    """The newest checkpoints, by thread and namespace, that this process saved or loaded.

    Task ids are made from the checkpoint's id. Under `durability="async"` LangGraph begins tasks before their
    checkpoint is saved; killed there, the resumed task has another id, and its calls would not be found.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[tuple[str, str], deque[str]] = OrderedDict()
        self._awaited: dict[tuple[str, str, str], Future[None]] = {}

    def note(self, thread_id: str, ns: str, checkpoint_id: str | None) -> None:
        """A checkpoint is in the database; None: its namespace was looked into, and is empty."""
        with self._lock:
            ids = self._known.setdefault((thread_id, ns), deque(maxlen=_IDS))
            self._known.move_to_end((thread_id, ns))
            while len(self._known) > _NAMESPACES:
                self._known.popitem(last=False)
            if checkpoint_id is None:
                return
            ids.append(checkpoint_id)
            done = self._awaited.pop((thread_id, ns, checkpoint_id), None)
        if done is not None:
            done.set_result(None)

    def failed(self, thread_id: str, ns: str, checkpoint_id: str, error: BaseException) -> None:
        """A checkpoint could not be saved."""
        with self._lock:
            done = self._awaited.pop((thread_id, ns, checkpoint_id), None)
        if done is not None:
            done.set_exception(error)

    def wait(self, config: RunnableConfig, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Return when all checkpoints that the running task stands on are in the database.

        Args:
            config: the task's.
            loop: where its run saves them, if that is a loop.

        Raises:
            NotResumable: they will not be: `durability="exit"`, a subgraph with `checkpointer=False`, or a caller
                that blocks the loop.
        """
        for missing in self._missing(config):
            if loop is not None and not missing.done() and loop is _running_loop():
                raise NotResumable(
                    "a sync call would block the event loop that has yet to save the checkpoint it stands on; make it "
                    'an async one, or in `await asyncio.to_thread(...)`, or run the graph with durability="sync"'
                )
            missing.result()

    async def await_(self, config: RunnableConfig) -> None:
        """`wait` on any asyncio loop."""
        for missing in self._missing(config):
            await asyncio.shield(asyncio.wrap_future(missing))

    def _missing(self, config: RunnableConfig) -> list[Future[None]]:
        settings = settings_of(config)
        if settings.get("__pregel_durability") == "exit":
            raise NotResumable(
                'calls cannot be journaled under durability="exit": its task ids change on resume, and calls would '
                'be made twice; run the graph with durability="sync" or "async"'
            )
        thread_id = str(settings.get("thread_id"))
        stands_on: Mapping[str, Any] = settings.get("checkpoint_map") or {}
        missing: list[Future[None]] = []
        with self._lock:
            for ns, checkpoint_id in stands_on.items():
                known = self._known.get((thread_id, ns))
                if known is None:
                    # A `@task` stands on the checkpoint of the task that called it, under that task's namespace.
                    if sum(other == checkpoint_id for other in stands_on.values()) > 1:
                        continue
                    raise NotResumable(
                        f"calls cannot be journaled in the subgraph {ns.partition(':')[0]!r}: it is compiled with "
                        "checkpointer=False, and after a crash its calls would be made twice; compile it without that"
                    )
                self._known.move_to_end((thread_id, ns))
                if checkpoint_id not in known:
                    missing.append(self._awaited.setdefault((thread_id, ns, checkpoint_id), Future()))
        return missing


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
