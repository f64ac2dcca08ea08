"""Evidence is read from the approval records; what people say of calls after is added, once, and audited."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.checkpointing import (
    Database,
    InvalidEvidence,
    NotReviewable,
    Outcome,
    Terms,
    UnknownRequest,
)
from holdfast.checkpointing.evidence import SEVERITY
from holdfast.checkpointing.trust import AUDITED
from holdfast.guardrails import Bar, TrustRule
from tests.support.deciding import Calls

QUICK = TrustRule(window=20, reviewed=Bar(0.3, 2), automatic=Bar(0.6, 4))


@pytest.fixture
def calls(db: Database) -> Calls:
    return Calls(db)


def outcomes(db: Database, tool: str = "send", **options: Any) -> list[str]:
    return [case.outcome for case in db.trust.evidence(tool, **options).cases]


def told(db: Database, thread_id: str = AUDITED) -> list[tuple[str, str, dict[str, Any]]]:
    events = db.audit.read(thread_id=thread_id)
    return [(event.kind, event.actor, dict(event.details)) for event in events if event.kind.startswith("trust.")]


def test_decisions_of_people_are_the_evidence_newest_first(db: Database, calls: Calls) -> None:
    for kind in ("approve", "edit", "reject", "respond"):
        calls.decided(kind)
    calls.ask()
    assert outcomes(db) == ["responded", "rejected", "edited", "approved"]
    assert outcomes(db, window=2) == ["responded", "rejected"]
    newest = db.trust.evidence("send").cases[1]
    assert (newest.by, newest.why) == ("ada", "no")


def test_what_no_person_decided_is_no_evidence(db: Database, calls: Calls) -> None:
    """Automatic runs, approvals and rejections by time, requests that were taken back, and approvals of nobody knows
    whom; a rejection of nobody knows whom is one."""
    calls.run(ring=2, review=False)
    calls.ask(terms=Terms(expires_in=timedelta(minutes=5), on_expiry="approve"))
    calls.ask(terms=Terms(expires_in=timedelta(minutes=5)))
    db.approvals.withdraw(calls.ask().request_id, "ada", "not needed")
    assert [change.kind for change in db.approvals.tend(calls.clock() + timedelta(hours=1))] == ["approved", "expired"]
    calls.decided("approve", by="unknown")
    assert outcomes(db) == []
    calls.decided("reject", by="unknown")
    assert outcomes(db) == ["rejected"]


def test_votes_count_when_they_are_a_decision(db: Database, calls: Calls) -> None:
    request = calls.ask(terms=Terms(quorum=2))
    calls.say(request, "approve", "ada")
    assert outcomes(db) == []
    calls.say(request, "approve", "bob")
    assert outcomes(db) == ["approved"]


def test_kinds_of_action_have_evidence_of_their_own(db: Database, calls: Calls) -> None:
    calls.decided("approve", context={"trust": {"pattern": "send: inside"}})
    calls.decided("reject", context={"trust": {"pattern": "send: outside"}})
    calls.decided("edit")
    assert outcomes(db, pattern="send: inside") == ["approved"]
    assert outcomes(db, pattern="send: outside") == ["rejected"]
    assert outcomes(db) == ["edited"]
    assert [(place.tool, place.pattern) for place in db.trust.places()] == [
        ("send", "send"), ("send", "send: inside"), ("send", "send: outside"),
    ]  # fmt: skip


@pytest.mark.parametrize("context", [{"trust": "x"}, {"trust": {}}, {"trust": {"pattern": None}}, {"odd": "\x00"}])
def test_any_context_can_be_recorded(db: Database, calls: Calls, context: dict[str, Any]) -> None:
    calls.decided("approve", context=context)
    assert outcomes(db) == ["approved"]


def test_a_check_that_failed_is_a_case_before_and_after_its_call_is_approved(db: Database, calls: Calls) -> None:
    request = calls.ask(context={"trust": {"pattern": "send", "checks": "failed", "why": "no such customer"}})
    (case,) = db.trust.evidence("send").cases
    assert (case.outcome, case.why) == ("failed", "no such customer")
    calls.say(request, "approve")
    assert outcomes(db) == ["failed"]
    calls.say(calls.ask(context={"trust": {"checks": "failed"}}), "reject")
    assert outcomes(db) == ["rejected", "failed"]


def test_a_run_that_a_person_found_fine_is_a_good_case(db: Database, calls: Calls) -> None:
    first, second = calls.run(), calls.run()
    assert [run.request_id for run in db.trust.to_review()] == [first.request_id, second.request_id]
    assert db.trust.evidence("send").unreviewed == 2
    db.trust.review(first.request_id, by="ada", why="as it should be")
    assert outcomes(db) == ["fine"]
    assert [run.request_id for run in db.trust.to_review("send", pattern="send")] == [second.request_id]
    assert db.trust.to_review("other") == []
    assert told(db, "t") == [
        ("trust.reviewed", "ada", {"tool": "send", "pattern": "send", "request": first.request_id,
                                   "why": "as it should be"})
    ]  # fmt: skip


def test_nobody_in_particular_finds_nothing_fine(db: Database, calls: Calls) -> None:
    """As with approvals: such a word counts against only."""
    run = calls.run()
    with pytest.raises(InvalidEvidence, match="nobody knows who 'unknown' is"):
        db.trust.review(run.request_id, by="unknown")
    assert db.trust.evidence("send").unreviewed == 1
    db.trust.incident(request_id=run.request_id, by="unknown", why="it was the wrong address")
    assert outcomes(db) == ["incident"]


def test_a_run_is_reviewed_once_and_an_incident_outweighs_that(db: Database, calls: Calls) -> None:
    run, harmful = calls.run(), calls.run()
    db.trust.review(run.request_id, by="ada")
    with pytest.raises(NotReviewable, match="was reviewed before"):
        db.trust.review(run.request_id, by="bob")
    db.trust.incident(request_id=run.request_id, by="bob", why="the wrong customer")
    assert outcomes(db) == ["incident"]
    with pytest.raises(NotReviewable, match="was said to be incident before"):
        db.trust.incident(request_id=run.request_id, by="bob", why="again")
    db.trust.incident(request_id=harmful.request_id, by="bob", why="as bad")
    with pytest.raises(NotReviewable, match="was said to be incident before"):
        db.trust.review(harmful.request_id, by="ada")
    assert db.trust.evidence("send").unreviewed == 0


def test_only_what_was_carried_out_can_be_reviewed(db: Database, calls: Calls) -> None:
    waiting, rejected, approved = calls.ask(), calls.decided("reject"), calls.decided("approve")
    for request in (waiting, rejected):
        with pytest.raises(NotReviewable, match="was not carried out"):
            db.trust.incident(request_id=request.request_id, by="ada", why="x")
    with pytest.raises(NotReviewable, match="only automatic runs are reviewed"):
        db.trust.review(approved.request_id, by="ada")
    with pytest.raises(UnknownRequest):
        db.trust.review("apr-none", by="ada")
    assert outcomes(db) == ["approved", "rejected"]


def test_an_incident_of_an_approved_call_makes_it_the_newest_case(db: Database, calls: Calls) -> None:
    first = calls.decided("approve")
    calls.decided("approve")
    db.trust.incident(request_id=first.request_id, by="ada", why="a complaint")
    assert outcomes(db) == ["incident", "approved"]


def test_an_incident_without_a_call_counts_for_the_tool(db: Database, calls: Calls) -> None:
    calls.decided("approve")
    db.trust.incident("send", by="ada", why="spam")
    db.trust.incident("send", by="ada", why="spam again")
    assert outcomes(db) == ["incident", "incident", "approved"]
    assert [kind for kind, _, _ in told(db)] == ["trust.incident"] * 2


def test_what_a_check_found_after_is_counted_and_a_failure_is_a_case(db: Database, calls: Calls) -> None:
    good, bad = calls.decided("approve"), calls.run()
    db.trust.verified(good.request_id, passed=True, by="smoke test")
    db.trust.verified(bad.request_id, passed=False, by="smoke test", why="no such page")
    evidence = db.trust.evidence("send", tally=True)
    assert [case.outcome for case in evidence.cases] == ["failed", "approved"]
    assert (evidence.checks_passed, evidence.checks_failed, evidence.automatic) == (2, 1, 1)
    with pytest.raises(NotReviewable):
        db.trust.verified(bad.request_id, passed=False, by="smoke test")


def test_evidence_outlives_its_thread_without_reasons(db: Database, calls: Calls) -> None:
    """Who removes the threads in which something went wrong earns nothing by it."""
    calls.decided("reject")
    calls.decided("approve")
    calls.say(calls.ask(context={"trust": {"checks": "failed", "why": "secret"}}), "approve")
    calls.ask(context={"trust": {"checks": "failed", "why": "secret"}})
    run = calls.run()
    db.trust.review(run.request_id, by="ada")
    before = db.trust.evidence("send")
    db.saver.delete_thread("t")
    after = db.trust.evidence("send")
    assert [(case.outcome, case.at, case.request_id) for case in after.cases] == [
        (case.outcome, case.at, case.request_id) for case in before.cases
    ]
    assert [case.outcome for case in after.cases] == ["fine", "failed", "failed", "approved", "rejected"]
    assert not any(case.why for case in after.cases)


def test_a_change_of_ring_is_told_once_with_its_numbers(db: Database, calls: Calls) -> None:
    assert db.trust.judge("send", QUICK).ring == 0
    for _ in range(10):
        calls.decided("approve")
    assert [db.trust.judge("send", QUICK, by="worker").ring for _ in range(3)] == [2, 2, 2]
    calls.decided("reject", by="bob")
    assert db.trust.judge("send", QUICK).ring == 0
    events = told(db)
    assert [(kind, details["from"], details["to"]) for kind, _, details in events] == [
        ("trust.ring", 0, 2), ("trust.ring", 2, 0),
    ]  # fmt: skip
    assert events[0][1] == "worker"
    assert events[0][2]["numbers"]["good"] == 10
    assert events[0][2]["rule"] == QUICK.written()
    (place,) = db.trust.places("send")
    assert (place.ring, place.rule) == (0, QUICK.written())


def test_of_many_who_find_a_new_ring_at_once_one_tells(db: Database, calls: Calls) -> None:
    for _ in range(10):
        calls.decided("approve")
    with ThreadPoolExecutor(16) as pool:
        found = [pool.submit(db.trust.judge, "send", QUICK) for _ in range(32)]
        rings = [one.result().ring for one in found]
    assert rings == [2] * 32
    assert len(told(db)) == 1


def test_a_pin_is_kept_with_who_and_why_and_is_told(db: Database, calls: Calls) -> None:
    for _ in range(10):
        calls.decided("approve")
    assert db.trust.judge("send", QUICK).ring == 2
    db.trust.pin("send", 1, by="ada", why="until the audit", rule=QUICK)
    record = db.trust.judge("send", QUICK)
    assert (record.ring, record.earned) == (1, 2)
    pin = record.evidence.pin
    assert pin is not None
    assert (pin.ring, pin.exact, pin.by, pin.why) == (1, False, "ada", "until the audit")
    assert db.trust.unpin("send", by="bob", rule=QUICK)
    assert not db.trust.unpin("send", by="bob")
    assert db.trust.judge("send", QUICK).ring == 2
    assert [(kind, actor) for kind, actor, _ in told(db)][1:] == [
        ("trust.pinned", "ada"), ("trust.ring", "ada"), ("trust.unpinned", "bob"), ("trust.ring", "bob"),
    ]  # fmt: skip


def test_a_pin_that_gives_autonomy_ends_with_the_next_setback_for_good(db: Database, calls: Calls) -> None:
    """Also when newer cases have pushed that out of the window."""
    db.trust.pin("send", 2, by="ada", exact=True)
    assert db.trust.judge("send", QUICK).ring == 2
    calls.decided("reject")
    assert db.trust.judge("send", QUICK).ring == 0
    for _ in range(QUICK.window):
        calls.decided("edit")
    record = db.trust.judge("send", QUICK)
    assert "rejected" not in {case.outcome for case in record.evidence.cases}
    assert record.ring == 0
    db.trust.pin("send", 2, by="ada", exact=True)
    assert db.trust.judge("send", QUICK).ring == 2


Act = Callable[[Any], object]
REFUSED: list[tuple[Act, str]] = [
    (lambda trust: trust.judge("", QUICK), "the tool must be a name"),
    (lambda trust: trust.judge("send", QUICK, pattern="a\nb"), "the pattern must be a name"),
    (lambda trust: trust.pin("send", 3, by="ada"), "a ring is one of 0, 1, 2, not 3"),
    (lambda trust: trust.pin("send", True, by="ada"), "a ring is one of 0, 1, 2, not True"),
    (lambda trust: trust.pin("send", 1, by=""), "the name of who says it"),
    (lambda trust: trust.pin("send", 1, by="holdfast:policy"), "the name of who says it"),
    (lambda trust: trust.incident("send", by="ada", why=" "), "an incident needs a reason"),
    (lambda trust: trust.incident(by="ada", why="x"), "name one of them"),
    (lambda trust: trust.incident("send", request_id="apr-1", by="ada", why="x"), "name one of them"),
]


@pytest.mark.parametrize(("act", "why"), REFUSED)
def test_what_cannot_be_said_is_refused(db: Database, act: Act, why: str) -> None:
    with pytest.raises(InvalidEvidence, match=why):
        act(db.trust)
    assert told(db) == []


def test_it_works_the_same_in_async_code(db: Database, calls: Calls) -> None:
    async def main() -> None:
        trust = db.trust
        run = calls.run
        first, second, third = await asyncio.gather(*(asyncio.to_thread(run) for _ in range(3)))
        assert len(await trust.ato_review()) == 3
        await trust.areview(first.request_id, by="ada")
        await trust.averified(second.request_id, passed=False, by="smoke test")
        await trust.aincident(request_id=third.request_id, by="ada", why="x")
        await trust.apin("send", 2, by="ada", exact=True)
        assert (await trust.ajudge("send", QUICK)).ring == 2
        assert await trust.aunpin("send", by="ada")
        assert [case.outcome for case in (await trust.aevidence("send")).cases] == ["incident", "failed", "fine"]
        assert [place.ring for place in await trust.aplaces()] == [2]

    asyncio.run(main())


def test_the_databases_severities_are_those_of_the_rule(db: Database, database_uri: str) -> None:
    with psycopg.connect(database_uri) as connection:
        for outcome in get_args(Outcome):
            row = connection.execute("SELECT holdfast.trust_severity(%s)", (outcome,)).fetchone()
            assert row == (SEVERITY[outcome],)


# Any history, against a reference that keeps everything in a list


@dataclass
class Known:
    """What is known of a call."""

    request_id: str
    outcome: Outcome | None
    at: int
    state: str


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["approve", "edit", "reject", "respond", "failed approve", "failed reject", "failed waiting", "run",
             "nobody", "review", "incident", "verified", "tool incident", "delete"]
        ),
        st.integers(0, 100),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS, window=st.integers(1, 12))
def test_the_evidence_is_what_a_plain_list_says(db: Database, operations: list[tuple[str, int]], window: int) -> None:
    tool = f"tool {secrets.token_hex(8)}"
    calls = Calls(db, thread_id=tool)
    known: list[Known] = []
    for at, (operation, choice) in enumerate(operations):
        _act(db, calls, tool, known, operation, choice, at)
    expected = sorted((one for one in known if one.outcome), key=lambda one: -one.at)[:window]
    found = db.trust.evidence(tool, window=window).cases
    assert [(case.outcome, case.request_id or "") for case in found] == [
        (one.outcome, one.request_id) for one in expected
    ]


STATES: dict[str, Outcome] = {"approve": "approved", "edit": "edited", "reject": "rejected", "respond": "responded"}


def _act(db: Database, calls: Calls, tool: str, known: list[Known], operation: str, choice: int, at: int) -> None:
    failed: dict[str, Any] = {"context": {"trust": {"checks": "failed"}}}
    if operation in STATES:
        request = calls.decided(operation, tool)
        known.append(Known(request.request_id, STATES[operation], at, request.state))
    elif operation == "nobody":
        calls.decided("approve", tool, by="unknown")
    elif operation == "failed waiting":
        known.append(Known(calls.ask(tool, **failed).request_id, "failed", at, "waiting"))
    elif operation.startswith("failed"):
        kind = operation.split()[1]
        request = calls.decided(kind, tool, **failed)
        known.append(Known(request.request_id, "failed" if kind == "approve" else "rejected", at, request.state))
    elif operation == "run":
        known.append(Known(calls.run(tool).request_id, None, at, "waived"))
    elif operation == "tool incident":
        db.trust.incident(tool, by="ada", why="x")
        known.append(Known("", "incident", at, "none"))
    elif operation == "delete":
        db.saver.delete_thread(tool)
        for one in known:
            one.state = "none"
    elif known:
        _say(db, known[choice % len(known)], operation, at)


def _say(db: Database, one: Known, operation: str, at: int) -> None:
    said: Outcome = {"review": "fine", "incident": "incident", "verified": "failed"}[operation]  # type: ignore[assignment]
    try:
        if operation == "review":
            db.trust.review(one.request_id, by="ada")
        elif operation == "incident":
            db.trust.incident(request_id=one.request_id, by="ada", why="x")
        else:
            db.trust.verified(one.request_id, passed=False, by="check")
    except (NotReviewable, UnknownRequest):
        return
    assert one.state in ("waived", "approved", "edited")
    one.at = at
    if one.outcome is None or SEVERITY[said] > SEVERITY[one.outcome]:
        one.outcome = said
    elif SEVERITY[said] == SEVERITY[one.outcome]:
        one.outcome = said  # of judgements that are as bad the newest


def test_who_judges_reviews_decides_and_removes_at_once_waits_for_nobody_for_ever(db: Database, calls: Calls) -> None:
    """Each of them locks rings, requests and chains in the same order, or is tried again."""
    ends = [Calls(db, f"thread {number % 4}") for number in range(8)]
    approved: list[str] = []

    def work(mine: Calls) -> None:
        for turn in range(6):
            run = mine.run()
            with suppress(UnknownRequest):  # its thread was removed beside it
                approved.append(mine.decided("approve").request_id)
            db.trust.judge("send", QUICK)
            if turn % 3 == 2:
                db.saver.delete_thread(mine.thread_id)
            try:
                db.trust.incident(request_id=run.request_id, by="ada", why="x", rule=QUICK)
            except UnknownRequest:
                db.trust.incident("send", by="ada", why="x", rule=QUICK)
            db.trust.pin("send", 1, by="ada", rule=QUICK)

    # Each has tasks of its own.
    for place, mine in enumerate(ends):
        mine.skip(1000 * place)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, mine) for mine in ends]:
            done.result(timeout=120)
    found = [case.outcome for case in db.trust.evidence("send", window=200).cases]
    assert (found.count("incident"), found.count("approved")) == (48, len(approved))
    assert db.trust.judge("send", QUICK).ring == 0
    assert db.audit.verify() == []
