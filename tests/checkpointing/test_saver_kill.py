"""A SIGKILL at any boundary inside `put` and `put_writes` loses nothing that was saved, and leaves nothing half there.

A node is finished when the saver was told so: its `put_writes` has returned, or the commit statement that holds its
writes was executed. A finished node never runs again.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from holdfast.checkpointing import Database
from tests.conftest import new_database
from tests.support.saver_child import POINTS, graph
from tests.support.tables import Tables, assert_all_load, assert_heads_agree, assert_sound, read
from tests.support.talks import on, plain, seen
from tests.support.zygote import Zygote

TIMES: Final = {"put": 9, "put_writes": 10, "commit": 8}
"""How often, at the least, an undisturbed run comes by each kind of point."""
NODES: Final = ("a", "b", "c", "work0", "work1", "work2", "x", "y", "end")
JOBS: Final = [
    (point, count, mode)
    for point in POINTS
    for count in range(1, TIMES[point.partition(":")[0] if ":" in point else "commit"] + 1)
    for mode in ("sync", "async")
]


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of a process, and of the one that went on."""

    code: int
    log: list[str]
    finished: set[str]
    """The nodes whose writes were in the database after the kill."""
    resumed_code: int
    resumed_log: list[str]
    """What was noted since."""
    history: list[Any]


def finished(db: Database, thread: str) -> set[str]:
    """The nodes whose writes are saved: pending, or in a checkpoint."""
    found: set[str] = set()
    for saved in db.saver.list(on(thread)):
        found.update(saved.checkpoint["channel_values"].get("log") or ())
        found.update(name for _, channel, value in saved.pending_writes or () if channel == "log" for name in value)
    return found


@pytest.fixture(scope="module")
def disturbed(server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    """Every job, killed and gone on with in a new process; one undisturbed; and the tables between and at the end."""
    folder = tmp_path_factory.mktemp("killed")
    with new_database(server_uri, template) as uri:
        zygote = Zygote(uri, folder, "tests.support.saver_child")
        threads = {job: " ".join(map(str, job)) for job in JOBS}
        jobs = [zygote.job(threads[job], job[2], point=job[0], count=str(job[1])) for job in JOBS]
        codes = zygote([*jobs, zygote.job("undisturbed", "sync")])
        tables, logs = read(uri), {job: zygote.noted(threads[job]) for job in JOBS}
        with Database.connect(uri) as db:
            done = {job: finished(db, threads[job]) for job in JOBS}
        assert_all_load(uri, tables)
        resumed = zygote([zygote.job(threads[job], job[2]) for job in JOBS])
        zygote.close()
        with Database.connect(uri) as db:
            runner = graph(db.saver, lambda _: None)
            killed = {
                job: Killed(
                    code,
                    logs[job],
                    done[job],
                    code_after,
                    zygote.noted(threads[job])[len(logs[job]) :],
                    seen(runner, on(threads[job])),
                )
                for job, code, code_after in zip(JOBS, codes, resumed, strict=False)
            }
            undisturbed = plain(runner.get_state(on("undisturbed")).values)
        assert_sound(uri)
        yield Disturbed(killed, tables, undisturbed, codes[-1])


@dataclass(frozen=True, slots=True)
class Disturbed:
    """All of it."""

    killed: dict[tuple[str, int, str], Killed]
    tables: Tables
    """As they were between the kill and the new process."""
    undisturbed: Any
    """The state at the end of a run that nobody disturbed."""
    code: int


def ran(log: list[str]) -> Counter[str]:
    """How often each node ran."""
    return Counter(line.removeprefix("ran ") for line in log if line.startswith("ran "))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: "-".join(map(str, job)))
def test_no_finished_node_runs_again_and_the_end_is_the_same(job: tuple[str, int, str], disturbed: Disturbed) -> None:
    """Killed there and resumed in a new process, what was saved is not done again, and the state is the same."""
    killed = disturbed.killed[job]
    assert (killed.code, "killed" in killed.log) == (-signal.SIGKILL, True)
    assert killed.resumed_code == 0, killed.resumed_log
    told = {line.removeprefix("saved ") for line in killed.log if line.startswith("saved ")}
    assert told <= killed.finished <= ran(killed.log).keys()
    assert not killed.finished & ran(killed.resumed_log).keys()
    assert (ran(killed.log).keys() | ran(killed.resumed_log).keys()) == set(NODES)
    assert max((ran(killed.log) + ran(killed.resumed_log)).values()) <= 2
    assert killed.history[-1]["values"] == disturbed.undisturbed
    assert killed.history[-1]["next"] == ()


def test_no_checkpoint_is_half_there_after_a_kill(disturbed: Disturbed) -> None:
    """Between the kills and what came after, all checkpoints loaded and the heads named the newest."""
    assert_heads_agree(disturbed.tables)
    assert len({thread for thread, _, _ in disturbed.tables.checkpoints}) > len(JOBS) // 2


def test_what_is_killed_is_what_runs_undisturbed(disturbed: Disturbed) -> None:
    """The run that all others are compared to has run every node."""
    assert disturbed.code == 0
    assert sorted(disturbed.undisturbed["log"]) == sorted({*NODES} - {"x", "y"})
