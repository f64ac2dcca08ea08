"""The pages that only show: nothing here changes anything."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse

from holdfast.checkpointing import (
    ApprovalRequest,
    Audience,
    AuditEvent,
    CheckpointCorrupted,
    Database,
    LoggedMessage,
    NotDecrypted,
    UnknownRequest,
)
from holdfast.checkpointing.costs import total
from holdfast.checkpointing.requests import STATES

from .comparing import compare
from .gate import Refused, base
from .knowing import known
from .listing import MOST, named, row, rows
from .rendering import static_response
from .sessions import Session
from .showing import as_json, shown
from .views import (
    Moment,
    Said,
    Spent,
    deadline,
    may_decide,
    said,
    standing,
    state_said,
    summary,
    timeline,
)
from .wiring import Inbox

_ID: Final = re.compile(r"[a-z0-9-]{1,80}", re.ASCII)
_ARGUMENTS: Final = 300
_MESSAGES: Final = 40
_EVENTS: Final = 400
_ALL: Final = 4_000_000
"""Characters of arguments that are sent as text."""


async def found(database: Database, request_id: str) -> ApprovalRequest:
    """A request.

    Raises:
        Refused: there is none of that name.
    """
    try:
        if not _ID.fullmatch(request_id):
            raise UnknownRequest(request_id)
        return await database.approvals.aget(request_id)
    except UnknownRequest:
        text = "There is no such request. It may have been removed together with its thread."
        raise Refused(404, "Nothing here", text) from None


class Reading:
    """The endpoints that show."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def listing(self, request: Request) -> Response:
        """The list of what waits, or of what was decided."""
        session = self.inbox.session(request)
        return self.inbox.pages.render(request, "list.html", session, **await rows(self.inbox, request, session))

    async def list_part(self, request: Request) -> Response:
        """The list's rows alone, for a page that is open."""
        session = self.inbox.session(request)
        return self.inbox.pages.render(request, "rows.html", session, **await rows(self.inbox, request, session))

    async def one(self, request: Request) -> Response:
        """A request."""
        session = self.inbox.session(request)
        database = await self.inbox.database()
        approval = await found(database, request.path_params["request_id"])
        return self.inbox.pages.render(
            request, "request.html", session, **await request_page(self.inbox, approval, session)
        )

    async def standing_part(self, request: Request) -> Response:
        """How a request stands, for a page that is open."""
        session = self.inbox.session(request)
        approval = await found(await self.inbox.database(), request.path_params["request_id"])
        return self.inbox.pages.render(request, "standing.html", session, **standing_of(self.inbox, approval, session))

    async def arguments(self, request: Request) -> Response:
        """All arguments of a request, as text."""
        self.inbox.session(request)
        approval = await found(await self.inbox.database(), request.path_params["request_id"])
        text = json.dumps(approval.arguments, ensure_ascii=True, indent=2)
        if len(text) > _ALL:
            text = f"{text[:_ALL]}\n\n… {len(text) - _ALL:,} more characters"
        return PlainTextResponse(text, headers={"cache-control": "no-store"})

    async def previous(self, request: Request) -> Response:
        """Go to the request before this one in the list of what waits for whoever looks."""
        return await self._beside(request, -1)

    async def next(self, request: Request) -> Response:
        """Go to the one after it."""
        return await self._beside(request, 1)

    async def _beside(self, request: Request, step: int) -> Response:
        session = self.inbox.session(request)
        waiting = await (await self.inbox.database()).approvals.afind(for_decider=session.name, limit=MOST)
        ids = [one.request_id for one in waiting]
        here = request.path_params["request_id"]
        place = ids.index(here) + step if here in ids else 0
        onward = f"/requests/{ids[place]}" if 0 <= place < len(ids) else "/"
        return RedirectResponse(base(request) + onward, 303)

    async def trail(self, request: Request) -> Response:
        """What happened in a decision: the audit chain of its correlation id."""
        self.inbox.session(request)
        case = named(request, "id")
        return await self._told(request, case, "trail.html", correlation_id=case)

    async def thread(self, request: Request) -> Response:
        """A thread: what waits on it, what was said, what happened."""
        session = self.inbox.session(request)
        thread = named(request, "id")
        database = await self.inbox.database()
        messages, problem = await said_on(database, thread)
        requests = await database.approvals.afind(thread_id=thread, states=STATES, limit=MOST)
        more = {
            "messages": messages,
            "problem": problem,
            "rows": [row(self.inbox, one, session) for one in requests],
        }
        return await self._told(request, thread, "thread.html", **more, thread_id=thread)

    async def _told(self, request: Request, name: str, template: str, **more: Any) -> Response:
        session = self.inbox.session(request)
        database = await self.inbox.database()
        allowed = self.inbox.gate.settings.audiences(session.name)
        audience = next((one for one in allowed if one.value == named(request, "as")), Audience.USER)
        which = {key: more.pop(key) for key in ("correlation_id", "thread_id") if key in more}
        events = await database.audit.aread(**which, audience=audience) if name else []
        if not events and not any(more.values()):
            raise Refused(404, "Nothing here", "Nothing is recorded under this name.")
        moments, totals = await asyncio.to_thread(timeline, events)
        return self.inbox.pages.render(
            request,
            template,
            session,
            of=name,
            moments=moments[-_EVENTS:],
            left_out=max(0, len(moments) - _EVENTS),
            threads=list(dict.fromkeys(event.thread_id for event in events)),
            cases=list(dict.fromkeys(event.correlation_id for event in events if event.correlation_id))[:20],
            total=str(totals).removeprefix("total: "),
            audience=audience,
            audiences=allowed,
            **more,
        )

    async def events(self, request: Request) -> Response:
        """A stream of which requests have changed (server-sent events)."""
        session = self.inbox.session(request)
        live = await self.inbox.live()
        if live.full:
            raise Refused(
                503, "Too many pages", "As many pages are kept up to date as may be; reload this one by hand."
            )

        def valid() -> bool:
            return session.expires_at > self.inbox.gate.now() and session.session_id not in self.inbox.gate.ended

        async def stream() -> AsyncGenerator[str]:
            yield "retry: 2000\n\n"
            async for changed in live.follow(valid):
                yield ": still here\n\n" if changed is None else f"event: changed\ndata: {json.dumps(changed)}\n\n"

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    async def static(self, request: Request) -> Response:
        """A style sheet, a script, a picture."""
        response = static_response(request.path_params["name"], request.query_params.get("v"))
        if response is None:
            raise Refused(404, "Nothing here", "There is no such page.")
        return response


