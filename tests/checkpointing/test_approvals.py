"""A request waits without cost, is decided once, by whom may, on exactly what was asked; and all of it is on record."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from holdfast.checkpointing import (
    AlreadyDecided,
    AlreadyVoted,
    ApprovalRequest,
    ArgumentsChanged,
    Database,
    Decided,
    DecisionNotAllowed,
    DecisionRefused,
    HoldfastSaver,
    InvalidDecision,
    InvalidRequest,
    InvalidTerms,
    LeaseLost,
    NotADecider,
    RequestExpired,
    Terms,
    UnknownRequest,
    Visibility,
    action_digest,
)
from holdfast.checkpointing.requests import EXPIRY, POLICY
from tests.support.asked import MAIL, NOON, SCHEMA, Clock, asking, opened, said, told

HOUR = timedelta(hours=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def clock(db: Database) -> Clock:
    """The approvals' time."""
    db.approvals.clock = clock = Clock()
    return clock


def test_what_was_asked_is_read_as_it_was_written(db: Database, clock: Clock) -> None:
    terms = Terms(
        deciders=("ada", "bob"),
        quorum=2,
        expires_in=timedelta(days=3, microseconds=5),
        on_expiry="escalate",
        escalate_to=("eve", "dan"),
        remind_every=HOUR,
        bulk=True,
    )
    new = asking(
        arguments={"whole": 5, "float": 5.0, "tiny": 1e-7, "large": 1e22, "deep": [{"b": None, "a": True}]},
        description="Send it?",
        context={"cost": "0.10"},
        checkpoint_ns="sub:1",
        node="approve",
        step=3,
        correlation_id="case-7",
        run_id="r",
        graph_id="outreach",
    )
    (request,) = db.approvals.open([replace(new, terms=terms)])
    for name in ("arguments", "description", "context", "schema", "checkpoint_ns", "node", "step", "graph_id"):
        assert getattr(request, name) == getattr(new, name)
    assert request.terms == terms
    assert [type(request.arguments[name]) for name in ("whole", "float", "large")] == [int, float, float]
    assert list(request.arguments) == list(new.arguments)
    assert (request.state, request.votes, request.deciders) == ("waiting", (), ("ada", "bob"))
    assert (request.requested_at, request.expires_at) == (NOON, NOON + timedelta(days=3, microseconds=5))
    assert request.digest == action_digest("send_email", new.arguments)
    assert db.approvals.get(request.request_id) == request
    assert asyncio.run(db.approvals.aget(request.request_id)) == request


def test_a_day_is_as_long_as_it_is(database_uri: str, db: Database, clock: Clock) -> None:
    """Not as long as the session's time zone has it when its clocks are changed."""
    name = conninfo_to_dict(database_uri)["dbname"]
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'".encode())
    clock.at = NOON.replace(month=10, day=24)
    with Database.connect(database_uri) as other:
        other.approvals.clock = clock
        assert opened(other, expires_in=timedelta(days=2)).expires_at == clock.at + timedelta(days=2)


def test_what_is_there_stays_as_it_is(db: Database) -> None:
    """A process that died between recording the request and pausing finds its own."""
    first = opened(db, deciders=("ada",))
    assert opened(db, deciders=("bob",)) == first
    both = db.approvals.open([asking("call 2"), asking(deciders=("eve",))])
    assert [request.call_id for request in both] == ["call 2", "call 1"]
    assert both[1] == first
    assert db.approvals.of_task("t", "task") == [first, both[0]]
    assert db.approvals.of_task("t", "another") == db.approvals.of_task("u", "task") == []
    db.approvals.decide(first.request_id, said(first))
    assert opened(db).state == "approved"
    assert told(db) == [("requested", told(db)[0][1]), ("requested", told(db)[0][1]), ("decided", "ada")]


