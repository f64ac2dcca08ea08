"""The forms: signing in and out, and decisions. Each has to be a form of ours, sent once, by who is signed in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from holdfast.checkpointing import ApprovalRequest, Decided, DecisionRefused, DecisionType, UnknownRequest

from .comparing import Comparison, compare
from .fields import LARGEST, UnreadableEdit, fields_of, from_fields, from_json
from .gate import Form, Refused, base, own_path, read_form
from .reading import found, request_page, standing_of
from .sessions import InvalidToken, Session
from .showing import for_field
from .wiring import Inbox

_MESSAGE: Final = 10_000
_BULK: Final = 200
_TOO_LARGE: Final = "The arguments are too large to be edited on a page; `holdfast approvals edit` can."


class Deciding:
    """The endpoints that change something."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def login_page(self, request: Request) -> Response:
        """Where a login token is typed in."""
        session = self.inbox.gate.visitor(request)
        onward = own_path(request.query_params.get("next", "/"))
        return self.inbox.pages.render(request, "login.html", session, onward=onward, problem="")

    async def login(self, request: Request) -> Response:
        """Sign in by a login token."""
        gate = self.inbox.gate
        gate.check_site(request)
        gate.check_rate("login", gate.address(request))
        form = await read_form(request)
        onward = own_path(form["next"] or "/")
        try:
            session = gate.log_in(form["token"])
        except InvalidToken as error:
            return self.inbox.pages.render(request, "login.html", None, 403, onward=onward, problem=str(error))
        response = RedirectResponse(base(request) + onward, 303)
        gate.keep(request, response, session)
        return response

    async def logout(self, request: Request) -> Response:
        """Sign out."""
        session = self.inbox.session(request)
        self.inbox.gate.check_form(request, await read_form(request), session)
        response = RedirectResponse(f"{base(request)}/login", 303)
        self.inbox.gate.forget(request, response, session)
        return response

    async def decide(self, request: Request) -> Response:
        """Approve, reject or answer one request."""
        session, form = await self._own_form(request)
        kind = self._kind(form["decision"], "approve", "reject", "respond")
        approval = await found(await self.inbox.database(), request.path_params["request_id"])
        message = _lines(form["message"])
        problem = _message_problem(kind, message) or await self._decided(
            approval, session, form["mark"], Decided(type=kind, by=session.name, digest="", message=message)
        )
        if not problem:
            return RedirectResponse(f"{base(request)}/requests/{approval.request_id}", 303)
        approval = await found(await self.inbox.database(), approval.request_id)
        page = await request_page(self.inbox, approval, session, problem=problem, said_before=message)
        return self.inbox.pages.render(request, "request.html", session, 409, **page)

    async def bulk(self, request: Request) -> Response:
        """Approve or reject several requests; each is decided by itself."""
        session, form = await self._own_form(request)
        kind = self._kind(form["decision"], "approve", "reject")
        message = _lines(form["message"])
        marks = form.all("pick")
        if len(marks) > _BULK:
            raise Refused(400, "Too many", f"No more than {_BULK} at once. Nothing was changed.")
        self.inbox.gate.check_rate("decision", session.name, max(0, len(marks) - 1))
        if problem := _message_problem(kind, message):
            raise Refused(400, "Something is missing", f"{problem} Nothing was changed.")
        outcomes = [await self._one_of_many(session, mark, kind, message) for mark in marks]
        return self.inbox.pages.render(request, "bulk.html", session, outcomes=outcomes, decision=kind)

    async def edit_page(self, request: Request) -> Response:
        """The form in which the arguments of a request are edited."""
        session = self.inbox.session(request)
        approval = await found(await self.inbox.database(), request.path_params["request_id"])
        way = "json" if request.query_params.get("as") == "json" else "fields"
        return self._edit(request, approval, session, way)

    async def edit(self, request: Request) -> Response:
        """Show what an edit changes, or approve a request with the changes."""
        session, form = await self._own_form(request)
        approval = await found(await self.inbox.database(), request.path_params["request_id"])
        way = "json" if form["as"] == "json" else "fields"
        message = _lines(form["message"])
        try:
            arguments = await asyncio.to_thread(_edited, approval, form, way)
        except UnreadableEdit as error:
            typed = form.values()
            return self._edit(
                request, approval, session, way, status=422, typed=typed, problem=str(error), wrong=error.field
            )
        comparison = await asyncio.to_thread(compare, approval.arguments, arguments)
        shown: dict[str, Any] = {"typed": form.values(), "comparison": comparison, "message": message}
        if form["step"] != "approve":
            return self._edit(request, approval, session, way, **shown)
        if not comparison.changes:
            shown["problem"] = "Nothing was changed: go back and approve it as it is, or change something."
            return self._edit(request, approval, session, way, status=422, **shown)
        decided = Decided(type="edit", by=session.name, digest="", arguments=arguments, message=message)
        if problem := await self._decided(approval, session, form["mark"], decided):
            approval = await found(await self.inbox.database(), approval.request_id)
            return self._edit(request, approval, session, way, status=409, problem=problem, **shown)
        return RedirectResponse(f"{base(request)}/requests/{approval.request_id}", 303)

    async def _own_form(self, request: Request) -> tuple[Session, Form]:
        session = self.inbox.session(request)
        self.inbox.gate.check_site(request)
        self.inbox.gate.check_rate("decision", session.name)
        form = await read_form(request)
        self.inbox.gate.check_form(request, form, session)
        return session, form

    async def _decided(self, approval: ApprovalRequest, session: Session, mark: str, decided: Decided) -> str:
        """Decide by a form's mark; returns why it was not done, or nothing."""
        gate = self.inbox.gate
        marked = gate.signatures.marked(session, mark)
        if marked is None or marked[0] != approval.request_id:
            return "The page is too old or not of this request; look at it again. Nothing was changed."
        _, digest, nonce = marked
        if not gate.used.take(nonce):
            return "This form was sent before; it is not taken twice. See below how the request stands."
        try:
            await (await self.inbox.database()).approvals.adecide(
                approval.request_id,
                Decided(
                    type=decided.type,
                    by=decided.by,
                    digest=digest,
                    arguments=decided.arguments,
                    message=decided.message,
                ),
            )
        except DecisionRefused as refused:
            return _sentence(refused)
        return ""

    async def _one_of_many(
        self, session: Session, mark: str, kind: DecisionType, message: str
    ) -> tuple[ApprovalRequest | None, str]:
        marked = self.inbox.gate.signatures.marked(session, mark)
        if marked is None:
            return None, "The page is too old; look at the list again. Nothing was changed."
        database = await self.inbox.database()
        try:
            approval = await database.approvals.aget(marked[0])
        except UnknownRequest as unknown:
            return None, _sentence(unknown)
        if not approval.terms.bulk:
            return approval, "It may not be decided together with others. Nothing was changed."
        decided = Decided(type=kind, by=session.name, digest="", message=message)
        problem = await self._decided(approval, session, mark, decided)
        return await database.approvals.aget(approval.request_id), problem

    def _edit(
        self,
        request: Request,
        approval: ApprovalRequest,
        session: Session,
        way: str,
        *,
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        comparison: Comparison | None = None,
        problem: str = "",
        wrong: int | None = None,
        message: str = "",
    ) -> Response:
        whole = for_field(approval.arguments)
        large = len(whole) > LARGEST
        fields = [] if way == "json" or large else fields_of(approval.arguments, approval.schema, typed)
        return self.inbox.pages.render(
            request,
            "edit.html",
            session,
            status,
            **standing_of(self.inbox, approval, session),
            way="fields" if fields else "json",
            fields=fields,
            whole="" if large else (typed or {}).get("arguments", whole),
            large=_TOO_LARGE if large else "",
            comparison=comparison,
            problem=problem,
            wrong=wrong,
            message=message,
            mark=self.inbox.gate.signatures.mark(session, approval.request_id, approval.digest),
        )

    @staticmethod
    def _kind(given: str, *known: DecisionType) -> DecisionType:
        kinds: list[DecisionType] = [kind for kind in known if kind == given]
        if not kinds:
            raise Refused(400, "No decision", "The form says no decision that can be made there. Nothing was changed.")
        return kinds[0]


def _edited(approval: ApprovalRequest, form: Form, way: str) -> dict[str, Any]:
    """What a form makes of a request's arguments."""
    if way == "json":
        return from_json(approval.arguments, form["arguments"])
    return from_fields(approval.arguments, approval.schema, form.values())


def _message_problem(kind: DecisionType, message: str) -> str:
    if len(message) > _MESSAGE:
        return f"No more than {_MESSAGE:,} characters, please."
    if kind in ("reject", "respond") and not message:
        return "Say why not: the agent is told." if kind == "reject" else "Say what the agent is to be told."
    return ""


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _sentence(refused: DecisionRefused) -> str:
    text = str(refused).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
