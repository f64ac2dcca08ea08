"""The inbox in a real browser: what people see and press, with a keyboard, on a phone, and without JavaScript."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect, sync_playwright

from holdfast.checkpointing import ApprovalRequest, Database, DatabaseUnavailable, Decided, Terms
from holdfast.serving.inbox import create_app
from tests.support.inboxes import SECRET, asked, bulk, settings, token

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PHONE: Final = {"width": 390, "height": 844}
Open = Callable[..., Page]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@contextmanager
def serving(db: Database) -> Generator[str]:
    """The inbox on a port of this machine, for the length of the block."""
    app = create_app(db, settings())
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            app.state.inbox.stop()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)  # other tests run beside these
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def url(db: Database) -> Iterator[str]:
    with serving(db) as address:
        yield address


@pytest.fixture
def tab(chromium: Browser, url: str) -> Iterator[Open]:
    """Opens a page, signed in; nothing may go wrong on it, and no page may ask anything."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def refused(dialog: Dialog) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    def opened(path: str = "/", name: str = "ada", known: Sequence[str] = (), **more: Any) -> Page:
        context = chromium.new_context(**more)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: wrong.append(told.text) if is_wrong(told, known) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", refused)
        context.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(url) else None)
        page.goto(f"{url}/login")
        page.get_by_label("Login token").fill(token(name))
        page.get_by_role("button", name="Sign in").click()
        if more.get("java_script_enabled", True):
            expect(page.locator("#live")).to_be_visible()  # it is told of changes from now on
        if path != "/":
            page.goto(f"{url}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def is_wrong(told: ConsoleMessage, more: Sequence[str] = ()) -> bool:
    """Whether the browser complains of a page; it does of a refusal's status and of a text without an icon, too."""
    known = any(one in told.text for one in ("409 (Conflict)", *more)) or told.location["url"].endswith("/favicon.ico")
    return told.type in ("error", "warning") and not known


def decide(db: Database, request: ApprovalRequest, by: str = "bob") -> None:
    db.approvals.decide(request.request_id, Decided(type="reject", by=by, digest=request.digest, message="not today"))


def test_list_open_edit_approve(db: Database, tab: Open) -> None:
    request = asked(db, description="Write to Ada")
    page = tab()
    page.get_by_role("link", name="Write to Ada").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("send_email")
    page.get_by_role("link", name="Edit, then approve").click()
    body = page.locator("textarea[name=argument-1]")
    expect(body).to_have_value("Dear Ada,\nsee you on Monday.\nSam")
    body.fill("Dear Ada,\nsee you on Tuesday.\nSam")
    page.get_by_role("button", name="See what changes").click()
    expect(page.locator("del")).to_have_text("Monday")
    expect(page.locator("ins")).to_have_text("Tuesday")
    assert db.approvals.get(request.request_id).state == "waiting"
    page.get_by_role("button", name="Approve with these changes").click()
    expect(page.locator("#standing")).to_contain_text("Approved with changes by ada")
    decided = db.approvals.get(request.request_id)
    assert decided.edited == {"to": "ada@example.com", "body": "Dear Ada,\nsee you on Tuesday.\nSam"}
    assert decided.decided_by == "ada"


def test_the_list_changes_by_itself_and_keeps_what_is_chosen_and_where_one_is(db: Database, tab: Open) -> None:
    asked(db, "c1", description="The first", terms=bulk(expires_in=timedelta(hours=2)))
    page = tab()
    page.locator("input[name=pick]").check()
    page.get_by_role("link", name="The first").focus()
    second = asked(db, "c2", description="The second", terms=Terms(expires_in=timedelta(hours=1)))
    expect(page.locator("#waiting .summary")).to_have_text(["The second", "The first"])
    expect(page.locator("input[name=pick]")).to_be_checked()
    expect(page.get_by_role("link", name="The first")).to_be_focused()
    decide(db, second)
    expect(page.locator("#waiting .summary")).to_have_text(["The first"])
    page.get_by_role("button", name="Approve chosen").click()
    expect(page.locator(".row .badge")).to_have_text("approved")


def test_a_filtered_list_stays_filtered_when_it_changes(db: Database, tab: Open) -> None:
    asked(db, "c1", description="For all")
    page = tab()
    page.get_by_label("only mine").check()
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#live")).to_be_visible()
    asked(db, "c2", description="For bob", terms=Terms(deciders=("bob",)))
    asked(db, "c3", description="For ada", terms=Terms(deciders=("ada",)))
    expect(page.locator("#waiting .summary")).to_have_text(["For all", "For ada"])


def test_an_open_request_is_told_that_somebody_else_has_decided(db: Database, tab: Open) -> None:
    request = asked(db)
    page = tab(f"/requests/{request.request_id}")
    expect(page.locator("#live")).to_be_visible()
    page.locator("#message").fill("I was about to say")
    decide(db, request)
    expect(page.locator("#standing")).to_contain_text("Rejected by bob")
    expect(page.get_by_role("button", name="Approve")).to_be_disabled()
    expect(page.locator("#message")).to_have_value("I was about to say")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert db.approvals.get(request.request_id).decided_by == "bob"


def test_the_second_decision_is_refused_and_says_who_was_first(db: Database, tab: Open) -> None:
    request = asked(db)
    page = tab(f"/requests/{request.request_id}", java_script_enabled=False)
    decide(db, request)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("was rejected by bob at")
    expect(page.locator("#standing")).to_contain_text("Rejected by bob")
    assert db.approvals.get(request.request_id).state == "rejected"


def test_what_has_expired_meanwhile_is_refused_and_says_so(db: Database, tab: Open) -> None:
    request = asked(db, terms=Terms(expires_in=timedelta(hours=1)))
    page = tab(f"/requests/{request.request_id}")
    now = datetime.now(UTC)
    db.approvals.clock = lambda: now + timedelta(hours=2)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("is over")
    expect(page.locator("#standing")).to_contain_text("Expired")
    assert db.approvals.get(request.request_id).state == "expired"


def test_an_open_list_shows_what_is_overdue(db: Database, tab: Open) -> None:
    asked(db, "c1", terms=Terms(expires_in=timedelta(hours=1)))
    page = tab()
    expect(page.locator(".due")).to_contain_text("in 59 min")
    now = datetime.now(UTC)
    db.approvals.clock = lambda: now + timedelta(hours=3)
    asked(db, "c2")
    expect(page.locator(".row.overdue .due")).to_contain_text("overdue by 2 h")


def test_a_request_that_is_escalated_to_somebody_is_theirs_to_decide_at_once(db: Database, tab: Open) -> None:
    terms = Terms(deciders=("bob",), expires_in=timedelta(hours=1), on_expiry="escalate", escalate_to=("ada",))
    request = asked(db, terms=terms)
    page = tab(f"/requests/{request.request_id}")
    expect(page.locator("#standing")).to_contain_text("for others to decide")
    db.approvals.tend(datetime.now(UTC) + timedelta(hours=2))
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#standing")).to_contain_text("Approved by ada")


AWAY = (
    "(away) => { Object.defineProperty(document, 'hidden', {value: away, configurable: true});"
    " document.dispatchEvent(new Event('visibilitychange')); }"
)


def test_pages_that_nobody_sees_take_no_connection_from_others_and_look_again_when_they_are_seen(
    db: Database, tab: Open
) -> None:
    asked(db, "c1", description="The first")
    first = tab()
    others = [first.context.new_page() for _ in range(6)]  # as many connections as a browser opens
    for other in others:
        other.goto(first.url)
        expect(other.locator("#live")).to_be_visible()
        other.evaluate(AWAY, True)
        expect(other.locator("#live")).to_be_hidden()
    asked(db, "c2", description="The second")
    expect(first.locator("#waiting .summary")).to_have_count(2)
    expect(others[0].locator("#waiting .summary")).to_have_count(1)
    others[0].evaluate(AWAY, False)
    expect(others[0].locator("#waiting .summary")).to_have_count(2)


def test_an_open_list_becomes_the_login_form_when_the_session_is_over(db: Database, tab: Open) -> None:
    request = asked(db)
    known = ("401 (Unauthorized)",)
    page = tab(known=known)
    page.context.clear_cookies()
    asked(db, "c2")
    expect(page.get_by_label("Login token")).to_be_visible()
    page.get_by_label("Login token").fill(token())
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#waiting .summary")).to_have_count(2)
    page = tab(f"/requests/{request.request_id}", known=known)
    expect(page.locator("#live")).to_be_visible()
    page.locator("#message").fill("I was about to say")
    page.context.clear_cookies()
    with page.expect_response(lambda answer: answer.url.endswith("/standing")):
        decide(db, request)
    expect(page.locator("#message")).to_have_value("I was about to say")
    expect(page.locator("#standing")).to_contain_text("Deadline")
    expect(page.get_by_label("Login token")).to_have_count(0)


def test_an_open_page_stays_as_it_is_while_the_database_is_away(
    db: Database, tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(db, "c1", description="The first")
    page = tab(known=("503 (Service Unavailable)",))
    with monkeypatch.context() as away:

        async def gone(*_: object, **__: object) -> None:
            raise DatabaseUnavailable("it is away")

        away.setattr(db.approvals, "afind", gone)
        with page.expect_response(lambda answer: "/rows" in answer.url and answer.status == 503):
            asked(db, "c2", description="The second")
        expect(page.locator("#waiting .summary")).to_have_text(["The first"])
        expect(page.locator("h1")).to_have_text(["Waiting for a decision"])
    asked(db, "c3", description="The third")
    expect(page.locator("#waiting .summary")).to_have_count(3)


HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>",
    "rtl": "a\u202eevil\u202c b\u2067c",
    "controls": "a\x1b[2J\x00b\x07\u200b",
    "big": "x" * 200_000 + "<script>alert(4)</script>",
    "lines": "<b>\n" * 5_000,
    '"><script>alert(5)</script>': "'\"><iframe src=javascript:alert(6)>",
    "hx-get": "x' hx-get='/x' hx-trigger='load' hx-on:click='alert(7)'",
    "link": "javascript:alert(8)",
    "{{ 7 * 7 }}": "{{ cycler.__init__ }}",
}


def test_hostile_arguments_do_nothing_and_can_be_seen(db: Database, tab: Open) -> None:
    request = asked(
        db,
        name="run_</title><script>alert(9)</script>",
        description="<img src=x onerror=alert(10)>\u202e",
        arguments=HOSTILE,
        context={"evidence": ["<script>alert(11)</script>"], "messages": [{"role": "<b>", "text": "<script>"}]},
        thread_id="t<script>alert(12)</script>",
        correlation_id="'><script>alert(13)</script>",
        schema={"properties": {"html": {"type": "string", "title": "<script>alert(14)</script>"}}},
    )
    page = tab()
    path = f"/requests/{request.request_id}"
    links = page.locator(".row a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    trail = "/trail?id=%27%3E%3Cscript%3Ealert(13)%3C/script%3E"
    for shown in (*links, path, f"{path}/edit", f"{path}/edit?as=json", trail, f"{path}/arguments"):
        page.goto(
            f"{page.url.partition('/requests')[0].partition('/thread')[0].partition('/trail')[0].rstrip('/')}{shown}"
        )
        assert page.locator("script:not([src]), iframe, svg, main img, [onerror], [onload], b script").count() == 0
    page.goto(page.url.removesuffix("/arguments"))
    expect(page.locator("#arguments")).to_contain_text("<script>alert(1)</script>")
    expect(page.locator("#arguments .ctl", has_text="U+202E")).to_be_visible()
    expect(page.locator("#arguments .ctl", has_text="U+001B")).to_be_visible()
    expect(page.locator("#arguments")).to_contain_text("{{ cycler.__init__ }}")
    # What comes after text that turns around stands where it would stand anyway.
    box = page.locator("#arguments dt", has_text="rtl").bounding_box()
    value = page.locator("#arguments dd", has_text="evil").bounding_box()
    assert box is not None
    assert value is not None
    assert box["x"] < value["x"]
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#standing")).to_contain_text("Approved by ada")


def test_everything_can_be_done_by_keys(db: Database, tab: Open) -> None:
    requests = [
        asked(db, f"c{number}", description=f"Number {number}", terms=Terms(expires_in=timedelta(hours=number)))
        for number in (1, 2, 3)
    ]
    page = tab()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="Number 1")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="Number 2")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".lead")).to_have_text("Number 2")
    page.keyboard.press("j")
    expect(page.locator(".lead")).to_have_text("Number 3")
    page.keyboard.press("k")
    expect(page.locator(".lead")).to_have_text("Number 2")
    page.keyboard.press("r")
    page.keyboard.type("join a rejection")  # letters that are keys elsewhere
    page.keyboard.press("Control+Enter")
    expect(page.locator("#standing")).to_contain_text("Rejected by ada")
    page.keyboard.press("u")
    expect(page.locator("#waiting .summary")).to_have_text(["Number 1", "Number 3"])
    page.keyboard.press("j")
    page.keyboard.press("a")
    expect(page.locator("#approve")).to_be_focused()  # in a list nobody approves what they have not seen
    assert db.approvals.get(requests[0].request_id).state == "waiting"
    page.keyboard.press("a")
    expect(page.locator("#standing")).to_contain_text("Approved by ada")
    page.keyboard.press("j")
    expect(page.locator(".lead")).to_have_text("Number 3")
    page.keyboard.press("e")
    page.locator("textarea[name=argument-1]").press("x")
    page.keyboard.press("Control+Enter")
    expect(page.locator("ins")).to_contain_text("x")
    page.get_by_role("button", name="Approve with these changes").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#standing")).to_contain_text("Approved with changes by ada")
    assert [db.approvals.get(one.request_id).state for one in requests] == ["approved", "rejected", "edited"]


