"""The outreach graph behind `langgraph dev`: what LangGraph Studio asks for, and what a kill leaves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from email import message_from_bytes, policy
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.schema import Command

from holdfast.checkpointing import Budget, Database
from tests.conftest import ROOT, SAMPLES, new_database
from tests.support.dev_server import Server, langgraph_dev
from tests.support.openai_server import OpenAIServer
from tests.support.till import GIVEN, Till

GRAPH: Final = "outreach"
AGENTS: Final = ["research", "plan", "select", "draft"]
STAGES: Final = ["index", *AGENTS, "approve", "send"]
BRIEF: Final = {
    "company": "Tidewater Instruments",
    "dossier": str(SAMPLES),
    "offer": "We calibrate gauges.",
    "to": "Ada <ada@example.com>",
    "sender": "Sam <sam@example.org>",
}
APPROVE: Final[Command] = {"resume": {"decisions": [{"type": "approve"}]}}
KEY: Final = "sk-canary-8d1f"
"""Stands in the server's environment as a provider's key, and must never come out of it."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL to a process group")


def settings(outbox: Path) -> dict[str, str]:
    """What a deployment sets beside the database; the rest keeps the server off the network."""
    return {
        "HOLDFAST_DOSSIERS": str(ROOT / "samples"),
        "HOLDFAST_OUTBOX": str(outbox),
        "OPENAI_API_KEY": KEY,
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "1",
        "LANGSMITH_TRACING": "false",
    }


