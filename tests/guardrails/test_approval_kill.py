"""A SIGKILL anywhere between the question and the call: one request, one vote of each, one execution."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
import pytest

from holdfast.checkpointing import ApprovalRequest, Database
from holdfast.checkpointing.requests import STATES
from tests.conftest import new_database
from tests.support.approval_child import TABLE
from tests.support.approvals import KINDS, MODES
from tests.support.zygote import Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


class Job(NamedTuple):
    """Where a run is killed, and how it runs."""

    graph: str
    mode: str
    durability: str
    point: str
    nth: int


TIMES: Final = {"open": 1, "decide": 2, "put": 4, "put_writes": 5}
"""How often a run comes by each, at the least."""
JOBS: Final = [
    Job(graph, mode, durability, f"{method}:{moment}", nth)
    for graph, mode, durability in (
        ("agent", "sync", "sync"), ("agent", "async", "async"), ("hand-made", "sync", "async"),
        ("hand-made", "async", "sync"),
    )
    for method, times in TIMES.items()
    for moment in ("enter", "exit")
    for nth in range(1, times + 1)
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of a thread."""

    codes: tuple[int, int]
    requests: list[ApprovalRequest]
    told: list[tuple[str, str]]
    sent: list[str]
    log: list[str]


@pytest.fixture(scope="module")
def killed(server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Job, Killed]]:
    """Every job, killed and gone on with in a new process."""
    with new_database(server_uri, template) as uri:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(TABLE)
        zygote = Zygote(uri, tmp_path_factory.mktemp("killed"), "tests.support.approval_child")
        codes = _both(zygote)
        zygote.close()
        with Database.connect(uri) as db, psycopg.connect(uri) as connection:
            yield {job: _found(db, connection, zygote, job, of) for job, of in zip(JOBS, codes, strict=True)}


def _both(zygote: Zygote) -> Sequence[tuple[int, int]]:
    def jobs(kill: bool) -> list[int]:
        return zygote(
            [
                zygote.job(_thread(job), job.mode, graph=job.graph, durability=job.durability)
                | ({"point": job.point, "count": str(job.nth)} if kill else {})
                for job in JOBS
            ]
        )

    return [*zip(jobs(True), jobs(False), strict=True)]


def _thread(job: Job) -> str:
    return " ".join(map(str, job))


def _found(db: Database, connection: psycopg.Connection, zygote: Zygote, job: Job, codes: tuple[int, int]) -> Killed:
    thread = _thread(job)
    events = db.audit.read(thread_id=thread)
    return Killed(
        codes=codes,
        requests=sorted(db.approvals.find(thread_id=thread, states=STATES), key=lambda one: one.call_id),
        told=[(event.kind, event.actor) for event in events if event.kind.startswith("approval.")],
        sent=[row[0] for row in connection.execute("SELECT what FROM sent WHERE thread = %s", [thread])],
        log=zygote.noted(thread),
    )


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=_thread)
def test_one_request_and_one_execution(job: Job, killed: dict[Job, Killed]) -> None:
    """Killed there and resumed by another process, everybody was asked once, counted once, and the call made once."""
    found = killed[job]
    assert found.codes == (-signal.SIGKILL, 0), found.log
    assert [(request.name, request.state) for request in found.requests] == [("send", "approved"), ("look", "waived")]
    assert found.requests[0].votes == ("ada", "bob")
    assert found.sent == ["bob@example.com"]
    kinds = [kind for kind, _ in found.told]
    assert sorted(kinds) == ["approval.decided", "approval.requested", "approval.voted", "approval.waived"]
    assert [actor for kind, actor in found.told if kind in ("approval.voted", "approval.decided")] == ["ada", "bob"]


def test_every_way_is_tried() -> None:
    assert {job.graph for job in JOBS} == {*KINDS}
    assert {job.mode for job in JOBS} == {*MODES}
