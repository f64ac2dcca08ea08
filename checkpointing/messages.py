"""The message log as its audiences see it: what was said on a thread, in order of arrival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from langchain_core.messages import BaseMessage

from .connections import Connections, Rows, Steps, run_again
from .integrity import CheckpointCorrupted, Unsound
from .serde import MessageSerializer
from .sql import queries
from .visibility import Audience, Visibility

SQL: Final = queries("messages")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedMessage:
    """A message of a thread, and what is known of it."""

    message: BaseMessage
    visibility: Visibility
    correlation_id: str | None
    checkpoint_ns: str
    node: str | None
    """Who wrote it; None for what came from outside."""
    step: int | None
    """Of the checkpoint that it was written on."""
    tokens: int | None
    """Input and output of the call that made it, where the provider says."""
    created_at: datetime


@dataclass(slots=True)
class MessageLog:
    """Reads what the saver wrote; messages that were removed from the state since are still here."""

    connections: Connections
    serde: MessageSerializer

    async def read(self, thread_id: str, audience: Audience) -> list[LoggedMessage]:
        """The messages that this audience may see, oldest first.

        Raises:
            CheckpointCorrupted: a message is not what was written.
            NotDecrypted: the log is encrypted with another key.
        """
        shown = [visibility.value for visibility in Visibility if audience.sees(visibility)]
        parameters = {"thread_id": thread_id, "shown": shown}

        def steps() -> Steps[Rows]:
            return (yield SQL["read"], parameters)

        rows = await run_again(self.connections, steps)
        try:
            return _once([self._message(row) for row in rows if audience.sees(Visibility(row[3]))])
        except Unsound as unsound:
            raise CheckpointCorrupted(unsound.damage, thread_id=thread_id) from unsound

    def _message(self, row: tuple[Any, ...]) -> LoggedMessage:
        digest, kind, body, visibility, correlation_id, ns, node, step, tokens, created_at = row
        load: Callable[[str, bytes], Any] = self.serde.load_message
        return LoggedMessage(
            message=load(*self.serde.open_message(digest, kind, body, visibility)),
            visibility=Visibility(visibility),
            correlation_id=correlation_id,
            checkpoint_ns=ns,
            node=node,
            step=step,
            tokens=tokens,
            created_at=created_at,
        )


def _once(log: list[LoggedMessage]) -> list[LoggedMessage]:
    """Without those that were stored before they had an id, and again with it."""
    named = [entry.message.model_copy(update={"id": None}) for entry in log if entry.message.id is not None]
    return [entry for entry in log if entry.message.id is not None or entry.message not in named]
