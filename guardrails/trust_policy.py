"""Trust rings as a policy for approvals: whether a call is asked about is what its tool's record has earned."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from langchain_core.messages import ToolCall

from ..checkpointing.evidence import InvalidEvidence, named
from .actions import Action, Work
from .model_errors import brief
from .policies import InvalidPolicy, Judgement
from .standing import Standing
from .trust import TrustRecord, TrustRule

Check = Callable[[Mapping[str, Any]], bool | str]
"""Given a call's arguments: True if they pass; False, or what is wrong with them. One that fails did not pass."""
Checks = Literal["passed", "failed", "none"]
_SHOWN: Final = 200
_chance: Final = random.SystemRandom().random


@dataclass(frozen=True, slots=True, kw_only=True)
class EarnedTrust:
    """Asks about a tool's calls as long as its record has not earned more.

        ApprovalMiddleware({"send_email": ApprovalPolicy(EarnedTrust(checks=[known_recipient]), terms=terms)})

    - Ring 0: every call is asked about.
    - Ring 1: a call whose checks all pass is made, and put up for review; `holdfast trust review` lists them. Without
      checks, and while `rule.unreviewed` runs wait for their review, it is asked about.
    - Ring 2: a call whose checks pass is made; one in so many is put up for review.

    A call of which a check fails is asked about in every ring, and is a case against more autonomy. What was found is
    in the request's context under `trust`, so that whoever decides sees the numbers, too.
    """

    rule: TrustRule = field(default_factory=TrustRule)
    pattern: Callable[[Mapping[str, Any]], str] | None = None
    """What kind of action the arguments are of, each with a record of its own: `lambda a: f"pay {a['currency']}"`; else
    all calls of a tool are of one kind. Calls that differ in risk should differ in kind: a record of small payments
    says nothing of large ones."""
    checks: Sequence[Check] = ()
    spot_check: float = 0.05
    """Of the calls that ring 2 lets through, how many are put up for review; they go on earning trust, or losing it."""
    chance: Callable[[], float] = _chance
    """A number from 0 to below 1, by which that is chosen."""

    def __post_init__(self) -> None:
        """Raises `InvalidPolicy`: it would never say anything sensible."""
        if not 0 <= self.spot_check <= 1:
            raise InvalidPolicy(f"spot_check is a share from 0 to 1, not {self.spot_check}")
        for one in (*self.checks, *((self.pattern,) if self.pattern is not None else ())):
            if not callable(cast("object", one)) or inspect.iscoroutinefunction(one):
                raise InvalidPolicy(f"a check and a pattern are plain functions of a call's arguments, not {one!r}")

    def judge(self, call: ToolCall, standing: Standing) -> Work[Judgement]:
        """What a tool's record and the call's checks say."""
        tool, trust = call["name"], standing.saver.trust
        try:
            pattern = _pattern(tool, call["args"], self.pattern)
        except InvalidEvidence as error:
            return Judgement(ask=True, why=f"its kind of action cannot be told: {error}")
        record: TrustRecord = yield Action(
            lambda: trust.judge(tool, self.rule, pattern=pattern),
            lambda: trust.ajudge(tool, self.rule, pattern=pattern),
        )
        problems = _problems(self.checks, call["args"])
        checks: Checks = "failed" if problems else "passed" if self.checks else "none"
        ask, why = decided(record, checks)
        review = not ask and (record.ring == 1 or self.chance() < self.spot_check)
        found = {**record.numbers(), "pattern": pattern, "checks": checks, "review": review}
        if problems:
            found["why"] = "; ".join(problems)
        return Judgement(ask=ask, why=f"{why}: {found['why']}" if problems else why, context={"trust": found})


def decided(record: TrustRecord, checks: Checks) -> tuple[bool, str]:
    """Whether a call is asked about, and why; in numbers."""
    rule, evidence = record.rule, record.evidence
    pin = evidence.pin
    by = f", pinned by {pin.by}" if pin is not None and record.ring != record.earned else ""
    why = f"ring {record.ring}{by}, {record.good} of {record.cases} good, bound {record.bound:.3f}"
    if checks == "failed":
        return True, f"{why}; a check failed"
    if record.ring == 0:
        return True, why if record.missing is None else f"{why}, {record.missing} good cases short of the next ring"
    if record.ring == 1 and checks == "none":
        return True, f"{why}; no check is declared, so nothing verifies the call"
    if record.ring == 1 and evidence.unreviewed >= rule.unreviewed:
        return True, f"{why}; {evidence.unreviewed} runs wait for their review, of at most {rule.unreviewed}"
    return False, why


def _pattern(tool: str, arguments: Mapping[str, Any], pattern: Callable[[Mapping[str, Any]], str] | None) -> str:
    """The kind of action; of the tool's name alone, if that is what is asked for.

    Raises:
        InvalidEvidence: the function fails, or gives what is no name.
    """
    named("tool", tool)
    if pattern is None:
        return tool
    try:
        found = cast("object", pattern(arguments))
    except Exception as error:  # whatever a model's arguments do to it
        raise InvalidEvidence(f"{type(error).__name__}: {brief(str(error), _SHOWN)}") from error
    if not isinstance(found, str):
        raise InvalidEvidence(f"the pattern is {brief(repr(found), _SHOWN)}, and no text")
    return named("pattern", found)


def _problems(checks: Sequence[Check], arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with a call's arguments, of each check that did not pass."""
    found: list[str] = []
    for check in checks:
        try:
            said: object = check(arguments)
        except Exception as error:
            said = f"{type(error).__name__}: {brief(str(error), _SHOWN)}"
        if said is not True:
            what = brief(said, _SHOWN) if isinstance(said, str) and said else "did not pass"
            found.append(f"{getattr(check, '__name__', type(check).__name__)}: {what}")
    return found
