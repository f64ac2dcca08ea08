"""The audit trail: what happened on a thread, added only, each event chained to the one before by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

from .arrays import IntArray, TextArray
from .bridge import Bridge
from .chain import ChainFinding, ChainHead, Link, judge
from .connections import Connections, Steps, run_again
from .errors import HoldfastError
from .sql import queries
from .visibility import Audience, Visibility, is_mapping

SQL: Final = queries("audit")
_PAGE: Final = 2_000
_POLL: Final = 1.0
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class NothingAudited(HoldfastError):
    """No event of that thread, or with that correlation id, was ever recorded."""

    def __init__(self, what: str) -> None:
        super().__init__(f"nothing is recorded for {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """Something that happened, to be added to its thread's chain."""

    thread_id: str
    kind: str
    """What: `model.called`, `tool.completed`, `run.ended`, … ."""
    actor: str
    """Who did it: a node, a person, a worker."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    visibility: Visibility = Visibility.USER_HIDDEN
    """Of the details; everything else is shown to every audience."""
    correlation_id: str | None = None
    """Of the decision that it belongs to; it may span threads."""
    run_id: str | None = None
    checkpoint_ns: str = ""
    node: str | None = None
    step: int | None = None
    effect_id: str | None = None
    """The call that it is about, as the journal names it."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None
    """US dollars."""
    duration_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent(NewEvent):
    """An event of a thread's chain, as an audience sees it."""

    number: int
    """1, 2, 3, … within the thread."""
    at: datetime
    """In UTC."""
    withheld: bool
    """Whether the audience may not see the details; they are empty then."""
    digest: bytes


