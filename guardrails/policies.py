"""Which calls somebody has to approve, and under which terms: decided once for each call, from its arguments."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, Protocol, cast, runtime_checkable

from langchain_core.messages import ToolCall

from ..checkpointing.errors import HoldfastError
from ..checkpointing.requests import Terms
from .actions import Work
from .model_errors import brief
from .standing import Standing

_log: Final = logging.getLogger("holdfast.approvals")
_STATIC: Final = ("always", "never")


class InvalidPolicy(HoldfastError, ValueError):
    """A policy for approvals that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a policy says of a call, with its reasons."""

    ask: bool
    """Whether somebody has to approve it."""
    why: str = ""
    terms: Terms | None = None
    """Instead of the policy's own."""
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For who decides, beside what the agent knew."""


Predicate = Callable[[dict[str, Any]], bool | Judgement] | Callable[[dict[str, Any], ToolCall], bool | Judgement]
"""Given the call's arguments, and the whole call if it takes two."""


@runtime_checkable
class Judge(Protocol):
    """A policy that has to look something up; `Work` is done for sync and async callers alike."""

    def judge(self, call: ToolCall, standing: Standing) -> Work[Judgement]:
        """What it says of a call that is made there."""
        ...


When = Literal["always", "never"] | Predicate | Judge


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """When a tool's calls have to be approved, by whom, and what they are shown.

    >>> ApprovalPolicy(lambda arguments: arguments["usd"] > 100, terms=Terms(deciders=("ada", "bob"), quorum=2))
    ... # doctest: +ELLIPSIS
    ApprovalPolicy(when=<function ...
    """

    when: When = "always"
    """A predicate that fails counts as one that asks."""
    _: KW_ONLY
    terms: Terms = field(default_factory=Terms)
    description: str | Callable[[ToolCall], str] = ""
    """What the action is, for who decides; else its name."""
    context: Callable[[ToolCall, Any], Mapping[str, Any]] | None = None
    """Given the call and the state: what else the agent knew, such as `evidence` and `confidence`, as JSON."""

    def __post_init__(self) -> None:
        """Raises `InvalidPolicy`: it would never say anything."""
        when = cast("object", self.when)
        if inspect.iscoroutinefunction(when):
            raise InvalidPolicy("a policy's predicate must not be async; give an object with `judge` instead")
        if when not in _STATIC and not callable(when) and not isinstance(when, Judge):
            raise InvalidPolicy(f'a policy is "always", "never", a predicate or an ApprovalPolicy, not {when!r}')

    @property
    def never(self) -> bool:
        """Whether nobody is ever asked."""
        return self.when == "never"

    def judged(self, call: ToolCall, standing: Standing) -> Work[Judgement]:
        """Evaluate it."""
        if self.when in _STATIC:
            return Judgement(ask=self.when == "always", why=f"the policy is {self.when!r}")
        try:
            if isinstance(self.when, Judge):
                return (yield from self.when.judge(call, standing))
            return _found(_asked(self.when, call))
        except HoldfastError:
            raise
        except Exception as error:  # whatever a model's arguments do to a predicate
            _log.warning("the approval policy of %r failed, so somebody is asked", call["name"], exc_info=True)
            return Judgement(ask=True, why=f"its policy failed: {type(error).__name__}: {brief(str(error), 200)}")

    def described(self, call: ToolCall) -> str:
        """What who decides is told of a call."""
        otherwise = f"Call {call['name']}?"
        if not callable(self.description):
            return self.description or otherwise
        try:
            return str(self.description(call))
        except Exception:  # as of the predicate
            _log.warning("what is said of a call of %r failed", call["name"], exc_info=True)
            return otherwise

    def known(self, call: ToolCall, state: Any) -> Mapping[str, Any]:
        """What else the agent knew."""
        if self.context is None:
            return {}
        try:
            return dict(self.context(call, state))
        except Exception as error:  # as of the predicate
            _log.warning("the context of a call of %r failed", call["name"], exc_info=True)
            return {"context": f"failed: {type(error).__name__}: {brief(str(error), 200)}"}


def _asked(given: Any, call: ToolCall) -> object:
    predicate: Callable[..., object] = given
    try:
        taken = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):  # some builtins do not say
        return predicate(call["args"])
    places = [one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    whole = len([one for one in places if one.default is one.empty]) > 1
    return predicate(call["args"], call) if whole else predicate(call["args"])


def _found(said: object) -> Judgement:
    if isinstance(said, Judgement):
        return said
    if inspect.isawaitable(said):
        cast("Any", said).close()
        raise InvalidPolicy("the predicate is async; give an object with `judge` instead")
    return Judgement(ask=bool(said), why=f"the policy's predicate says {bool(said)}")


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of tools, by name."""

    named: Mapping[str, ApprovalPolicy]
    default: ApprovalPolicy

    @classmethod
    def of(cls, policies: Mapping[str, When | ApprovalPolicy], default: When | ApprovalPolicy = "never") -> Policies:
        """Of whatever shape they are given in.

        Raises:
            InvalidPolicy: one says nothing.
        """
        return cls({name: _policy(given) for name, given in policies.items()}, _policy(default))

    def __getitem__(self, name: str) -> ApprovalPolicy:
        return self.named.get(name, self.default)


def _policy(given: When | ApprovalPolicy) -> ApprovalPolicy:
    return given if isinstance(given, ApprovalPolicy) else ApprovalPolicy(given)
