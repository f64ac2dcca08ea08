"""What `split_passages` and `Documents` promise."""

from __future__ import annotations

import asyncio
import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.checkpointing import Database, Document, UnknownDocument
from holdfast.checkpointing.documents import dossier_digest, split_passages

TEXTS = st.text(st.sampled_from("abc. \n\t\r\u00a0\u2028\f\U0001f600"), max_size=200) | st.text(max_size=100)
STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
NAMES = st.text(STORABLE, min_size=1, max_size=30)
DOSSIERS = st.dictionaries(NAMES, st.text(STORABLE, max_size=100), max_size=4)
with_database = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

PUMPS = Document(name="pumps.md", text="The pump on the pier failed twice in March.\n\nA new bearing was fitted.")
TIDES = Document(name="notes/tides.txt", text="The tide gauge is read every six minutes.")


def documents_of(texts: dict[str, str]) -> list[Document]:
    return [Document(name=name, text=text) for name, text in texts.items()]


@given(text=TEXTS, size=st.integers(1, 60))
def test_every_passage_is_verbatim_at_its_position(text: str, size: int) -> None:
    for passage in split_passages(Document(name="a", text=text), size):
        assert passage.document == "a"
        assert text[passage.position : passage.position + len(passage.text)] == passage.text
        assert passage.text.strip()


@given(text=TEXTS, size=st.integers(1, 60))
def test_passages_come_in_order_do_not_overlap_and_leave_out_only_white_space(text: str, size: int) -> None:
    end = 0
    for passage in split_passages(Document(name="a", text=text), size):
        assert passage.position >= end
        assert not text[end : passage.position].strip()
        end = passage.position + len(passage.text)
    assert not text[end:].strip()


@given(paragraphs=st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=30), max_size=20))
def test_a_passage_is_longer_than_asked_only_where_a_cut_would_leave_less_than_half(paragraphs: list[str]) -> None:
    for passage in split_passages(Document(name="a", text="\n\n".join(paragraphs)), size=40):
        last = passage.text.rpartition("\n\n")[2]
        assert len(passage.text) <= 40 or len(passage.text) - len(last) - 2 < 20


def test_paragraphs_are_never_cut() -> None:
    text = "\n\n".join(f"line one of {number}\nline two of {number}" for number in range(50))
    passages = list(split_passages(Document(name="a", text=text), size=100))
    assert len(passages) > 5
    assert "\n\n".join(passage.text for passage in passages) == text


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\u00a0\t\u2028"])
def test_a_blank_document_has_no_passages(text: str) -> None:
    assert list(split_passages(Document(name="a", text=text))) == []


def test_cutting_takes_memory_in_proportion_to_the_text() -> None:
    """A log of 20 MiB without a blank line is one paragraph, and an accepted document."""
    document = Document(name="a.log", text="one line of a log\n" * 50_000)
    tracemalloc.start()
    try:
        list(split_passages(document))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(document.text)


def test_a_dossiers_id_depends_on_every_name_and_every_text() -> None:
    other_name = Document(name="pump.md", text=PUMPS.text)
    other_text = Document(name=PUMPS.name, text=PUMPS.text + " ")
    dossiers = [[], [PUMPS], [TIDES], [PUMPS, TIDES], [other_name, TIDES], [other_text, TIDES]]
    assert len({dossier_digest(dossier) for dossier in dossiers}) == len(dossiers)


@given(data=st.data(), texts=DOSSIERS)
def test_a_dossiers_id_does_not_depend_on_the_order(data: st.DataObject, texts: dict[str, str]) -> None:
    documents = documents_of(texts)
    assert dossier_digest(data.draw(st.permutations(documents))) == dossier_digest(documents)


def test_no_file_name_can_pose_as_another_document() -> None:
    """A file's name may hold a line end."""
    first, second = sorted([PUMPS, TIDES], key=lambda document: document.digest)
    posing = Document(name=f"{first.name}\n{second.digest} {second.name}", text=first.text)
    assert dossier_digest([posing]) != dossier_digest([first, second])


@with_database
@given(texts=DOSSIERS)
def test_what_is_saved_is_read_back_exactly(db: Database, texts: dict[str, str]) -> None:
    dossier_id = db.documents.save(documents_of(texts))
    assert set(db.documents.names(dossier_id)) == set(texts)
    for name, text in texts.items():
        assert db.documents.read(dossier_id, name) == Document(name=name, text=text)


def test_saving_again_in_any_order_gives_the_same_id_and_changes_nothing(db: Database) -> None:
    first = db.documents.save([PUMPS, TIDES])
    found = db.documents.search(first, "pump bearing tide")
    assert db.documents.save([TIDES, PUMPS]) == first
    assert db.documents.names(first) == [TIDES.name, PUMPS.name]
    assert db.documents.search(first, "pump bearing tide") == found


async def test_saving_at_the_same_time_is_the_same_as_saving_once(db: Database) -> None:
    ids = await asyncio.gather(*(db.documents.asave([PUMPS, TIDES]) for _ in range(8)))
    assert len(set(ids)) == 1
    assert await db.documents.anames(ids[0]) == [TIDES.name, PUMPS.name]


async def test_saving_shared_documents_in_opposite_orders_at_the_same_time_never_fails(db: Database) -> None:
    """Two runs over overlapping folders must not deadlock."""
    for turn in range(3):
        documents = [Document(name=f"{number}.md", text=f"text {number} of {turn}") for number in range(600)]
        extra = Document(name="extra.md", text="extra")
        orders = [documents, documents[::-1], [*documents, extra], [*documents[::-1], extra]]
        assert len(set(await asyncio.gather(*(db.documents.asave(order) for order in orders)))) == 2