def test_all_requests_of_a_turn_are_made_or_none(db: Database) -> None:
    with pytest.raises(InvalidRequest):
        db.approvals.open([asking(), asking("call 2", name="")])

    async def also(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        if request.call_id == "call 2":
            raise RuntimeError("no")

    db.approvals.also = also
    with pytest.raises(RuntimeError):
        db.approvals.open([asking(), asking("call 2")])
    assert db.approvals.find() == []
    assert told(db) == []


def test_a_waiver_is_on_record_and_nobody_need_decide(db: Database, clock: Clock) -> None:
    request = opened(db, waived="amount below 5", expires_in=HOUR)
    assert (request.state, request.granted, request.settled) == ("waived", True, True)
    assert (request.decided_by, request.expires_at) == (POLICY, None)
    with pytest.raises(AlreadyDecided, match="was waived by holdfast:policy at 2026-11-21 12:00:00 UTC"):
        db.approvals.decide(request.request_id, said(request))
    clock.go(days=1)
    assert db.approvals.tend() == []
    (event, _) = db.audit.read(thread_id="t")
    assert (event.kind, event.details["why"]) == ("approval.waived", "amount below 5")


@pytest.mark.parametrize(
    ("type", "more", "state"),
    [
        ("approve", {"message": "fine"}, "approved"),
        ("edit", {"arguments": {"to": "bob@example.com"}}, "edited"),
        ("reject", {"message": "too early"}, "rejected"),
        ("respond", {"message": "ask him first"}, "responded"),
    ],
)
def test_a_decision_is_taken_once(db: Database, clock: Clock, type: Any, more: dict[str, Any], state: str) -> None:
    request = opened(db)
    clock.go(minutes=5)
    decided = db.approvals.decide(request.request_id, said(request, "ada", type, **more))
    assert (decided.state, decided.decision, decided.decided_by, decided.decided_at) == (state, type, "ada", clock.at)
    assert decided.message == more.get("message", "")
    assert decided.final_arguments == more.get("arguments", MAIL)
    assert decided.final_digest == action_digest("send_email", decided.final_arguments)
    assert decided.granted is (type in ("approve", "edit"))
    with pytest.raises(AlreadyDecided) as refused:
        db.approvals.decide(request.request_id, said(request, "bob", "reject"))
    assert (refused.value.by, refused.value.at, refused.value.decision) == ("ada", clock.at, type)
    assert f"was {state} by ada at 2026-11-21 12:05:00 UTC" in str(refused.value)
    assert db.approvals.get(request.request_id) == decided
    assert [event for event in told(db) if event[0] != "requested"] == [("decided", "ada"), ("refused", "bob")]


def test_errors_survive_a_pickle(db: Database) -> None:
    request = opened(db)
    db.approvals.decide(request.request_id, said(request))
    with pytest.raises(AlreadyDecided) as refused:
        db.approvals.decide(request.request_id, said(request))
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301  # our own
    assert (type(again), str(again), again.by) == (AlreadyDecided, str(refused.value), "ada")


def test_a_decision_is_on_what_was_asked(db: Database) -> None:
    """An approval of other arguments, or of those of an older request, does not apply."""
    request = opened(db)
    other = action_digest("send_email", {**MAIL, "to": "eve@example.com"})
    with pytest.raises(ArgumentsChanged):
        db.approvals.decide(request.request_id, said(request, digest=other))
    assert db.approvals.get(request.request_id) == request
    assert told(db)[1:] == [("refused", "ada")]


def test_only_who_was_asked_decides(db: Database) -> None:
    request = opened(db, deciders=("ada", "bob"))
    with pytest.raises(NotADecider, match=r"'eve' may not decide on request '.*'; it is for ada, bob"):
        db.approvals.decide(request.request_id, said(request, "eve"))
    assert db.approvals.find(for_decider="eve") == []
    assert db.approvals.find(for_decider="bob") == [request]
    assert db.approvals.decide(request.request_id, said(request, "bob")).decided_by == "bob"


@pytest.mark.parametrize("name", ["", "a" * 201, "a\nb", "a\x00b", "\ud800", "holdfast:expiry", None])
def test_a_decider_has_a_name(db: Database, name: Any) -> None:
    request = opened(db)
    with pytest.raises(InvalidDecision, match="the name of who decides must"):
        db.approvals.decide(request.request_id, said(request, name))
    with pytest.raises(InvalidTerms):
        Terms(deciders=(name,))
    assert len(told(db)) == 1


def test_only_what_is_offered_is_decided(db: Database) -> None:
    request = opened(db, allowed=("approve", "reject"))
    with pytest.raises(DecisionNotAllowed, match="allowed: approve, reject"):
        db.approvals.decide(request.request_id, said(request, "ada", "edit", arguments=MAIL))
    assert db.approvals.get(request.request_id) == request


@pytest.mark.parametrize(
    "decided",
    [
        {"type": "allow"},
        {"digest": ""},
        {"digest": None},
        {"type": "respond"},
        {"type": "respond", "message": " \n"},
        {"type": "edit"},
        {"arguments": MAIL},
        {"message": "a" * 10_001},
        {"message": 5},
        {"type": "edit", "arguments": ["to"]},
        {"type": "edit", "arguments": {"to": object()}},
        {"type": "edit", "arguments": {"to": "a" * 1_000_001}},
    ],
)
def test_an_answer_that_is_no_decision_changes_nothing(db: Database, decided: dict[str, Any]) -> None:
    request = opened(db)
    with pytest.raises(InvalidDecision, match="cannot be taken: "):
        db.approvals.decide(request.request_id, said(request, **decided))
    assert db.approvals.get(request.request_id) == request
    assert len(told(db)) == 1


@pytest.mark.parametrize(
    ("arguments", "place", "problem"),
    [
        ({**MAIL, "copies": 9}, "$.copies", "greater than the maximum of 5"),
        ({**MAIL, "to": "nobody"}, "$.to", "does not match"),
        ({"copies": 1}, "$", "'to' is a required property"),
        ({**MAIL, "bcc": "eve@example.com"}, "$", "'bcc' was unexpected"),
        ({**MAIL, "copies": "2"}, "$.copies", "is not of type 'integer'"),
    ],
)
def test_an_edit_is_what_the_action_takes(db: Database, arguments: dict[str, Any], place: str, problem: str) -> None:
    request = opened(db)
    with pytest.raises(InvalidDecision, match=problem) as refused:
        db.approvals.decide(request.request_id, said(request, "ada", "edit", arguments=arguments))
    assert refused.value.place == place
    assert db.approvals.get(request.request_id) == request


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"properties": {"to": {"$ref": "http://localhost:9/schema.json"}}}, "which is not in the schema itself"),
        ({"$dynamicRef": "file:///etc/passwd"}, "which is not in the schema itself"),
        ({"type": "objekt"}, "is no JSON schema"),
        ({"properties": {"to": {"enum": ["a" * 250_000]}}}, "is larger than 250,000 bytes"),
        ([], "must be an object"),
    ],
)
def test_a_schema_is_one_and_refers_to_nothing_else(db: Database, schema: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"its schema.*{problem}"):
        opened(db, schema=schema)


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/$defs/none"}, {"properties": {"to": {"pattern": "("}}}], ids=str
)
def test_a_schema_that_cannot_be_used_keeps_nobody_from_rejecting(db: Database, schema: dict[str, Any]) -> None:
    try:
        request = opened(db, schema=schema)
    except InvalidRequest:
        return
    with pytest.raises(InvalidDecision, match="cannot be held against the schema"):
        db.approvals.decide(request.request_id, said(request, "ada", "edit", arguments=MAIL))
    assert db.approvals.decide(request.request_id, said(request, "ada", "reject")).state == "rejected"


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"arguments": deep(101)}, "lies deeper than 100 levels"),
        ({"arguments": deep(20_000)}, "lies deeper than 100 levels"),
        ({"context": deep(20_000)}, "its context at .* lies deeper"),
        ({"arguments": {"a" * 1_000: ["b" * 1_000] * 1_000}}, "is larger than 1,000,000 bytes as JSON"),
        ({"arguments": {"to": {1, 2}}}, r"its arguments at \$.to is no JSON, but a set"),
        ({"arguments": {"to": {(1, 2): 3}}}, "is named by what is no text"),
        ({"arguments": {"n": 10**5_000}}, "is no JSON"),
        ({"arguments": "to"}, "must be an object, not str"),
        ({"context": {"a": "b" * 2_000_001}}, "its context is larger"),
        ({"description": "a" * 10_001}, "its description must be a text of at most 10,000"),
        ({"name": ""}, "its name must be a text of 1 to 200"),
        ({"name": "a" * 201}, "its name must"),
        ({"thread_id": "a\x00"}, "characters that Postgres cannot keep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_kept_is_no_request(db: Database, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        opened(db, **given)
    assert db.approvals.find() == []


def test_hostile_texts_are_kept_and_shown(db: Database) -> None:
    hostile = "<script>\u202e\x00\ud800" + "\U0001f600" * 50_000
    request = opened(db, arguments={"to": hostile, "a\x00": 1}, description=hostile[:50], context={"x": hostile})
    shown = hostile.replace("\x00", "\ufffd").replace("\ud800", "?")
    assert request.arguments == {"to": shown, "a\ufffd": 1}
    assert request.context == {"x": shown}
    assert request.digest == action_digest("send_email", {"to": hostile, "a\x00": 1})
    assert db.approvals.decide(request.request_id, said(request, message="\x00\ud800")).message == "\ufffd?"
    (event, *_) = db.audit.read(thread_id="t")
    assert event.visibility is Visibility.USER_HIDDEN
    assert len(str(event.details["arguments"])) < 5_000
    assert db.audit.verify() == []


@given(JSON, st.text())
def test_a_digest_is_the_same_after_a_round_trip(value: Any, name: str) -> None:
    import json

    arguments = {"value": value}
    again = json.loads(json.dumps(arguments))
    shuffled = json.loads(json.dumps(arguments, sort_keys=True, ensure_ascii=False))
    assert action_digest(name, arguments) == action_digest(name, again) == action_digest(name, shuffled)


def test_a_digest_tells_actions_apart() -> None:
    actions: list[tuple[str, dict[str, Any]]] = [
        ("a", {}), ("b", {}), ("a", {"x": 1}), ("a", {"x": "1"}), ("a", {"x": True}), ("a", {"x": None}),
        ("a", {"x": [1]}), ("a", {"x": 1.5}), ("a", {"x": "a\x00"}), ("a", {"x": "a\ufffd"}), ("a", {"y": 1}),
    ]  # fmt: skip
    assert len({action_digest(*action) for action in actions}) == len(actions)


def test_a_quorum_is_of_different_people(db: Database) -> None:
    request = opened(db, deciders=("ada", "bob", "eve"), quorum=2)
    assert request.terms.allowed == ("approve", "reject")
    once = db.approvals.decide(request.request_id, said(request, "ada"))
    assert (once.state, once.votes, once.decided_by) == ("waiting", ("ada",), None)
    with pytest.raises(AlreadyVoted, match="has 1 of 2 approvals"):
        db.approvals.decide(request.request_id, said(request, "ada"))
    done = db.approvals.decide(request.request_id, said(request, "eve"))
    assert (done.state, done.votes, done.decided_by) == ("approved", ("ada", "eve"), "eve")
    assert told(db)[1:] == [("voted", "ada"), ("refused", "ada"), ("decided", "eve")]


def test_one_rejection_decides(db: Database) -> None:
    """Even of somebody who has approved before."""
    request = opened(db, quorum=3)
    db.approvals.decide(request.request_id, said(request, "ada"))
    done = db.approvals.decide(request.request_id, said(request, "ada", "reject"))
    assert (done.state, done.decided_by) == ("rejected", "ada")


def test_time_rejects(db: Database, clock: Clock) -> None:
    request = opened(db, expires_in=HOUR)
    clock.go(minutes=59, seconds=59)
    assert db.approvals.tend() == []
    clock.go(seconds=1)
    (change,) = db.approvals.tend()
    assert (change.kind, change.request.state, change.request.decided_by) == ("expired", "expired", EXPIRY)
    assert change.request.decided_at == clock.at
    assert db.approvals.tend() == []
    with pytest.raises(RequestExpired, match="is over: it was rejected for that at 2026-11-21 13:00:00 UTC"):
        db.approvals.decide(request.request_id, said(request))
    assert [kind for kind, _ in told(db)] == ["requested", "expired", "refused"]


def test_a_decision_that_is_too_late_does_not_wait_for_somebody_to_look(db: Database, clock: Clock) -> None:
    """It is refused, and what time does is done, whether or not anybody has tended the requests."""
    request = opened(db, expires_in=HOUR)
    clock.go(hours=1)
    with pytest.raises(RequestExpired):
        db.approvals.decide(request.request_id, said(request))
    assert db.approvals.get(request.request_id).state == "expired"
    with pytest.raises(RequestExpired):
        db.approvals.withdraw(request.request_id, "ada", "no need")
    assert [kind for kind, _ in told(db)] == ["requested", "expired", "refused"]
    assert db.approvals.tend() == []


def test_time_approves_what_may_be_approved_by_it(db: Database, clock: Clock) -> None:
    request = opened(db, expires_in=HOUR, on_expiry="approve")
    (change,) = db.approvals.tend(clock.go(hours=2))
    assert (change.kind, change.request.state, change.request.granted) == ("approved", "approved", True)
    with pytest.raises(RequestExpired, match="it was approved for that"):
        db.approvals.decide(request.request_id, said(request, "ada", "reject"))


def test_others_are_asked_before_time_rejects(db: Database, clock: Clock) -> None:
    terms: dict[str, Any] = {"expires_in": HOUR, "on_expiry": "escalate", "escalate_to": ("eve", "dan"), "quorum": 2}
    request = opened(db, deciders=("ada", "bob"), **terms)
    db.approvals.decide(request.request_id, said(request, "ada"))
    clock.go(hours=5)
    (change,) = db.approvals.tend()
    assert (change.kind, change.request.state) == ("escalated", "waiting")
    assert (change.request.deciders, change.request.level, change.request.votes) == (("eve", "dan"), 1, ())
    assert change.request.expires_at == clock.at + HOUR
    with pytest.raises(NotADecider):
        db.approvals.decide(request.request_id, said(request, "bob"))
    db.approvals.decide(request.request_id, said(request, "eve"))
    clock.go(hours=1)
    with pytest.raises(RequestExpired):
        db.approvals.decide(request.request_id, said(request, "dan"))
    assert db.approvals.get(request.request_id).state == "expired"


def test_who_is_too_late_is_told_who_may_decide_now(db: Database, clock: Clock) -> None:
    request = opened(db, deciders=("ada",), expires_in=HOUR, on_expiry="escalate", escalate_to=("ada", "eve"))
    clock.go(hours=1)
    with pytest.raises(RequestExpired, match="it was escalated to ada, eve"):
        db.approvals.decide(request.request_id, said(request))
    assert db.approvals.decide(request.request_id, said(request)).state == "approved"


def test_reminders_come_again_and_again(db: Database, clock: Clock) -> None:
    request = opened(db, remind_every=HOUR, expires_in=timedelta(hours=3))
    kinds: list[list[str]] = []
    for _ in range(4):
        clock.go(hours=1)
        kinds.append([change.kind for change in db.approvals.tend()])
        assert db.approvals.tend() == []
    assert kinds == [["reminded"], ["reminded"], ["expired"], []]
    assert db.approvals.get(request.request_id).reminded == 2


def test_a_request_can_be_taken_back(db: Database) -> None:
    request = opened(db, deciders=("ada",))
    done = db.approvals.withdraw(request.request_id, "the desk", "the order was cancelled")
    assert (done.state, done.decided_by, done.message) == ("withdrawn", "the desk", "the order was cancelled")
    assert (done.decision, done.granted) == (None, False)
    with pytest.raises(AlreadyDecided, match="was withdrawn by the desk"):
        db.approvals.decide(request.request_id, said(request))
    with pytest.raises(AlreadyDecided):
        db.approvals.withdraw(request.request_id, "the desk", "again")


def test_what_is_refused_is_told_once(db: Database) -> None:
    """Who tries again and again does not fill the audit trail, and many do not either."""
    request = opened(db, deciders=("ada",))
    for number in range(120):
        for _ in range(2):
            with pytest.raises(NotADecider):
                db.approvals.decide(request.request_id, said(request, f"person {number}"))
    assert [kind for kind, _ in told(db)] == ["requested"] + ["refused"] * 100
    assert replace(db.approvals.get(request.request_id)) == request


@pytest.mark.parametrize("request_id", ["apr-0", "", "a\x00b", "\ud800", "apr-" + "0" * 32, "x" * 10_000])
def test_what_is_not_there_is_unknown(db: Database, request_id: str) -> None:
    decided = Decided(type="approve", by="ada", digest="00")
    for call in (
        lambda: db.approvals.get(request_id),
        lambda: db.approvals.decide(request_id, decided),
        lambda: db.approvals.withdraw(request_id, "ada", ""),
    ):
        with pytest.raises(UnknownRequest) as unknown:
            call()
        assert len(str(unknown.value)) < 500
    assert db.approvals.find(thread_id="a\x00") == db.approvals.find(for_decider="\ud800") == []


def test_requests_are_found_by_deadline(db: Database, clock: Clock) -> None:
    late, never, soon = (opened(db, str(n), expires_in=time) for n, time in enumerate((2 * HOUR, None, HOUR)))
    other = opened(db, thread_id="u", correlation_id="case-7", expires_in=3 * HOUR)
    assert db.approvals.find() == [soon, late, other, never]
    assert db.approvals.find(limit=1) == [soon]
    assert db.approvals.find(thread_id="u") == db.approvals.find(correlation_id="case-7") == [other]
    done = db.approvals.decide(late.request_id, said(late))
    assert db.approvals.find(thread_id="t") == [soon, never]
    assert db.approvals.find(thread_id="t", states=("approved", "rejected")) == [done]
    assert asyncio.run(db.approvals.afind(states=())) == []


def test_a_run_that_lost_its_thread_asks_nobody(db: Database, database_uri: str) -> None:
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO holdfast.leases (thread_id, worker, epoch, generation, held) VALUES ('t', 'x', 7, 0, true)"
        )
    from holdfast.checkpointing.leases import Lease, Pulse

    mine = Lease(thread_id="t", worker="me", control=None, pulse=Pulse(), epoch=6)
    with pytest.raises(LeaseLost):
        db.approvals.open([asking()], lease=mine)
    assert db.approvals.find() == []
    mine.epoch = 7
    assert len(db.approvals.open([asking()], lease=mine)) == 1


