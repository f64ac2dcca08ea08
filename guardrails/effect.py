"""`@effect`: a function whose calls within a graph are made once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, overload

from ..checkpointing.journal import SPOKEN
from .actions import Action, acarry_out, carry_out, never
from .asking import verdict_of
from .effects import Codec, made
from .envelope import opened, sealed
from .placing import Call, OnDoubt, checked, placed
from .written import digest

P = ParamSpec("P")
R = TypeVar("R")


@overload
def effect(func: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def effect(
    *, name: str | None = None, key: Callable[P, str] | None = None, on_doubt: OnDoubt = "ask"
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def effect(
    func: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    key: Callable[P, str] | None = None,
    on_doubt: OnDoubt = "ask",
) -> Any:
    """A function, sync or async, whose calls in nodes, tools and tasks are made once and answered from the record.

    Args:
        func: it; its arguments and its result are plain data or what the saver's serializer knows.
        name: how the record calls it, else its own qualified name; stays when the function is renamed.
        key: of its arguments, what tells a call from the task's others; else all of them. The same key with
            other arguments is `JournalMismatch`.
        on_doubt: what to do about a call that was begun by a worker that is gone.

    Raises (when it is called):
        JournalNeedsSaver: outside of a graph that Holdfast saves; `func.__wrapped__` is the plain function.
        RuntimeError: as LangGraph's `get_config`, outside of any graph.
    """
    if func is None:
        return partial(_effect, name=name, key=key, on_doubt=on_doubt)
    return _effect(func, name=name, key=key, on_doubt=on_doubt)


def _effect(func: Callable[..., Any], *, name: str | None, key: Callable[..., str] | None, on_doubt: OnDoubt) -> Any:
    called, on_doubt = name or func.__qualname__, checked(on_doubt)
    signature = inspect.signature(func)

    def place(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        identity = key(*args, **kwargs) if key is not None else digest(given).hex()
        return placed("effect", called, f"{called} {identity}", given, asked={"args": given}, on_doubt=on_doubt)

    if inspect.iscoroutinefunction(func):

        @wraps(func)
        async def aonce(*args: Any, **kwargs: Any) -> Any:
            act = Action(never, lambda: func(*args, **kwargs))
            return await acarry_out(made(place(args, kwargs), act, _Returned()))

        return aonce

    @wraps(func)
    def once(*args: Any, **kwargs: Any) -> Any:
        act = Action(lambda: func(*args, **kwargs), never)
        return carry_out(made(place(args, kwargs), act, _Returned()))

    return once


class _Returned(Codec):
    """What a function returns."""

    def sealed(self, call: Call, result: Any) -> tuple[str, bytes]:
        return sealed(call.effect.name, result, call.saver.serializer)

    def opened(self, call: Call, kept: tuple[str, bytes]) -> Any:
        return verdict_of(kept) if kept[0] == SPOKEN else opened(kept, call.saver.serializer)
