"""A SIGKILL in the middle of parallel calls: every step number is shown once, whoever goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from holdfast.checkpointing import Database
from tests.conftest import new_database
from tests.support.steps import steps
from tests.support.steps_child import RUNS, TURNS, agent
from tests.support.zygote import Zygote


class Kills(NamedTuple):
    """How an agent runs, and where its first and its second process are killed."""

    per: str
    mode: str
    first: str
    second: str


JOBS: Final = [
    Kills(per, mode, first, second)
    for per, mode in (("run", "sync"), ("run", "async"), ("thread", "sync"), ("thread", "async"))
    for first in ("tools:tool 3", "tools:tool_end 7", "tools:end 5", "tools:start 12")
    for second in ("tools:tool_end 2", "tools:end 4")
]


@pytest.fixture(scope="module")
def shown(server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Kills, Any]]:
    """The exit codes of every job's three processes, and the step numbers at the end, run by run."""
    with new_database(server_uri, template) as uri:
        zygote = Zygote(uri, _folder(tmp_path_factory), "tests.support.steps_child")

        def processes(which: str | None) -> list[int]:
            started: list[dict[str, str]] = []
            for job in JOBS:
                point, count = getattr(job, which).split() if which else ("", "")
                armed = {"point": point, "count": count} if which else {}
                started.append(zygote.job(" ".join(job), job.mode, per=job.per, **armed))
            return zygote(started)

        codes = list(zip(processes("first"), processes("second"), processes(None), strict=True))
        zygote.close()
        with Database.connect(uri) as db:
            yield {job: (code, _numbers(db, job)) for job, code in zip(JOBS, codes, strict=True)}


def _folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("steps")


def _numbers(db: Database, job: Kills) -> list[list[int]]:
    state = agent(db.saver, job.per).get_state({"configurable": {"thread_id": " ".join(job)}})
    assert not state.next
    messages = state.values["messages"]
    second = next(at for at, message in enumerate(messages) if message.text == RUNS[1])
    return [steps(messages[:second]), steps(messages[second:])]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: "-".join(job).replace(" ", "."))
def test_every_number_once(job: Kills, shown: dict[Kills, Any]) -> None:
    """Twelve parallel calls, killed and resumed twice, are twelve steps; then three more, and a second run."""
    codes, (first, second) = shown[job]
    assert codes == (-signal.SIGKILL, -signal.SIGKILL, 0)
    calls = sum(TURNS)
    assert sorted(first) == list(range(1, calls + 1))
    began = calls if job.per == "thread" else 0
    assert sorted(second) == list(range(began + 1, began + calls + 1))
