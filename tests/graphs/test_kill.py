"""A SIGKILL inside any node loses no finished node, and changes nothing about the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpointing import Database
from holdfast.graphs.outreach import build
from holdfast.nodes import load_model
from tests.conftest import child_environment, new_database
from tests.support.outreach_child import NODES

MODEL_NODES = ("research", "plan", "select", "draft")
POINTS = [
    *(f"{node}:{moment}" for node in NODES for moment in ("start", "end")),
    *(f"{node}:{moment}" for node in MODEL_NODES for moment in ("model", "model_end")),
    "research:tool",
    "research:tool_end",
]


def child(environment: dict[str, str], folder: Path, dossier: Path, *arguments: str) -> int:
    """Run one segment in a process of its own; the exit code, negative for a signal."""
    paths = (str(dossier), str(folder / "outbox"), str(folder / "log"))
    thread, *rest = arguments
    command = [sys.executable, "-m", "tests.support.outreach_child", thread, *paths, *rest]
    return subprocess.run(command, env=environment, check=False).returncode


def final(db: Database, thread: str, folder: Path) -> dict[str, Any]:
    """The thread's last state and the message that left, with what depends on the folder taken out."""
    graph = build(load_model(), database=lambda: db).compile(checkpointer=db.saver)
    snapshot = graph.get_state({"configurable": {"thread_id": thread}})
    assert snapshot.next == ()
    values = dict(snapshot.values)
    receipt = dict(values.pop("receipt"))
    path = Path(receipt.pop("path"))
    assert [path] == list((folder / "outbox").iterdir())
    return {**values, "message": path.read_text(encoding="utf-8").replace(thread, "THREAD").partition("\n\n")[2]}


def exists(uri: str, thread: str) -> bool:
    """Whether anything of the thread was saved."""
    with Database.connect(uri) as db:
        return db.saver.get_tuple({"configurable": {"thread_id": thread}}) is not None


def waits(uri: str, thread: str) -> bool:
    """Whether the thread waits for a person."""
    with Database.connect(uri) as db:
        graph = build(load_model(), database=lambda: db).compile(checkpointer=db.saver)
        return bool(graph.get_state({"configurable": {"thread_id": thread}}).interrupts)


@pytest.fixture(scope="module")
def undisturbed(server_uri: str, template: str, dossier: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The end of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with new_database(server_uri, template) as uri:
        environment = child_environment(uri, folder)
        assert child(environment, folder, dossier, "t", "start") == 0
        assert child(environment, folder, dossier, "t", "approve") == 0
        with Database.connect(uri) as db:
            return final(db, "t", folder)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_costs_at_most_the_node_that_it_hits(
    point: str, undisturbed: Any, environment: dict[str, str], dossier: Path, tmp_path: Path, database_uri: str
) -> None:
    """Killed at the point and resumed, every other node starts once and the final state is the same."""
    node, asked_again = point.partition(":")[0], 0
    killed = "approve" if node == "send" or point == "approve:end" else "start"
    for segment in ("start", "approve"):
        if segment == killed:
            assert child(environment, tmp_path, dossier, "t", segment, point) == -signal.SIGKILL
            # LangGraph does not wait for the input's own checkpoint: killed before it, there is no thread yet.
            saved = exists(database_uri, "t")
            assert child(environment, tmp_path, dossier, "t", "resume" if saved else "start") == 0
            assert saved or node == "index"
        else:
            assert child(environment, tmp_path, dossier, "t", segment) == 0

    if point == "approve:end" and waits(database_uri, "t"):
        # LangGraph saves an answer beside the node that reads it, not before: killed in that instant, the thread
        # still waits, and the person is asked again.
        assert child(environment, tmp_path, dossier, "t", "approve") == 0
        asked_again = 1
    starts = Counter((tmp_path / "log").read_text().split())
    # An approval that pauses starts once more when it is answered.
    expected = Counter({name: 2 if name == "approve" else 1 for name in NODES}) + Counter([node])
    assert starts == expected + Counter(approve=asked_again)
    with Database.connect(database_uri) as db:
        assert final(db, "t", tmp_path) == undisturbed
