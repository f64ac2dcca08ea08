"""A SIGKILL anywhere around a call: what has a record is not called again, and of the rest somebody is asked.

`python -m tests.guardrails.test_journal_kill` prints what every kill cost, for every graph; with `all` for both
ways of running and both durabilities.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import pytest

from holdfast.checkpointing import Database, embedded
from tests.conftest import new_database
from tests.support.journal_child import CALLS, GRAPHS, INPUT, TABLE, Strikes, graph
from tests.support.zygote import Zygote

TIMES: Final = {"claim": 5, "settle": 5, "statement": 5, "model": 2, "tool": 3, "between": 1, "put": 4, "put_writes": 4}
"""How often, at the least, an undisturbed run comes by each kind of point; those of a stock node are fewer."""
POINTS: Final = (
    *(f"{method}:{moment}" for method in ("claim", "settle", "statement", "model") for moment in ("enter", "exit")),
    *("tool:before", "tool:after", "between"),
    *(f"{method}:{moment}" for method in ("put", "put_writes") for moment in ("enter", "exit")),
)


class Job(NamedTuple):
    """Where a run is killed, and how it runs."""

    graph: str
    mode: str
    durability: str
    point: str
    nth: int
    again: str = ""
    """Where the process that goes on is killed, before a third one goes on."""


def jobs(graphs: Sequence[str], mode: str, durability: str, counts: Mapping[str, int] = TIMES) -> list[Job]:
    """One for each time that a run comes by each point."""
    return [
        Job(graph, mode, durability, point, count)
        for graph in graphs
        for point in POINTS
        for count in range(1, counts[point.partition(":")[0]] + 1)
        if not (graph == "stock" and point.startswith("put_writes") and count > 3)
    ]


@dataclass(frozen=True, slots=True)
class Effect:
    """A call as the journal has it."""

    kind: str
    name: str
    state: str
    asked: Mapping[str, Any]


Effects = dict[str, Effect]
"""By effect id."""


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of a process, and of the one that went on."""

    code: int
    log: list[str]
    effects: Effects
    """As they were between the two."""
    resumed_code: int
    resumed_log: list[str]
    outside: Counter[tuple[str, str]]
    """What was done in the end, and how often."""
    doubted: set[str]
    """The tool calls of which the audit trail says that they were in doubt."""
    ended: Effects
    """As they are at the end."""
    messages: list[Any]
    """As they are at the end, with the calls that they come from instead of their ids."""

    @property
    def asked(self) -> set[str]:
        """The effects of which a person was asked."""
        return {line.removeprefix("doubt ") for line in self.resumed_log if line.startswith("doubt ")}

    def unsettled(self, *names: str) -> set[str]:
        """The calls of these tools that were begun, and had no end."""
        return {key for key, one in self.effects.items() if one.name in names and one.state == "claimed"}

    def __str__(self) -> str:
        calls = [self.outside["model", str(number)] for number in (1, 5)]
        done = [self.outside[call] for call in CALLS]
        return f"model calls {calls}, side effects {done}, asked about {len(self.asked)}, in doubt {len(self.doubted)}"


def kill_all(uri: str, folder: Path, killed: Sequence[Job]) -> dict[Job, Killed]:
    """Kill each, and go on with it in a new process."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(TABLE)
    zygote = Zygote(uri, folder, "tests.support.journal_child")
    threads = {job: " ".join(map(str, job)) for job in killed}

    def run(some: Sequence[Job], point: Callable[[Job], dict[str, str]]) -> list[int]:
        return zygote(
            [
                zygote.job(threads[job], job.mode, graph=job.graph, durability=job.durability) | point(job)
                for job in some
            ]
        )

    codes = run(killed, lambda job: {"point": job.point, "count": str(job.nth)})
    logs, effects = {job: zygote.noted(threads[job]) for job in killed}, effects_of(uri)
    twice = [job for job in killed if job.again]
    assert {-signal.SIGKILL} >= {*run(twice, lambda job: {"point": job.again, "settled": "bc"})}
    resumed = run(killed, lambda job: {})
    zygote.close()
    ended, outside, doubted = effects_of(uri), counted(uri), doubts(uri)
    with Database.connect(uri) as db:
        return {
            job: Killed(
                code,
                logs[job],
                effects.get(thread, {}),
                code_after,
                zygote.noted(thread)[len(logs[job]) :],
                outside.get(thread, Counter()),
                doubted.get(thread, set()),
                ended[thread],
                told(messages(db, job.graph, thread), ended[thread]),
            )
            for (job, thread), code, code_after in zip(threads.items(), codes, resumed, strict=True)
        }


def effects_of(uri: str) -> dict[str, Effects]:
    """All that is in the journal, by thread."""
    found: dict[str, Effects] = {}
    with psycopg.connect(uri) as connection:
        for thread, key, *rest in connection.execute(
            "SELECT thread_id, effect_id, kind, name, state, asked FROM holdfast.effects"
        ):
            found.setdefault(thread, {})[key] = Effect(*rest)
    return found


def counted(uri: str) -> dict[str, Counter[tuple[str, str]]]:
    """What was done outside, by thread."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    with psycopg.connect(uri) as connection:
        for thread, kind, what in connection.execute("SELECT thread, kind, what FROM outside"):
            found.setdefault(thread, Counter())[kind, what] += 1
    return found


def doubts(uri: str) -> dict[str, set[str]]:
    """The tool calls that were in doubt at some time, by thread."""
    found: dict[str, set[str]] = {}
    with psycopg.connect(uri) as connection:
        for thread, key in connection.execute(
            "SELECT thread_id, effect_id FROM holdfast.events WHERE kind = 'tool.in_doubt'"
        ):
            found.setdefault(thread, set()).add(key)
    return found


