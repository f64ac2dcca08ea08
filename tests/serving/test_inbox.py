"""What the inbox promises: who may look, who may decide, and that nothing else changes anything."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from itsdangerous import URLSafeSerializer
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from holdfast.checkpointing import (
    ApprovalRequest,
    Audience,
    Database,
    Decided,
    DecisionType,
    NewEvent,
    NewRequest,
    Terms,
    Visibility,
    tagged,
)
from holdfast.serving.cli import cli
from holdfast.serving.inbox import create_app
from holdfast.serving.inbox.application import mounted_path
from holdfast.serving.inbox.sessions import Signatures
from holdfast.serving.inbox.settings import InvalidInbox, kept_secret
from tests.conftest import ROOT
from tests.support.inboxes import SAME, SECRET, SITE, asked, bulk, client, form, send, settings, token

HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "rtl": "invoice \u202egnp.exe\u202c",
    "controls": "a\x1b[2Jb\x00c\u200b\ud83d",
    "big": "x" * 200_000,
    '"><script>alert(3)</script>': {"__proto__": [1, None]},
    "hx-get": "' hx-get='/x' onclick='y'",
}


@pytest.fixture
def page(db: Database) -> TestClient:
    """Ada, signed in."""
    return client(db)


def state(db: Database, request: ApprovalRequest) -> str:
    return db.approvals.get(request.request_id).state


def kinds(db: Database, thread: str = "t") -> list[str]:
    return [event.kind for event in db.audit.read(thread_id=thread)]


# Signing in


def test_without_a_session_every_page_is_the_login_form_and_says_nothing_else(db: Database) -> None:
    request = asked(db)
    browser = client(db, None)
    one = f"/requests/{request.request_id}"
    for path in ("/", "/rows", "/events", "/trail?id=x", "/thread?id=t", one, f"{one}/arguments", f"{one}/edit",
                 f"{one}/standing", f"{one}/next"):  # fmt: skip
        response = browser.get(path)
        assert response.status_code == 401, path
        assert "Login token" in response.text
        assert "send_email" not in response.text


def test_without_a_session_nothing_can_be_changed(db: Database) -> None:
    request = asked(db)
    hidden = form(client(db).get(f"/requests/{request.request_id}").text, f"/requests/{request.request_id}/decide")
    browser = client(db, None)
    for path in (
        f"/requests/{request.request_id}/decide",
        f"/requests/{request.request_id}/edit",
        "/decide",
        "/logout",
    ):
        response = browser.post(path, data={**hidden, "decision": "approve"}, headers=SAME)
        assert response.status_code == 401, path
    assert state(db, request) == "waiting"
    assert kinds(db) == ["approval.requested"]


def test_a_login_token_begins_a_session_that_a_script_cannot_read(db: Database) -> None:
    browser = client(db, None)
    response = browser.post("/login", data={"token": token(), "next": "/?show=decided"}, headers=SAME)
    assert (response.status_code, response.headers["location"]) == (303, "/?show=decided")
    cookie = response.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=lax", "secure", "path=/", "max-age="))
    assert "Sign out" in browser.get("/").text


def test_over_plain_http_the_cookie_is_not_marked_secure_or_it_would_be_lost(db: Database) -> None:
    browser = client(db, None, site="http://inbox.test")
    response = browser.post("/login", data={"token": token()}, headers={"origin": "http://inbox.test"})
    assert "secure" not in response.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        token()[:-2] + "xx",
        token(lasting=timedelta(seconds=-1)),
        URLSafeSerializer("another secret that is long enough", salt="holdfast.inbox.login").dumps({"n": "ada"}),
        Signatures("another secret that is long enough").login_token("ada", datetime.max.replace(tzinfo=UTC)),
        Signatures(SECRET).login_token("holdfast:expiry", datetime(2100, 1, 1, tzinfo=UTC)),
        "x" * 100_000,
        "\u202e\x00",
    ],
    ids=["empty", "nonsense", "changed", "expired", "unsigned", "forged", "a name of ours", "huge", "controls"],
)
def test_a_token_that_is_not_ours_signs_nobody_in(db: Database, given: str) -> None:
    response = client(db, None).post("/login", data={"token": given}, headers=SAME)
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


def test_a_session_cookie_is_no_login_token_and_the_other_way_round(db: Database) -> None:
    browser = client(db, None)
    browser.cookies.set("holdfast_inbox", token())
    assert browser.get("/").status_code == 401
    signatures = Signatures(SECRET)
    cookie = signatures.cookie(signatures.begin("ada", datetime(2100, 1, 1, tzinfo=UTC), "token"))
    assert browser.post("/login", data={"token": cookie}, headers=SAME).status_code == 403


def test_a_session_ends_with_its_time_and_with_its_token(db: Database, page: TestClient) -> None:
    now = datetime.now(UTC)
    asked(db)
    db.approvals.clock = lambda: now + timedelta(hours=11)
    assert page.get("/").status_code == 200
    db.approvals.clock = lambda: now + timedelta(hours=13)
    assert page.get("/").status_code == 401
    db.approvals.clock = lambda: None
    short = client(db, None)
    short.post("/login", data={"token": token(lasting=timedelta(hours=1))}, headers=SAME)
    assert short.get("/").status_code == 200
    db.approvals.clock = lambda: now + timedelta(hours=2)
    assert short.get("/").status_code == 401


def test_signing_out_ends_the_session_though_somebody_kept_its_cookie(page: TestClient) -> None:
    kept = page.cookies["holdfast_inbox"]
    hidden = form(page.get("/").text, "/logout")
    assert page.post("/logout", data={"form_token": "x"}, headers=SAME).status_code == 403
    assert page.post("/logout", data=hidden, headers=SAME).headers["location"] == "/login"
    page.cookies.clear()
    page.cookies.set("holdfast_inbox", kept)
    assert page.get("/").status_code == 401


@pytest.mark.parametrize(
    "onward",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
     "/\tevil", "/x//evil", " /evil", "/" + "a" * 5_000, "/caf\u00e9", "evil", '/"><script>'],
)  # fmt: skip
def test_signing_in_leads_to_a_page_of_ours_only(db: Database, onward: str) -> None:
    response = client(db, None).post("/login", data={"token": token(), "next": onward}, headers=SAME)
    assert response.headers["location"] == "/"


# Behind a proxy

PROXY: dict[str, Any] = {"trust_header": "X-Forwarded-User", "trusted_proxies": ("10.0.0.0/8",)}


def test_a_trusted_proxy_says_who_is_asking(db: Database) -> None:
    request = asked(db)
    browser = client(db, None, address="10.1.2.3", **PROXY)
    browser.headers = {"X-Forwarded-User": "Gr\u00fcn".encode()}  # type: ignore[assignment]  # a mapping will do
    assert "Gr\u00fcn" in browser.get("/").text
    assert send(browser, request, {"decision": "approve"}).status_code == 303
    assert db.approvals.get(request.request_id).decided_by == "Gr\u00fcn"


@pytest.mark.parametrize("address", ["192.0.2.1", "11.0.0.1", "testclient", "::1"])
def test_the_header_is_not_believed_from_elsewhere(db: Database, address: str) -> None:
    browser = client(db, None, address=address, **PROXY)
    assert browser.get("/", headers={"X-Forwarded-User": "ada"}).status_code == 401
    assert browser.get("/", headers={"X-Forwarded-User": "ada", "X-Forwarded-For": "10.0.0.1"}).status_code == 401


@pytest.mark.parametrize("name", ["", " ", "holdfast:expiry", "a" * 300, "a\u202eb"])
def test_a_proxy_cannot_name_nobody(db: Database, name: str) -> None:
    headers: Any = {"X-Forwarded-User": name.encode()}
    assert client(db, None, address="10.0.0.1", **PROXY).get("/", headers=headers).status_code == 401


def test_a_header_that_is_there_twice_is_nobodys(db: Database) -> None:
    browser = client(db, None, address="10.0.0.1", **PROXY)
    twice = [("X-Forwarded-User", "mallory"), ("X-Forwarded-User", "ada")]
    assert browser.get("/", headers=twice).status_code == 401


def test_a_session_that_a_proxy_began_is_worth_nothing_beside_the_proxy_or_for_somebody_else(db: Database) -> None:
    request = asked(db, terms=Terms(deciders=("ada",)))
    app = create_app(db, settings(**PROXY))
    inside = TestClient(app, base_url=SITE, client=("10.0.0.1", 1), follow_redirects=False)
    path = f"/requests/{request.request_id}"
    hidden = form(inside.get(path, headers={"X-Forwarded-User": "ada"}).text, f"{path}/decide")
    outside = TestClient(app, base_url=SITE, client=("192.0.2.1", 1), follow_redirects=False)
    outside.cookies.set("holdfast_inbox", inside.cookies["holdfast_inbox"])
    assert outside.get("/").status_code == 401
    sent = {**hidden, "decision": "approve"}
    assert inside.post(f"{path}/decide", data=sent, headers={**SAME, "X-Forwarded-User": "bob"}).status_code == 403
    assert state(db, request) == "waiting"


# Forms


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site", "origin": "https://other.inbox.test"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://inbox.test.evil.example"},
        {},
    ],
)
def test_a_form_from_another_site_changes_nothing(db: Database, page: TestClient, headers: dict[str, str]) -> None:
    request = asked(db)
    response = send(page, request, {"decision": "approve"}, headers=headers)
    assert response.status_code == 403
    assert state(db, request) == "waiting"


def test_where_browsers_do_not_say_the_site_the_origin_has_to_be_ours(db: Database, page: TestClient) -> None:
    assert send(page, asked(db), {"decision": "approve"}, headers={"origin": SITE}).status_code == 303


@pytest.mark.parametrize("without", ["form_token", "mark"])
def test_a_form_without_its_tokens_changes_nothing(db: Database, page: TestClient, without: str) -> None:
    request = asked(db)
    for given in ("", "x", "0" * 64):
        assert send(page, request, {"decision": "approve", without: given}).status_code in (403, 409)
    assert state(db, request) == "waiting"


def test_a_form_of_somebody_elses_session_changes_nothing(db: Database, page: TestClient) -> None:
    request = asked(db)
    path = f"/requests/{request.request_id}"
    hers = form(client(db, "mallory").get(path).text, f"{path}/decide")
    assert page.post(f"{path}/decide", data={**hers, "decision": "approve"}, headers=SAME).status_code == 403
    mine = form(page.get(path).text, f"{path}/decide")
    mixed = {**mine, "mark": hers["mark"], "decision": "approve"}
    assert page.post(f"{path}/decide", data=mixed, headers=SAME).status_code == 409
    assert state(db, request) == "waiting"


def test_a_form_of_one_request_does_not_decide_another(db: Database, page: TestClient) -> None:
    one, other = asked(db, "c1"), asked(db, "c2")
    hidden = form(page.get(f"/requests/{one.request_id}").text, f"/requests/{one.request_id}/decide")
    sent = page.post(f"/requests/{other.request_id}/decide", data={**hidden, "decision": "approve"}, headers=SAME)
    assert sent.status_code == 409
    assert (state(db, one), state(db, other)) == ("waiting", "waiting")


def test_a_form_that_is_sent_again_is_refused(db: Database, page: TestClient) -> None:
    request = asked(db, terms=Terms(quorum=2))
    path = f"/requests/{request.request_id}"
    hidden = {**form(page.get(path).text, f"{path}/decide"), "decision": "approve"}
    assert page.post(f"{path}/decide", data=hidden, headers=SAME).status_code == 303
    again = page.post(f"{path}/decide", data=hidden, headers=SAME)
    assert (again.status_code, "sent before" in again.text) == (409, True)
    assert db.approvals.get(request.request_id).votes == ("ada",)


def test_a_form_of_another_process_is_refused_by_the_record_if_it_was_sent_before(db: Database) -> None:
    """What is remembered of forms is one process's; the record's compare-and-set is everybody's."""
    request = asked(db)
    one, other = client(db), client(db)
    other.cookies.clear()
    other.cookies.set("holdfast_inbox", one.cookies["holdfast_inbox"])
    path = f"/requests/{request.request_id}"
    hidden = {**form(one.get(path).text, f"{path}/decide"), "decision": "approve"}
    assert one.post(f"{path}/decide", data=hidden, headers=SAME).status_code == 303
    again = other.post(f"{path}/decide", data={**hidden, "decision": "reject", "message": "no"}, headers=SAME)
    assert (again.status_code, "approved by ada" in again.text) == (409, True)
    assert state(db, request) == "approved"


