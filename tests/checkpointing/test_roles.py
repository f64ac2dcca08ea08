"""The database enforces who reads which message, whatever a reporting connection sends."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from psycopg import sql
from psycopg.conninfo import make_conninfo

from holdfast.checkpointing import Audience, Database, HoldfastSaver, NewEvent, Visibility, VisibilityPolicy
from tests.conftest import new_database

SECRETS = {"always": "sekret-system-prompt", "operator": "sekret-tool-result", "call": "sekret-call-argument"}
ON: Any = {"configurable": {"thread_id": "t"}, "metadata": {"correlation_id": "case-7"}}


@pytest.fixture
def thread(db: Database) -> Database:
    """A thread with every kind of message, in channels, lists, writes, a long text and a pending interrupt."""

    def model(state: MessagesState) -> Any:
        call = {"name": "search", "args": {"q": SECRETS["call"]}, "id": "c1"}
        return {"messages": [SystemMessage(SECRETS["always"]), AIMessage("", tool_calls=[call])]}

    def tools(state: MessagesState) -> Any:
        return {"messages": [ToolMessage(SECRETS["operator"] * 3000, tool_call_id="c1", name="search")]}

    def ask(state: MessagesState) -> Any:
        interrupt({"about": SECRETS["operator"]})

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_node("tools", tools)
    builder.add_node("ask", ask)
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    builder.add_edge("tools", "ask")
    builder.add_edge("ask", END)
    builder.compile(checkpointer=db.saver).invoke(
        {"messages": [HumanMessage("what do you know?"), AIMessage("I look it up.")]}, ON, durability="sync"
    )
    for visibility, said in zip(Visibility, ("for all", SECRETS["operator"] * 3000, SECRETS["always"]), strict=True):
        event = NewEvent(thread_id="t", kind="note", actor="ada", details={"said": said}, visibility=visibility)
        db.audit.append(event)
    return db


@pytest.fixture
def reporter(database_uri: str) -> Iterator[Any]:
    """Connections as a login role that is a member of one audience's role."""
    name, password = f"reporting_{secrets.token_hex(4)}", secrets.token_hex(8)
    made: list[psycopg.Connection[Any]] = []
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), password))

        def connect(role: str) -> psycopg.Connection[Any]:
            owner.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
            uri = make_conninfo(database_uri, user=name, password=password)
            made.append(psycopg.connect(uri, autocommit=True))
            return made[-1]

        yield connect
        for connection in made:
            connection.close()
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def shown(connection: psycopg.Connection[Any]) -> str:
    rows = connection.execute("SELECT role, body, node FROM holdfast.messages").fetchall()
    return " ".join(f"{role} {bytes(body)!r} {node}" for role, body, node in rows)


def test_each_role_reads_its_audiences_messages(thread: Database, reporter: Any) -> None:
    user = shown(reporter("holdfast_user"))
    assert "what do you know?" in user
    assert "I look it up." in user
    assert not any(secret in user for secret in SECRETS.values())


def test_operators_and_auditors_see_more(thread: Database, reporter: Any) -> None:
    operator = shown(reporter("holdfast_operator"))
    assert SECRETS["operator"] in operator
    assert SECRETS["always"] not in operator
    auditor = shown(reporter("holdfast_auditor"))
    assert all(secret in auditor for secret in SECRETS.values())


def test_each_role_reads_its_audiences_events(thread: Database, reporter: Any) -> None:
    expected = {"holdfast_user": 1, "holdfast_operator": 2, "holdfast_auditor": 3}
    for role, count in expected.items():
        rows = reporter(role).execute("SELECT actor, visibility, details FROM holdfast.events").fetchall()
        assert {visibility for _, visibility, _ in rows} == set(list(Visibility)[:count])


def test_no_statistics_are_kept_of_what_events_contain(thread: Database, database_uri: str) -> None:
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute("ANALYZE holdfast.events")
        columns = owner.execute("SELECT attname FROM pg_stats WHERE tablename = 'events'").fetchall()
    assert ("actor",) in columns
    assert ("details",) not in columns


