"""What `check_quotes` promises, against a real database."""

from __future__ import annotations

import pytest

from holdfast.checkpointing import Database, Document
from holdfast.nodes import Quote
from holdfast.nodes.select import check_quotes

PUMPS = Document(name="pumps.md", text="\u6771\u4eac: On Monday the pump\nfailed twice. A new bearing was fitted.")
TIDES = Document(name="notes/tides.txt", text="The tide gauge is read every six minutes.")


@pytest.fixture
def dossier_id(db: Database) -> str:
    return db.documents.save([PUMPS, TIDES])


def quote(text: str, document: str = "pumps.md") -> Quote:
    return Quote(quote=text, document=document, angle="repairs")


def test_a_kept_quotation_is_the_documents_text_at_its_position(db: Database, dossier_id: str) -> None:
    update = check_quotes([quote('"the pump failed twice."')], db.documents, dossier_id)
    (kept,) = update["evidence"]
    assert kept == {
        "number": 1,
        "quote": "the pump\nfailed twice.",
        "document": "pumps.md",
        "position": 14,
        "angle": "repairs",
    }
    assert PUMPS.text[14:].startswith(kept["quote"])
    assert update["problems"] == []


def test_evidence_is_numbered_from_one_in_the_given_order_without_gaps(db: Database, dossier_id: str) -> None:
    update = check_quotes(
        [
            quote("read every six minutes", TIDES.name),
            quote("this is nowhere at all"),
            quote("A new bearing was fitted"),
        ],
        db.documents,
        dossier_id,
    )
    assert [(kept["number"], kept["document"]) for kept in update["evidence"]] == [(1, TIDES.name), (2, PUMPS.name)]


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (quote("the pump failed thrice"), "not in the document"),
        (quote("read every six minutes"), "not in the document"),
        (quote("pump"), "not in the document"),
        (quote(""), "not in the document"),
        (quote("\u00a0" * 20), "not in the document"),
        (quote("the pump failed twice", "pump.md"), "no such document"),
        (quote("the pump failed twice", ""), "no such document"),
        (quote("the pump failed twice", "pumps\x00.txt"), "no such document"),
        (quote("the pump failed twice", "\ud83d"), "no such document"),
    ],
    ids=["changed", "of another document", "short", "empty", "blank", "misspelt", "no name", "NUL", "half a character"],
)
def test_what_does_not_stand_in_its_document_is_dropped_and_reported(
    db: Database, dossier_id: str, chosen: Quote, problem: str
) -> None:
    update = check_quotes([chosen], db.documents, dossier_id)
    assert update["evidence"] == []
    (reported,) = update["problems"]
    assert (reported["node"], reported["subject"]) == ("select", chosen["document"])
    assert reported["problem"] == f"{problem}, dropped: {chosen['quote']}"


def test_the_same_quotation_twice_is_kept_once_and_is_no_problem(db: Database, dossier_id: str) -> None:
    twice = [quote("the pump failed twice"), quote(" the  pump\nfailed twice ")]
    update = check_quotes(twice, db.documents, dossier_id)
    assert len(update["evidence"]) == 1
    assert update["problems"] == []


def test_no_quotations_give_no_evidence_and_no_problem(db: Database, dossier_id: str) -> None:
    assert check_quotes([], db.documents, dossier_id) == {"evidence": [], "problems": []}