@pytest.fixture(scope="module")
def server(server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all the tests that leave it alive, on a database of its own."""
    folder = tmp_path_factory.mktemp("langgraph")
    ours = ("HOLDFAST_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_")
    passed = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    with new_database(server_uri, template) as uri:
        environment = passed | settings(folder / "outbox") | {"HOLDFAST_DATABASE_URI": uri}
        with langgraph_dev(folder / "server", environment) as running:
            yield running


@pytest.fixture
def client(server: Server) -> SyncLangGraphClient:
    """A client of the server that the tests share."""
    return server.client


def assistant(client: SyncLangGraphClient) -> str:
    """The id of the assistant that the server made for the graph."""
    (found,) = client.assistants.search()
    assert found["graph_id"] == GRAPH
    return found["assistant_id"]


def stream(client: SyncLangGraphClient, thread_id: str, **given: Any) -> list[Any]:
    """A run from start to end, as Studio asks for it."""
    runs: Any = client.runs  # the overloads of its own type do not take keyword arguments as a dictionary
    modes = ["values", "updates", "messages", "tasks"]
    return list(runs.stream(thread_id, GRAPH, stream_mode=modes, stream_subgraphs=True, **given))


def received(parts: list[Any], event: str) -> list[Any]:
    """What came with one kind of event, in order."""
    return [part.data for part in parts if part.event == event]


def refusal(parts: list[Any]) -> str:
    """The error's name that a run ended with; empty if it did not fail."""
    return next((error["error"] for error in received(parts, "error")), "")


def updated(parts: list[Any]) -> list[str]:
    """The top-level nodes that ran to their end, in order."""
    return [node for update in received(parts, "updates") for node in update]


def waiting_thread(client: SyncLangGraphClient) -> str:
    """A thread that was run up to its approval."""
    thread_id = client.threads.create()["thread_id"]
    parts = stream(client, thread_id, input=BRIEF)
    assert refusal(parts) == ""
    assert updated(parts) == ["index", *AGENTS, "__interrupt__"]
    return thread_id


def state_of(client: SyncLangGraphClient, thread_id: str) -> Any:
    """The thread's newest state."""
    return client.threads.get_state(thread_id)


def history(client: SyncLangGraphClient, thread_id: str) -> list[tuple[str | None, list[str]]]:
    """Each checkpoint's id and what was next in it, oldest first."""
    states = client.threads.get_history(thread_id, limit=100)
    return [(state["checkpoint"]["checkpoint_id"], list(state["next"])) for state in reversed(states)]


def test_studio_offers_a_form_with_the_inputs_of_the_graph(client: SyncLangGraphClient) -> None:
    """The schemas of the one assistant are there, and the input's is what a run starts from."""
    schemas: dict[str, Any] = {**client.assistants.get_schemas(assistant(client))}

    assert all(schemas[kind] for kind in ("input_schema", "output_schema", "state_schema"))
    assert set(schemas["input_schema"]["properties"]) == {"company", "dossier", "offer", "to", "sender"}
    assert schemas["input_schema"]["required"] == ["company", "dossier"]
    assert {"findings", "evidence", "email", "approval", "receipt"} <= set(schemas["output_schema"]["properties"])


def test_studio_draws_every_stage(client: SyncLangGraphClient) -> None:
    """The plain drawing has one box for each stage, in the order in which they run."""
    drawing = client.assistants.get_graph(assistant(client))

    assert [node["id"] for node in drawing["nodes"]] == ["__start__", *STAGES, "__end__"]
    edges = [(edge["source"], edge["target"]) for edge in drawing["edges"]]
    path = ["__start__", *STAGES, "__end__"]
    assert set(edges) == {*pairwise(path), ("approve", "__end__")}


def test_studio_looks_inside_the_stages(client: SyncLangGraphClient) -> None:
    """The x-ray shows the agent in each stage that has one, and its tools in research."""
    drawing = client.assistants.get_graph(assistant(client), xray=True)

    nodes = {str(node["id"]) for node in drawing["nodes"]}
    assert {node.partition(":")[0] for node in nodes} == {"__start__", *STAGES, "__end__"}
    assert {f"{stage}:model" for stage in AGENTS} <= nodes
    assert "research:tools" in nodes


def test_a_run_streams_in_every_mode_up_to_its_approval(client: SyncLangGraphClient) -> None:
    """Values, updates, tasks and messages arrive, those of the agents inside the stages included."""
    thread_id = client.threads.create()["thread_id"]

    parts = stream(client, thread_id, input=BRIEF)

    assert refusal(parts) == ""
    assert updated(parts) == ["index", *AGENTS, "__interrupt__"]
    started = [task["name"] for task in received(parts, "tasks") if "input" in task]
    assert started == STAGES[:-1]
    values = received(parts, "values")
    assert "findings" not in values[0]
    assert values[-1]["email"]["to"] == BRIEF["to"]
    messages = [message for batch in received(parts, "messages/complete") for message in batch]
    speakers = dict.fromkeys(message["name"] for message in messages if message["type"] == "ai")
    assert list(speakers) == [f"{stage}_agent" for stage in AGENTS]
    assert any(part.event.startswith("updates|research:") for part in parts)


def test_a_waiting_thread_shows_what_is_to_be_approved(client: SyncLangGraphClient) -> None:
    """The state holds the interrupt, as approval UIs expect it, and the history one checkpoint a stage."""
    thread_id = waiting_thread(client)

    state = state_of(client, thread_id)

    assert state["next"] == ["approve"]
    (pause,) = state["interrupts"]
    request = pause["value"]
    (action,) = request["action_requests"]
    (review,) = request["review_configs"]
    email = state["values"]["email"]
    assert action["name"] == review["action_name"] == "send_email"
    assert action["args"] == action["arguments"] == {key: email[key] for key in ("to", "subject", "body")}
    assert review["allowed_decisions"] == ["approve", "edit", "reject"]
    assert request["evidence"]
    for quote in request["evidence"]:
        assert quote["document"] in state["values"]["documents"]
        assert quote["quote"] in email["body"]
    assert [following for _, following in history(client, thread_id)] == [
        ["__start__"],
        *([node] for node in STAGES[:-1]),
    ]
    assert client.threads.get(thread_id)["status"] == "interrupted"
    assert thread_id in {thread["thread_id"] for thread in client.threads.search(status="interrupted", limit=100)}


def test_a_killed_server_completes_the_thread_after_its_restart(environment: dict[str, str], tmp_path: Path) -> None:
    """After SIGKILL at the approval a new server approves and sends, and runs no stage a second time."""
    outbox = tmp_path / "outbox"
    environment = environment | settings(outbox)
    with langgraph_dev(tmp_path / "first", environment) as server:
        thread_id = waiting_thread(server.client)
        saved = history(server.client, thread_id)
        before = state_of(server.client, thread_id)["values"]
        server.kill()

    with langgraph_dev(tmp_path / "second", environment) as server:
        server.client.threads.create(thread_id=thread_id, if_exists="do_nothing", graph_id=GRAPH)
        found = state_of(server.client, thread_id)
        assert found["next"] == ["approve"]
        assert len(found["interrupts"]) == 1
        assert not outbox.exists()

        parts = stream(server.client, thread_id, command=APPROVE)

        assert refusal(parts) == ""
        assert updated(parts) == ["approve", "send"]
        after = state_of(server.client, thread_id)["values"]
        assert {key: after[key] for key in before} == before
        complete = history(server.client, thread_id)
    assert complete[: len(saved)] == saved
    assert [following for _, following in complete] == [["__start__"], *([stage] for stage in STAGES), []]
    assert after["approval"]["decision"] == "approved"
    (sent,) = outbox.iterdir()
    assert after["receipt"]["path"] == str(sent)
    message = message_from_bytes(sent.read_bytes(), policy=policy.default)
    assert message["Subject"] == before["email"]["subject"]
    assert message["To"] == BRIEF["to"]
    assert message["Message-ID"] == after["receipt"]["message_id"]


def test_a_run_stops_at_the_budget_of_the_deployment_and_goes_on_with_more(
    environment: dict[str, str], tmp_path: Path, database_uri: str
) -> None:
    """The run fails by name with its stages kept; an operator raises the limit, and nothing is paid again."""
    till = Till()
    paying = {"HOLDFAST_MODEL": "openai:gpt-test", "HOLDFAST_PRICE": GIVEN, "HOLDFAST_BUDGET": "0.82"}
    with OpenAIServer(till) as model:
        environment = environment | settings(tmp_path / "outbox") | paying | {"OPENAI_BASE_URL": model.base_url}
        with langgraph_dev(tmp_path / "server", environment) as server, Database.connect(database_uri) as db:
            thread_id = server.client.threads.create()["thread_id"]
            assert refusal(stream(server.client, thread_id, input=BRIEF)) == "BudgetExceeded"
            state = state_of(server.client, thread_id)
            assert state["next"] == ["select"]
            assert "this call may cost up to" in str(state["tasks"][0]["error"])
            db.ledger.set(Budget(f"thread:{thread_id}", per_run=5), by="ada")
            parts = stream(server.client, thread_id, input=None)
            assert updated(parts) == ["select", "draft", "__interrupt__"]
            costs = {line.key: line.cost for line in db.costs.report("node") if line.cost}
    assert costs == till.by_node
    assert till.asked.total() == 6


@pytest.mark.parametrize("place", ["outside", "climbing out", "missing", "home"])
def test_a_dossier_elsewhere_is_refused(server: Server, tmp_path: Path, place: str) -> None:
    """Callers may name folders below HOLDFAST_DOSSIERS only, and learn nothing about other ones."""
    secret = "The combination of the safe is 7719."
    (tmp_path / "private.md").write_text(secret)
    dossier = {
        "outside": str(tmp_path),
        "climbing out": f"{SAMPLES}/{os.path.relpath(tmp_path, SAMPLES)}",
        "missing": str(tmp_path / "no-such-folder"),
        "home": "~",
    }[place]
    client = server.client
    thread_id = client.threads.create()["thread_id"]

    parts = stream(client, thread_id, input={**BRIEF, "dossier": dossier})

    state = state_of(client, thread_id)
    assert refusal(parts) == "DossierNotAllowed"
    assert "DossierNotAllowed" in str(state["tasks"][0]["error"])
    assert "documents" not in state["values"]
    told = json.dumps([[part.data for part in parts], state, client.threads.get(thread_id)]) + server.log
    assert secret not in told
    assert KEY not in told
    assert "holdfast_test_" not in told  # the database's name, and so its URI


@pytest.mark.parametrize("shape", ["decisions", "by interrupt", "agent-inbox"])
def test_each_shape_of_a_reply_sends_the_message(client: SyncLangGraphClient, shape: str) -> None:
    """LangChain's, a decision by its interrupt's id, and agent-inbox's."""
    thread_id = waiting_thread(client)
    (pause,) = state_of(client, thread_id)["interrupts"]
    answers: dict[str, Any] = {
        "decisions": {"decisions": [{"type": "approve"}]},
        "by interrupt": {pause["id"]: {"type": "approve"}},
        "agent-inbox": [{"type": "accept", "args": None}],
    }
    assert updated(stream(client, thread_id, command={"resume": answers[shape]})) == ["approve", "send"]


@pytest.mark.parametrize("name", ["actor", "langgraph_auth_user_id"])
def test_where_nobody_logs_in_nobody_is_named(client: SyncLangGraphClient, name: str) -> None:
    """What a caller says of himself is no name: this server authenticates nobody."""
    thread_id = waiting_thread(client)
    stream(client, thread_id, command=APPROVE, config={"configurable": {name: "root"}})
    assert state_of(client, thread_id)["values"]["approval"]["by"] == "unknown"


def test_an_invalid_answer_is_refused_and_the_request_stays_open(client: SyncLangGraphClient) -> None:
    """Whatever else is answered, nothing is decided or sent, and a proper approval still works."""
    thread_id = waiting_thread(client)
    before = history(client, thread_id)
    edit = {"name": "send_email", "args": {"to": "nobody", "subject": "Hello", "body": "Hello"}}
    invalid: list[Any] = [
        "yes",
        {"decisions": []},
        {"decisions": [{"type": "maybe"}]},
        {"decisions": [{"type": "edit", "edited_action": edit}]},
        {"decisions": [{"type": "approve"}, {"type": "reject"}]},
    ]
    for answer in invalid:
        parts = stream(client, thread_id, command={"resume": answer})

        assert refusal(parts) == "ValidationError"
        state = state_of(client, thread_id)
        assert state["next"] == ["approve"]
        assert len(state["interrupts"]) == 1
        assert history(client, thread_id) == before

    assert updated(stream(client, thread_id, command=APPROVE)) == ["approve", "send"]
    final = state_of(client, thread_id)["values"]
    assert final["approval"]["decision"] == "approved"
    assert Path(final["receipt"]["path"]).is_file()
