"""Whoever races for a request, and whatever happens in whatever order: it has one outcome, and the audit names it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_histories
from psycopg import AsyncConnection

from holdfast.checkpointing import (
    AlreadyDecided,
    AlreadyVoted,
    ApprovalRequest,
    ArgumentsChanged,
    Change,
    Database,
    Decided,
    DecisionNotAllowed,
    DecisionRefused,
    DecisionType,
    NotADecider,
    RequestExpired,
    Terms,
)
from holdfast.checkpointing.requests import EXPIRY
from tests.support.asked import MAIL, Clock, asking, opened, said, told

ROUNDS: Final = 100
PEOPLE: Final = tuple(f"person {number}" for number in range(40))
HOUR: Final = timedelta(hours=1)
ENDS: Final = ("decided", "expired", "approved")


@pytest.fixture
def handles(database_uri: str) -> Iterator[list[Database]]:
    """Four processes' handles, whose every change does something besides that can be counted."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.done (request_id text, what text, decided_by text)")

    async def also(connection: AsyncConnection[Any], request: ApprovalRequest, done: str) -> None:
        await connection.execute(
            "INSERT INTO public.done VALUES (%s, %s, %s)", (request.request_id, done, request.decided_by)
        )

    with ExitStack() as stack:
        opened = [stack.enter_context(Database.connect(database_uri)) for _ in range(4)]
        for database in opened:
            database.approvals.also = also
        yield opened


@dataclass(slots=True)
class Race:
    """What each of those who raced was told."""

    won: list[ApprovalRequest] = field(default_factory=list[ApprovalRequest])
    refused: list[DecisionRefused] = field(default_factory=list[DecisionRefused])
    changes: list[Change] = field(default_factory=list[Change])

    def decide(self, db: Database, request: ApprovalRequest, person: str, number: int) -> None:
        kinds: tuple[DecisionType, ...] = ("approve", "reject", "edit", "respond")
        kind = kinds[number % len(kinds)]
        more: dict[str, Any] = {"edit": {"arguments": MAIL}, "respond": {"message": "wait"}}.get(kind, {})
        if number % 2:
            db.approvals.get(request.request_id)  # half of them look before they decide
        try:
            self.won.append(db.approvals.decide(request.request_id, said(request, person, kind, **more)))
        except DecisionRefused as refused:
            self.refused.append(refused)

    def tend(self, db: Database, now: datetime) -> None:
        self.changes += db.approvals.tend(now)


@pytest.mark.slow
def test_of_all_who_race_one_decides(handles: list[Database], database_uri: str) -> None:
    """40 deciders, an expiry and an escalation, 100 times: one outcome each time, carried out once."""
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(42) as threads:
        for number in range(ROUNDS):
            outcomes[run_race(handles, threads, number)] += 1
    assert sum(outcomes.values()) == ROUNDS
    assert outcomes.keys() == {"level 0", "level 1", "expired"}
    assert all(not database.audit.verify() for database in handles[:1])
    with psycopg.connect(database_uri) as connection:
        settled = connection.execute(
            "SELECT count(*), count(DISTINCT request_id) FROM public.done WHERE what = ANY(%s)", (list(ENDS),)
        ).fetchone()
        agreed = connection.execute(
            "SELECT count(*) FROM public.done JOIN holdfast.approvals USING (request_id, decided_by)"
            " WHERE what = ANY(%s)",
            (list(ENDS),),
        ).fetchone()
    assert settled == (ROUNDS, ROUNDS)
    assert agreed == (ROUNDS,)


def run_race(handles: list[Database], threads: ThreadPoolExecutor, number: int) -> str:
    """One round; who has decided: a person before the escalation, one after it, or time."""
    thread, clock, race = f"thread {number}", Clock(), Race()
    for database in handles:
        database.approvals.clock = clock
    # Half of them may decide before the escalation and half after it; or all after it; or one of them after it.
    at_first, later = [(PEOPLE[:20], PEOPLE[20:]), (("desk",), PEOPLE), (("desk",), (PEOPLE[number % 40],))][number % 3]
    request = opened(
        handles[0], thread_id=thread, deciders=at_first, expires_in=HOUR, on_expiry="escalate", escalate_to=later
    )
    barrier = threading.Barrier(len(PEOPLE) + 2)

    def start(work: Callable[..., None], *given: Any) -> None:
        barrier.wait()
        work(*given)

    # Deciders' clocks stand before the deadline; the escalation comes at it, and the expiry after the second one.
    jobs: list[tuple[Any, ...]] = [
        (race.decide, handles[n % 4], request, person, n + number) for n, person in enumerate(PEOPLE)
    ]
    at = 3 * number % len(jobs)
    jobs.insert(at, (race.tend, handles[1], clock.at + HOUR))
    jobs.insert((at + number % 5) % len(jobs), (race.tend, handles[2], clock.at + 3 * HOUR))
    for job in [threads.submit(start, *job) for job in jobs]:
        job.result()
    if not race.won and not any(change.kind == "expired" for change in race.changes):
        race.tend(handles[3], clock.at + 9 * HOUR)  # it was escalated, by the later of the two, after all others came
    return judged(handles[0], request, race)


