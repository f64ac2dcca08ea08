"""Whatever is done to a thread, it is on Holdfast's saver what it is on LangGraph's own in memory.

The same random operations are done on both; afterwards every state and the whole history must be equal. On
Holdfast's side they are spread over several open databases, as over the processes of a server: what one of them
remembers of a thread is out of date when another has changed it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import pytest
from langchain_core.messages import AIMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, Overwrite

from holdfast.checkpointing import Database
from tests.support.talks import STATES, on, plain, said, seen, talk, view

SEEDS: Final = range(int(os.environ.get("HOLDFAST_TEST_SEEDS", "3")))
WORDS: Final = ("send", "ask", "inner", "change", "remove", "again")


@pytest.fixture(params=STATES)
def kind(request: pytest.FixtureRequest) -> str:
    """Which reducers the graph has."""
    return str(request.param)


@pytest.fixture
def databases(database_uri: str) -> Iterator[list[Database]]:
    """Three handles on one database."""
    with ExitStack() as stack:
        yield [stack.enter_context(Database.connect(database_uri)) for _ in range(3)]


@dataclass(slots=True)
class Operation:
    """One thing to do to a thread, the same on any saver: where it says `place`, on that checkpoint of its history."""

    what: str
    given: Any
    place: int | None = None
    as_node: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    fail: bool = False
    asynchronous: bool = False

    def run(self, graph: Any) -> Any:
        """Do it; what came back, or the error."""
        config = on("t", fail=self.fail)
        if self.place is not None:
            history = list(graph.get_state_history(on("t")))[::-1]
            config = history[self.place % len(history)].config if history else config
        try:
            if self.what == "update":
                return update(graph, config, self)
            if self.asynchronous:
                return plain(asyncio.run(graph.ainvoke(self.given, config, **self.options)))
            return plain(graph.invoke(self.given, config, **self.options))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def update(graph: Any, config: Any, operation: Operation) -> None:
    """`update_state`, sync or async."""
    arguments = (config, operation.given, operation.as_node)
    if operation.asynchronous:
        asyncio.run(graph.aupdate_state(*arguments))
    else:
        graph.update_state(*arguments)


def operations(seed: str, count: int) -> Iterator[Operation]:
    """Random operations, always the same for a seed."""
    random = Random(seed)  # noqa: S311  # a seed is wanted
    yield Operation("run", said(0, random.choice(["ask send", "inner", ""])))
    for number in range(1, count):
        words = " ".join(word for word in WORDS if random.random() < 0.3)
        place = random.randrange(100) if random.random() < 0.3 else None
        common: dict[str, Any] = {
            "place": place,
            "asynchronous": random.random() < 0.3,
            "fail": random.random() < 0.15,
            "options": {"durability": random.choice(["sync", "sync", "async", "exit"])},
        }
        match random.choice(["say", "say", "resume", "resume", "update", "go on", "command"]):
            case "say":
                yield Operation("run", said(number, words), **common)
            case "resume":
                yield Operation("run", Command(resume=f"answer {number}"), **common)
            case "command":
                update = {"note": f"note {number}", "messages": [AIMessage("noted", id=f"note {number}")]}
                yield Operation("run", Command(resume=f"answer {number}", update=update), **common)
            case "go on":
                yield Operation("run", None, **common)
            case _:
                as_node = random.choice(["listen", "end", "left", None])
                yield Operation("update", change(random, number), as_node=as_node, **common)


def change(random: Random, number: int) -> Any:
    """What an update by hand writes."""
    turn = said(number, "by hand")["messages"]
    return random.choice(
        [
            {"messages": turn},
            {"messages": turn, "log": [f"by hand {number}"]},
            {"messages": Overwrite(turn)},
            {"log": Overwrite([f"over {number}"])},
            {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *turn]},
            {"note": f"note {number}"},
            None,
        ]
    )


@pytest.mark.parametrize("stateful", [False, True], ids=["", "stateful"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_operations_give_the_same_thread(
    kind: str, seed: int, stateful: bool, databases: list[Database]
) -> None:
    """Turns, answers, failures, edits by hand and forks: the same answers, states and history."""
    random = Random(f"databases {seed}")  # noqa: S311
    theirs = talk(InMemorySaver(), kind, stateful=stateful)
    ours = [talk(database.saver, kind, stateful=stateful) for database in databases]
    for number, operation in enumerate(operations(f"{kind} {seed}", 14)):
        graph = random.choice(ours)
        expected = operation.run(theirs)
        assert operation.run(graph) == expected, (number, operation)
        newest = view(random.choice(ours).get_state(on("t"), subgraphs=True))
        assert newest == view(theirs.get_state(on("t"), subgraphs=True)), (number, operation)
    for graph in ours:
        assert seen(graph, on("t")) == seen(theirs, on("t"))


@pytest.mark.parametrize("given", [Command(resume="now"), None], ids=["resumed", "run again"])
def test_an_update_by_hand_stays_when_its_checkpoint_is_run_again(kind: str, given: Any, db: Database) -> None:
    """The update has taken a task's place; what the task itself writes later, for a fork, does not replace it."""
    theirs, ours = (talk(saver, kind) for saver in (InMemorySaver(), db.saver))
    after: list[Any] = []
    for graph in (theirs, ours):
        graph.update_state(on("t"), said(0, ""), as_node="listen")
        before = graph.get_state(on("t")).config
        by_hand = graph.update_state(before, {"messages": [AIMessage("by hand", id="hand")]}, as_node="left")
        graph.invoke(given, before, durability="sync")
        after.append(plain(graph.get_state(by_hand).values))
    assert after[1] == after[0]