def test_a_page_of_other_arguments_decides_nothing(db: Database, page: TestClient) -> None:
    request = asked(db)
    signatures = Signatures(SECRET)
    session = signatures.session(page.cookies["holdfast_inbox"], datetime.now(UTC))
    assert session is not None
    stale = signatures.mark(session, request.request_id, "0" * 64)
    response = send(page, request, {"decision": "approve", "mark": stale})
    assert (response.status_code, "look at the request again" in response.text) == (409, True)
    assert state(db, request) == "waiting"


@pytest.mark.parametrize("decision", ["edit", "", "withdraw", "APPROVE"])
def test_a_form_cannot_decide_what_it_does_not_offer(db: Database, page: TestClient, decision: str) -> None:
    request = asked(db)
    assert send(page, request, {"decision": decision}).status_code == 400
    assert state(db, request) == "waiting"


def test_what_is_no_form_or_too_large_is_refused(db: Database, page: TestClient) -> None:
    path = f"/requests/{asked(db).request_id}/decide"
    assert page.post(path, json={"decision": "approve"}, headers=SAME).status_code == 415
    assert page.post(path, data={"decision": "a" * 3_000_000}, headers=SAME).status_code == 413
    assert page.post(path, data={f"f{n}": "" for n in range(3_000)}, headers=SAME).status_code == 400
    assert page.get(path).status_code == 405


