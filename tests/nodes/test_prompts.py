"""What `render` and `material_of` promise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.nodes.prompts import MARK, material_of, render

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.just(MARK),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
MATERIALS = st.dictionaries(st.text() | st.just(MARK), VALUES, max_size=4)


@given(task=st.text().filter(lambda task: MARK not in task), material=MATERIALS)
def test_the_material_comes_back_as_it_was_put_in(task: str, material: dict[str, Any]) -> None:
    assert material_of(render(task, material)) == material


@given(material=MATERIALS)
def test_no_material_can_pose_as_the_mark_between_task_and_material(material: dict[str, Any]) -> None:
    assert render("Count.", material).count(MARK) == 1


@given(material=MATERIALS)
def test_the_task_stands_first_and_unchanged(material: dict[str, Any]) -> None:
    assert render("Count the apples.", material).startswith("Count the apples." + MARK)


def test_letters_of_any_script_stay_readable() -> None:
    assert "\u6771\u4eac \u00e9 \U0001f600" in render("Read.", {"text": "\u6771\u4eac \u00e9 \U0001f600"})


def test_a_tools_json_result_is_material_too() -> None:
    assert material_of('[{"document": "a.md"}]') == [{"document": "a.md"}]


@pytest.mark.parametrize("text", ["", "plain words", "{", MARK, f"task{MARK}{{broken", "[1, 2", "\x00", "1" * 5000])
def test_text_without_material_has_none(text: str) -> None:
    assert material_of(text) is None


def test_json_nested_too_deep_to_read_is_no_material() -> None:
    assert material_of("[" * 200_000) is None
