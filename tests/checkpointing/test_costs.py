"""What the cost report promises: every cent once, whatever it is grouped by, and none that is not in the trail."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo

from holdfast.checkpointing import Database, NewEvent, Visibility
from holdfast.checkpointing.costs import EXACT, SQL, CostLine, Grouping, total
from tests.support.spending import published_run

BY: tuple[Grouping, ...] = get_args(Grouping)
EVERYTHING: dict[str, Any] = dict.fromkeys(("since", "until", "thread", "correlation", "tenant"))


def spent(cost: str | None, kind: str = "model.answered", thread_id: str = "t", **more: Any) -> NewEvent:
    return NewEvent(
        thread_id=thread_id, kind=kind, actor="research", cost=None if cost is None else Decimal(cost), **more
    )


def by_key(lines: list[CostLine]) -> dict[str | None, str]:
    return {line.key: f"{line.cost:f}" for line in lines}


# Totals


NAMES = st.sampled_from(["gpt-5", "search", "", "ü", "=1+1", "unknown"])
COSTS = st.none() | st.decimals(min_value=0, max_value=10**9, places=12, allow_nan=False)
KINDS = st.sampled_from(
    [
        *(f"{what}.{verb}" for what in ("model", "tool") for verb in ("called", "completed", "failed", "replayed")),
        *("model.answered", "model.charged", "effect.completed", "run.ended", "note", "replayed", "a.b.c"),
    ]
)
CHARGES = st.fixed_dictionaries(
    {},
    optional={
        "model": NAMES | st.integers() | st.none(),
        "tool": NAMES,
        "tenant": NAMES,
        "unseen": st.booleans() | st.just("true"),
        "estimated": st.booleans(),
    },
)
EVENTS = st.builds(
    NewEvent,
    thread_id=st.sampled_from(["a", "b", "c"]),
    kind=KINDS,
    actor=st.just("x"),
    cost=COSTS,
    input_tokens=st.none() | st.integers(0, 2**62),
    output_tokens=st.none() | st.integers(0, 10_000),
    node=st.none() | NAMES,
    run_id=st.none() | NAMES,
    correlation_id=st.none() | NAMES,
    details=st.fixed_dictionaries({}, optional={"name": NAMES | st.lists(NAMES), "cost": CHARGES | st.integers()}),
    visibility=st.sampled_from(Visibility),
)


@given(events=st.lists(EVENTS, max_size=12))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_grouping_comes_to_the_sum_of_the_events(db: Database, database_uri: str, events: list[NewEvent]) -> None:
    for event in events:
        db.audit.append(event)
    with psycopg.connect(database_uri) as other:
        found = other.execute("SELECT coalesce(sum(cost), 0)::text FROM holdfast.events").fetchone()
    assert found is not None
    reports = [db.costs.report(by) for by in BY]
    totals = [total(lines) for lines in reports]
    assert [whole.cost for whole in totals] == [Decimal(found[0])] * len(BY)
    assert totals == [totals[0]] * len(BY)
    for by, lines in zip(BY, reports, strict=True):
        assert len({line.key for line in lines}) == len(lines)
        assert all(0 <= line.unseen <= line.cost and 0 <= line.estimated <= line.cost for line in lines)
        if by == "day":
            assert [line.key for line in lines] == sorted(str(line.key) for line in lines)
        else:
            assert [line.cost for line in lines] == sorted((line.cost for line in lines), reverse=True)


def test_a_published_run_is_reproduced_to_the_cent(db: Database) -> None:
    for event in published_run():
        db.audit.append(event)
    for by in BY:
        whole = total(db.costs.report(by))
        assert (whole.tool_calls, whole.tokens, whole.cost) == (369, 9_700_000, Decimal("2.74"))
    assert len({event.cost for event in published_run()}) > 100  # uneven parts, not one amount over and over


def test_amounts_are_never_rounded(db: Database) -> None:
    amounts = [Decimal(f"{'9' * 40}.{'1' * 40}"), Decimal("1E-45"), Decimal("0.1")]
    for amount in amounts:
        db.audit.append(spent(str(f"{amount:f}")))
    (line,) = db.costs.report()
    assert line.cost == EXACT.add(EXACT.add(amounts[0], amounts[1]), amounts[2])
    assert total([line, line]).cost == EXACT.multiply(line.cost, Decimal(2))


def test_what_a_deleted_thread_cost_stays(db: Database) -> None:
    db.audit.append(spent("1.50"))
    db.saver.delete_thread("t")
    assert by_key(db.costs.report("thread")) == {"t": "1.50"}


def test_without_events_there_are_no_lines(db: Database) -> None:
    assert db.costs.report() == []
    db.audit.append(spent(None, "run.started"))
    db.audit.append(spent(None, "model.called", details={"name": "gpt-5"}))
    assert db.costs.report() == []


# What a line is of


@pytest.fixture
def varied(db: Database) -> Database:
    inside = {"model": "small", "tenant": "acme", "tool": "search", "unseen": True}
    given = [
        spent("2.00", details={"name": "ChatModel", "cost": {"model": "gpt-5", "tenant": "acme"}}, node="plan"),
        spent("0.10", "model.charged", details={"cost": inside}, node="tools", correlation_id="case-7", run_id="r1"),
        spent("0.25", "tool.completed", details={"name": "search"}, node="tools", correlation_id="case-7"),
        spent(None, "effect.completed", details={"name": "book"}, thread_id="u", run_id="r2"),
        spent(None, "tool.failed", details={"name": "search"}, thread_id="u"),
        spent("0.05", "model.failed", details={"name": "small", "cost": {"estimated": True}}, thread_id="u"),
        spent(None, "model.replayed", details={"name": "gpt-5"}, input_tokens=999),
        spent(None, details={"name": "local"}, input_tokens=70, output_tokens=7),
    ]
    for event in given:
        db.audit.append(event)
    return db


EXPECTED: dict[Grouping, dict[str | None, str]] = {
    "model": {"gpt-5": "2.00", None: "0.25", "small": "0.15", "local": "0"},
    "node": {"plan": "2.00", "tools": "0.35", None: "0.05"},
    "tool": {None: "2.05", "search": "0.35", "book": "0"},
    "tenant": {"acme": "2.10", None: "0.30"},
    "thread": {"t": "2.35", "u": "0.05"},
    "run": {None: "2.30", "r1": "0.10", "r2": "0"},
    "correlation": {None: "2.05", "case-7": "0.35"},
}


@pytest.mark.parametrize(("by", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_lines_are_of_what_was_asked_the_dearest_first(
    varied: Database, by: Grouping, expected: dict[str | None, str]
) -> None:
    lines = varied.costs.report(by)
    assert by_key(lines) == expected
    assert [line.key for line in lines] == list(expected)


def test_calls_are_counted_when_they_ended_and_replays_apart(varied: Database) -> None:
    whole = total(varied.costs.report())
    assert (whole.model_calls, whole.tool_calls, whole.calls, whole.replayed) == (4, 3, 7, 1)
    assert (whole.input_tokens, whole.output_tokens) == (70, 7)
    assert (whole.unseen, whole.estimated, whole.unpriced) == (Decimal("0.10"), Decimal("0.05"), 1)


def test_a_part_of_it_can_be_asked_for(varied: Database) -> None:
    assert by_key(varied.costs.report("thread", correlation_id="case-7")) == {"t": "0.35"}
    assert by_key(varied.costs.report("model", thread_id="u")) == {"small": "0.05", None: "0"}
    assert by_key(varied.costs.report("tool", tenant="acme")) == {None: "2.00", "search": "0.10"}
    assert by_key(varied.costs.report("tool", tenant="acme", correlation_id="case-7")) == {"search": "0.10"}
    assert varied.costs.report(tenant="' OR true --") == []


async def test_the_async_surface_does_the_same(varied: Database) -> None:
    for by in BY:
        assert await varied.costs.areport(by) == varied.costs.report(by)


# Time


@pytest.fixture
def dated(db: Database, database_uri: str) -> Database:
    """Events at given moments, written past the function that stamps them."""
    moments = ["2026-03-01T00:00Z", "2026-03-01T23:59:59.999999Z", "2026-03-02T00:30+01:00", "2026-03-03T12:00Z"]
    with psycopg.connect(database_uri, autocommit=True, options="-c TimeZone=Asia/Tokyo") as owner:
        for number, moment in enumerate(moments, 1):
            owner.execute(
                "INSERT INTO holdfast.events VALUES ('t', %s, %s, NULL, NULL, '', NULL, NULL, 'x', 'model.charged',"
                " NULL, 1, 1, %s, NULL, 'visible', '{}', '')",
                (number, moment, Decimal(number)),
            )
    return db


def test_days_are_those_of_utc_the_earliest_first(dated: Database) -> None:
    lines = dated.costs.report("day")
    assert [(line.key, line.cost) for line in lines] == [("2026-03-01", 6), ("2026-03-03", 4)]


def test_a_time_begins_with_since_and_ends_before_until(dated: Database) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    noon = datetime(2026, 3, 3, 12, tzinfo=UTC)

    def cost(*, since: datetime | None = None, until: datetime | None = None) -> Decimal:
        return total(dated.costs.report(since=since, until=until)).cost

    assert (cost(since=midnight), cost(since=midnight + timedelta(microseconds=1))) == (10, 9)
    assert (cost(until=noon), cost(until=noon + timedelta(microseconds=1))) == (6, 10)
    assert cost(since=noon, until=noon) == 0
    with pytest.raises(ValueError, match="since=2026-03-01T00:00:00 has no time zone"):
        cost(since=datetime(2026, 3, 1))  # noqa: DTZ001 - that is what is refused


# Who may see it


@pytest.fixture
def reporter(database_uri: str) -> Iterator[Any]:
    """Connections as a login role that is a member of one audience's role."""
    name, password = f"reporting_{secrets.token_hex(4)}", secrets.token_hex(8)
    made: list[psycopg.Connection[Any]] = []
    with psycopg.connect(database_uri, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), password))

        def connect(role: str) -> psycopg.Connection[Any]:
            owner.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
            made.append(psycopg.connect(make_conninfo(database_uri, user=name, password=password), autocommit=True))
            return made[-1]

        yield connect
        for connection in made:
            connection.close()
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    ("role", "expected"), [("holdfast_operator", "2.40"), ("holdfast_auditor", "2.40"), ("holdfast_user", "0.70")]
)
def test_a_role_gets_the_report_of_the_events_that_it_may_see(
    varied: Database, reporter: Any, role: str, expected: str
) -> None:
    visible = spent("0.70", details={"name": "gpt-5"}, visibility=Visibility.VISIBLE)
    varied.audit.append(visible)
    rows = reporter(role).execute(SQL["report"], {"by": "model", **EVERYTHING}).fetchall()
    seen = sum(row[6] for row in rows)
    assert f"{seen:f}" == expected if role == "holdfast_user" else f"{seen - Decimal('0.70'):f}" == expected
