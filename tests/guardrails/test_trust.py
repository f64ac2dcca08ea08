"""Autonomy is earned on evidence, with a stated bound, and is lost at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.checkpointing.evidence import SEVERITY, Case, Evidence, Outcome, Pin, Ring
from holdfast.guardrails import InvalidTrustRule, TrustRule, wilson_lower
from holdfast.guardrails.trust import Bar

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
BAD = [outcome for outcome in OUTCOMES if SEVERITY[outcome]]


def evidence(outcomes: Sequence[str], pin: Pin | None = None) -> Evidence:
    """Newest first, an hour between two."""
    cases = [
        Case(outcome=cast("Outcome", outcome), at=NOW - timedelta(hours=number), by="ada")
        for number, outcome in enumerate(outcomes)
    ]
    return Evidence(tool="send", pattern="send", cases=cases, pin=pin)


def of(*parts: tuple[Outcome, int]) -> Evidence:
    return evidence([outcome for outcome, times in parts for _ in range(times)])


def pin(ring: Ring, *, exact: bool, hours_ago: float = 0, broken: bool = False) -> Pin:
    return Pin(ring=ring, exact=exact, by="ada", why="", at=NOW - timedelta(hours=hours_ago), broken=broken)


outcomes = st.lists(st.sampled_from(OUTCOMES), max_size=40)
good_ones = st.lists(st.sampled_from([*OUTCOMES, *["approved", "fine"] * 10]), max_size=80)
pins = st.none() | st.builds(
    pin, st.sampled_from([0, 1, 2]), exact=st.booleans(), hours_ago=st.floats(0, 60), broken=st.booleans()
)


@st.composite
def rules(draw: st.DrawFn) -> TrustRule:
    """Any rule that can be."""
    z, window = draw(st.floats(0.1, 4)), draw(st.integers(1, 60))
    best = wilson_lower(window, window, z)
    low, high = sorted(draw(st.tuples(st.floats(0, best), st.floats(0, best))))
    few, many = sorted(draw(st.tuples(st.integers(1, window), st.integers(1, window))))
    return TrustRule(
        z=z, window=window, reviewed=Bar(min(low, 0.999), few), automatic=Bar(min(high, 0.999), many)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("good", "cases", "lower"),
    [(81, 263, 0.2553), (15, 148, 0.0624), (0, 20, 0.0), (1, 29, 0.0061)],
)
def test_the_bound_is_that_of_the_literature(good: int, cases: int, lower: float) -> None:
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
    857-872, table I, method 3."""
    assert wilson_lower(good, cases, 1.959964) == pytest.approx(lower, abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda cases: st.tuples(st.integers(0, cases), st.just(cases))), st.floats(0.1, 5))
def test_at_the_bound_the_record_is_z_standard_deviations_away(counts: tuple[int, int], z: float) -> None:
    """Wilson's own definition: the rate p at which (k - np) / √(np(1-p)) is z."""
    good, cases = counts
    low, high = 0.0, good / cases
    for _ in range(200):
        middle = (low + high) / 2
        if good - cases * middle > z * sqrt(cases * middle * (1 - middle)):
            low = middle
        else:
            high = middle
    assert wilson_lower(good, cases, z) == pytest.approx(low, abs=1e-9)


def test_no_cases_are_no_trust() -> None:
    standing = TrustRule().judge(of())
    assert (standing.ring, standing.bound, standing.cases, standing.missing) == (0, 0.0, 0, 9)


@pytest.mark.parametrize(
    ("record", "ring", "missing"),
    [
        (of(("approved", 8)), 0, 1),
        (of(("approved", 9)), 1, 26),
        (of(("approved", 34)), 1, 1),
        (of(("approved", 35)), 2, None),
        (of(("approved", 51), ("edited", 1)), 1, 1),
        (of(("approved", 52), ("edited", 1)), 2, None),
        (of(("edited", 1), ("approved", 99)), 2, None),
        (of(("rejected", 1), ("approved", 99)), 0, 5),
        (of(("approved", 4), ("rejected", 1), ("approved", 95)), 0, 1),
        (of(("approved", 5), ("rejected", 1), ("approved", 94)), 1, 15),
        (of(("approved", 20), ("incident", 1), ("approved", 79)), 2, None),
        (of(("fine", 35)), 2, None),
        (of(("failed", 35)), 0, 79),
    ],
)
def test_the_defaults_in_numbers(record: Evidence, ring: int, missing: int | None) -> None:
    standing = TrustRule().judge(record)
    assert (standing.ring, standing.missing) == (ring, missing)


@given(good_ones, rules(), pins, st.data())
def test_never_more_autonomy_after_worse_evidence(
    record: list[Outcome], rule: TrustRule, word: Pin | None, data: st.DataObject
) -> None:
    """One case replaced by a worse one."""
    before = rule.judge(evidence(record, word))
    better = [place for place, outcome in enumerate(record) if SEVERITY[outcome] < 2]
    if not better:
        return
    place = data.draw(st.sampled_from(better))
    worse = data.draw(st.sampled_from([one for one in OUTCOMES if SEVERITY[one] > SEVERITY[record[place]]]))
    after = rule.judge(evidence([*record[:place], worse, *record[place + 1 :]], word))
    assert after.ring <= before.ring
    assert after.earned <= before.earned
    assert after.bound <= before.bound


