"""Messages are read quickly as the official serializer reads them, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage

from holdfast.checkpointing.revive import revive
from holdfast.checkpointing.serde import MessageSerializer, StrictSerializer
from tests.support.messages import odd, plain, simple

OFFICIAL = StrictSerializer()
SERDE = MessageSerializer(OFFICIAL)


@settings(max_examples=400, deadline=None)
@given(simple)
def test_a_plain_message_is_read_as_the_official_serializer_reads_it(message: BaseMessage) -> None:
    kind, body = OFFICIAL.dumps_typed(message)
    quick, official = revive(body), OFFICIAL.loads_typed((kind, body))
    assert quick is not None
    assert type(quick) is type(official) is type(message)
    assert (quick, repr(quick), quick.model_dump()) == (official, repr(official), official.model_dump())
    assert quick.__dict__ == official.__dict__
    assert list(quick.__dict__) == list(official.__dict__)
    assert OFFICIAL.dumps_typed(quick) == OFFICIAL.dumps_typed(official) == (kind, body)
    assert quick.model_copy(update={"id": "new"}) == official.model_copy(update={"id": "new"})
    assert quick.model_fields_set == official.model_fields_set


@given(odd)
def test_any_other_message_is_left_to_the_official_serializer(message: BaseMessage) -> None:
    kind, body = OFFICIAL.dumps_typed(message)
    assert revive(body) is None
    assert repr(SERDE.load_message(kind, body)) == repr(OFFICIAL.loads_typed((kind, body)))


@given(plain | st.lists(simple, min_size=1, max_size=2))
def test_what_is_no_message_is_not_read(value: object) -> None:
    assert revive(OFFICIAL.dumps_typed(value)[1]) is None


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 7))
def test_bytes_that_are_no_message_are_not_read(noise: bytes, at: int, bit: int) -> None:
    """None, or a message: never another error."""
    assert revive(noise) is None
    body = bytearray(OFFICIAL.dumps_typed(HumanMessage("hello", id="h", name="n"))[1])
    body[at % len(body)] ^= 1 << bit
    assert isinstance(revive(bytes(body)), BaseMessage | None)


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], "text"])
def test_a_message_that_was_read_can_be_changed(value: object) -> None:
    """It is as free as any other: its fields can be assigned to, and its dicts are its own."""
    kind, body = OFFICIAL.dumps_typed(HumanMessage("hello", id="h", additional_kwargs={"x": value}))
    one, other = SERDE.load_message(kind, body), SERDE.load_message(kind, body)
    one.content = "changed"
    one.additional_kwargs["y"] = 1
    assert (other.content, other.additional_kwargs) == ("hello", {"x": value})
