"""Hidden layers encrypted at rest; plain text and foreign ciphertext are refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, MessagesState, StateGraph

from holdfast.checkpointing import Audience, Database, HoldfastSaver, InvalidEncryptionKey, NotDecrypted

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
ON: Any = {"configurable": {"thread_id": "t"}}
HIDDEN = "sekret-instructions"
NOTE = "sekret-note"


class State(MessagesState):
    note: str
    notes: dict[str, str]


def said(state: State) -> Any:
    return {
        "messages": [SystemMessage(HIDDEN), AIMessage("an answer for everybody")],
        "note": NOTE,
        "notes": {"deep": NOTE},
    }


def graph(saver: HoldfastSaver) -> Any:
    builder = StateGraph(State)
    builder.add_node("said", said)
    builder.add_edge(START, "said")
    return builder.compile(checkpointer=saver)


@pytest.fixture
def encrypted(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with one thread, written under KEY."""
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", KEY)
    with Database.connect(database_uri) as db:
        graph(db.saver).invoke({"messages": [HumanMessage("a question")]}, ON)
    return database_uri


def everything(uri: str) -> str:
    """All that the tables hold, as text, and as bytes."""
    with psycopg.connect(uri) as connection:
        rows = [
            *connection.execute("SELECT t::text FROM checkpoints AS t"),
            *connection.execute("SELECT blob FROM checkpoint_blobs WHERE blob IS NOT NULL"),
            *connection.execute("SELECT blob FROM checkpoint_writes"),
            *connection.execute("SELECT body FROM holdfast.messages"),
        ]
    return " ".join(str(held) if isinstance(held, str) else bytes(held).decode("latin1") for (held,) in rows)


def test_only_what_every_user_may_see_is_readable_in_the_tables(encrypted: str) -> None:
    held = everything(encrypted)
    assert "an answer for everybody" in held
    assert HIDDEN not in held
    assert NOTE not in held
    assert KEY not in held


def test_with_the_key_everything_is_there(encrypted: str) -> None:
    with Database.connect(encrypted) as db:
        values = graph(db.saver).get_state(ON).values
        assert [message.content for message in values["messages"]] == ["a question", HIDDEN, "an answer for everybody"]
        assert (values["note"], values["notes"]) == (NOTE, {"deep": NOTE})
        assert HIDDEN in [entry.message.content for entry in db.messages("t", audience=Audience.AUDITOR)]
        assert graph(db.saver).invoke({"messages": [HumanMessage("again")]}, ON)["note"] == NOTE


@pytest.mark.parametrize("key", [OTHER, ""])
def test_another_key_and_none_are_refused_by_name(encrypted: str, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", key)
    with Database.connect(encrypted) as db:
        with pytest.raises(NotDecrypted, match=r"key"):
            db.saver.get_tuple(ON)
        with pytest.raises(NotDecrypted):
            db.messages("t", audience=Audience.AUDITOR)


def test_plain_text_is_refused_where_a_key_is_set(
    db: Database, database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread from before encryption, or one that somebody put there."""
    graph(db.saver).invoke({"messages": [HumanMessage("a question")]}, ON)
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", KEY)
    with Database.connect(database_uri) as sealed:
        with pytest.raises(NotDecrypted, match="not encrypted"):
            sealed.saver.get_tuple(ON)
        with pytest.raises(NotDecrypted, match="not encrypted"):
            sealed.messages("t", audience=Audience.AUDITOR)


def test_a_hidden_message_in_plain_text_is_refused_under_any_claim(encrypted: str) -> None:
    with psycopg.connect(encrypted, autocommit=True) as owner:
        owner.execute("UPDATE holdfast.messages SET type = 'msgpack' WHERE visibility <> 'visible'")
    with Database.connect(encrypted) as db, pytest.raises(NotDecrypted):
        db.saver.get_tuple(ON)


def test_the_official_encrypted_serializer_encrypts_all(database_uri: str) -> None:
    """Given as `serde=`, as to the official saver: visible messages too, and plain text is refused all the same."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with HoldfastSaver.from_conn_string(database_uri, serde=serde) as saver:
        state = graph(saver).invoke({"messages": [HumanMessage("a question")]}, ON)
        assert state["note"] == NOTE
        assert graph(saver).get_state(ON).values == state
        assert "an answer for everybody" not in everything(database_uri)


@pytest.mark.parametrize("key", ["short", "x" * 33])
def test_a_key_of_the_wrong_length_is_refused(database_uri: str, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOLDFAST_ENCRYPTION_KEY", key)
    with pytest.raises(InvalidEncryptionKey, match="16, 24 or 32") as caught:
        Database(database_uri)
    assert key not in str(caught.value)