class AuditTrail:
    """Got from `Database.audit`; methods have an async twin `a…`.

    db.audit.append(NewEvent(thread_id="t", kind="note", actor="ada", correlation_id="case-7"))  # 1
    [event.kind for event in db.audit.read(correlation_id="case-7")]  # ["note"]
    """

    def __init__(self, bridge: Bridge, connections: Connections) -> None:
        self._bridge = bridge
        self._connections = connections

    def append(self, event: NewEvent) -> int:
        """Add an event to its thread's chain; returns its number.

        What Postgres cannot keep in the details is replaced: NUL by U+FFFD, what is no JSON by its text.
        """
        return self._bridge.call(self._append, event)

    async def aappend(self, event: NewEvent) -> int:
        return await self._bridge.acall_to_end(self._append, event)

    def read(
        self,
        *,
        correlation_id: str | None = None,
        thread_id: str | None = None,
        audience: Audience = Audience.OPERATOR,
        after: Mapping[str, int] | None = None,
    ) -> list[AuditEvent]:
        """The events of a decision, by time, or of a thread, by number; of both if both are named.

        Args:
            correlation_id: the decision's; it may span threads.
            thread_id: the thread's.
            audience: who is looking; details that it may not see are withheld.
            after: of each thread the number up to which events are known and not wanted again.
        """
        return self._bridge.call(self._read, correlation_id, thread_id, audience, after)

    async def aread(
        self,
        *,
        correlation_id: str | None = None,
        thread_id: str | None = None,
        audience: Audience = Audience.OPERATOR,
        after: Mapping[str, int] | None = None,
    ) -> list[AuditEvent]:
        return await self._bridge.acall(self._read, correlation_id, thread_id, audience, after)

    def follow(
        self,
        *,
        correlation_id: str | None = None,
        thread_id: str | None = None,
        audience: Audience = Audience.OPERATOR,
        pause: Callable[[], object] | None = None,
    ) -> Generator[AuditEvent]:
        """What `read` gives, and without end what is added to it; `pause` waits between two looks, a second."""
        wait = pause or partial(time.sleep, _POLL)
        known: dict[str, int] = {}
        while True:
            for event in self.read(correlation_id=correlation_id, thread_id=thread_id, audience=audience, after=known):
                known[event.thread_id] = max(event.number, known.get(event.thread_id, 0))
                yield event
            wait()

    async def afollow(
        self,
        *,
        correlation_id: str | None = None,
        thread_id: str | None = None,
        audience: Audience = Audience.OPERATOR,
        pause: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncGenerator[AuditEvent]:
        wait = pause or partial(asyncio.sleep, _POLL)
        known: dict[str, int] = {}
        while True:
            for event in await self.aread(
                correlation_id=correlation_id, thread_id=thread_id, audience=audience, after=known
            ):
                known[event.thread_id] = max(event.number, known.get(event.thread_id, 0))
                yield event
            await wait()

    def verify(self, thread_id: str | None = None, *, against: Sequence[ChainHead] = ()) -> list[ChainFinding]:
        """What of a thread's events, or of all threads', is not as it was written, each thread at one moment.

        The digests have no key: who may write to the database can rewrite a chain's newest part with digests that
        fit. Heads that were exported before, and kept elsewhere, show that (`against`).

        Raises:
            NothingAudited: there is no such thread.
        """
        return self._bridge.call(self._verify, thread_id, against)

    async def averify(self, thread_id: str | None = None, *, against: Sequence[ChainHead] = ()) -> list[ChainFinding]:
        return await self._bridge.acall(self._verify, thread_id, against)

    def heads(self) -> list[ChainHead]:
        """The newest event of each thread, to be kept where this database's owner cannot change it."""
        return self._bridge.call(self._heads)

    async def aheads(self) -> list[ChainHead]:
        return await self._bridge.acall(self._heads)

    async def _append(self, event: NewEvent) -> int:
        given = {column.name: getattr(event, column.name) for column in fields(NewEvent)}
        parameters = {**given, "visibility": event.visibility.value, "details": storable(event.details)}

        def steps() -> Steps[int]:
            return int((yield SQL["append"], parameters)[0][0])

        # Once: after a lost connection nobody knows whether it was added.
        return await self._connections.run(steps)

    async def _read(
        self, correlation_id: str | None, thread_id: str | None, audience: Audience, after: Mapping[str, int] | None
    ) -> list[AuditEvent]:
        if correlation_id is None and thread_id is None:
            raise TypeError("name a correlation_id, a thread_id or both")
        known = after or {}
        parameters = {
            "correlation_id": correlation_id,
            "thread_id": thread_id,
            "shown": [visibility.value for visibility in Visibility if audience.sees(visibility)],
            "threads": TextArray(known),
            "numbers": IntArray(known.values()),
        }
        query = SQL["read_thread" if correlation_id is None else "read"]

        def steps() -> Steps[list[AuditEvent]]:
            return [_event(*row) for row in (yield query, parameters)]

        return await run_again(self._connections, steps)

    async def _verify(self, thread_id: str | None, against: Sequence[ChainHead]) -> list[ChainFinding]:
        exported = {head.thread_id: head for head in against}
        threads = [thread_id] if thread_id is not None else sorted({*await self._threads(), *exported})
        findings: list[ChainFinding] = []
        for each in threads:
            steps = partial(_verified, each, exported.get(each), missing_ok=thread_id is None)
            findings += await run_again(self._connections, steps, transaction=True)
        return findings

    async def _threads(self) -> list[str]:
        def steps() -> Steps[list[str]]:
            return [row[0] for row in (yield SQL["threads"], {})]

        return await run_again(self._connections, steps)

    async def _heads(self) -> list[ChainHead]:
        def steps() -> Steps[list[ChainHead]]:
            rows = yield SQL["heads"], {}
            return [ChainHead(thread_id=row[0], number=row[1], digest=bytes(row[2])) for row in rows]

        return await run_again(self._connections, steps)


def damage_found(row: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    """The statement that records a damaged checkpoint, for the transaction that reports it."""
    return SQL["damage_found"], row


def storable(details: Mapping[str, Any]) -> str:
    """Details as JSON that Postgres keeps, whatever is in them.

    >>> storable({"text": "a\\x00b", "odd": float("nan")})
    '{"text": "a\\\\ufffdb", "odd": "NaN"}'
    """
    plain: object = json.loads(json.dumps(details, default=str, skipkeys=True), parse_constant=str)
    text = json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace").decode()
    return _NUL.sub(r"\1\\ufffd", text)


def _event(*row: Any) -> AuditEvent:
    (
        thread_id, number, at, correlation_id, run_id, checkpoint_ns, node, step, actor, kind, effect_id,
        input_tokens, output_tokens, cost, duration_ms, visibility, details, digest,
    ) = row  # fmt: skip
    return AuditEvent(
        thread_id=thread_id,
        number=number,
        at=at.astimezone(UTC),
        correlation_id=correlation_id,
        run_id=run_id,
        checkpoint_ns=checkpoint_ns,
        node=node,
        step=step,
        actor=actor,
        kind=kind,
        effect_id=effect_id,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        duration_ms=duration_ms,
        visibility=Visibility(visibility),
        details={} if details is None else _loaded(details),
        withheld=details is None,
        digest=bytes(digest),
    )


def _loaded(details: str) -> Mapping[str, Any]:
    """Details as they are shown; what is no object, or is too deep or too long to read, under the key `value`."""
    try:
        loaded: Any = json.loads(details)
    except (ValueError, RecursionError):
        return {"value": details}
    return loaded if is_mapping(loaded) else {"value": loaded}


def _verified(thread_id: str, exported: ChainHead | None, *, missing_ok: bool) -> Steps[list[ChainFinding]]:
    yield SQL["snapshot"], {}
    key = {"thread_id": thread_id}
    ends = yield SQL["chain"], key
    end = ChainHead(thread_id=thread_id, number=ends[0][0], digest=bytes(ends[0][1])) if ends else None
    links: list[Link] = []
    after = -(2**63)
    while rows := (yield SQL["links"], {**key, "after": after, "limit": _PAGE}):
        links += [Link(number, bytes(digest), hashlib.sha256(body).digest()) for number, digest, body in rows]
        after = links[-1].number
    if not (links or end or exported or missing_ok):
        raise NothingAudited(f"thread {thread_id!r}")
    return judge(thread_id, links, end, exported)
