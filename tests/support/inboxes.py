"""An inbox to ask, and requests to decide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.testclient import TestClient

from holdfast.checkpointing import ApprovalRequest, Database, NewRequest, Terms
from holdfast.serving.inbox import InboxSettings, create_app
from holdfast.serving.inbox.sessions import Signatures

SECRET: Final = "a secret of the tests that is long enough"
SITE: Final = "https://inbox.test"
SAME: Final[dict[str, str]] = {"sec-fetch-site": "same-origin"}
EMAIL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "description": "Who gets it."},
        "body": {"type": "string"},
        "count": {"type": "integer"},
        "priority": {"enum": ["low", "high"]},
    },
    "required": ["to", "body"],
}


def settings(**more: Any) -> InboxSettings:
    """Settings with the tests' secret."""
    return InboxSettings(secret=SECRET, **more)


def token(name: str = "ada", lasting: timedelta = timedelta(days=1)) -> str:
    """A login token of that inbox."""
    return Signatures(SECRET).login_token(name, datetime.now(UTC) + lasting)


def client(
    db: Database, name: str | None = "ada", *, address: str = "192.0.2.1", site: str = SITE, **more: Any
) -> TestClient:
    """A browser of a kind, signed in if a name is given."""
    app = create_app(db, settings(**more))
    browser = TestClient(app, base_url=site, follow_redirects=False, client=(address, 50_000))
    if name is not None:
        sign_in(browser, name)
    return browser


def sign_in(browser: TestClient, name: str) -> None:
    """Sign in as somebody."""
    response = browser.post("/login", data={"token": token(name), "next": "/"}, headers=SAME)
    assert response.status_code == 303, response.text


def asked(db: Database, call_id: str = "c1", **more: Any) -> ApprovalRequest:
    """A request that waits."""
    given: dict[str, Any] = {
        "thread_id": "t",
        "task_id": f"task-{call_id}",
        "name": "send_email",
        "arguments": {"to": "ada@example.com", "body": "Dear Ada,\nsee you on Monday.\nSam"},
        "schema": EMAIL,
    }
    return db.approvals.open([NewRequest(call_id=call_id, **given | more)])[0]


def bulk(**more: Any) -> Terms:
    """Terms under which requests may be decided together."""
    return Terms(bulk=True, **more)


def form(html: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form of a page that goes there."""
    found = re.search(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', html, re.DOTALL)
    assert found, html
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', found[1]))


def send(
    browser: TestClient, request: ApprovalRequest, fields: Mapping[str, str], *, headers: Mapping[str, str] = SAME
) -> Any:
    """Send the form of a request's page."""
    path = f"/requests/{request.request_id}"
    hidden = form(browser.get(path).text, f"{path}/decide")
    return browser.post(f"{path}/decide", data=hidden | dict(fields), headers=dict(headers))
