"""Which model runs are paid for: LangChain tells of every run, and of a stream's call does not say whose it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.tracers.context import register_configure_hook

from ..checkpointing.runs import Deaf

T = TypeVar("T")
_RUNS: Final = 65_536


class _Known:
    """Runs of models that are paid for, or cost nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: OrderedDict[UUID, None] = OrderedDict()

    def add(self, run: BaseRunManager | None) -> None:
        """The run, or without one the model run that began last in this context."""
        run_id = run.run_id if run is not None else _current.get()
        if run_id is None:
            return
        with self._lock:
            self._ids[run_id] = None
            while len(self._ids) > _RUNS:
                self._ids.popitem(last=False)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._ids


_inside: ContextVar[bool] = ContextVar("holdfast_inside_model", default=False)


def inside_model() -> bool:
    """Whether a model that asks another is making a call, which is paid for as its own."""
    return _inside.get()


@contextmanager
def within_model() -> Generator[None]:
    """What is called meanwhile is called by a model."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def pieces(given: Iterable[T]) -> Iterator[T]:
    """A stream, each piece of which is made `within_model`; what its reader does between two is not."""
    stream = iter(given)
    while True:
        with within_model():
            try:
                piece = next(stream)
            except StopIteration:
                return
        yield piece


async def apieces(given: AsyncIterable[T]) -> AsyncIterator[T]:
    """`pieces` of an async one."""
    stream = aiter(given)
    while True:
        with within_model():
            try:
                piece = await anext(stream)
            except StopAsyncIteration:
                return
        yield piece


def current_run() -> UUID | None:
    """The model run that began last in this context."""
    return _current.get()


class ModelsOnly(Deaf):
    """Hears of models."""

    @property
    def ignore_llm(self) -> bool:
        return False

    @property
    def ignore_chat_model(self) -> bool:
        return False


class _Starts(ModelsOnly):
    """Knows what begins."""

    def on_chat_model_start(self, serialized: dict[str, Any], messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        _current.set(run_id)

    def on_llm_start(self, serialized: dict[str, Any], prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        _current.set(run_id)


_current: ContextVar[UUID | None] = ContextVar("holdfast_model_run", default=None)
known: Final = _Known()
_STARTS: Final = _Starts()
# Hooks are looked up in whatever context a run begins: the default is there in all of them.
_starts: ContextVar[BaseCallbackHandler | None] = ContextVar("holdfast_model_starts", default=_STARTS)
register_configure_hook(_starts, inheritable=True)