ATTEMPTS = [
    "SELECT * FROM holdfast.messages",
    "SELECT digest FROM holdfast.messages",
    "SELECT position FROM holdfast.messages",
    "SELECT * FROM checkpoints",
    "SELECT * FROM checkpoint_blobs",
    "SELECT * FROM checkpoint_writes",
    "SELECT * FROM checkpoint_migrations",
    "SELECT * FROM holdfast.heads",
    "SELECT * FROM holdfast.incidents",
    "SELECT * FROM holdfast.threads",
    "SELECT * FROM store",
    "COPY holdfast.messages (body) TO STDOUT",
    "COPY (SELECT body FROM holdfast.messages) TO STDOUT",
    "SET row_security = off; SELECT body FROM holdfast.messages",
    "SET ROLE holdfast_auditor; SELECT body FROM holdfast.messages",
    "SET SESSION AUTHORIZATION postgres; SELECT body FROM holdfast.messages",
    "ALTER TABLE holdfast.messages DISABLE ROW LEVEL SECURITY",
    "DROP POLICY shown_to_users ON holdfast.messages",
    "UPDATE holdfast.messages SET visibility = 'visible'",
    "DELETE FROM holdfast.messages",
    "SELECT body FROM holdfast.messages WHERE length(convert_from(body, 'LATIN1')) / 0 > 0",
    "SELECT convert_from(body, 'UTF8')::int FROM holdfast.messages WHERE visibility <> 'visible'",
    "SELECT body FROM holdfast.messages WHERE ctid IS NOT NULL",
    "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'messages'",
    "SELECT stavalues1::text FROM pg_statistic",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT body FROM holdfast.messages",
    "SELECT query FROM pg_stat_activity",
    "SELECT string_agg(encode(chunk_data, 'escape'), '') FROM {toast}",
    "CREATE FUNCTION pg_temp.leak(b bytea) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
    "$$ BEGIN RAISE NOTICE '%', convert_from(b, 'LATIN1'); RETURN true; END $$; "
    "SELECT body FROM holdfast.messages WHERE pg_temp.leak(body)",
    "CREATE TEMP VIEW v AS SELECT body FROM holdfast.messages; SELECT * FROM v",
    "SELECT * FROM holdfast.events",
    "SELECT number FROM holdfast.events",
    "SELECT digest FROM holdfast.events",
    "SELECT * FROM holdfast.chains",
    "SELECT details FROM holdfast.events",
    "COPY holdfast.events (details) TO STDOUT",
    "SET row_security = off; SELECT details FROM holdfast.events",
    "ALTER TABLE holdfast.events DISABLE ROW LEVEL SECURITY",
    "DROP POLICY shown_to_users ON holdfast.events",
    "UPDATE holdfast.events SET visibility = 'visible'",
    "SELECT (details->>'said')::int FROM holdfast.events WHERE visibility <> 'visible'",
    "SELECT details FROM holdfast.events WHERE length(details::text) / 0 > 0",
    "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'events'",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT details FROM holdfast.events",
    "SELECT string_agg(encode(chunk_data, 'escape'), '') FROM {events_toast}",
    "CREATE FUNCTION pg_temp.leak(b jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
    "$$ BEGIN RAISE NOTICE '%', b; RETURN true; END $$; "
    "SELECT details FROM holdfast.events WHERE pg_temp.leak(details)",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_read_file('/etc/passwd')",
]


@pytest.mark.parametrize("statement", ATTEMPTS)
def test_no_statement_shows_a_user_what_is_hidden(
    thread: Database, reporter: Any, database_uri: str, statement: str
) -> None:
    """By result, error text, notice or plan."""
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute("ANALYZE")
        found = owner.execute(
            "SELECT m.reltoastrelid::regclass::text, e.reltoastrelid::regclass::text FROM pg_class AS m, pg_class AS e"
            " WHERE m.oid = 'holdfast.messages'::regclass AND e.oid = 'holdfast.events'::regclass"
        ).fetchone()
        assert found is not None
    connection = reporter("holdfast_user")
    seen: list[str] = []

    def heard(notice: psycopg.errors.Diagnostic) -> None:
        seen.append(notice.message_primary or "")

    connection.add_notice_handler(heard)
    named = statement.replace("{toast}", found[0]).replace("{events_toast}", found[1])
    for part in named.split("; ") if "$$" not in statement else [statement]:
        try:
            if part.startswith("COPY"):
                with connection.cursor().copy(part.encode()) as copy:
                    seen += [bytes(block).decode("latin1") for block in copy]
            else:
                for cursor in connection.execute(part.encode(), prepare=False).results():
                    seen.append(repr(cursor.fetchall()) if cursor.description else "")
        except psycopg.Error as error:
            seen.append(f"{error} {error.diag.message_detail} {error.diag.context}")
    assert not [secret for secret in SECRETS.values() if any(secret in text for text in seen)]


