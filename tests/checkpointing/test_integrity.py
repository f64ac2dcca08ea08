"""What digests are taken of is the same before and after a way through Postgres."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.checkpointing.arrays import BytesArray, IntArray, TextArray, adapt
from holdfast.checkpointing.integrity import canonical, parsed, row_digest, stored_bits, stored_channels
from tests.support.messages import text

unnul = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
numbers = st.one_of(
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [-0.0, 0.0, 1e16, 1e22, 1e300, -1e300, 5e-324, 0.1, 2**53 + 1, 2**64, 1.5e15, 123456789012345680.0]
    ),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | unnul,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(unnul, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def postgres(server_uri: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_uri, autocommit=True) as connection:
        yield connection


def test_json_has_one_form_on_either_side_of_jsonb(postgres: psycopg.Connection[Any]) -> None:
    @settings(max_examples=500, deadline=None)
    @given(json_values)
    def every(value: Any) -> None:
        text = json.dumps(value)
        ((back,),) = postgres.execute("SELECT %s::jsonb::text", [text]).fetchall()
        assert canonical(back) == canonical(text)
        assert parsed(back)[1] == canonical(text)
        assert parsed(text) == (json.loads(text), canonical(text))
        assert canonical(json.dumps({"x": value})) != canonical(json.dumps({"x": [value]}))

    every()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0", "null"),
        ("1", "true"),
        ("0", "false"),
        ("[]", "{}"),
        ('"1"', "1"),
        ("1", "1.5"),
        ("1e16", "10000000000000001"),
    ],
)
def test_different_json_has_different_forms(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


versions = st.dictionaries(text, text, max_size=70)


@given(versions, st.data())
def test_the_channels_that_are_stored_are_read_from_their_bits(given: dict[str, str], data: st.DataObject) -> None:
    stored = data.draw(st.sets(st.sampled_from(sorted(given)))) if given else set[str]()
    assert stored_channels(given, stored_bits(given, stored)) == sorted(stored)
    assert stored_bits(given, [*stored, "\x00 not a channel"]) == stored_bits(given, stored)


fields = st.lists(st.none() | st.text(max_size=4) | st.binary(max_size=4), max_size=4)


@given(fields, fields)
def test_rows_have_one_digest_only_if_they_are_equal(one: list[Any], other: list[Any]) -> None:
    plain = [
        [field.encode("utf-8", "surrogatepass") if isinstance(field, str) else field for field in row]
        for row in (one, other)
    ]
    assert (row_digest(*one) == row_digest(*other)) == (plain[0] == plain[1])


def test_arrays_are_read_as_they_were_given(postgres: psycopg.Connection[Any]) -> None:
    """By Postgres itself: every element, nulls and empties, and its type."""
    adapt(postgres)
    ints = st.integers(-(2**63), 2**63 - 1)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.none() | unnul), st.lists(st.none() | st.binary(max_size=9)), st.lists(st.none() | ints))
    def every(texts: list[Any], data: list[Any], numbers: list[Any]) -> None:
        statement = """
            SELECT %s, %s, %s, pg_typeof(%s)::text, pg_typeof(%s)::text, pg_typeof(%s)::text,
                (SELECT jsonb_agg(element) FROM unnest(%s) AS element)
        """
        arrays = [TextArray(texts), BytesArray(data), IntArray(numbers)]
        (row,) = postgres.execute(statement, [*arrays, *arrays, TextArray(texts)]).fetchall()
        assert row == (texts, data, numbers, "text[]", "bytea[]", "bigint[]", texts or None)

    every()


def test_what_no_array_can_hold_is_refused(postgres: psycopg.Connection[Any]) -> None:
    adapt(postgres)
    with pytest.raises(OverflowError):
        postgres.execute("SELECT %s", [IntArray([2**63])])
    with pytest.raises(UnicodeEncodeError):
        postgres.execute("SELECT %s", [TextArray(["\ud800"])])