def unrecorded(kind: str, what: str, key: str | None) -> None:
    """Nothing is done here."""


def messages(db: Database, kind: str, thread: str) -> list[Any]:
    """The messages at the end of a thread."""
    runner = graph(kind, db.saver, unrecorded, Strikes())
    state = runner.get_state({"configurable": {"thread_id": thread}})
    assert state.next == ()
    found: list[Any] = state.values["messages"]
    return found


JOBS: Final = [
    *jobs(["hand-made"], "sync", "sync"),
    *jobs(["agent"], "async", "sync"),
    *jobs(["stock"], "sync", "async"),
    *jobs(["hand-made"], "async", "async", dict.fromkeys(TIMES, 1) | {"put": 3}),
    *jobs(["agent"], "sync", "async", dict.fromkeys(TIMES, 1) | {"put": 3}),
    *jobs(["stock"], "async", "sync", dict.fromkeys(TIMES, 1)),
]
"""For each graph every point at every time in one way of running it, and every kind of point in another."""
TWICE: Final = [
    Job(graph, mode, "sync", "a:before", 1, again)
    for graph in GRAPHS
    for mode in ("sync", "async")
    for again in ("a:before", "a:after")
]
UNDISTURBED: Final = {graph: Job(graph, "sync", "sync", "", 1) for graph in GRAPHS}


@pytest.fixture(scope="module")
def killed(server_uri: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Job, Killed]]:
    """Every job, killed and gone on with in a new process."""
    with new_database(server_uri, template) as uri:
        yield kill_all(uri, tmp_path_factory.mktemp("killed"), [*UNDISTURBED.values(), *JOBS, *TWICE])


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: "-".join(map(str, job)))
def test_what_has_a_record_is_not_called_again(job: Job, killed: dict[Job, Killed]) -> None:
    """Killed there and resumed by another process, the run ends as one that nobody disturbed."""
    check(job, killed[job], killed[UNDISTURBED[job.graph]])


@pytest.mark.slow
@pytest.mark.parametrize("job", TWICE, ids=lambda job: "-".join(map(str, job)))
def test_an_answer_is_of_one_claim(job: Job, killed: dict[Job, Killed]) -> None:
    """Killed once more in the call that a person had allowed, it is in doubt anew, and asked about anew."""
    found = killed[job]
    check(job, found, killed[UNDISTURBED[job.graph]])
    assert len([line for line in [*found.log, *found.resumed_log] if line.startswith("doubt ")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_run_that_nobody_disturbs(graph: str, killed: dict[Job, Killed]) -> None:
    """The run that all others are compared to makes every call once, and nobody is asked."""
    found = killed[UNDISTURBED[graph]]
    assert (found.code, found.log, found.doubted) == (0, [], set())
    assert found.outside == Counter([("model", "1"), ("model", "5"), *CALLS])
    assert [message.text for message in found.messages[:1]] == [INPUT["messages"][0].text]
    assert found.messages[-1].text == "done: charged a, charged b, told c"


def check(job: Job, found: Killed, undisturbed: Killed) -> None:
    """Nothing was called twice, nothing was lost, nobody was asked in vain."""
    assert (found.code, "killed" in found.log) == (-signal.SIGKILL, True), found.log
    assert found.resumed_code == 0, found.resumed_log
    answered = {
        one.asked["messages"] for one in found.effects.values() if (one.kind, one.state) == ("model", "completed")
    }
    for number in (1, 5):
        assert found.outside["model", str(number)] in ({1} if number in answered else {1, 2})
    assert [found.outside[call] for call in CALLS] == [1, 1, 1]
    # LangGraph's own tool node gathers a turn's calls: one that asks cancels the coroutines beside it, which are then
    # in doubt themselves. Nowhere else is anything in doubt that was not begun by the process that was killed.
    gathered = (job.graph, job.mode) == ("stock", "async")
    cancelled = found.ended.keys() - found.effects.keys() if gathered else set[str]()
    assert found.unsettled("charge") <= found.asked <= found.unsettled("charge") | cancelled
    assert found.unsettled("charge", "tell") <= found.doubted <= found.unsettled("charge", "tell") | cancelled
    assert {one.state for one in found.ended.values()} == {"completed"}
    assert len(found.ended) == 2 + len(CALLS)
    assert found.messages == undisturbed.messages
    if job.point == "between":
        assert len(found.asked) in {1, 2}
        assert "completed" in {one.state for one in found.effects.values() if one.name == "charge"}


def told(messages: Sequence[Any], effects: Effects) -> list[Any]:
    """Messages, with the calls that they come from instead of their ids."""
    ids = {"begin": ""}
    for key, one in effects.items():
        made = f"lc_run--{key}-0" if one.kind == "model" else str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key} 0"))
        ids[made] = f"{one.kind} {one.name} {one.asked}"
    return [message.model_copy(update={"id": ids[message.id]}) for message in messages]


def main(*which: str) -> None:
    """Print what every kill costs."""
    ways = [(mode, durability) for mode in ("sync", "async") for durability in ("sync", "async")]
    chosen = [] if "twice" in which else [job for way in ways for job in jobs(GRAPHS, *way)] if "all" in which else JOBS
    with new_database(embedded.start()) as uri, tempfile.TemporaryDirectory() as folder:
        Database(uri).close()
        all_killed = kill_all(uri, Path(folder), [*UNDISTURBED.values(), *chosen, *TWICE])
        for job in [*chosen, *TWICE]:
            found = all_killed[job]
            try:
                check(job, found, all_killed[UNDISTURBED[job.graph]])
                held = "held"
            except AssertionError as error:
                held = f"FAILED {error}"
            sys.stdout.write(f"{' '.join(map(str, job)):45} {found}: {held}\n")
    embedded.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