def standing_of(inbox: Inbox, approval: ApprovalRequest, session: Session) -> dict[str, Any]:
    """How a request stands, as its page shows it."""
    now = inbox.gate.now()
    return {
        "approval": approval,
        "deadline": deadline(approval, now),
        "standing": standing(approval, now),
        "state": state_said(approval),
        "mine": may_decide(approval, session.name),
        "asked": not approval.deciders or session.name in approval.deciders,
    }


async def request_page(
    inbox: Inbox, approval: ApprovalRequest, session: Session, *, problem: str = "", said_before: str = ""
) -> dict[str, Any]:
    """Everything on a request's page.

    Args:
        inbox: whose page it is.
        approval: the request.
        session: who looks.
        problem: why a decision was not taken.
        said_before: what was typed with it.
    """
    database = await inbox.database()
    messages, unreadable = await said_on(database, approval.thread_id)
    spent = total(await database.costs.areport("model", thread_id=approval.thread_id))
    events = await database.audit.aread(thread_id=approval.thread_id, audience=Audience.OPERATOR)
    siblings = await database.approvals.aof_task(approval.thread_id, approval.task_id)
    waiting = await database.approvals.afind(for_decider=session.name, limit=MOST)
    edit = compare(approval.arguments, approval.edited) if approval.edited is not None else None
    return {
        **standing_of(inbox, approval, session),
        "summary": summary(approval),
        "arguments": [shown(name, value) for name, value in list(approval.arguments.items())[:_ARGUMENTS]],
        "size": len(as_json(approval.arguments)),
        "edit": edit,
        "known": known(approval.context),
        "messages": messages,
        "unreadable": unreadable,
        "spent": Spent(
            cost=spent.cost,
            tokens=spent.tokens,
            model_calls=spent.model_calls,
            tool_calls=spent.tool_calls,
            unpriced=spent.unpriced,
        ),
        "history": [_without_arguments(one) for one in timeline(history(events, approval))[0]],
        "siblings": [row(inbox, one, session) for one in siblings if one.request_id != approval.request_id],
        "others": len([one for one in waiting if one.request_id != approval.request_id]),
        "mark": inbox.gate.signatures.mark(session, approval.request_id, approval.digest),
        "problem": problem,
        "said_before": said_before,
    }


def history(events: Sequence[AuditEvent], approval: ApprovalRequest) -> list[AuditEvent]:
    """Of a thread's events those that are about a request."""
    own = approval.request_id
    return [
        event
        for event in events
        if event.kind.startswith("approval.") and own in (event.effect_id, event.details.get("request"))
    ]


def _without_arguments(moment: Moment) -> Moment:
    """What was asked for stands above."""
    return replace(moment, detail="") if moment.event.kind in ("approval.requested", "approval.waived") else moment


async def said_on(database: Database, thread_id: str) -> tuple[list[Said], str]:
    """The newest messages of a thread as its user sees them, or why they cannot be shown."""
    try:
        logged: list[LoggedMessage] = await database.amessages(thread_id, audience=Audience.USER)
    except CheckpointCorrupted:
        return [], "The messages of this thread are damaged: `holdfast verify` says where."
    except NotDecrypted:
        return [], "The messages of this thread are encrypted, and this inbox has another key or none."
    left_out = len(logged) - _MESSAGES
    told = f"{left_out:,} earlier messages are not shown." if left_out > 0 else ""
    return [said(one) for one in logged[-_MESSAGES:]], told
