"""Trust: what is known of a tool's calls, read from the approval records, and what people say of them after."""

from __future__ import annotations

from datetime import UTC
from typing import Any, TypeVar, cast

from .bridge import Bridge
from .connections import Connections, run_again
from .evidence import RINGS, AutomaticRun, Evidence, InvalidEvidence, Place, Ring
from .judging import (
    AUDITED,
    Judged,
    Rule,
    Saying,
    found,
    judged,
    key_of,
    loaded,
    pinned,
    reported,
    rows_of,
    said,
    saying,
    unpinned,
)
from .refusals import UnknownRequest
from .statements import Clock

__all__ = ["AUDITED", "Judged", "Rule", "Trust"]
J = TypeVar("J", bound=Judged)


class Trust:
    """Got from `Database.trust`; methods have an async twin `a…`.

    Cases are read from the approval records themselves; of a thread that is removed their outcome is kept, and no
    argument. Where a `rule` is given, a change of ring that follows is written down in the same transaction.
    """

    def __init__(self, bridge: Bridge, connections: Connections, worker: str, clock: Clock) -> None:
        self._bridge = bridge
        self._connections = connections
        self._worker = worker
        self._clock = clock

    def evidence(self, tool: str, *, pattern: str | None = None, window: int = 100, tally: bool = False) -> Evidence:
        """What counts for a tool's calls of one kind, by default those that are named as the tool.

        Args:
            tool: its name.
            pattern: the kind of action.
            window: how many cases, the newest.
            tally: count automatic runs and checks, too, which may be many.
        """
        return self._bridge.call(self._evidence, tool, pattern, window, tally)

    async def aevidence(
        self, tool: str, *, pattern: str | None = None, window: int = 100, tally: bool = False
    ) -> Evidence:
        return await self._bridge.acall(self._evidence, tool, pattern, window, tally)

    def judge(self, tool: str, rule: Rule[J], *, pattern: str | None = None, by: str | None = None) -> J:
        """Where a tool's calls of one kind stand. If the ring is another than was found last, that is audited."""
        return self._bridge.call(self._judge, tool, rule, pattern, by)

    async def ajudge(self, tool: str, rule: Rule[J], *, pattern: str | None = None, by: str | None = None) -> J:
        return await self._bridge.acall_to_end(self._judge, tool, rule, pattern, by)

    def pin(
        self,
        tool: str,
        ring: Ring,
        *,
        by: str,
        why: str = "",
        pattern: str | None = None,
        exact: bool = False,
        rule: Rule[Any] | None = None,
    ) -> None:
        """Say which ring is the highest for a tool, or, `exact`, which it is until the next setback.

        Raises:
            InvalidEvidence: there is no such ring, or a name is none.
        """
        self._bridge.call(self._pin, tool, pattern, ring, exact, by, why, rule)

    async def apin(
        self,
        tool: str,
        ring: Ring,
        *,
        by: str,
        why: str = "",
        pattern: str | None = None,
        exact: bool = False,
        rule: Rule[Any] | None = None,
    ) -> None:
        await self._bridge.acall_to_end(self._pin, tool, pattern, ring, exact, by, why, rule)

    def unpin(self, tool: str, *, by: str, pattern: str | None = None, rule: Rule[Any] | None = None) -> bool:
        """Let the evidence decide again; false if nothing was pinned."""
        return self._bridge.call(self._unpin, tool, pattern, by, rule)

    async def aunpin(self, tool: str, *, by: str, pattern: str | None = None, rule: Rule[Any] | None = None) -> bool:
        return await self._bridge.acall_to_end(self._unpin, tool, pattern, by, rule)

    def incident(
        self,
        tool: str | None = None,
        *,
        by: str,
        why: str,
        pattern: str | None = None,
        request_id: str | None = None,
        rule: Rule[Any] | None = None,
    ) -> None:
        """Report that a call did harm: by its request, or by its tool where the call is not known.

        Raises:
            UnknownRequest: there is none.
            NotReviewable: the request's action was not carried out, or an incident of it was reported before.
            InvalidEvidence: neither is named, or both; or there is no reason.
        """
        self._bridge.call(self._incident, tool, pattern, request_id, by, why, rule)

    async def aincident(
        self,
        tool: str | None = None,
        *,
        by: str,
        why: str,
        pattern: str | None = None,
        request_id: str | None = None,
        rule: Rule[Any] | None = None,
    ) -> None:
        await self._bridge.acall_to_end(self._incident, tool, pattern, request_id, by, why, rule)

    def review(self, request_id: str, *, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        """Say that an automatic run was fine, which makes it a good case; `incident` says that it was not.

        Raises:
            UnknownRequest: there is none.
            NotReviewable: the call was not automatic, or somebody has reviewed it.
            InvalidEvidence: the reviewer's name is none.
        """
        self._bridge.call(self._say, request_id, "fine", by, why, rule)

    async def areview(self, request_id: str, *, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        await self._bridge.acall_to_end(self._say, request_id, "fine", by, why, rule)

    def verified(self, request_id: str, *, passed: bool, by: str, why: str = "", rule: Rule[Any] | None = None) -> None:
        """Say what a check of a call's result found. One that failed counts as a case; one that passed is counted only.

        Raises:
            UnknownRequest, NotReviewable, InvalidEvidence: as `incident`; of a call it is said once.
        """
        self._bridge.call(self._say, request_id, "passed" if passed else "failed", by, why, rule)

    async def averified(
        self, request_id: str, *, passed: bool, by: str, why: str = "", rule: Rule[Any] | None = None
    ) -> None:
        await self._bridge.acall_to_end(self._say, request_id, "passed" if passed else "failed", by, why, rule)

    def to_review(self, tool: str | None = None, *, pattern: str | None = None, limit: int = 200) -> list[AutomaticRun]:
        """Automatic runs that are put up for review and have none, oldest first."""
        return self._bridge.call(self._to_review, tool, pattern, limit)

    async def ato_review(
        self, tool: str | None = None, *, pattern: str | None = None, limit: int = 200
    ) -> list[AutomaticRun]:
        return await self._bridge.acall(self._to_review, tool, pattern, limit)

    def place_of(self, request_id: str) -> Place:
        """Of which tool and kind of action a request is.

        Raises:
            UnknownRequest: there is none.
        """
        return self._bridge.call(self._place_of, request_id)

    async def aplace_of(self, request_id: str) -> Place:
        return await self._bridge.acall(self._place_of, request_id)

    def places(self, tool: str | None = None) -> list[Place]:
        """Every kind of action of which something is known, of one tool or of all."""
        return self._bridge.call(self._places, tool)

    async def aplaces(self, tool: str | None = None) -> list[Place]:
        return await self._bridge.acall(self._places, tool)

    async def _evidence(self, tool: str, pattern: str | None, window: int, tally: bool) -> Evidence:
        # Whatever name a model has made up may be on record.
        key = {"tool": tool, "pattern": tool if pattern is None else pattern}
        return await run_again(self._connections, lambda: found(key, window, tally=tally))

    async def _judge(self, tool: str, rule: Rule[J], pattern: str | None, by: str | None) -> J:
        key, who, at = key_of(tool, pattern), by or self._worker, self._clock()
        return await run_again(self._connections, lambda: judged(key, rule, who, at), transaction=True)

    async def _pin(
        self, tool: str, pattern: str | None, ring: Ring, exact: bool, by: str, why: str, rule: Rule[Any] | None
    ) -> None:
        if ring not in RINGS or cast("object", ring) is True:
            raise InvalidEvidence(f"a ring is one of {', '.join(map(str, RINGS))}, not {ring!r}")
        given = {**key_of(tool, pattern), **saying(by, why, self._clock()), "ring": ring, "exact": exact}
        await run_again(self._connections, lambda: pinned(given, rule), transaction=True)

    async def _unpin(self, tool: str, pattern: str | None, by: str, rule: Rule[Any] | None) -> bool:
        key, given = key_of(tool, pattern), saying(by, "", self._clock())
        return await run_again(
            self._connections, lambda: unpinned(key, given["who"], given["at"], rule), transaction=True
        )

    async def _incident(
        self,
        tool: str | None,
        pattern: str | None,
        request_id: str | None,
        by: str,
        why: str,
        rule: Rule[Any] | None,
    ) -> None:
        if (tool is None) == (request_id is None) or (request_id is not None and pattern is not None):
            raise InvalidEvidence("an incident is of a request, or of a tool and perhaps its pattern: name one of them")
        if not why.strip():
            raise InvalidEvidence("an incident needs a reason: what harm was done")
        if request_id is not None:
            await self._say(request_id, "incident", by, why, rule)
            return
        given = {**key_of(tool or "", pattern), **saying(by, why, self._clock())}
        # Once: after a lost connection nobody knows whether it was added.
        await self._connections.run(lambda: reported(given, rule), transaction=True)

    async def _say(self, request_id: str, kind: Saying, by: str, why: str, rule: Rule[Any] | None) -> None:
        given = saying(by, why, self._clock())
        await self._connections.run(lambda: said(request_id, kind, given, rule), transaction=True)

    async def _to_review(self, tool: str | None, pattern: str | None, limit: int) -> list[AutomaticRun]:
        given = {"tool": tool, "pattern": pattern, "most": limit}
        rows = await run_again(self._connections, lambda: rows_of("to_review", given))
        return [
            AutomaticRun(
                request_id=row[0], thread_id=row[1], tool=row[2], pattern=row[3], ring=row[4] or 0, why=row[5] or "",
                at=row[6].astimezone(UTC),
            )
            for row in rows
        ]  # fmt: skip

    async def _place_of(self, request_id: str) -> Place:
        rows = await run_again(self._connections, lambda: rows_of("call", {"request": request_id}))
        if not rows:
            raise UnknownRequest(request_id)
        return Place(tool=rows[0][0], pattern=rows[0][1])

    async def _places(self, tool: str | None) -> list[Place]:
        rows = await run_again(self._connections, lambda: rows_of("known", {"tool": tool}))
        return [
            Place(
                tool=row[0], pattern=row[1], ring=row[2], rule=loaded(row[3]),
                since=None if row[4] is None else row[4].astimezone(UTC),
            )
            for row in rows
        ]  # fmt: skip
