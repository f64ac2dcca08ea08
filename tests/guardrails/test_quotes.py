"""What `locate` and `quoted_spans` promise."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.guardrails import locate, quoted_spans
from holdfast.guardrails.quotes import MIN_CHARACTERS

MARKS = "\"'\u201c\u201d\u2018\u2019 \t\r\n"
DOCUMENTS = st.text(
    st.sampled_from("abcXYZ019 \t\n\u00a0\u2003.*+?^$()[]{}|\\\"'\u201c\u2019-\u00e9\u0301\u00df\u6f22\U0001f600"),
    min_size=30,
    max_size=120,
)
BLANKS = st.text(st.sampled_from(" \t\r\n\u00a0\u2003"), min_size=1, max_size=4)


def bare(text: str) -> list[str]:
    """The words of a quotation without white space or quotation marks around the whole."""
    return re.sub(rf"^[\s{MARKS}]+|[\s{MARKS}]+$", "", text).split()


@given(data=st.data(), document=DOCUMENTS)
def test_every_long_enough_slice_of_a_document_is_found_where_the_document_has_it(
    data: st.DataObject, document: str
) -> None:
    start = data.draw(st.integers(0, len(document) - MIN_CHARACTERS))
    quote = document[start : data.draw(st.integers(start + MIN_CHARACTERS, len(document)))]
    assume(sum(map(len, bare(quote))) >= MIN_CHARACTERS)
    found = locate(quote, document)
    assert found is not None
    assert found.text == document[found.start : found.end]
    assert bare(found.text) == bare(quote)


@given(data=st.data(), document=DOCUMENTS)
def test_changed_white_space_is_found_and_the_documents_own_text_returned(data: st.DataObject, document: str) -> None:
    words = bare(document)
    assume(sum(map(len, words)) >= MIN_CHARACTERS)
    quote = words[0] + "".join(data.draw(BLANKS) + word for word in words[1:])
    found = locate(quote, document)
    assert found is not None
    assert found.text == document[found.start : found.end]
    assert bare(found.text) == bare(quote)


@given(data=st.data(), document=DOCUMENTS)
def test_a_quotation_with_one_character_changed_is_not_found(data: st.DataObject, document: str) -> None:
    quote = document.strip(MARKS)
    assume(len(quote) >= MIN_CHARACTERS)
    at = data.draw(st.sampled_from([index for index, letter in enumerate(quote) if not letter.isspace()]))
    assert locate(f"{quote[:at]}\u2603{quote[at + 1 :]}", document) is None


@given(
    quote=st.text(st.sampled_from('a \u00a0\f"'), min_size=10, max_size=30),
    document=st.text(st.sampled_from("a \n\u00a0"), min_size=10, max_size=60),
)
def test_whatever_is_found_is_verbatim_has_the_quotations_words_and_is_long_enough_to_prove_something(
    quote: str, document: str
) -> None:
    found = locate(quote, document)
    if found is not None:
        assert found.text == document[found.start : found.end]
        assert bare(found.text) == bare(quote)
        assert len(found.text) >= MIN_CHARACTERS


@pytest.mark.parametrize("blank", ["\u00a0", "\u2003", "\f", "\v", "\u2028"])
def test_a_quotation_of_nothing_but_white_space_is_not_found(blank: str) -> None:
    assert locate(blank * 20, "On Monday the pump failed twice.") is None


def test_padding_does_not_make_a_short_quotation_long_enough() -> None:
    assert locate("a" + " " * 20 + "b", "vitamins a b and c") is None


@pytest.mark.parametrize("quote", ["", "pump", '"the pump"', "  the pump    ", "\u201cthe pump f\u201d"])
def test_a_quotation_below_the_least_length_is_not_found_even_if_it_is_there(quote: str) -> None:
    assert locate(quote, "On Monday the pump failed twice.") is None


def test_the_least_length_is_inclusive() -> None:
    assert locate("x" * MIN_CHARACTERS, "x" * 40) is not None
    assert locate("x" * (MIN_CHARACTERS - 1), "x" * 40) is None


@pytest.mark.parametrize(
    "quote",
    [
        "On monday the pump failed",
        "On Monday, the pump failed",
        "On Monday the  pumpfailed twice",
        "the pump failed twice.\u200b",
        "the pump failed \u2026 twice",
        "On Monday \u2026 failed twice",
        "the p\u0443mp failed twice",  # a Cyrillic letter
    ],
)
def test_case_punctuation_elisions_and_look_alikes_are_not_forgiven(quote: str) -> None:
    assert locate(quote, "On Monday the pump failed twice.") is None


@pytest.mark.parametrize("quote", ["costs (.*) per [a-z]+", "a+b = c^2 $5 {3} x|y?", "C:\\new\\table\\d+ is"])
def test_regular_expression_characters_stand_for_themselves(quote: str) -> None:
    document = f"It says {quote.replace(' ', chr(10))} here"
    found = locate(quote, document)
    assert found is not None
    assert re.sub(r"\s", " ", found.text) == quote
    assert locate(quote, "costs much per unit; aab = cc 5 xy; C:newtable5 is") is None


def test_composed_and_decomposed_letters_are_different_characters() -> None:
    assert locate("le caf\u00e9 est ferm\u00e9", "Ici, le cafe\u0301 est ferme\u0301.") is None
    assert locate("le caf\u00e9 est ferm\u00e9", "Ici, le caf\u00e9 est ferm\u00e9.") is not None


def test_positions_count_characters_not_bytes() -> None:
    found = locate("the pump\nfailed twice", "\U0001f600\u6f22 the pump  failed twice")
    assert found is not None
    assert (found.start, found.text) == (3, "the pump  failed twice")


@pytest.mark.parametrize(
    "quote",
    ["\u201cthe pump failed\u201d", '"the pump failed"', "\u2018the pump failed\u2019 ", "'\"the pump failed\"'"],
)
def test_quotation_marks_around_the_whole_are_ignored(quote: str) -> None:
    found = locate(quote, "Then the pump failed.")
    assert found is not None
    assert found.text == "the pump failed"


def test_the_first_of_several_places_is_returned() -> None:
    found = locate("the pump failed", "the pump failed, the pump failed")
    assert found is not None
    assert found.start == 0


@given(inside=st.text(st.characters(exclude_characters='"\u201c\u201d'), min_size=1), around=st.sampled_from("Xy., \n"))
def test_what_stands_between_straight_or_curly_marks_is_yielded_verbatim(inside: str, around: str) -> None:
    expected = [inside] if len(inside.split()) >= 4 else []
    assert list(quoted_spans(f'{around}"{inside}"{around}')) == expected
    assert list(quoted_spans(f"{around}\u201c{inside}\u201d{around}")) == expected


def test_every_quotation_of_a_text_is_yielded_in_order() -> None:
    text = 'A \u201cone two three four\u201d, B "five six seven eight" and C \u201cnine ten eleven twelve\u201d.'
    assert list(quoted_spans(text)) == ["one two three four", "five six seven eight", "nine ten eleven twelve"]


@pytest.mark.parametrize("text", ["", '"', '""', "\u201c\u201d", '"three words only"', "no marks at all, none"])
def test_short_empty_and_unquoted_text_yields_nothing(text: str) -> None:
    assert list(quoted_spans(text)) == []


def test_the_number_of_words_that_make_a_quotation_can_be_set() -> None:
    assert list(quoted_spans('"two words"', min_words=2)) == ["two words"]


def test_a_quotation_may_run_over_line_ends() -> None:
    assert list(quoted_spans('"one two\nthree\n\nfour"')) == ["one two\nthree\n\nfour"]


@pytest.mark.parametrize(
    "text",
    [
        'the 5" pipe burst and \u201cwe never once lost a reading\u201d came after',
        'the 5" pipe burst and "we never once lost a reading" came after',
        '\u201cwe never once lost a reading"',
        '"we never once lost a reading\u201d',
        "\u201ewe never once lost a reading\u201c",
        "\u201dwe never once lost a reading\u201d",
    ],
    ids=["stray-then-curly", "stray-then-straight", "curly-straight", "straight-curly", "low-high", "high-high"],
)
def test_no_quotation_escapes_behind_a_stray_or_an_uncommon_double_mark(text: str) -> None:
    assert any("we never once lost a reading" in span for span in quoted_spans(text))
