"""Work written once for sync and async callers: a generator that yields what is to be done, each in both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Action:
    """Something that may wait: for a thread that blocks, and for an asyncio loop."""

    now: Callable[[], Any]
    soon: Callable[[], Awaitable[Any]]


Work = Generator[Action, Any, T]


def never() -> Any:
    """For an action that is only ever done the other way."""
    raise AssertionError("this call is made the other way")


def carry_out(work: Work[T]) -> T:
    """Do the work, blocking."""
    try:
        action = next(work)
        while True:
            try:
                found = action.now()
            except BaseException as error:
                action = work.throw(error)
            else:
                action = work.send(found)
    except StopIteration as end:
        result: T = end.value
        return result


async def acarry_out(work: Work[T]) -> T:
    """Do the work on an asyncio loop."""
    try:
        action = next(work)
        while True:
            try:
                found = await action.soon()
            except BaseException as error:
                action = work.throw(error)
            else:
                action = work.send(found)
    except StopIteration as end:
        result: T = end.value
        return result


class ToItsEnd:
    """Waits for what cannot be stopped, a thread or a commit, even if who waits is cancelled.

    Else it would go on as an orphan, and nobody would know what it did.
    """

    def __init__(self) -> None:
        self._cancelled: asyncio.CancelledError | None = None

    async def of(self, awaited: Awaitable[T]) -> T:
        """What it gives; a cancellation is kept for `check`."""
        task = asyncio.ensure_future(awaited)
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as cancelled:
                if task.done():
                    raise
                self._cancelled = cancelled
            except BaseException:
                if not task.done():
                    raise
        return task.result()

    @property
    def cancelled(self) -> bool:
        """Whether who waits was cancelled meanwhile."""
        return self._cancelled is not None

    def check(self) -> None:
        """Go on with a cancellation that came meanwhile."""
        if self._cancelled is not None:
            raise self._cancelled