def judged(db: Database, request: ApprovalRequest, race: Race) -> str:
    """See that there is one outcome, that all others were told of it, and that the audit has the same."""
    found = db.approvals.get(request.request_id)
    expired = [change.request for change in race.changes if change.kind == "expired"]
    (winner,) = [*race.won, *expired]
    assert winner == found
    assert len(race.won) + len(race.refused) == len(PEOPLE)
    for refused in race.refused:
        assert isinstance(refused, AlreadyDecided | NotADecider | RequestExpired)
        if isinstance(refused, AlreadyDecided):
            assert (refused.by, refused.at, refused.decision) == (found.decided_by, found.decided_at, found.decision)
    events = [event for event in db.audit.read(thread_id=request.thread_id) if event.kind.startswith("approval.")]
    ends = [event for event in events if event.kind in ("approval.decided", "approval.expired")]
    assert len(ends) == 1
    if found.decided_by == EXPIRY:
        assert ends[0].kind == "approval.expired"
        return "expired"
    assert (ends[0].actor, ends[0].details["decision"]) == (found.decided_by, found.decision)
    assert found.decided_by in found.deciders
    return f"level {found.level}"


def test_all_votes_of_a_race_count_once(handles: list[Database]) -> None:
    request = opened(handles[0], quorum=10)
    barrier = threading.Barrier(40)

    def vote(number: int) -> str:
        barrier.wait()
        try:
            done = handles[number % 4].approvals.decide(request.request_id, said(request, PEOPLE[number % 20]))
        except (AlreadyDecided, AlreadyVoted) as refused:
            return type(refused).__name__
        return done.state

    with ThreadPoolExecutor(40) as threads:
        found = Counter(threads.map(vote, range(40)))
    assert (found["waiting"], found["approved"]) == (9, 1)
    assert len(set(handles[0].approvals.get(request.request_id).votes)) == 10


def test_whoever_opens_it_it_is_one_request(handles: list[Database]) -> None:
    barrier = threading.Barrier(16)

    def ask(number: int) -> list[ApprovalRequest]:
        barrier.wait()
        return handles[number % 4].approvals.open([asking("a"), asking("b")] if number % 2 else [asking("a")])

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, range(16)))
    assert len({request.request_id for requests in found for request in requests}) == 2
    assert [kind for kind, _ in told(handles[0])] == ["requested", "requested"]


NAMES: Final = ("ada", "bob", "eve", "dan")
EXPIRIES: Final[list[dict[str, Any]]] = [
    {},
    {"expires_in": 2 * HOUR},
    {"expires_in": 2 * HOUR, "on_expiry": "approve"},
    {"expires_in": 2 * HOUR, "on_expiry": "escalate", "escalate_to": ("dan", "eve")},
]


def made(expiry: dict[str, Any], **given: Any) -> Terms:
    return Terms(**expiry, **given)


terms: Final = st.builds(
    made,
    deciders=st.sampled_from([(), ("ada", "bob"), ("ada", "bob", "eve")]),
    quorum=st.sampled_from([1, 1, 2]),
    allowed=st.sampled_from([("approve", "edit", "reject", "respond"), ("approve", "reject"), ("approve",)]),
    expiry=st.sampled_from(EXPIRIES),
    remind_every=st.sampled_from([None, None, HOUR]),
)


@dataclass(slots=True)
class Known:
    """A request as who watched knows it."""

    request: ApprovalRequest
    terms: Terms
    deciders: tuple[str, ...]
    expires_at: datetime | None
    remind_at: datetime | None
    state: str = "waiting"
    level: int = 0
    votes: tuple[str, ...] = ()
    reminded: int = 0
    by: str | None = None
    told: list[str] = field(default_factory=lambda: ["requested"])
    refused: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def due(self, now: datetime) -> str | None:
        """What time does to it now."""
        if self.state != "waiting":
            return None
        if self.expires_at is not None and self.expires_at <= now:
            if self.terms.on_expiry == "escalate" and self.level == 0:
                return "escalated"
            return "approved" if self.terms.on_expiry == "approve" else "expired"
        return "reminded" if self.remind_at is not None and self.remind_at <= now else None

    def pass_time(self, done: str, now: datetime) -> None:
        """Time has done so."""
        every, length = self.terms.remind_every, self.terms.expires_in
        if done == "reminded":
            self.reminded += 1
        elif done == "escalated":
            assert length is not None
            self.level, self.votes, self.deciders, self.expires_at = 1, (), self.terms.escalate_to, now + length
        else:
            self.state, self.by = done, EXPIRY
        self.remind_at = now + every if every is not None else None
        self.told.append("expired" if done == "approved" else done)

    def refusal(self, person: str, verb: str, digest: str) -> type[DecisionRefused] | None:
        """Why a decision on it, for which it is not too late, is refused."""
        if self.state != "waiting":
            return RequestExpired if self.by == EXPIRY else AlreadyDecided
        if verb == "withdraw":
            return None
        if self.deciders and person not in self.deciders:
            return NotADecider
        if verb not in self.terms.allowed:
            return DecisionNotAllowed
        if digest != self.request.digest:
            return ArgumentsChanged
        return AlreadyVoted if verb == "approve" and person in self.votes else None

    def refuse(self, person: str, why: type[DecisionRefused]) -> None:
        """A refusal is told once."""
        if (person, why.__name__) not in self.refused:
            self.refused.add((person, why.__name__))
            self.told.append("refused")