def test_the_log_reads_by_audience_through_our_code_as_well(thread: Database) -> None:
    user = thread.messages("t")
    assert [entry.message.content for entry in user] == ["what do you know?", "I look it up."]
    operator = thread.messages("t", audience=Audience.OPERATOR)
    assert [entry.message.type for entry in operator] == ["human", "ai", "ai", "tool"]
    everything = thread.messages("t", audience=Audience.AUDITOR)
    assert {entry.visibility for entry in everything} == set(Visibility)
    assert {entry.correlation_id for entry in everything} == {"case-7"}
    assert [(entry.node, entry.step) for entry in everything[2:]] == [("model", 0), ("model", 0), ("tools", 1)]


async def test_the_log_reads_from_any_loop(thread: Database) -> None:
    assert [entry.message.type for entry in await thread.amessages("t")] == ["human", "ai"]


def test_a_policy_decides_what_is_stored(database_uri: str) -> None:
    policy = VisibilityPolicy(tools={"search": Visibility.ALWAYS_HIDDEN})
    with HoldfastSaver.from_conn_string(database_uri, policy=policy) as saver, psycopg.connect(database_uri) as owner:
        builder = StateGraph(MessagesState)
        builder.add_node("n", lambda state: {"messages": [ToolMessage("x", tool_call_id="c", name="search")]})
        builder.add_edge(START, "n")
        builder.compile(checkpointer=saver).invoke({"messages": []}, ON)
        assert owner.execute("SELECT visibility FROM holdfast.messages").fetchall() == [("always_hidden",)]


def test_set_up_without_the_right_to_create_roles_says_what_to_run(
    server_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And works: only the database's own guard is missing, until the next set-up that finds the roles."""
    name, password, aside = f"plain_{secrets.token_hex(4)}", secrets.token_hex(8), f"aside_{secrets.token_hex(4)}"
    us, elsewhere, auditor = map(sql.Identifier, (name, aside, "holdfast_auditor"))
    rename = sql.SQL("ALTER ROLE {} RENAME TO {}")
    with new_database(server_uri) as uri, psycopg.connect(uri, autocommit=True) as owner:
        ours = make_conninfo(uri, user=name, password=password)
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(us, password))
        owner.execute(sql.SQL("CREATE SCHEMA holdfast AUTHORIZATION {}").format(us))
        owner.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(us))
        try:
            owner.execute(rename.format(auditor, elsewhere))
            try:
                with caplog.at_level(logging.WARNING, "holdfast.checkpointing"), Database.connect(ours) as db:
                    line = StateGraph(MessagesState).add_node("n", say)
                    line.add_edge(START, "n").compile(checkpointer=db.saver).invoke({"messages": []}, ON)
                    assert [entry.message.content for entry in db.messages("t")] == ["said"]
            finally:
                owner.execute(rename.format(elsewhere, auditor))
            assert "CREATE ROLE holdfast_auditor NOLOGIN" in caplog.text
            assert policies(owner) == 0
            Database(ours).close()
            assert policies(owner) == 6
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(us))
            owner.execute(sql.SQL("DROP ROLE {}").format(us))


def say(state: MessagesState) -> Any:
    return {"messages": [AIMessage("said")]}


def policies(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("SELECT count(*) FROM pg_policies WHERE schemaname = 'holdfast'").fetchone()
    assert found is not None
    return int(found[0])
