"""The list: which requests are shown to whom, in which order."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from holdfast.checkpointing import ApprovalRequest
from holdfast.checkpointing.requests import STATES, RequestState

from .sessions import Session
from .views import Row, deadline, for_others, may_decide, standing, summary
from .wiring import Inbox

MOST: Final = 200
"""Requests that a page lists."""
_FOUND: Final = 1_000
"""Requests that are looked through for a list."""
_NAME: Final = 8_000
SHOWN: Final[dict[str, tuple[RequestState, ...]]] = {
    "waiting": ("waiting",),
    "decided": ("approved", "edited", "rejected", "responded", "expired", "withdrawn"),
    "all": STATES,
}


def named(request: Request, name: str) -> str:
    """A parameter of the address, as the database can take it; empty, if it is not given."""
    given = request.query_params.get(name, "")
    return "" if len(given) > _NAME or "\0" in given else given


async def rows(inbox: Inbox, request: Request, session: Session) -> dict[str, Any]:
    """What the list shows."""
    show = named(request, "show") if named(request, "show") in SHOWN else "waiting"
    mine, thread, case, text = (named(request, name).strip() for name in ("mine", "thread", "case", "text"))
    database = await inbox.database()
    requests = await database.approvals.afind(
        thread_id=thread or None,
        correlation_id=case or None,
        states=SHOWN[show],
        for_decider=session.name if mine else None,
        limit=_FOUND if text or show == "decided" else MOST + 1,  # each with its arguments, which may be large
    )
    requests = [one for one in requests if text.lower() in f"{one.name} {one.description}".lower()]
    if show == "decided":
        requests.sort(key=lambda one: one.decided_at or one.requested_at, reverse=True)
    more = len(requests) > MOST
    return {
        "rows": [row(inbox, one, session, together=True) for one in requests[:MOST]],
        "more": more,
        "most": MOST,
        "show": show,
        "filters": {"mine": mine, "thread": thread, "case": case, "text": text},
        "query": request.url.query,
    }


def row(inbox: Inbox, request: ApprovalRequest, session: Session, *, together: bool = False) -> Row:
    """A request as a list shows it; `together`: the page has the form in which several are decided."""
    now, mine = inbox.gate.now(), may_decide(request, session.name)
    bulk = together and mine and request.terms.bulk and {"approve", "reject"} & set(request.terms.allowed)
    return Row(
        request=request,
        summary=summary(request),
        deadline=deadline(request, now),
        standing=standing(request, now),
        for_others=for_others(request, session.name),
        mark=inbox.gate.signatures.mark(session, request.request_id, request.digest) if bulk else None,
    )
