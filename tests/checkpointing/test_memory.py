"""Lists are stored as edits of stored lists, and what was changed in place is stored anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import Database, pages
from holdfast.checkpointing.memory import KnownCheckpoint, ThreadMemory
from holdfast.checkpointing.packing import ListEdit, Source
from holdfast.checkpointing.pages import KnownList, Rung
from holdfast.checkpointing.serde import MessageSerializer, StrictSerializer

DEEP = 8
"""How many of the newest messages, and of the others in turn, are compared in full at each step."""

SERDE = MessageSerializer(StrictSerializer())
Messages = list[BaseMessage]
Change = Callable[[Messages, int, Messages], Messages]
Step = tuple[Change, int, int, int]
"""What changes, where, how many messages are new, and which version it stands on."""


def digest(message: BaseMessage) -> bytes:
    return SERDE.dump_message(message)[0]


def said(count: int, start: int = 0) -> Messages:
    return [AIMessage(f"said {n}", id=str(n), additional_kwargs={"n": {"n": n}}) for n in range(start, start + count)]


class Channel:
    """A channel of one thread, stored version by version as the saver does."""

    def __init__(self) -> None:
        self.memory = ThreadMemory()
        self.stored: dict[Source, ListEdit] = {}
        self.known: list[KnownList] = []
        self.calls = 0

    def put(self, messages: Messages, before: KnownList | None = None) -> list[bytes]:
        """Store a version; what it comes to when it is read."""
        shared = before.shared(messages) if before else 0
        edit, listed, path = self.memory.edit(messages, self._store, before, shared)
        source = Source("", "messages", str(len(self.known)))
        self.stored[source] = edit
        path.append(Rung(edit.depth, source, len(listed)))
        known = KnownList(listed.pages, path=path)
        self.known.append(known)
        self.memory.remember("", source.version, KnownCheckpoint("", lists={"messages": known}))
        self.memory.tidy()
        return self.read(source)

    def store(self, messages: Messages) -> None:
        """Store messages that a task wrote."""
        self.memory.edit(messages, self._store)

    def step(self, messages: Messages) -> list[bytes]:
        """Store a version after the newest."""
        return self.put(messages, self.known[-1] if self.known else None)

    def read(self, source: Source) -> list[bytes]:
        edit = self.stored[source]
        return edit.apply(self.read(edit.source)) if edit.source is not None else list(edit.refs)

    def path(self) -> int:
        """How many stored lists the newest is put together from."""
        edit, length = self.stored[self.known[-1].source], 1
        while edit.source is not None:
            edit, length = self.stored[edit.source], length + 1
        return length

    def _store(self, message: BaseMessage) -> bytes:
        self.calls += 1
        return digest(message)


def _append(messages: Messages, at: int, fresh: Messages) -> Messages:
    return [*messages, *fresh]


def _insert(messages: Messages, at: int, fresh: Messages) -> Messages:
    return [*messages[:at], *fresh, *messages[at:]]


def _replace(messages: Messages, at: int, fresh: Messages) -> Messages:
    return [*messages[:at], *fresh, *messages[at + 1 :]]


def _remove(messages: Messages, at: int, fresh: Messages) -> Messages:
    return messages[:at] + messages[at + 1 :]


def _trim(messages: Messages, at: int, fresh: Messages) -> Messages:
    return messages[at:]


def _cut(messages: Messages, at: int, fresh: Messages) -> Messages:
    return messages[:at]


def _clear(messages: Messages, at: int, fresh: Messages) -> Messages:
    return []


def _double(messages: Messages, at: int, fresh: Messages) -> Messages:
    return [*messages, *messages[at : at + 3]]


def _copies(messages: Messages, at: int, fresh: Messages) -> Messages:
    return [message.model_copy() for message in messages]


def _other(messages: Messages, at: int, fresh: Messages) -> Messages:
    return fresh


def _reassign(messages: Messages, at: int, fresh: Messages) -> Messages:
    for message in messages[at : at + 2]:
        message.content = fresh[0].content
    return messages


def _mutate(messages: Messages, at: int, fresh: Messages) -> Messages:
    for message in messages[at : at + 1]:
        message.additional_kwargs.setdefault("n", {})["n"] = fresh[0].id
    return messages


CHANGES: list[Change] = [
    *(_append, _append, _append, _insert, _replace, _remove, _trim, _cut),
    *(_clear, _double, _copies, _other, _reassign, _mutate),
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(CHANGES), st.integers(0, 30), st.integers(1, 3), st.integers(0, 9)), max_size=40
    ),
    st.sampled_from([1, 2, 3, 7, pages.PAGE]),
)
def test_every_version_reads_as_what_was_put(steps: list[Step], page: int) -> None:
    """Whatever happens to a list of any length, whichever version comes next, and wherever a page ends."""
    with mock.patch.object(pages, "PAGE", page):
        _stored_and_read(steps)


def _stored_and_read(steps: list[Step]) -> None:
    channel, number = Channel(), 0
    current = said(6)
    history = [channel.step(current)]
    for change, at, count, fork in steps:
        number += 100
        before = channel.known[-1]
        if fork == 0:  # from an older version
            before = channel.known[at % len(channel.known)]
            current = [message for page in before.pages for message in page.messages]
        # Only what is near the end is compared in full at each step.
        position = at % (len(current) + 1) if change is not _mutate else max(0, len(current) - 1 - at % DEEP)
        current = change(current, position, said(count, number))
        expected = [digest(message) for message in current]
        assert channel.put(current, before if fork != 1 else None) == expected
        assert channel.path() <= 64
        history.append(expected)
    assert [channel.read(known.source) for known in channel.known] == history


def test_a_message_that_stands_twice_in_a_list_is_seen_to_change_in_both_places() -> None:
    channel = Channel()
    messages = said(200)
    channel.step(messages)
    twice = [*messages, messages[100]]
    channel.step(twice)
    twice[-1].additional_kwargs["n"] = "changed in place"
    assert channel.step(list(twice)) == [digest(message) for message in twice]


def test_appending_reads_few_versions_and_writes_little() -> None:
    """A list of 1,000 versions is put together from some dozen of them; each adds about what is new."""
    channel, longest = Channel(), 0
    messages = said(1000)
    for length in range(4, 1001):
        assert channel.step(messages[:length]) == channel.known[-1].refs
        longest = max(longest, channel.path())
    assert longest <= 30
    assert channel.known[-1].refs == [digest(message) for message in messages]
    assert sum(len(edit.refs) for edit in channel.stored.values()) <= 8 * 1000


def test_a_list_that_is_edited_at_random_is_not_read_from_many_versions() -> None:
    channel, messages = Channel(), said(100)
    channel.step(messages)
    for turn in range(300):
        at = turn * 37 % 90
        messages = [*messages[:at], *said(1, 1000 + turn), *messages[at + 1 :]]
        assert channel.step(messages) == [digest(message) for message in messages]
        assert channel.path() <= 64


def test_what_is_known_is_not_serialised_again() -> None:
    channel, messages = Channel(), said(50)
    channel.step(messages)
    assert channel.calls == 50
    for number in range(20):
        messages = [*messages, *said(1, 100 + number)]
        channel.step(messages)
    assert channel.calls == 70


@pytest.mark.parametrize("length", [1, 17, 300, 1024])
@pytest.mark.parametrize("at", [0.0, 0.3, 0.99])
def test_content_that_was_assigned_anywhere_is_stored_anew(length: int, at: float) -> None:
    channel, messages = Channel(), said(length)
    channel.step(messages)
    messages[int(length * at)].content = "something else"
    assert channel.step([*messages, HumanMessage("next", id="next")])[:-1] == [digest(message) for message in messages]


@pytest.mark.parametrize("back", [1, DEEP])
def test_a_change_within_one_of_the_newest_is_stored_anew(back: int) -> None:
    channel, messages = Channel(), said(200)
    channel.step(messages)
    messages[-back].additional_kwargs["n"]["n"] = "changed"
    assert channel.step(messages) == [digest(message) for message in messages]


@pytest.mark.parametrize("length", [40, 100, 113, 203, 1013])
def test_a_change_within_an_older_message_is_stored_anew_in_its_turn(length: int) -> None:
    """All of a list is compared within as many steps as it has times 8 messages, wherever the turn began."""
    for begun in (0, 1, 5):
        for at in (0, 1, 7, length // 2, length - DEEP - 1):
            channel, messages = Channel(), said(length)
            for _ in range(begun + 1):
                channel.step(messages)
            messages[at].additional_kwargs["n"]["n"] = "changed"
            for _ in range(-(-length // DEEP)):
                channel.step(messages)
            assert channel.known[-1].refs[at] == digest(messages[at]), f"message {at} of {length}, begun at {begun}"


@pytest.mark.parametrize("at", [0, 50, 83, 84, 99])
def test_a_change_that_was_stored_elsewhere_is_in_the_list_too(at: int) -> None:
    """A task's writes are stored before the list that has the same objects in it, and are not all that changes."""
    channel, messages = Channel(), said(100)
    channel.step(messages)
    messages[at].additional_kwargs["n"]["n"] = "changed"
    channel.store([messages[at]])
    assert channel.step(messages) == [digest(message) for message in messages]


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("change", ["content", "kwargs", "nested", "tool calls"])
def test_what_a_node_changes_in_place_is_saved(db: Database, change: str, fresh: bool, written: bool) -> None:
    """Whether it returns the message or only changes it; in the run that made it, and in a later one."""

    def say(_: MessagesState) -> dict[str, Any]:
        call = {"name": "look", "args": {"at": 1}, "id": "call"}
        return {"messages": [AIMessage("said", id="said", tool_calls=[call], additional_kwargs={"n": {"n": 1}})]}

    def mark(state: MessagesState) -> dict[str, Any]:
        last: Any = state["messages"][-1]
        if change == "content":
            last.content = "changed"
        elif change == "kwargs":
            last.additional_kwargs = {"changed": True}
        elif change == "nested":
            last.additional_kwargs["n"]["n"] = 2
        else:
            last.tool_calls[0]["args"]["at"] = 2
        return {"messages": [last if written else HumanMessage("next", id="next")]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("say", say).add_node("mark", mark).add_edge(START, "say").add_edge("say", "mark")
    before = ["mark"] if fresh else []
    graph = builder.compile(checkpointer=db.saver, interrupt_before=before)
    config: Any = {"configurable": {"thread_id": "t"}}
    returned = graph.invoke({"messages": [HumanMessage("hello", id="h")]}, config, durability="sync")
    if fresh:
        returned = graph.invoke(None, config, durability="sync")
    db.saver.upkeep.memory.forget("t")
    assert graph.get_state(config).values == returned


@pytest.mark.parametrize("begun", [0, 3])
def test_content_assigned_in_a_list_beyond_1024_is_stored_anew_in_its_turn(begun: int) -> None:
    channel, messages = Channel(), said(3100)
    for _ in range(begun + 1):
        channel.step(messages)
    messages[5].content = "something else"
    for _ in range(-(-(3100 - 1024) // 256)):
        channel.step(messages)
    assert channel.known[-1].refs[5] == digest(messages[5])


def test_content_assigned_all_through_a_long_list_is_stored_anew_at_once() -> None:
    """As by a node that shortens every old tool result in place: one of them is among the newest."""
    channel, messages = Channel(), said(3100)
    channel.step(messages)
    for message in messages[5::7]:
        message.content = "cut"
    assert channel.step([*messages, *said(1, 9000)])[:-1] == [digest(message) for message in messages]


@pytest.mark.parametrize("length", [1, 255, 256, 257, 600, 1200])
def test_lists_that_share_pages_stay_what_they_were(length: int) -> None:
    """Whatever comes to stand on a list, or is changed in one that does."""
    channel, messages = Channel(), said(length)
    channel.step(messages)
    first = channel.known[0]
    was = first.refs
    longer, other = [*messages, *said(300, 5000)], [*messages[: length // 2], *said(300, 7000)]
    assert channel.put(longer, first) == [digest(message) for message in longer]
    assert channel.put(other, first) == [digest(message) for message in other]
    messages[length // 3].content = "changed"
    assert channel.put(longer, channel.known[1]) == [digest(message) for message in longer]
    assert channel.put(messages, first) == [digest(message) for message in messages]
    assert first.refs == was
    assert [len(known) for known in channel.known] == [length, length + 300, length // 2 + 300, length + 300, length]
