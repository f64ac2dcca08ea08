"""Autonomy is earned on evidence and lost on it: which ring the record of a tool's calls gives it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import isfinite, sqrt
from typing import Any, Final

from ..checkpointing.errors import HoldfastError
from ..checkpointing.evidence import RINGS, SEVERITY, Case, Evidence, Outcome, Ring

_MOST: Final = 10_000
"""Cases of a window."""


class InvalidTrustRule(HoldfastError, ValueError):
    """A rule by which a ring cannot be found."""


def wilson_lower(good: int, cases: int, z: float = 1.96) -> float:
    """The lower end of the score interval for a proportion; 0 for no cases.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American
    Statistical Association 22 (1927), 209-212: with p = good/n, (p + z²/2n - z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n). If
    the true rate were lower than that, so many good cases would be rarer than z standard deviations allow. It needs
    few cases to be honest: 5 of 5 are not 100 %, but 57 %.

    >>> round(wilson_lower(5, 5), 4), round(wilson_lower(95, 100), 4), wilson_lower(0, 10)
    (0.5655, 0.8882, 0.0)
    """
    if not 0 <= good <= cases:
        raise ValueError(f"{good} of {cases} cases is no proportion")
    if not good:
        return 0.0
    rate, square = good / cases, z * z
    spread = z * sqrt(rate * (1 - rate) / cases + square / (4 * cases * cases))
    return (rate + square / (2 * cases) - spread) / (1 + square / cases)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a ring demands."""

    bound: float
    """The lower bound of the rate of good cases has to reach this."""
    clean: int
    """So many good cases have to be newer than the newest setback of the window; without one, so many in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRule:
    """Which ring a record of cases gives.

    - Only the newest `window` cases count, and of them the rate that was right as it stood: `approved`, or found `fine`
      by a person after an automatic run. An edit is not: the call as it stood was not what the person wanted. Nor are
      an answer in the call's place and a check that failed. Automatic runs that nobody judged are no cases at all,
      nor are approvals that no person gave.
    - The bound is Wilson's lower one, and a ring is given when it reaches the ring's bar. With the defaults ring 1
      needs 9 cases that are all good, ring 2 needs 35, or 53 with one edit.
    - A setback, which is a rejection or an incident, takes a tool to ring 0 at once, from any ring: each ring
      demands good cases that are newer than the newest setback.

    More than that is asked of it nowhere, so that it can only go one way: a case that is worse, or one bad case more,
    never gives a higher ring.

    Raises:
        InvalidTrustRule: a number is out of range, ring 2 demands less than ring 1, or a bar cannot be reached within
            the window.
    """

    z: float = 1.96
    """Standard deviations: 1.96 is a two-sided interval of 95 %, so that the rate is below its lower end in 2.5 %."""
    window: int = 100
    reviewed: Bar = field(default=Bar(0.70, 5))
    """For ring 1."""
    automatic: Bar = field(default=Bar(0.90, 20))
    """For ring 2."""
    unreviewed: int = 20
    """In ring 1 so many runs may wait for their review; then calls are asked about until some were reviewed."""

    def __post_init__(self) -> None:
        wrong = [*self._wrong()]
        if wrong:
            raise InvalidTrustRule(f"no rule for trust: {'; '.join(wrong)}")

    def _wrong(self) -> Sequence[str]:
        if not isfinite(self.z) or not 0 < self.z <= 10:  # noqa: PLR2004  # beyond, all bounds are 0
            return [f"z must be above 0 and at most 10, not {self.z}"]
        if not 1 <= self.window <= _MOST:
            return [f"the window must be 1 to {_MOST} cases, not {self.window}"]
        wrong = [f"unreviewed must be 0 or more, not {self.unreviewed}"] if self.unreviewed < 0 else []
        best = wilson_lower(self.window, self.window, self.z)
        for name, bar in (("reviewed", self.reviewed), ("automatic", self.automatic)):
            if not 0 <= bar.bound < 1:
                wrong.append(f"{name}: the bound must be from 0 to below 1, not {bar.bound}")
            elif bar.bound > best:
                wrong.append(f"{name}: {self.window} good cases reach {best:.3f} and not {bar.bound}; widen the window")
            if not 1 <= bar.clean <= self.window:
                wrong.append(f"{name}: clean must be from 1 to the window's {self.window}, not {bar.clean}")
        if self.automatic.bound < self.reviewed.bound or self.automatic.clean < self.reviewed.clean:
            wrong.append("ring 2 must demand no less than ring 1")
        return wrong

    def bar(self, ring: Ring) -> Bar:
        """What a ring demands; ring 0 nothing."""
        return {0: Bar(0.0, 0), 1: self.reviewed, 2: self.automatic}[ring]

    def judge(self, evidence: Evidence) -> TrustRecord:
        """The ring that the evidence gives, and the numbers that it follows from."""
        cases = evidence.cases[: self.window]
        counts: dict[Outcome, int] = dict.fromkeys(SEVERITY, 0)
        for case in cases:
            counts[case.outcome] += 1
        good, clean = _counted(cases)
        bound = wilson_lower(good, len(cases), self.z)
        earned: Ring = 0
        for ring in RINGS:  # each demands no less than the one below
            earned = ring if _reaches(bound, clean, self.bar(ring)) else earned
        return TrustRecord(
            evidence=evidence, rule=self, counts=counts, good=good, clean=clean, bound=bound, earned=earned,
            ring=pinned(earned, evidence),
        )  # fmt: skip

    def written(self) -> dict[str, str]:
        """As text, for the record; `read` gives it back."""
        return {
            "z": repr(self.z), "window": str(self.window), "unreviewed": str(self.unreviewed),
            "reviewed_bound": repr(self.reviewed.bound), "reviewed_clean": str(self.reviewed.clean),
            "automatic_bound": repr(self.automatic.bound), "automatic_clean": str(self.automatic.clean),
        }  # fmt: skip

    @classmethod
    def read(cls, written: Mapping[str, str]) -> TrustRule:
        """The rule that was written down.

        Raises:
            InvalidTrustRule: it is none.
        """
        try:
            return cls(
                z=float(written["z"]),
                window=int(written["window"]),
                unreviewed=int(written["unreviewed"]),
                reviewed=Bar(float(written["reviewed_bound"]), int(written["reviewed_clean"])),
                automatic=Bar(float(written["automatic_bound"]), int(written["automatic_clean"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidTrustRule(f"no rule for trust can be read from the record: {error}") from error


def pinned(earned: Ring, evidence: Evidence) -> Ring:
    """The ring after a person's word.

    A pin that gives more than was earned ends with the next setback: who pinned it did not know of that.
    """
    pin = evidence.pin
    if pin is None:
        return earned
    broken = pin.broken or any(case.setback and case.at >= pin.at for case in evidence.cases)
    return pin.ring if pin.exact and not broken else min(pin.ring, earned)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRecord:
    """Where a tool's calls of one kind stand, in numbers."""

    evidence: Evidence
    rule: TrustRule
    counts: Mapping[Outcome, int]
    """Of the window's cases."""
    good: int
    clean: int
    """Good cases since the newest setback in the window."""
    bound: float
    earned: Ring
    """By the evidence alone."""
    ring: Ring
    """What holds: earned, or a person's pin."""

    @property
    def cases(self) -> int:
        """How many count."""
        return sum(self.counts.values())

    @property
    def missing(self) -> int | None:
        """Good cases in a row that would earn the next ring; None at the highest.

        >>> TrustRule().judge(Evidence(tool="send", pattern="send", cases=[])).missing
        9
        """
        if self.earned == RINGS[-1]:
            return None
        bar, cases = self.rule.bar(RINGS[self.earned + 1]), self.evidence.cases[: self.rule.window]
        for more in range(1, self.rule.window + 1):
            kept = cases[: self.rule.window - more]
            good, clean = _counted(kept)
            if _reaches(wilson_lower(good + more, len(kept) + more, self.rule.z), clean + more, bar):
                return more
        raise AssertionError("unreachable: a window of good cases reaches every bar")

    def numbers(self) -> dict[str, Any]:
        """All of it as plain data, for the record and for programs."""
        upper = None if self.earned == RINGS[-1] else RINGS[self.earned + 1]
        tally = {name: getattr(self.evidence, name) for name in ("automatic", "checks_passed", "checks_failed")}
        return {
            "ring": self.ring,
            "earned": self.earned,
            "cases": self.cases,
            "good": self.good,
            **{str(outcome): number for outcome, number in self.counts.items()},
            "clean": self.clean,
            "bound": round(self.bound, 4),
            "window": self.rule.window,
            "z": self.rule.z,
            "next_ring": upper,
            "next_bound": None if upper is None else self.rule.bar(upper).bound,
            "next_clean": None if upper is None else self.rule.bar(upper).clean,
            "missing": self.missing,
            "unreviewed": self.evidence.unreviewed,
            **{name: number for name, number in tally.items() if number is not None},
        }


def _reaches(bound: float, clean: int, bar: Bar) -> bool:
    return bound >= bar.bound and clean >= bar.clean


def _counted(cases: Sequence[Case]) -> tuple[int, int]:
    """Good cases, and those of them that are newer than the newest setback."""
    clean = sum(case.good for case in takewhile(lambda case: not case.setback, cases))
    return sum(case.good for case in cases), clean
