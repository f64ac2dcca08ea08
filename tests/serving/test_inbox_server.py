"""The inbox as part of a LangGraph server: beside its own pages, and without standing in their way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from holdfast.checkpointing import Database
from tests.support.dev_server import free_port
from tests.support.inboxes import SAME, SECRET, asked, form, token

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process group")
QUIET = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "1", "LANGSMITH_TRACING": "false"}


def test_a_langgraph_server_has_the_inbox_beside_its_own_pages(
    db: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    request = asked(db)
    config = {
        "dependencies": ["."],
        "graphs": {"outreach": "holdfast.serving.server:outreach"},
        "checkpointer": {"path": "holdfast.serving.server.checkpointer"},
        "http": {"app": "holdfast.serving.inbox:app"},
    }
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    port, log = free_port(), tmp_path / "server.log"
    options = ["--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    settled = environment | QUIET | {"HOLDFAST_INBOX_SECRET": SECRET}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", *options],
            cwd=tmp_path, env=settled, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            transport = httpx.HTTPTransport(retries=8)  # with growing pauses: half a minute until it is up
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, trust_env=False) as browser:
                used(browser, request.request_id)
        except BaseException:
            print(log.read_text(errors="replace"))  # noqa: T201 - why it failed
            raise
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert db.approvals.get(request.request_id).decided_by == "ada"
    assert "BlockingError" not in log.read_text(errors="replace")


def used(browser: httpx.Client, request_id: str) -> None:
    """Sign in, look, follow, decide; and see that the server's own pages are its own."""
    assert browser.get("/ok").json()["ok"] is True
    assert isinstance(browser.post("/threads/search", json={}).json(), list)
    assert "content-security-policy" not in browser.get("/ok").headers
    assert browser.get("/inbox/").status_code == 401
    answer = browser.post("/inbox/login", data={"token": token()}, headers=SAME)
    assert (answer.status_code, answer.headers["location"]) == (303, "/inbox/")
    assert "send_email" in browser.get("/inbox/").text
    for address in re.findall(r'(?:src|href)="(/inbox/static/[^"]+)"', browser.get("/inbox/").text):
        assert browser.get(address).status_code == 200
    path = f"/inbox/requests/{request_id}"
    hidden = form(browser.get(path).text, f"{path}/decide")
    with browser.stream("GET", "/inbox/events") as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("data:")) == "data: []"
        sent = browser.post(f"{path}/decide", data={**hidden, "decision": "approve"}, headers=SAME)
        assert (sent.status_code, sent.headers["location"]) == (303, path)
        assert next(line for line in lines if request_id in line)
