"""How a saver is opened and set up where there is no `Database`, as the official savers are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import TYPE_CHECKING

from langgraph.checkpoint.serde.base import SerializerProtocol

from .loading import Policy
from .visibility import VisibilityPolicy

if TYPE_CHECKING:
    from .saver import HoldfastSaver


class Done:
    """The answer of `setup`, for who awaits it and for who does not."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class OpenedSaver:
    """A saver with a database of its own, for `with` and `async with`."""

    def __init__(
        self,
        uri: str,
        serde: SerializerProtocol | None,
        policy: VisibilityPolicy | None,
        on_corruption: Policy,
        lease_ttl: timedelta,
    ) -> None:
        self._options = (uri, serde, policy, on_corruption, lease_ttl)
        self._close: Callable[[], None] | None = None

    def __enter__(self) -> HoldfastSaver:
        from .database import Database

        uri, serde, policy, on_corruption, lease_ttl = self._options
        database = Database(uri, serde=serde, policy=policy, on_corruption=on_corruption, lease_ttl=lease_ttl)
        self._close = database.close
        return database.saver

    def __exit__(self, *_: object) -> None:
        if self._close is not None:
            self._close()

    async def __aenter__(self) -> HoldfastSaver:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)