def test_too_many_logins_and_decisions_in_a_minute_are_refused(db: Database) -> None:
    browser = client(db, None, logins_a_minute=3, decisions_a_minute=2)
    answers = [browser.post("/login", data={"token": "x"}, headers=SAME).status_code for _ in range(4)]
    assert answers == [403, 403, 403, 429]
    signed = client(db, "ada", logins_a_minute=3, decisions_a_minute=2)
    request = asked(db)
    sent = [send(signed, request, {"decision": "reject"}) for _ in range(3)]
    assert [one.status_code for one in sent] == [409, 409, 429]
    assert sent[2].headers["retry-after"] == "60"
    assert state(db, request) == "waiting"


def test_several_at_once_count_as_several(db: Database) -> None:
    browser = client(db, decisions_a_minute=3)
    requests = [asked(db, f"c{n}", terms=bulk()) for n in range(5)]
    html = browser.get("/").text
    picked = re.findall(r'name="pick" value="([^"]+)"', html)
    data = {**form(html, "/decide"), "decision": "approve", "pick": picked}
    assert browser.post("/decide", data=data, headers=SAME).status_code == 429
    assert {state(db, one) for one in requests} == {"waiting"}
    # What was refused has taken nothing: fewer can be decided at once.
    again = browser.post("/decide", data={**data, "pick": picked[:2]}, headers=SAME)
    assert re.findall(r'class="badge (\w+)"', again.text) == ["approved", "approved"]


# Every answer


def answers(db: Database, browser: TestClient) -> Iterator[Any]:
    """An answer of every kind of page."""
    request = asked(db, "h", name="<script>alert(0)</script>", arguments=HOSTILE, description="</title><script>x()")
    path = f"/requests/{request.request_id}"
    for get in ("/", "/?show=decided", "/rows", path, f"{path}/standing", f"{path}/edit", f"{path}/edit?as=json",
                f"{path}/arguments", "/thread?id=t", "/login", "/nothing", "/trail?id=none", "/static/inbox.js",
                "/static/nothing", "/requests/<script>"):  # fmt: skip
        yield browser.get(get)
    yield browser.post("/decide", headers=SAME)
    yield browser.post("/login", data={"token": "<script>"}, headers=SAME)
    yield send(browser, request, {"decision": "reject"})
    yield client(db, None).get("/")


