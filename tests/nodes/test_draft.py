"""What the draft's citations promise."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.guardrails import quoted_spans
from holdfast.nodes import Evidence, UnsupportedQuote
from holdfast.nodes.draft import check_citations, sources


def evidence(*quotes: str) -> list[Evidence]:
    return [
        Evidence(number=number, quote=quote, document=f"{number}.md", position=number * 100, angle="pumps")
        for number, quote in enumerate(quotes, 1)
    ]


PUMP = "the pump on the pier\nfailed twice in March"
TIDE = "every tide gauge reports once in six minutes"
BOTH = evidence(PUMP, TIDE)


def test_a_body_that_quotes_exactly_and_cites_is_returned_unchanged() -> None:
    body = f"You say \u201c{PUMP}\u201d [1] and \u201c{TIDE}\u201d [2]. Is that so?"
    assert check_citations(body, BOTH) == body


def test_re_flowed_quotations_get_the_documents_own_characters() -> None:
    body = 'You say "the pump on the pier failed  twice in March" [1].'
    assert check_citations(body, BOTH) == f'You say "{PUMP}" [1].'


def test_part_of_a_quotation_may_be_quoted() -> None:
    body = "You say \u201cpump on the pier failed twice\u201d [1]."
    assert check_citations(body, BOTH) == "You say \u201cpump on the pier\nfailed twice\u201d [1]."


@pytest.mark.parametrize(
    "quote",
    [
        "the pump on the pier failed three times",
        "The Pump On The Pier Failed Twice In March",
        "the pump \u2026 failed twice in March",
        f"{PUMP}. {TIDE}",
    ],
)
@pytest.mark.parametrize("marks", ['""', "\u201c\u201d"])
def test_words_that_are_not_in_the_evidence_are_refused(quote: str, marks: str) -> None:
    with pytest.raises(UnsupportedQuote, match="quotes words that are not in the evidence"):
        check_citations(f"You say {marks[0]}{quote}{marks[1]} [1].", BOTH)


def test_one_good_quotation_does_not_cover_for_a_bad_one() -> None:
    with pytest.raises(UnsupportedQuote):
        check_citations(f"\u201c{TIDE}\u201d [2] and \u201cwe are the best company ever\u201d [1]", BOTH)


@pytest.mark.parametrize("number", ["0", "3", "42", "999", "1000", "123456"])
def test_a_number_that_no_evidence_has_is_refused(number: str) -> None:
    with pytest.raises(UnsupportedQuote, match="cites evidence that does not exist"):
        check_citations(f"You say much [1], and more [{number}].", BOTH)


@pytest.mark.parametrize("body", ["", "Hello, a question.", "Hello [].", "Hello [a].", f'You say "{TIDE}".'])
def test_a_body_that_cites_nothing_is_refused(body: str) -> None:
    with pytest.raises(UnsupportedQuote, match="cites no evidence"):
        check_citations(body, BOTH)


def test_without_evidence_nothing_can_be_cited() -> None:
    with pytest.raises(UnsupportedQuote):
        check_citations("Hello [1].", [])


def test_a_short_quotation_that_is_in_the_evidence_is_not_called_unsupported() -> None:
    assert check_citations('You say "I am on it" [1].', evidence("yes, I am on it, always")).endswith("[1].")


def test_brackets_inside_a_quotation_are_the_documents_own_and_cite_nothing() -> None:
    quote = "as shown in [12], the pump failed twice"
    body = f"You say \u201c{quote}\u201d [1]."
    assert check_citations(body, evidence(quote)) == body


def test_a_number_inside_a_quotation_is_not_a_citation() -> None:
    with pytest.raises(UnsupportedQuote, match="cites no evidence"):
        check_citations(
            "\u201cas shown in [1], the pump failed twice\u201d", evidence("as shown in [1], the pump failed twice")
        )


def test_each_quotation_keeps_the_white_space_of_its_own_document() -> None:
    documents = evidence("the pump failed\ntwice today", "On Monday the pump failed twice today again")
    body = "\u201cthe pump failed  twice today\u201d [1], \u201cOn Monday the pump failed  twice today again\u201d [2]"
    checked = check_citations(body, documents)
    assert list(quoted_spans(checked)) == [item["quote"] for item in documents]


def test_only_quotations_are_changed_never_the_text_around_them() -> None:
    body = (
        'I read that the pump on the pier failed twice in March, or "the pump on the pier failed twice in March" [1].'
    )
    assert check_citations(body, BOTH).startswith("I read that the pump on the pier failed twice in March, or")


@given(
    spans=st.lists(st.sampled_from([PUMP, TIDE, PUMP.replace("\n", "  "), TIDE[6:30], "twice in March [1]"])),
    marks=st.sampled_from(['""', "\u201c\u201d"]),
)
def test_checking_a_checked_body_changes_nothing(spans: list[str], marks: str) -> None:
    """The draft is checked once as an answer and once more when it is finished."""
    body = "Hello [1]. " + " and ".join(f"{marks[0]}{span}{marks[1]} [1]" for span in spans)
    try:
        checked = check_citations(body, BOTH)
    except UnsupportedQuote:
        assume(False)
        raise
    assert check_citations(checked, BOTH) == checked
    assert all(any(span in item["quote"] for item in BOTH) for span in quoted_spans(checked))


@pytest.mark.parametrize("body", ["See [2].", "See [2], [2] and [2]."])
def test_only_what_is_cited_is_listed_and_once(body: str) -> None:
    end = 200 + len(TIDE)
    assert sources(body, BOTH) == f"Sources\n[2] 2.md, characters 200-{end}\n    \u201c{TIDE}\u201d"


def test_a_quotation_that_the_body_holds_is_not_repeated() -> None:
    assert TIDE not in sources(f"You say \u201c{TIDE}\u201d [2].", BOTH)


def test_the_sources_positions_are_where_the_quotation_stands() -> None:
    document = "On Monday " + TIDE
    item: Evidence = {"number": 1, "quote": TIDE, "document": "a.md", "position": 10, "angle": ""}
    start, end = sources("[1]", [item]).split("characters ")[1].split("\n")[0].split("-")
    assert document[int(start) : int(end)] == TIDE


@pytest.mark.parametrize("citation", ["[1]", "[2]", "[01]", "[\u0661]"])
def test_whatever_passes_as_a_citation_is_listed_in_the_sources(citation: str) -> None:
    try:
        body = check_citations(f"Hello {citation}.", BOTH)
    except UnsupportedQuote:
        return
    assert sources(body, BOTH) != "Sources"
