"""When a run begins and when it has ended, as LangChain's callbacks tell, whoever compiled the graph."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from langgraph.types import Command

_now: ContextVar[UUID | None] = ContextVar("holdfast_run", default=None)
_resumes: Final[set[UUID]] = set()
_ends: Final[dict[UUID, list[Callable[[BaseException | None], None]]]] = defaultdict(list)
_async_ends: Final[dict[UUID, list[Callable[[BaseException | None], Awaitable[None]]]]] = defaultdict(list)


def current_run() -> UUID | None:
    """The run that began last in this context: LangGraph's own, where it asks a saver for a run's checkpoint."""
    return _now.get()


def resumes(run: UUID) -> bool:
    """Whether a run that goes on was begun with an answer to an interrupt."""
    return run in _resumes


def at_end(run: UUID, action: Callable[[BaseException | None], None]) -> None:
    """Have something done when a run of the sync API has ended, after its last write; with the error it ended in."""
    _ends[run].append(action)


def at_async_end(run: UUID, action: Callable[[BaseException | None], Awaitable[None]]) -> None:
    """`at_end` for the async API: the run's caller goes on when the action is done."""
    _async_ends[run].append(action)


class Deaf(BaseCallbackHandler):
    """Hears nothing, but what a subclass wants; inline, so that what begins is known in its own context."""

    run_inline = True

    @property
    def ignore_chain(self) -> bool:
        return True

    @property
    def ignore_llm(self) -> bool:
        return True

    @property
    def ignore_chat_model(self) -> bool:
        return True

    @property
    def ignore_agent(self) -> bool:
        return True

    @property
    def ignore_retriever(self) -> bool:
        return True

    @property
    def ignore_retry(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True


class _Runs(Deaf):
    """Knows what begins, and ends what the sync API began."""

    @property
    def ignore_chain(self) -> bool:
        return False

    def on_chain_start(self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        _now.set(run_id)
        if isinstance(inputs, Command) and inputs.resume is not None:
            _resumes.add(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._ended(run_id, error)

    def _ended(self, run: UUID, error: BaseException | None) -> None:
        _resumes.discard(run)
        if run in _ends:
            for action in _ends.pop(run):
                action(error)


class _AsyncRuns(Deaf):
    """Ends what the async API began: awaited there, as an end's way to the database must not block the loop."""

    @property
    def ignore_chain(self) -> bool:
        # Under the sync API a coroutine would cost a loop of its own.
        return not _async_ends or not _in_loop()

    async def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        await self._ended(run_id, None)

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        await self._ended(run_id, error)

    async def _ended(self, run: UUID, error: BaseException | None) -> None:
        if run in _async_ends:
            for action in _async_ends.pop(run):
                await action(error)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_RUNS: Final = _Runs()
_ASYNC_RUNS: Final = _AsyncRuns()
# Hooks are looked up in whatever context a run begins: the default is there in all of them.
_runs: ContextVar[BaseCallbackHandler | None] = ContextVar("holdfast_runs", default=_RUNS)
_async_runs: ContextVar[BaseCallbackHandler | None] = ContextVar("holdfast_async_runs", default=_ASYNC_RUNS)
register_configure_hook(_runs, inheritable=True)
register_configure_hook(_async_runs, inheritable=True)