def test_every_answer_has_the_headers_and_nothing_is_inline(db: Database, page: TestClient) -> None:
    for answer in answers(db, page):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, answer.url
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        if answer.headers["content-type"].startswith("text/html"):
            assert answer.headers["cache-control"] == "no-store"
            assert Elements(answer.text).problems() == [], answer.url


class Elements(HTMLParser):
    """The tags of a page as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def problems(self) -> list[str]:
        """What could run or be styled in the page itself, or come from elsewhere."""
        found = [f"<{tag}>" for tag, _ in self.tags if tag in ("style", "iframe", "object", "embed", "base")]
        for tag, attributes in self.tags:
            found += [f"{tag} {name}" for name in attributes if name.startswith("on") or name == "style"]
            found += ["inline script"] * (tag == "script" and not (attributes.get("src") or "").startswith("/static/"))
            found += [f"{tag} to {url}" for name in ("src", "href", "action", "formaction")
                      if (url := attributes.get(name)) is not None and not re.match(r"[/#?]", url)]  # fmt: skip
        return found


def test_hostile_arguments_are_shown_and_do_nothing(db: Database, page: TestClient) -> None:
    request = asked(db, "h", arguments=HOSTILE)
    html = page.get(f"/requests/{request.request_id}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>' in html
    assert "U+001B" in html
    assert "U+200B" in html
    assert not set(html) & set("\u202e\u202c\x1b\x00\u200b")
    assert "180,000 more characters" in html
    assert len(html) < 150_000


def test_what_takes_much_to_show_is_cut_and_that_is_said(db: Database, page: TestClient) -> None:
    hidden = asked(db, "c1", arguments={f"a{n}": "\u202e\u202c" * 10_000 for n in range(10)})
    answer = page.get(f"/requests/{hidden.request_id}")
    assert len(answer.content) < 500_000
    assert answer.text.count("… 19,600 more characters") == 10
    many = asked(db, "c2", arguments={f"a{n}": n for n in range(20_000)})
    answer = page.get(f"/requests/{many.request_id}")
    assert len(answer.content) < 500_000
    assert "19,700 more arguments are not shown here" in answer.text
    assert '"a19999": 19999' in page.get(f"/requests/{many.request_id}/arguments").text


def test_a_list_reads_no_more_requests_than_it_shows(
    db: Database, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    find = db.approvals.afind

    async def counted(**how: Any) -> list[ApprovalRequest]:
        found = await find(**how)
        read.append(len(found))
        return found

    monkeypatch.setattr(db.approvals, "afind", counted)
    given: dict[str, Any] = {"thread_id": "t", "task_id": "k", "name": "n", "arguments": {}}
    db.approvals.open([NewRequest(call_id=f"c{n}", **given) for n in range(250)])
    answer = page.get("/")
    assert read == [201]
    assert answer.text.count('<li class="row') == 200
    assert "Only the first 200 are shown" in answer.text


def test_only_the_list_offers_to_decide_several_together(db: Database, page: TestClient) -> None:
    first, _ = (asked(db, f"c{n}", task_id="task", terms=bulk()) for n in range(2))
    assert 'name="pick"' in page.get("/").text
    for path in (f"/requests/{first.request_id}", "/thread?id=t"):
        assert "send_email" in page.get(path).text
        assert 'name="pick"' not in page.get(path).text


@pytest.mark.parametrize("name", ["a\u202eb", " t ", "a\nb", "\U0001f468\u200d\U0001f469", "x" * 1_500, "a/b?c#d%41"])
def test_links_lead_to_a_thread_and_a_decision_whatever_they_are_called(
    db: Database, page: TestClient, name: str
) -> None:
    request = asked(db, thread_id=name, correlation_id=name)
    html = page.get(f"/requests/{request.request_id}").text
    links = re.findall(r'href="(/(?:thread|trail)\?[^"]+)"', html)
    assert [page.get(unescape(link)).status_code for link in links] == [200, 200]


def test_all_of_the_arguments_can_be_had_as_text_that_no_browser_runs(db: Database, page: TestClient) -> None:
    request = asked(db, "h", arguments=HOSTILE)
    answer = page.get(f"/requests/{request.request_id}/arguments")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "x" * 200_000 in answer.text
    assert answer.text.isascii()


def test_a_failure_is_a_page_without_internals(
    db: Database, page: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret-detail at /srv/app")

    monkeypatch.setattr(db.approvals, "afind", broken)
    answer = page.get("/")
    assert answer.status_code == 500
    assert "secret-detail" not in answer.text
    number = re.search(r"in the log as ([0-9a-f]{8})", answer.text)
    assert number is not None
    assert number[1] in caplog.text


def test_a_database_that_is_gone_is_said_without_its_address(database_uri: str) -> None:
    with Database.connect(database_uri) as db:
        browser = client(db)
    answer = browser.get("/")
    assert answer.status_code in (500, 503)
    assert "postgresql" not in answer.text


def test_static_files_are_kept_for_ever_under_their_digest_only(page: TestClient) -> None:
    html = page.get("/").text
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
        assert "immutable" in page.get(address).headers["cache-control"]
        assert page.get(address.partition("?")[0]).headers["cache-control"] == "no-cache"
    assert page.get("/static/../gate.py").status_code == 404


# What is seen


def test_the_list_has_the_oldest_deadline_first_and_marks_what_is_overdue(db: Database, page: TestClient) -> None:
    now = datetime.now(UTC)
    asked(db, "none", description="Without a deadline")
    asked(db, "late", description="In three days", terms=Terms(expires_in=timedelta(days=3)))
    asked(db, "soon", description="In an hour", terms=Terms(expires_in=timedelta(hours=1)))
    html = page.get("/").text
    assert html.index("In an hour") < html.index("In three days") < html.index("Without a deadline")
    assert "overdue" not in html
    db.approvals.clock = lambda: now + timedelta(hours=3)
    html = page.get("/").text
    assert "overdue by 1 h 59 min" in html or "overdue by 2 h" in html
    assert f"{now + timedelta(hours=1):%Y-%m-%d %H:%M} UTC" in html


def test_the_list_can_be_filtered(db: Database, page: TestClient) -> None:
    asked(db, "c1", description="One for bob", terms=Terms(deciders=("bob",)), thread_id="t1")
    asked(db, "c2", description="One for ada", terms=Terms(deciders=("ada",)), thread_id="t2", correlation_id="case-1")
    asked(db, "c3", description="One for all", name="delete_file", thread_id="t3")

    def seen(query: str) -> list[str]:
        return re.findall(r"One for (\w+)", page.get(f"/?{query}").text)

    assert sorted(seen("")) == ["ada", "all", "bob"]
    assert sorted(seen("mine=1")) == ["ada", "all"]
    assert seen("thread=t1") == ["bob"]
    assert seen("case=case-1") == ["ada"]
    assert seen("text=DELETE") == ["all"]
    assert seen("show=decided") == []
    assert seen("thread=%00") == seen("")


def test_what_was_decided_is_listed_with_who_did(db: Database, page: TestClient) -> None:
    request = asked(db, description="A thing")
    db.approvals.decide(request.request_id, Decided(type="reject", by="bob", digest=request.digest, message="no"))
    html = page.get("/?show=decided").text
    assert "A thing" in html
    assert "Rejected by bob" in html


def test_a_request_shows_what_the_agent_knew_and_what_it_has_used(db: Database, page: TestClient) -> None:
    context = {
        "evidence": [{"quote": "It is due.", "document": "log.pdf"}],
        "confidence": 0.7,
        "steps": {"taken": 45, "limit": 50},
        "limit": {"unit": "usd", "window": "run", "limit": "2", "used": "0.5"},
        "odd": {"deep": [1]},
    }
    request = asked(db, context=context, terms=Terms(deciders=("ada", "bob"), quorum=2), correlation_id="case-1")
    spent: dict[str, Any] = {
        "kind": "model.answered",
        "actor": "a",
        "cost": Decimal("0.25"),
        "input_tokens": 10,
        "output_tokens": 2,
    }
    db.audit.append(NewEvent(thread_id="t", **spent))
    html = page.get(f"/requests/{request.request_id}").text
    for text in ("It is due.", "log.pdf", "0.7", "45 of 50", "little left", "0.5 of 2 usd", "$0.2500 · 12 tokens",
                 "ada or bob", "0 of 2", "case-1"):  # fmt: skip
        assert text in html, text


def run(db: Database, thread: str = "t") -> None:
    """A thread on which something was said to its user, and something not."""

    def work(state: MessagesState) -> dict[str, Any]:
        between_us = tagged(AIMessage("Between us."), Visibility.USER_HIDDEN)
        return {"messages": [AIMessage("I have looked."), between_us, SystemMessage("Be kind.")]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    graph = builder.compile(checkpointer=db.saver)
    graph.invoke({"messages": [HumanMessage("Look at it.")]}, {"configurable": {"thread_id": thread}})


def test_the_run_is_shown_as_its_user_sees_it(db: Database, page: TestClient) -> None:
    run(db)
    for path in (f"/requests/{asked(db).request_id}", "/thread?id=t"):
        html = page.get(path).text
        assert "Look at it." in html
        assert "I have looked." in html
        assert "Between us." not in html
        assert "Be kind." not in html


def test_a_decision_is_told_as_a_timeline_as_far_as_the_audience_may_see(db: Database) -> None:
    known: dict[str, Any] = {"thread_id": "t", "correlation_id": "case-1", "actor": "a"}
    for word, visibility in (("lantern", Visibility.USER_HIDDEN), ("anchor", Visibility.ALWAYS_HIDDEN)):
        db.audit.append(NewEvent(**known, kind="note", details={"word": word}, visibility=visibility))

    def seen(name: str, audience: str) -> list[str]:
        html = client(db, name, operators=("olga",), auditors=("otto",)).get(f"/trail?id=case-1&as={audience}").text
        return re.findall("lantern|anchor", html)

    assert seen("ada", "user") == seen("ada", "operator") == seen("ada", "auditor") == []
    assert seen("olga", "user") == []
    assert seen("olga", "operator") == ["lantern"]
    assert seen("otto", "auditor") == ["lantern", "anchor"]
    assert client(db).get("/trail?id=another").status_code == 404


def test_unknown_requests_are_not_there(page: TestClient) -> None:
    for name in ("apr-0", "x", "%00", "a" * 500):
        assert page.get(f"/requests/{name}").status_code == 404


# Deciding


@pytest.mark.parametrize(
    ("decision", "message", "became"),
    [("approve", "", "approved"), ("reject", "not now", "rejected"), ("respond", "ask Bob", "responded")],
)
def test_a_decision_is_recorded_with_who_is_signed_in(
    db: Database, page: TestClient, decision: DecisionType, message: str, became: str
) -> None:
    request = asked(db)
    sent = send(page, request, {"decision": decision, "message": message, "by": "mallory", "name": "mallory"})
    assert (sent.status_code, sent.headers["location"]) == (303, f"/requests/{request.request_id}")
    now = db.approvals.get(request.request_id)
    assert (now.state, now.decided_by, now.message) == (became, "ada", message)
    assert "by ada" in page.get(sent.headers["location"]).text


def test_a_rejection_says_why(db: Database, page: TestClient) -> None:
    request = asked(db)
    assert "Say why not" in send(page, request, {"decision": "reject", "message": " \r\n"}).text
    assert state(db, request) == "waiting"


def test_who_is_not_asked_sees_it_and_cannot_decide(db: Database, page: TestClient) -> None:
    request = asked(db, terms=Terms(deciders=("bob",)))
    html = page.get(f"/requests/{request.request_id}").text
    assert "it is for others to decide" in html
    assert 'value="approve"' not in html
    signatures = Signatures(SECRET)
    session = signatures.session(page.cookies["holdfast_inbox"], datetime.now(UTC))
    assert session is not None
    made = {
        "form_token": signatures.form_token(session),
        "mark": signatures.mark(session, request.request_id, request.digest),
        "decision": "approve",
    }
    answer = page.post(f"/requests/{request.request_id}/decide", data=made, headers=SAME)
    assert (answer.status_code, "may not decide" in answer.text) == (409, True)
    assert state(db, request) == "waiting"


def test_the_second_of_two_is_told_who_was_first(db: Database, page: TestClient) -> None:
    request = asked(db)
    path = f"/requests/{request.request_id}"
    hidden = form(page.get(path).text, f"{path}/decide")
    db.approvals.decide(request.request_id, Decided(type="reject", by="bob", digest=request.digest, message="no"))
    answer = page.post(f"{path}/decide", data={**hidden, "decision": "approve"}, headers=SAME)
    assert answer.status_code == 409
    assert "was rejected by bob at" in answer.text
    assert state(db, request) == "rejected"


def test_what_is_over_cannot_be_decided(db: Database, page: TestClient) -> None:
    request = asked(db, terms=Terms(expires_in=timedelta(hours=1)))
    path = f"/requests/{request.request_id}"
    hidden = form(page.get(path).text, f"{path}/decide")
    now = datetime.now(UTC)
    db.approvals.clock = lambda: now + timedelta(hours=2)
    answer = page.post(f"{path}/decide", data={**hidden, "decision": "approve"}, headers=SAME)
    assert answer.status_code == 409
    assert "is over" in answer.text
    assert state(db, request) == "expired"
    assert "Expired" in page.get(path).text


def test_two_of_three_have_to_approve(db: Database) -> None:
    request = asked(db, terms=Terms(deciders=("ada", "bob", "cleo"), quorum=2))
    ada, bob = client(db, "ada"), client(db, "bob")
    send(ada, request, {"decision": "approve"})
    html = ada.get(f"/requests/{request.request_id}").text
    assert "1 of 2" in html
    assert "You have approved it" in html
    assert "edit" not in re.findall(r'id="(edit)"', html)
    send(bob, request, {"decision": "approve"})
    assert state(db, request) == "approved"


def test_several_are_decided_together_each_by_itself(db: Database, page: TestClient) -> None:
    requests = [asked(db, f"c{n}", terms=bulk()) for n in range(3)]
    single, bobs = asked(db, "single"), asked(db, "bobs", terms=bulk(deciders=("bob",)))
    html = page.get("/").text
    picked = re.findall(r'name="pick" value="([^"]+)"', html)
    assert len(picked) == 3
    first = requests[0]
    db.approvals.decide(first.request_id, Decided(type="reject", by="bob", digest=first.digest, message="no"))
    answer = page.post("/decide", data={**form(html, "/decide"), "decision": "approve", "pick": picked}, headers=SAME)
    assert [state(db, one) for one in requests] == ["rejected", "approved", "approved"]
    assert "was rejected by bob" in answer.text
    assert (state(db, single), state(db, bobs)) == ("waiting", "waiting")


def test_what_may_not_be_decided_together_is_not(db: Database, page: TestClient) -> None:
    request = asked(db)
    mark = form(page.get(f"/requests/{request.request_id}").text, f"/requests/{request.request_id}/decide")
    data = {"form_token": mark["form_token"], "pick": mark["mark"], "decision": "approve"}
    assert "may not be decided together" in page.post("/decide", data=data, headers=SAME).text
    assert state(db, request) == "waiting"


def test_next_and_previous_lead_through_what_one_may_decide(db: Database, page: TestClient) -> None:
    ids = [asked(db, f"c{n}", terms=Terms(expires_in=timedelta(hours=n))).request_id for n in (1, 2)]
    bobs = asked(db, "bobs", terms=Terms(deciders=("bob",), expires_in=timedelta(minutes=90))).request_id
    assert page.get(f"/requests/{ids[0]}/next").headers["location"] == f"/requests/{ids[1]}"
    assert page.get(f"/requests/{ids[1]}/previous").headers["location"] == f"/requests/{ids[0]}"
    assert page.get(f"/requests/{ids[1]}/next").headers["location"] == "/"
    assert page.get(f"/requests/{bobs}/next").headers["location"] == f"/requests/{ids[0]}"
    assert page.get(f"/requests/{ids[0]}/elsewhere").status_code == 404


# Editing


def edit(browser: TestClient, request: ApprovalRequest, way: str = "fields", **typed: str) -> Any:
    """Send the edit form, with what is typed in place of what it holds."""
    path = f"/requests/{request.request_id}/edit"
    html = browser.get(f"{path}?as={way}").text
    held = Held(html)
    return browser.post(path, data=form(html, path) | held.fields | typed, headers=SAME)


class Held(HTMLParser):
    """What a page's fields hold, as a browser would send it: every line break as two characters."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._open: str | None = None
        self._select: str | None = None
        self.feed(html)
        self.fields = {name: text.removeprefix("\n").replace("\n", "\r\n") for name, text in self.fields.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        name = known.get("name") or ""
        if tag == "input" and name.startswith("argument"):
            self.fields[name] = known.get("value") or ""
        if tag == "textarea":
            self._open = name
            self.fields[name] = ""
        if tag == "select":
            self._select = name
        if tag == "option" and self._select and "selected" in known:
            self.fields[self._select] = known.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == "textarea" else self._open

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.fields[self._open] += data


def test_an_edit_shows_what_it_changes_before_it_is_approved(db: Database, page: TestClient) -> None:
    request = asked(db)
    body = "Dear Ada,\r\nsee you on Tuesday.\r\nSam"
    seen = edit(page, request, step="look", **{"argument-1": body}).text
    assert "<del>Monday</del>" in seen
    assert "<ins>Tuesday</ins>" in seen
    assert state(db, request) == "waiting"
    sent = edit(page, request, step="approve", message="a holiday", **{"argument-1": body})
    assert sent.status_code == 303
    now = db.approvals.get(request.request_id)
    assert now.edited == {"to": "ada@example.com", "body": body.replace("\r\n", "\n")}
    assert (now.state, now.decided_by, now.message) == ("edited", "ada", "a holiday")
    assert "<ins>Tuesday</ins>" in page.get(f"/requests/{request.request_id}").text


def test_an_edit_can_add_what_the_schema_knows_and_take_it_away(db: Database, page: TestClient) -> None:
    request = asked(db, arguments={"to": "a@example.com", "body": "x", "count": 3})
    edit(page, request, step="approve", **{"argument-2": "", "argument-3": '"high"'})
    assert db.approvals.get(request.request_id).final_arguments == {
        "to": "a@example.com",
        "body": "x",
        "priority": "high",
    }


def test_an_edit_that_does_not_fit_the_schema_is_refused_and_what_was_typed_is_kept(
    db: Database, page: TestClient
) -> None:
    request = asked(db, arguments={"to": "a@example.com", "body": "x", "count": 3})
    answer = edit(page, request, step="approve", **{"argument-2": '"many"'})
    assert answer.status_code == 409
    assert "count" in answer.text
    assert "&#34;many&#34;" in answer.text
    assert state(db, request) == "waiting"
    assert edit(page, request, step="approve", **{"argument-2": "4"}).status_code == 303


@pytest.mark.parametrize("typed", ["{", "[1]", "NaN", '{"to": Infinity}', '{"to": 1e400}', "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(db: Database, page: TestClient, typed: str) -> None:
    request = asked(db)
    assert edit(page, request, "json", step="approve", arguments=typed).status_code == 422
    assert state(db, request) == "waiting"


@pytest.mark.parametrize("way", ["fields", "json"])
def test_a_form_that_nobody_touched_changes_nothing_whatever_is_in_it(db: Database, page: TestClient, way: str) -> None:
    odd: dict[str, Any] = {
        "lines": "a\r\nb\rc\nd",
        "lead": "\n\n  x ",
        "hidden": "a\u202eb\x1bc\u200b",
        "number": 1.0,
        "large": 12345678901234567890,
        "none": None,
        "yes": True,
        "deep": {"a": ["\u2066", {}]},
        "text that looks like json": '{"a": 1}',
        "empty": "",
        "<b>": "</textarea><script>",
    }
    request = asked(db, arguments=odd, schema=None)
    answer = edit(page, request, way, step="approve")
    assert "Nothing was changed" in answer.text
    assert edit(page, request, way, step="look").status_code == 200
    assert state(db, request) == "waiting"


def test_an_edit_of_one_field_leaves_the_others_as_they_are_to_the_letter(db: Database, page: TestClient) -> None:
    odd = {"to": "x", "lines": "a\r\nb\rc", "hidden": "a\u202eb"}
    request = asked(db, arguments=odd, schema=None)
    edit(page, request, step="approve", **{"argument-0": "y"})
    assert db.approvals.get(request.request_id).edited == {**odd, "to": "y"}


def test_arguments_that_are_too_large_for_a_page_are_not_cut_by_an_edit(db: Database, page: TestClient) -> None:
    request = asked(db, arguments={"to": "x", "body": "y" * 450_000})
    answer = page.get(f"/requests/{request.request_id}/edit")
    assert "too large to be edited on a page" in answer.text
    assert 'value="approve"' not in answer.text


# Mounted, and the command


def test_it_works_below_a_prefix_and_its_cookie_is_for_there_only(db: Database) -> None:
    request = asked(db)
    app = Starlette(routes=[Mount("/ops/inbox", create_app(db, settings()))])
    browser = TestClient(app, base_url=SITE, follow_redirects=False)
    assert 'action="/ops/inbox/login"' in browser.get("/ops/inbox/").text
    answer = browser.post("/ops/inbox/login", data={"token": token(), "next": "/"}, headers=SAME)
    assert answer.headers["location"] == "/ops/inbox/"
    assert "path=/ops/inbox" in answer.headers["set-cookie"].lower()
    path = f"/ops/inbox/requests/{request.request_id}"
    html = browser.get(path).text
    assert all(address.startswith("/ops/inbox/") for address in re.findall(r'(?:href|src|action)="(/[^"]*)"', html))
    hidden = form(html, f"{path}/decide")
    sent = browser.post(f"{path}/decide", data={**hidden, "decision": "approve"}, headers=SAME)
    assert sent.headers["location"] == path
    assert state(db, request) == "approved"
    assert "content-security-policy" not in browser.get("/elsewhere").headers


def test_what_a_langgraph_server_mounts_lies_below_a_path_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_INBOX_PATH", raising=False)
    assert mounted_path() == "/inbox"
    monkeypatch.setenv("HOLDFAST_INBOX_PATH", "/ops/approvals")
    assert mounted_path() == "/ops/approvals"
    for wrong in ("inbox", "/", "/x/", "/<script>"):
        monkeypatch.setenv("HOLDFAST_INBOX_PATH", wrong)
        with pytest.raises(InvalidInbox):
            mounted_path()


def test_the_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "home" / "inbox-secret"
    secret = kept_secret(file)
    assert len(secret) >= 32
    assert kept_secret(file) == secret
    assert [found.name for found in file.parent.iterdir()] == ["inbox-secret"]
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o644)
        with pytest.raises(InvalidInbox, match="others can read"):
            kept_secret(file)


def test_settings_that_let_anybody_in_are_refused() -> None:
    for wrong in ({"trust_header": "X-User"}, {"trusted_proxies": ("10.0.0.1",)}, {"secret": "short"},
                  {"trust_header": "X User:", "trusted_proxies": ("10.0.0.1",)},
                  {"trust_header": "X-User", "trusted_proxies": ("somewhere",)}):  # fmt: skip
        with pytest.raises(InvalidInbox):
            settings(**wrong) if "secret" not in wrong else type(settings())(secret="short")
    assert SECRET not in repr(settings())
    assert settings(auditors=("*",)).audiences("x") == tuple(Audience)


@pytest.fixture
def holdfast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_INBOX")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    return lambda *words: CliRunner().invoke(cli, ["inbox", *words])


def test_a_token_is_printed_as_a_link_that_signs_in(
    holdfast: Callable[..., Any], db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_INBOX_SECRET", SECRET)
    done = holdfast("token", "ada", "--days", "2", "--url", "https://inbox.test/ops/")
    link = done.stdout.strip()
    assert link.startswith("https://inbox.test/ops/login#")
    assert "ada" in done.stderr
    answer = client(db, None).post("/login", data={"token": link.partition("#")[2]}, headers=SAME)
    assert answer.status_code == 303
    for wrong in ("", " x", "holdfast:expiry", "a\nb"):
        assert holdfast("token", wrong).exit_code == 2


def test_it_listens_where_others_are_only_if_it_is_said_how_they_are_known(holdfast: Callable[..., Any]) -> None:
    refused = holdfast("--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert isinstance(refused.exception, InvalidInbox)
    assert "HOLDFAST_INBOX_SECRET" in str(refused.exception)
    assert isinstance(holdfast("--trust-header", "X-User").exception, InvalidInbox)


def test_without_the_extra_it_is_said_which(holdfast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.checkpointing import MissingExtra

    def without_limits(name: str) -> object:
        return None if name == "limits" else object()

    monkeypatch.setattr("importlib.util.find_spec", without_limits)
    failed = holdfast("token", "ada")
    assert isinstance(failed.exception, MissingExtra)
    assert "holdfast[inbox]" in str(failed.exception)


def test_the_command_line_does_not_wait_for_the_inbox_to_be_imported() -> None:
    import subprocess

    code = (
        "import sys, holdfast.serving.cli; print([m for m in ('starlette', 'jinja2', 'uvicorn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The style sheet

STYLES = (ROOT / "serving" / "inbox" / "static" / "inbox.css").read_text(encoding="utf-8")
TEXTS = [
    ("text", "page"), ("text", "card"), ("text", "sunk"), ("soft", "page"), ("soft", "card"), ("soft", "sunk"),
    ("link", "page"), ("link", "card"), ("accent-text", "accent"), ("good", "good-back"), ("bad", "bad-back"),
    ("bad", "card"), ("warn", "warn-back"), ("warn", "card"), ("cool", "cool-back"), ("text", "cool-back"),
    ("text", "bad-back"), ("text", "good-back"), ("soft", "good-back"), ("soft", "bad-back"),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "place"), [("light", 0), ("dark", 1)])
def test_every_text_stands_out_from_what_is_behind_it(scheme: str, place: int) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1; 1.4.11: 3 to 1 for the edges of fields and for where one is."""
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", STYLES.split(":root {")[place + 1]))
    for text, back in TEXTS:
        assert contrast(colours[text], colours[back]) >= 4.5, (scheme, text, back)
    for edge in ("strong-line", "focus"):
        assert contrast(colours[edge], colours["card"]) >= 3, (scheme, edge)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_shipped_htmx_is_the_one_that_is_named_beside_it() -> None:
    static = ROOT / "serving" / "inbox" / "static"
    told = (static / "htmx.LICENSE.txt").read_text(encoding="utf-8")
    assert hashlib.sha256((static / "htmx.min.js").read_bytes()).hexdigest() in told
    assert "0BSD" in told