def test_where_one_is_can_be_seen_on_every_stop_of_the_tab_key(db: Database, tab: Open) -> None:
    asked(db, terms=bulk())
    for path in ("/", f"/requests/{asked(db, 'c2').request_id}"):
        page = tab(path)
        seen: set[str] = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            outlined = page.evaluate(
                "() => { const at = document.activeElement; if (at === document.body) return 'end';"
                " const mark = (one) => getComputedStyle(one).outlineStyle !== 'none';"
                " return mark(at) || (at.closest('.row') && mark(at.closest('.row'))) ? 'seen' : at.outerHTML }"
            )
            if outlined == "end":
                break
            seen.add(outlined)
        assert seen == {"seen"}


def test_without_javascript_everything_is_there(db: Database, tab: Open) -> None:
    one = asked(db, "c1", description="One")
    two, three = (asked(db, f"b{number}", description=f"Bulk {number}", terms=bulk()) for number in (1, 2))
    other = asked(db, "c2", description="Other", name="delete_file")
    page = tab(java_script_enabled=False)
    page.get_by_label("Action").fill("delete")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".summary")).to_have_text(["Other"])
    page.get_by_role("link", name="Other").click()
    page.get_by_label("Reason, or a response").fill("Keep it.")
    page.get_by_role("button", name="Reject").click()
    expect(page.locator("#standing")).to_contain_text("Rejected by ada")
    page.get_by_role("link", name="All that waits").click()
    for box in page.locator("input[name=pick]").all():
        box.check()
    page.get_by_role("button", name="Approve chosen").click()
    expect(page.locator(".row .badge")).to_have_text(["approved", "approved"])
    page.goto(page.url.replace("/decide", f"/requests/{one.request_id}/edit?as=json"))
    page.get_by_label("As JSON").fill('{"to": "bob@example.com", "body": "x"}')
    page.get_by_role("button", name="Approve with these changes").click()
    expect(page.locator("#standing")).to_contain_text("Approved with changes by ada")
    states = [db.approvals.get(request.request_id).state for request in (one, two, three, other)]
    assert states == ["edited", "approved", "approved", "rejected"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(db: Database, tab: Open, scheme: str) -> None:
    request = asked(db, arguments=HOSTILE, description="w" * 300, thread_id="t" * 150, correlation_id="c" * 150,
                    terms=bulk(deciders=("ada", "a" * 150)))  # fmt: skip
    path = f"/requests/{request.request_id}"
    page = tab(viewport=PHONE, color_scheme=scheme)
    base = page.url.rstrip("/")
    for shown in ("/", path, f"{path}/edit", f"/trail?id={'c' * 150}", f"/thread?id={'t' * 150}"):
        page.goto(base + shown)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], shown
        back = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").rstrip(")")
        assert (sum(map(int, back.split(","))) < 200) is (scheme == "dark")


def test_the_link_of_the_command_signs_in_and_leaves_no_token_behind(chromium: Browser, url: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url + (request.headers.get("referer") or "")))
    made = token("cleo")
    page.goto(f"{url}/login#{made}")
    expect(page.get_by_label("Login token")).to_have_value(made)
    assert "#" not in page.url
    page.keyboard.press("Enter")
    expect(page.locator(".who")).to_contain_text("cleo")
    assert not [address for address in asked if made in address]
    context.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_the_command_serves_and_ends_though_a_page_is_open(
    db: Database, chromium: Browser, environment: dict[str, str]
) -> None:
    asked(db, description="Waits here")
    command = [sys.executable, "-m", "holdfast.serving", "inbox", "--port", "0"]
    settled = environment | {"HOLDFAST_INBOX_SECRET": SECRET}
    with subprocess.Popen(command, env=settled, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("the inbox is at ").strip().rstrip("/")
        context = chromium.new_context()
        page = context.new_page()
        page.goto(f"{url}/login#{token()}")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#waiting")).to_contain_text("Waits here")
        expect(page.locator("#live")).to_be_visible()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        told = process.stderr.read()
        context.close()
    assert "Traceback" not in told
    assert "Cancel" not in told  # no stream had to be cut off