async def test_the_async_methods_do_what_the_sync_ones_do(db: Database) -> None:
    dossier_id = await db.documents.asave([PUMPS, TIDES])
    assert dossier_id == db.documents.save([PUMPS, TIDES])
    assert await db.documents.anames(dossier_id) == db.documents.names(dossier_id)
    assert await db.documents.aread(dossier_id, PUMPS.name) == db.documents.read(dossier_id, PUMPS.name)
    assert await db.documents.asearch(dossier_id, "pump") == db.documents.search(dossier_id, "pump")


def test_one_text_under_two_names_is_two_documents(db: Database) -> None:
    dossier_id = db.documents.save([PUMPS, Document(name="copy.md", text=PUMPS.text)])
    assert db.documents.names(dossier_id) == ["copy.md", "pumps.md"]
    assert {found.document for found in db.documents.search(dossier_id, "bearing")} == {"copy.md", "pumps.md"}


def test_names_are_sorted_by_their_characters_whatever_the_servers_language(db: Database) -> None:
    names = [
        "a.md",
        "B.md",
        "Z/x.md",
        "_.md",
        "a b.md",
        "a-b.md",
        "\u00e9.md",
        "z.md",
        "\u6771\u4eac.txt",
        "\U0001f600.md",
    ]
    dossier_id = db.documents.save(documents_of(dict.fromkeys(names, "text")))
    assert db.documents.names(dossier_id) == sorted(names)


def test_an_empty_dossier_and_an_unknown_one_hold_nothing(db: Database) -> None:
    for dossier_id in (db.documents.save([]), "no-such-dossier"):
        assert db.documents.names(dossier_id) == []
        assert db.documents.search(dossier_id, "pump") == []
        with pytest.raises(UnknownDocument, match="it holds: nothing"):
            db.documents.read(dossier_id, "a.md")


@pytest.mark.parametrize("name", ["pump.md", "PUMPS.MD", "", "pumps.md ", "pumps%", "\ud83d", "../pumps.md"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(db: Database, name: str) -> None:
    """A model spells names as it likes, half of an emoji included."""
    dossier_id = db.documents.save([PUMPS, TIDES])
    with pytest.raises(UnknownDocument) as caught:
        db.documents.read(dossier_id, name)
    assert (caught.value.name, caught.value.known) == (name, [TIDES.name, PUMPS.name])


def test_search_finds_the_words_in_any_form_best_first(db: Database) -> None:
    dossier_id = db.documents.save([PUMPS, TIDES])
    found = db.documents.search(dossier_id, "pumps that are failing, gauges")
    assert [passage.document for passage in found] == [PUMPS.name, TIDES.name]
    assert found[0].text == PUMPS.text[found[0].position :][: len(found[0].text)]


def test_search_finds_a_document_by_any_one_of_the_words(db: Database) -> None:
    dossier_id = db.documents.save([PUMPS])
    assert db.documents.search(dossier_id, "unheard absent bearing")


def test_search_keeps_to_its_dossier(db: Database) -> None:
    db.documents.save([PUMPS])
    assert db.documents.search(db.documents.save([TIDES]), "pump") == []


def test_search_returns_at_most_the_limit(db: Database) -> None:
    dossier_id = db.documents.save(documents_of({f"{number}.md": f"pump {number}" for number in range(12)}))
    assert [len(db.documents.search(dossier_id, "pump", limit)) for limit in (0, 1, 5, 20)] == [0, 1, 5, 12]
    assert len(db.documents.search(dossier_id, "pump")) == 8


@pytest.mark.parametrize(
    "query",
    ["", " ", "the and of a", "!!!", "& | ! <-> :*", "pump & !tide", "'pump", "pump\\", "(pump", "\x00", "p\x00ump"],
)
def test_no_query_is_an_error(db: Database, query: str) -> None:
    dossier_id = db.documents.save([PUMPS, TIDES])
    found = db.documents.search(dossier_id, query)
    assert bool(found) is ("p" in query)


def test_an_ampersand_inside_a_web_address_is_part_of_the_address(db: Database) -> None:
    """The text search keeps an address's path as one word, `&` included."""
    dossier_id = db.documents.save([Document(name="a.md", text="See https://one.example/pump?a=1&b=2 today")])
    assert db.documents.search(dossier_id, "https://two.example/pump?a=1&b=2")


@with_database
@given(query=st.text(max_size=60) | st.text(st.sampled_from("ab &|!<->:*()'\"\\\x00\ud83d%_"), max_size=40))
def test_search_takes_any_text_as_a_query(db: Database, query: str) -> None:
    dossier_id = db.documents.save([PUMPS])
    assert len(db.documents.search(dossier_id, query)) <= 1


def test_a_document_of_one_huge_paragraph_is_saved_read_and_found(db: Database) -> None:
    """A log file without blank lines; Postgres indexes at most 1 MiB of words in one text."""
    chance = random.Random(1)  # noqa: S311 - only has to vary
    text = "\n".join(f"{chance.getrandbits(64):x} pump" for _ in range(100_000))
    dossier_id = db.documents.save([Document(name="pumps.log", text=text)])
    assert db.documents.read(dossier_id, "pumps.log").text == text
    assert db.documents.search(dossier_id, "pump")
