"""Approvals behind `langgraph dev`: what approval UIs send resumes the graph, and who decides is who is logged in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph_sdk import get_sync_client

from holdfast.checkpointing import Database
from holdfast.checkpointing.requests import STATES
from tests.conftest import child_environment, new_database
from tests.support.dev_server import Server, langgraph_dev

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL to a process group")

QUIET = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "1", "LANGSMITH_TRACING": "false"}
EDIT = {"name": "send", "args": {"to": "cy", "text": "Hi."}}


@pytest.fixture(scope="module")
def running(
    server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Database]]:
    """A server with callers of its own, and the database behind it."""
    folder = tmp_path_factory.mktemp("approvals")
    here = "tests.support.approval_server"
    config = {
        "dependencies": ["."],
        "graphs": {"asks": f"{here}:graph", "careful": f"{here}:careful"},
        "checkpointer": {"path": "holdfast.serving.server.checkpointer"},
        "auth": {"path": f"{here}:auth"},
    }
    (folder / "langgraph.json").write_text(json.dumps(config))
    with new_database(server_uri, template) as uri, Database.connect(uri) as db:
        environment = child_environment(uri, folder) | QUIET
        with langgraph_dev(folder / "server", environment, folder / "langgraph.json") as server:
            yield server, db


def resumed(server: Server, thread_id: str, graph: str, by: str, **given: Any) -> Any:
    """Run a thread as somebody; its state then."""
    with get_sync_client(url=server.url, headers={"x-user": by}) as client:
        client.runs.wait(thread_id, graph, **given)
        return client.threads.get_state(thread_id)


def begun(server: Server, graph: str = "asks", by: str = "ada") -> tuple[str, Any]:
    """A thread that waits for its approval, and the interrupt."""
    with get_sync_client(url=server.url, headers={"x-user": by}) as client:
        thread_id = client.threads.create()["thread_id"]
    state = resumed(server, thread_id, graph, by, input={"messages": [{"role": "user", "content": "Do it."}]})
    (interrupt,) = state["interrupts"]
    return thread_id, interrupt


def test_a_waiting_thread_shows_what_approval_uis_expect(running: tuple[Server, Database]) -> None:
    _, interrupt = begun(running[0])
    (action,) = interrupt["value"]["action_requests"]
    assert action["args"] == action["arguments"] == {"to": "bob@example.com", "text": "Hi."}
    assert interrupt["value"]["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject", "respond"]


SHAPES: dict[str, tuple[Any, str]] = {
    "decisions": ({"decisions": [{"type": "approve"}]}, "sent to bob@example.com"),
    "decision by interrupt": ({"type": "approve"}, "sent to bob@example.com"),
    "agent-inbox": ([{"type": "accept", "args": None}], "sent to bob@example.com"),
    "edit": ({"decisions": [{"type": "edit", "edited_action": EDIT}]}, "sent to cy"),
    "edit by interrupt": ({"type": "edit", "edited_action": EDIT}, "sent to cy"),
    "agent-inbox edit": ([{"type": "edit", "args": {"action": "send", "args": EDIT["args"]}}], "sent to cy"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_three_reply_shapes_resume_the_graph(running: tuple[Server, Database], shape: str) -> None:
    """Through langgraph-sdk; the decider is whom the server has authenticated, whatever the caller says of himself."""
    server, db = running
    thread_id, interrupt = begun(server)
    answer, result = SHAPES[shape]
    if "by interrupt" in shape:
        answer = {interrupt["id"]: answer}

    state = resumed(
        server, thread_id, "asks", "bob", command={"resume": answer}, config={"configurable": {"actor": "eve"}}
    )

    assert state["next"] == []
    texts = [message["content"] for message in state["values"]["messages"] if message["type"] == "tool"]
    assert texts[0].endswith(result)
    assert len(texts) == 2
    sent = next(one for one in db.approvals.find(thread_id=thread_id, states=STATES) if one.name == "send")
    assert (sent.state, sent.decided_by) == ("edited" if "edit" in shape else "approved", "bob")


def test_a_quorum_is_of_those_who_are_logged_in(running: tuple[Server, Database]) -> None:
    """Nobody votes for another: not by resuming after him, and not by naming him."""
    server, db = running
    thread_id, _ = begun(server, "careful")
    say: Any = {"command": {"resume": {"decisions": [{"type": "approve"}]}}}
    assert resumed(server, thread_id, "careful", "ada", **say)["next"]
    state = resumed(server, thread_id, "careful", "ada", **say, config={"configurable": {"actor": "bob"}})
    assert "'ada' has approved" in state["interrupts"][0]["value"]["refused"]
    state = resumed(server, thread_id, "careful", "eve", **say)
    assert "'eve' may not decide" in state["interrupts"][0]["value"]["refused"]
    state = resumed(server, thread_id, "careful", "bob", input=None)
    assert state["next"]
    assert resumed(server, thread_id, "careful", "bob", **say)["next"] == []
    (request,) = db.approvals.find(thread_id=thread_id, states=STATES)
    assert request.votes == ("ada", "bob")


def test_a_caller_cannot_set_the_name_that_counts(running: tuple[Server, Database]) -> None:
    """`langgraph_auth_user_id` is the server's to set."""
    server, db = running
    thread_id, _ = begun(server)
    forged: Any = {"configurable": {"langgraph_auth_user_id": "root", "langgraph_auth_user": {"identity": "root"}}}
    resumed(server, thread_id, "asks", "eve", command={"resume": {"type": "approve"}}, config=forged)
    (request,) = db.approvals.find(thread_id=thread_id, states=("approved",))
    assert request.decided_by == "eve"
