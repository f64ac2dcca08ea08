"""What the ranking of sentences promises."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.nodes.ranking import Ranking, Sentence, sentences, words

PUMP = "The pump on the pier failed twice during the March storms."
GAUGE = "Every tide gauge reports its reading once in six minutes."
HIRING = "The company is hiring two engineers for the harbour office."
POOL = [Sentence(document="a.md", text=text) for text in (HIRING, GAUGE, PUMP)]
TEXTS = st.text() | st.lists(
    st.sampled_from([PUMP, GAUGE, " ", "\n", "\n\n", "```", "~~~\n", ":::", "# Title\n", "- ", "| a | b |", "\u201c"])
).map("".join)


@given(text=TEXTS)
@example(text="The pump on the pier that was built\n```\ncode\n```then failed twice during the storms.\n")
def test_every_sentence_stands_verbatim_in_the_text_and_names_its_document(text: str) -> None:
    for sentence in sentences("a.md", text):
        assert sentence.text in text
        assert sentence.document == "a.md"


@given(text=TEXTS)
def test_every_sentence_lies_within_one_paragraph_and_is_of_quotable_length(text: str) -> None:
    for sentence in sentences("a.md", text):
        assert "\n\n" not in sentence.text
        assert 40 <= len(sentence.text) <= 320


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# A heading that is long enough to be a sentence of its own",
        f"```\n{PUMP}\n```\n",
        f"~~~python\n{PUMP}\n~~~\n",
        "- [A link that leads to a page](https://example.com/page) about the pump.\n",
        "| The pump on the pier failed | twice during the March storms. |\n",
        "It was old.",
        "A" * 400 + ".",
        "12 345 678 901 234 567 890 123 456 789 012 345 678 901.",
    ],
)
def test_what_is_no_running_prose_is_no_sentence(text: str) -> None:
    assert list(sentences("a.md", text)) == []


def test_sentences_around_code_are_kept() -> None:
    text = f"{PUMP}\n\n```\nThe code that stands between them is not prose at all.\n```\n\n{GAUGE}\n"
    assert [sentence.text for sentence in sentences("a.md", text)] == [PUMP, GAUGE]


def test_a_sentence_that_is_wrapped_over_lines_is_one_sentence() -> None:
    text = f"{PUMP.replace(' twice ', chr(10) + 'twice ')} {GAUGE}\n"
    assert [sentence.text for sentence in sentences("a.md", text)] == [PUMP.replace(" twice ", "\ntwice "), GAUGE]


@pytest.mark.parametrize(
    "sentence",
    [
        "iPhone repairs keep the whole workshop busy for nine days on average.",
        "\u00c9lodie Martin runs the workshop on the pier with two engineers.",
        "\u00dcber die Reparatur der Pumpe am Pier wurde lange beraten.",
    ],
)
def test_no_sentence_begins_in_the_middle_of_one(sentence: str) -> None:
    assert [found.text for found in sentences("a.md", f"{sentence}\n")] in ([sentence], [])


def test_one_long_line_of_anything_is_read_in_reasonable_time() -> None:
    """Encoded data in a text file is one line without an end; a search that goes back over it would take hours."""
    assert list(sentences("a.txt", "A9" * 1_000_000)) == []


@given(text=st.text())
def test_words_hold_no_white_space_digits_or_punctuation(text: str) -> None:
    assert all(not set(word) & set(" \n\t0123456789_.,;:!?'\"()[]") for word in words(text))


@pytest.mark.parametrize(
    ("query", "best"),
    [("Why did the pumps fail on the pier?", PUMP), ("tide gauges", GAUGE), ("hiring ENGINEERS", HIRING)],
)
def test_the_sentence_that_a_query_is_about_comes_first(query: str, best: str) -> None:
    assert Ranking(POOL).best(query)[0].text == best


@given(query=st.text())
def test_every_sentence_is_ranked_exactly_once_whatever_the_query(query: str) -> None:
    assert sorted(sentence.text for sentence in Ranking(POOL).best(query)) == sorted([PUMP, GAUGE, HIRING])


@pytest.mark.parametrize("query", ["", "the of and", "zebra", "\x00"])
def test_ties_keep_the_order_of_the_set(query: str) -> None:
    assert list(Ranking(POOL).best(query)) == POOL


def test_a_rare_word_tells_more_than_a_common_one() -> None:
    ranking = Ranking(Sentence(document="a.md", text=f"pump {rare}") for rare in ("valve", "seal", "hose"))
    assert ranking.idf("valve") > ranking.idf("pump") >= 0


def test_the_same_sentence_counts_once_but_not_across_documents() -> None:
    copies = [Sentence(document=name, text=PUMP) for name in ("a.md", "a.md", "b.md")]
    assert Ranking(copies).pool == [copies[0], copies[2]]


def test_an_empty_set_ranks_nothing() -> None:
    ranking = Ranking([])
    assert ranking.best("pump") == []
    assert ranking.idf("pump") >= 0
    assert ranking.keywords("pump") == ["pump"]


def test_a_set_without_words_ranks_all() -> None:
    blank = [Sentence(document="a.md", text="12 34"), Sentence(document="a.md", text="--")]
    assert Ranking(blank).best("pump") == blank


def test_keywords_are_the_telling_words_in_the_order_of_the_text() -> None:
    ranking = Ranking(Sentence(document="a.md", text=f"pump {rare}") for rare in ("valve", "seal", "hose"))
    assert ranking.keywords("The seal of the pump, then its valve", limit=2) == ["seal", "valve"]


@given(text=st.text(), limit=st.integers(0, 5))
def test_keywords_are_words_of_the_text_and_no_more_than_asked(text: str, limit: int) -> None:
    found = Ranking(POOL).keywords(text, limit)
    assert len(found) <= limit
    assert set(found) <= set(words(text))