def test_waiting_costs_nothing(db: Database, database_uri: str) -> None:
    """No transaction, no lock, no session is the request's own."""
    opened(db, expires_in=HOUR)
    with psycopg.connect(database_uri, autocommit=True) as connection:
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        busy = connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {mine} AND state <> 'idle'").fetchone()  # noqa: S608  # ours
        locks = connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert (busy, locks) == ((0,), (0,))
    db.close()
    with psycopg.connect(database_uri, autocommit=True) as connection:
        sessions = connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}").fetchone()  # noqa: S608  # ours
    assert sessions == (0,)


def test_another_process_decides_a_day_later(database_uri: str) -> None:
    with Database.connect(database_uri) as one:
        one.approvals.clock = Clock()
        request = opened(one, expires_in=timedelta(days=2))
    with Database.connect(database_uri) as other:
        other.approvals.clock = Clock(NOON + timedelta(days=1))
        assert other.approvals.find() == [request]
        assert other.approvals.decide(request.request_id, said(request)).decided_at == NOON + timedelta(days=1)
        assert [kind for kind, _ in told(other)] == ["requested", "decided"]


def test_each_change_is_notified_and_told_besides(db: Database, database_uri: str, clock: Clock) -> None:
    """In its own transaction: with it or not at all."""
    changes: list[tuple[str, str]] = []

    async def also(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        cursor = await connection.execute(
            "SELECT state FROM holdfast.approvals WHERE request_id = %s", (request.request_id,)
        )
        row = await cursor.fetchone()
        assert row is not None
        assert row["state"] == request.state
        changes.append((done, request.state))

    db.approvals.also = also
    with psycopg.connect(database_uri, autocommit=True) as listener:
        listener.execute("LISTEN holdfast_approvals")
        terms: dict[str, Any] = {
            "expires_in": 2 * HOUR,
            "remind_every": HOUR,
            "on_expiry": "escalate",
            "escalate_to": ("ada", "eve"),
        }
        first = opened(db, **terms, quorum=2)
        opened(db, "call 2", waived="small")
        db.approvals.tend(clock.go(hours=1))
        db.approvals.tend(clock.go(hours=1))
        db.approvals.decide(first.request_id, said(first, "ada"))
        with pytest.raises(AlreadyVoted):
            db.approvals.decide(first.request_id, said(first, "ada"))
        db.approvals.decide(first.request_id, said(first, "eve"))
        third = opened(db, "call 3")
        db.approvals.withdraw(third.request_id, "ada", "")
        heard = [note.payload for note in listener.notifies(timeout=1, stop_after=8)]
    assert [done for done, _ in changes] == [
        "requested", "waived", "reminded", "escalated", "voted", "decided", "requested", "withdrawn",
    ]  # fmt: skip
    assert [state for _, state in changes][-3:] == ["approved", "waiting", "withdrawn"]
    assert len(heard) == 8
    assert heard[0] == first.request_id


def test_what_is_done_besides_takes_the_decision_back_with_it(db: Database, database_uri: str, clock: Clock) -> None:
    request = opened(db, expires_in=HOUR)

    async def fails(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        await connection.execute("CREATE TABLE public.besides ()")
        raise RuntimeError("the queue is full")

    db.approvals.also = fails
    with pytest.raises(RuntimeError, match="the queue is full"):
        db.approvals.decide(request.request_id, said(request))
    with pytest.raises(RuntimeError):
        db.approvals.tend(NOON + HOUR)
    assert db.approvals.get(request.request_id) == request
    assert [kind for kind, _ in told(db)] == ["requested"]
    db.approvals.also = None
    assert db.approvals.decide(request.request_id, said(request)).state == "approved"


def test_an_error_that_was_hidden_besides_is_one(db: Database) -> None:
    """The server has given the transaction up: nothing must look as if it had been saved."""
    request = opened(db)

    async def hides(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await connection.execute("SELECT 1 FROM nothing_of_that_name")

    db.approvals.also = hides
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        db.approvals.decide(request.request_id, said(request))
    assert db.approvals.get(request.request_id) == request


def test_one_that_fails_does_not_keep_the_others_from_expiring(db: Database, clock: Clock) -> None:
    bad, good = (opened(db, call, expires_in=HOUR) for call in ("bad", "good"))

    async def fails(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        if request.call_id == "bad":
            raise RuntimeError("no")

    db.approvals.also = fails
    with pytest.raises(RuntimeError):
        db.approvals.tend(clock.go(hours=1))
    assert [db.approvals.get(each.request_id).state for each in (bad, good)] == ["waiting", "expired"]


def test_a_saver_on_a_pool_of_blocking_connections(db: Database, database_uri: str) -> None:
    changes: list[str] = []

    def also(connection: Connection[Any], request: ApprovalRequest, done: str) -> None:
        changes.append(done)
        if done == "decided":
            raise RuntimeError("no")

    async def never(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        changes.append("never")

    with ConnectionPool(database_uri, min_size=1, max_size=2, kwargs={"autocommit": True}) as pool:
        saver = HoldfastSaver(pool)
        try:
            saver.approvals.also = never
            with pytest.raises(TypeError, match="set also_blocking"):
                saver.approvals.open([asking()])
            saver.approvals.also_blocking = also
            (request,) = saver.approvals.open([asking()])
            with pytest.raises(RuntimeError):
                saver.approvals.decide(request.request_id, said(request))
            assert saver.approvals.get(request.request_id) == request
        finally:
            saver.close()
    db.approvals.also_blocking = also
    with pytest.raises(TypeError, match="set also"):
        db.approvals.decide(request.request_id, said(request))
    assert changes == ["requested", "decided"]


async def test_a_saver_on_a_pool_of_another_loop(db: Database, database_uri: str) -> None:
    changes: list[str] = []

    async def also(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        changes.append(done)

    async with AsyncConnectionPool(database_uri, min_size=1, max_size=2, kwargs={"autocommit": True}) as pool:
        saver = HoldfastSaver(pool)
        saver.approvals.also = also
        (request,) = await saver.approvals.aopen([asking()])
        assert (await saver.approvals.adecide(request.request_id, said(request))).state == "approved"
        assert await saver.approvals.aof_task("t", "task") == await saver.approvals.afind(states=("approved",))
        assert await saver.approvals.atend() == []
        with pytest.raises(DecisionRefused):
            await saver.approvals.awithdraw(request.request_id, "ada", "")
        await asyncio.to_thread(saver.close)
    assert changes == ["requested", "decided"]


def test_a_decision_whose_answer_was_lost_is_not_refused_as_a_second_one(db: Database) -> None:
    """The connection may be lost after the commit: sent again, it is known as the same."""
    from holdfast.checkpointing.approvals import SQL
    from holdfast.checkpointing.connections import Steps, run_again
    from holdfast.checkpointing.verdicts import verdict_of

    request = opened(db, quorum=2)
    sent = {**verdict_of(said(request), None), "id": request.request_id, "token": "one", "worker": "w", "at": None}

    def steps() -> Steps[Any]:
        return (yield SQL["decide"], sent)

    async def twice() -> list[Any]:
        connections = db.approvals._connections  # pyright: ignore[reportPrivateUsage]
        return [await run_again(connections, steps, transaction=True) for _ in range(2)]

    assert db._bridge.call(twice) == [[("voted", None)], [(None, None)]]  # pyright: ignore[reportPrivateUsage]
    assert [kind for kind, _ in told(db)] == ["requested", "voted"]


def test_reporting_roles_see_no_requests(db: Database, database_uri: str) -> None:
    opened(db)
    with psycopg.connect(database_uri) as connection:
        for role in ("holdfast_user", "holdfast_operator", "holdfast_auditor"):
            granted = connection.execute(
                "SELECT has_table_privilege(%s, 'holdfast.approvals', 'SELECT')"
                " OR has_any_column_privilege(%s, 'holdfast.approvals', 'SELECT')",
                (role, role),
            ).fetchone()
            assert granted == (False,)


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"quorum": 0}, "quorum"),
        ({"quorum": True}, "quorum"),
        ({"quorum": 2, "deciders": ("ada",)}, "cannot be made by 1"),
        ({"quorum": 2, "escalate_to": ("ada",), "on_expiry": "escalate", "expires_in": HOUR}, "cannot be made by 1"),
        ({"deciders": "ada"}, "must be a tuple of names"),
        ({"deciders": ("ada", "ada")}, "different names"),
        ({"allowed": ()}, "nobody could decide"),
        ({"allowed": ("edit",), "quorum": 2}, "nobody could decide"),
        ({"allowed": "approve"}, "allowed must be"),
        ({"allowed": ("accept",)}, "allowed must be"),
        ({"expires_in": timedelta(0)}, "expires_in"),
        ({"expires_in": timedelta(days=4000)}, "expires_in"),
        ({"expires_in": 60}, "expires_in"),
        ({"remind_every": timedelta(milliseconds=1)}, "remind_every"),
        ({"on_expiry": "approve"}, "needs expires_in"),
        ({"on_expiry": "approve", "expires_in": HOUR, "allowed": ("reject",)}, "needs approve"),
        ({"on_expiry": "escalate", "expires_in": HOUR}, "need each other"),
        ({"escalate_to": ("ada",)}, "need each other"),
        ({"on_expiry": "wait"}, "on_expiry must be"),
    ],
)
def test_terms_under_which_nobody_could_decide_are_none(terms: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTerms, match=problem):
        Terms(**terms)


def test_the_schema_of_the_tests_is_one() -> None:
    """An edit that meets it is taken, which the tests of those that do not stand on."""
    from holdfast.checkpointing.forms import meets

    meets(MAIL, SCHEMA)