class Asking(RuleBasedStateMachine):
    """Persons who decide, time that passes, and whoever tends what is due."""

    db: Database
    numbers: Iterator[int]

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.db.approvals.clock = self.clock
        self.thread = f"thread {next(self.numbers)}"
        self.known: list[Known] = []

    @rule(asked=terms)
    def open(self, asked: Terms) -> None:
        call = f"call {len(self.known)}"
        new = asking(call, thread_id=self.thread)
        (request,) = self.db.approvals.open([replace(new, terms=asked)])
        now = self.clock.at
        self.known.append(
            Known(
                request,
                asked,
                asked.deciders,
                now + asked.expires_in if asked.expires_in is not None else None,
                now + asked.remind_every if asked.remind_every is not None else None,
            )
        )

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def open_again(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.known))
        (request,) = self.db.approvals.open([asking(known.request.call_id, thread_id=self.thread)])
        assert request.request_id == known.request.request_id

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        person=st.sampled_from(NAMES),
        verb=st.sampled_from(["approve", "approve", "approve", "reject", "edit", "respond", "withdraw"]),
        seen=st.sampled_from([True, True, True, False]),
    )
    def decide(self, data: st.DataObject, person: str, verb: str, seen: bool) -> None:
        known = data.draw(st.sampled_from(self.known))
        digest = known.request.digest if seen else "0" * 64
        due = known.due(self.clock.at)
        if due not in (None, "reminded"):
            known.pass_time(str(due), self.clock.at)
            why: type[DecisionRefused] | None = RequestExpired
        else:
            why = known.refusal(person, verb, digest)
        try:
            self._decided(known, person, verb, digest)
        except DecisionRefused as refused:
            told_why: type[DecisionRefused] | None = type(refused)
        else:
            told_why = None
        assert told_why is why
        if why is not None:
            known.refuse(person, why)
            return
        known.votes += (person,) if verb == "approve" else ()
        if verb == "approve" and len(known.votes) < known.terms.quorum:
            known.told.append("voted")
        else:
            ends = {"approve": "approved", "edit": "edited", "reject": "rejected", "respond": "responded"}
            known.state, known.by = ends.get(verb, "withdrawn"), person
            known.told.append("withdrawn" if verb == "withdraw" else "decided")

    def _decided(self, known: Known, person: str, verb: str, digest: str) -> None:
        request_id = known.request.request_id
        if verb == "withdraw":
            self.db.approvals.withdraw(request_id, person, "no need")
            return
        self.db.approvals.decide(
            request_id,
            Decided(
                type=cast("DecisionType", verb),
                by=person,
                digest=digest,
                arguments=MAIL if verb == "edit" else None,
                message="wait" if verb == "respond" else "",
            ),
        )

    @rule()
    def tend(self) -> None:
        expected = [(known, due) for known in self.known if (due := known.due(self.clock.at)) is not None]
        found = {change.request.request_id: change.kind for change in self.db.approvals.tend(limit=10_000)}
        assert {known.request.request_id: due for known, due in expected}.items() <= found.items()
        for known, due in expected:
            known.pass_time(due, self.clock.at)

    @rule(minutes=st.integers(1, 150))
    def wait(self, minutes: int) -> None:
        self.clock.go(minutes=minutes)

    @precondition(lambda self: hasattr(self, "known"))
    @invariant()
    def the_record_is_what_happened(self) -> None:
        kinds = Counter(kind for kind, _ in told(self.db, self.thread))
        assert kinds == Counter(kind for known in self.known for kind in known.told)
        for known, found in zip(self.known, self.db.approvals.of_task(self.thread, "task"), strict=True):
            assert (found.state, found.level, found.votes, found.reminded, found.decided_by, found.expires_at) == (
                known.state, known.level, known.votes, known.reminded, known.by, known.expires_at,
            )  # fmt: skip

    def teardown(self) -> None:
        if hasattr(self, "known") and self.known:
            assert self.db.audit.verify(self.thread) == []


@pytest.mark.slow
def test_every_history_of_requests(db: Database) -> None:
    """Whatever persons and time do, the record is what a plain account of it says."""
    Asking.db, Asking.numbers = db, iter(range(10**9))
    run_histories(
        cast("Any", Asking),
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