@given(good_ones, rules(), pins, st.sampled_from(BAD))
def test_never_more_autonomy_after_one_bad_case_more(
    record: list[Outcome], rule: TrustRule, word: Pin | None, bad: Outcome
) -> None:
    known = evidence(record, word)
    newest = Case(outcome=bad, at=NOW + timedelta(hours=1), by="ada")
    before, after = rule.judge(known), rule.judge(replace(known, cases=[newest, *known.cases]))
    assert after.ring <= before.ring
    assert after.earned <= before.earned
    assert after.bound <= before.bound


@given(good_ones, rules(), st.data())
def test_a_good_case_that_turns_out_to_be_an_incident_never_gives_more(
    record: list[Outcome], rule: TrustRule, data: st.DataObject
) -> None:
    """It moves to the front: its time is that of what is known of it last."""
    if not record:
        return
    place = data.draw(st.integers(0, len(record) - 1))
    moved = evidence(["incident", *record[:place], *record[place + 1 :]])
    assert rule.judge(moved).ring <= rule.judge(evidence(record)).ring


@given(good_ones, rules(), pins, st.sampled_from(["rejected", "incident"]))
def test_one_setback_takes_everything_that_was_earned(
    record: list[Outcome], rule: TrustRule, word: Pin | None, setback: Outcome
) -> None:
    """From any ring, and whatever an earlier pin gave."""
    known = evidence(record, word)
    newest = Case(outcome=setback, at=NOW + timedelta(hours=1), by="ada")
    after = rule.judge(replace(known, cases=[newest, *known.cases]))
    assert after.ring == after.earned == 0


def test_one_rejection_in_ring_2_demotes() -> None:
    rule = TrustRule()
    assert rule.judge(of(("approved", 100))).ring == 2
    assert rule.judge(of(("rejected", 1), ("approved", 100))).ring == 0


@given(good_ones, outcomes, rules(), st.randoms(use_true_random=False))
def test_what_is_older_than_the_window_does_nothing(
    record: list[Outcome], old: list[Outcome], rule: TrustRule, chance: Any
) -> None:
    newest = (record + ["approved"] * rule.window)[: rule.window]
    shuffled = old[:]
    chance.shuffle(shuffled)
    numbers = [
        rule.judge(evidence([*newest, *rest])).numbers() for rest in ([], old, shuffled)
    ]  # fmt: skip
    assert numbers[0] == numbers[1] == numbers[2]


@given(good_ones, rules())
def test_what_is_missing_is_what_earns_the_next_ring(record: list[Outcome], rule: TrustRule) -> None:
    standing = rule.judge(evidence(record))
    if standing.missing is None:
        assert standing.earned == 2
        return
    assert rule.judge(evidence([*["approved"] * standing.missing, *record])).earned > standing.earned
    assert rule.judge(evidence([*["approved"] * (standing.missing - 1), *record])).earned == standing.earned


@given(good_ones, rules())
def test_a_ring_is_at_least_as_hard_to_get_as_the_one_below(record: list[Outcome], rule: TrustRule) -> None:
    standing = rule.judge(evidence(record))
    for ring in (1, 2):
        bar = rule.bar(ring)
        reached = standing.bound >= bar.bound and standing.clean >= bar.clean
        assert reached == (standing.earned >= ring)


def test_a_pin_limits_what_was_earned_and_gives_what_was_not() -> None:
    rule = TrustRule()
    trusted: list[Outcome] = ["approved"] * 40
    unknown: list[Outcome] = ["approved"] * 2
    assert rule.judge(evidence(trusted, pin(1, exact=False))).ring == 1
    assert rule.judge(evidence(unknown, pin(1, exact=False))).ring == 0
    assert rule.judge(evidence(unknown, pin(2, exact=True))).ring == 2
    assert rule.judge(evidence(trusted, pin(0, exact=True))).ring == 0


def test_a_pin_that_gives_more_than_was_earned_ends_with_the_next_setback() -> None:
    rule = TrustRule()
    older, newer = pin(2, exact=True, hours_ago=2), pin(2, exact=True)
    record: list[Outcome] = ["approved", "rejected", "approved", "approved"]
    assert rule.judge(evidence(record, older)).ring == 0
    assert rule.judge(evidence(record, newer)).ring == 2
    assert rule.judge(evidence(record, replace(newer, broken=True))).ring == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"z": 0.0}, "z must be above 0 and at most 10, not 0.0"),
        ({"z": float("nan")}, "z must be above 0 and at most 10, not nan"),
        ({"window": 0}, "the window must be 1 to 10000 cases, not 0"),
        ({"window": 20}, "automatic: 20 good cases reach 0.839 and not 0.9; widen the window"),
        ({"reviewed": Bar(1.0, 5)}, "reviewed: the bound must be from 0 to below 1, not 1.0"),
        ({"reviewed": Bar(0.5, 0)}, "reviewed: clean must be from 1 to the window's 100, not 0"),
        ({"reviewed": Bar(0.95, 5)}, "ring 2 must demand no less than ring 1"),
        ({"reviewed": Bar(0.5, 30)}, "ring 2 must demand no less than ring 1"),
        ({"unreviewed": -1}, "unreviewed must be 0 or more, not -1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidTrustRule) as raised:
        TrustRule(**options)
    assert why in str(raised.value)


@given(rules())
def test_a_rule_is_read_as_it_was_written(rule: TrustRule) -> None:
    assert TrustRule.read(rule.written()) == rule


@pytest.mark.parametrize("written", [{}, {"z": "x"}, {**TrustRule().written(), "window": "0"}])
def test_what_is_no_rule_is_not_read(written: dict[str, str]) -> None:
    with pytest.raises(InvalidTrustRule):
        TrustRule.read(written)
