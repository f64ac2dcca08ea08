"""What holds messages is packed without them, and comes back as it was."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]
from langgraph.types import Overwrite, Send

from holdfast.checkpointing.integrity import Unsound
from holdfast.checkpointing.packing import OURS, ListEdit, Source, edits_in, pack, pack_writes, unpack, unpack_writes
from holdfast.checkpointing.serde import MessageSerializer, StrictSerializer
from tests.support.messages import messages, plain, text

PLACE = "\x01holdfast"
SERDE = MessageSerializer(StrictSerializer())
MESSAGE = HumanMessage("hello", id="h")

ours: st.SearchStrategy[Any] = st.sampled_from([{PLACE: [0, True]}, {PLACE: {PLACE: [0, False]}}, {PLACE: 1, "x": 2}])
values: st.SearchStrategy[Any] = st.recursive(
    messages | st.lists(messages, max_size=3) | plain | ours,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(text | st.just(PLACE), inner, max_size=3),
        st.tuples(inner, inner),
        st.tuples(text, inner).map(lambda sent: Send(*sent)),
        inner.map(Overwrite),
        inner.map(_DeltaSnapshot),
    ),
    max_leaves=8,
)


class Shelf:
    """Where messages lie while a test packs and unpacks: by number."""

    def __init__(self) -> None:
        self.known: list[BaseMessage] = []

    def keep(self, given: list[BaseMessage]) -> ListEdit:
        at = len(self.known)
        self.known += given
        return ListEdit(refs=tuple(number.to_bytes(20, "big") for number in range(at, len(self.known))))

    def give(self, edit: ListEdit) -> list[BaseMessage]:
        return [self.known[int.from_bytes(ref, "big")] for ref in edit.refs]

    def there_and_back(self, value: Any) -> Any:
        kind, blob = pack(value, SERDE.dump, self.keep)
        assert sum(len(edit.refs) for edit in edits_in(kind, blob)) == len(self.known)
        return unpack(kind, blob, SERDE.load, self.give)


@settings(max_examples=400, deadline=None)
@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Wherever messages are in it, and whatever it holds under the key that stands for them."""
    official = SERDE.load(SERDE.dump(value))
    assert repr(Shelf().there_and_back(value)) == repr(official)


@given(plain)
def test_what_holds_no_message_is_the_serializers_own(value: Any) -> None:
    kind, blob = pack(value, SERDE.dump, Shelf().keep)
    assert kind not in OURS
    assert (kind, blob) == SERDE.dump(value)
    assert edits_in(kind, blob) == []


@pytest.mark.parametrize("deep", [1, 10, 11, 12, 13, 40])
@pytest.mark.parametrize("inner", [{PLACE: [0, True]}, {PLACE: [7, True]}, {PLACE: None}, {PLACE: {PLACE: 1}}])
def test_state_under_our_key_is_not_taken_for_ours(deep: int, inner: Any) -> None:
    """What a user or a model sends may look like a place for a message, however deep it lies."""
    value: Any = inner
    for _ in range(deep):
        value = {"a": [value]}
    given = {"message": MESSAGE, "given": value}
    assert Shelf().there_and_back(given) == given


def test_state_under_our_key_in_a_dict_of_another_type_is_not_taken_for_ours() -> None:
    given = {"message": MESSAGE, "given": OrderedDict({PLACE: [0, True]})}
    assert Shelf().there_and_back(given) == given


@pytest.mark.parametrize("deep", [1, 11, 12, 13, 40])
def test_a_message_comes_back_however_deep_it_lies(deep: int) -> None:
    value: Any = [MESSAGE]
    for _ in range(deep):
        value = {"a": (value, 1)}
    assert Shelf().there_and_back(value) == SERDE.load(SERDE.dump(value))


def test_packing_leaves_the_value_as_it_is() -> None:
    sent, written = Send("node", {"m": MESSAGE}), Overwrite([MESSAGE, 1])
    value = {"sent": [sent], "written": written}
    Shelf().there_and_back(value)
    assert value == {"sent": [Send("node", {"m": MESSAGE})], "written": Overwrite([MESSAGE, 1])}
    assert value["sent"] == [sent]


refs = st.lists(st.binary(min_size=20, max_size=20), max_size=6)


@given(refs, refs, st.data())
def test_an_edit_keeps_both_ends_of_its_source(source: list[bytes], added: list[bytes], data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, len(source)))
    suffix = data.draw(st.integers(0, len(source) - prefix))
    edit = ListEdit(refs=tuple(added), source=Source("", "c", "1"), prefix=prefix, suffix=suffix)
    tail = source[-suffix:] if suffix else []
    assert edit.apply(source) == source[:prefix] + added + tail
    if prefix + suffix:
        with pytest.raises(Unsound):
            edit.apply(source[: prefix + suffix - 1])


versions = st.sampled_from(["1", "", "0" * 31 + "7.0.25", "0" * 32 + ".0.5", "1" * 32 + ".x"]) | text.filter(
    lambda version: "~" not in version
)
sources = st.builds(Source, text, text, versions)


@given(st.none() | sources, refs, st.integers(0, 5), st.integers(0, 5), st.integers(0, 99))
def test_an_edit_is_read_as_it_was_written(
    source: Source | None, added: list[bytes], prefix: int, suffix: int, depth: int
) -> None:
    edit = ListEdit(refs=tuple(added))
    if source is not None:
        edit = ListEdit(refs=tuple(added), source=source, prefix=prefix, suffix=suffix, depth=depth)
    assert edits_in(*pack([MESSAGE], SERDE.dump, lambda _: edit)) == [edit]
    assert edits_in(*pack({"x": [MESSAGE]}, SERDE.dump, lambda _: edit)) == [edit]


@given(st.none() | text, st.lists(st.tuples(st.integers(-4, 9), text, text, st.binary(max_size=9)), max_size=4))
def test_a_tasks_writes_are_read_as_they_were_written(run_id: str | None, given: list[Any]) -> None:
    assert unpack_writes(pack_writes(given, run_id)) == (run_id, given)
