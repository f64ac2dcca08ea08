"""Whose money a call is: the scopes of budgets, filled in by what a run says of itself."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config

from ..checkpointing.budgets import LIMITS, Budget, InvalidBudget
from ..checkpointing.errors import HoldfastError
from ..checkpointing.leases import correlation_of, owner_of
from ..checkpointing.ledger import Ledger
from ..checkpointing.saver import HoldfastSaver
from .actions import Action, Work


class BudgetNeedsLedger(HoldfastError):
    """A call was to be paid for in a graph that Holdfast does not save."""

    def __init__(self) -> None:
        super().__init__(
            "calls are paid for in graphs that Holdfast saves: compile the graph with checkpointer=db.saver and run it "
            "with a thread_id, or give the middleware a ledger: BudgetMiddleware(..., ledger=db.ledger)"
        )


class UnknownScope(HoldfastError):
    """A budget's scope names something that this run does not say."""

    def __init__(self, scope: str, missing: str, known: Sequence[str]) -> None:
        super().__init__(
            f"budget {scope!r}: this run says nothing of {missing!r}; put it into config['metadata'] or "
            f"config['configurable'] (there are: {', '.join(sorted(known)) or 'none'})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """In which run a call is made, and out of which ledger it is paid."""

    ledger: Ledger
    facts: Mapping[str, str]
    """What a scope may name: `thread_id`, `node`, `correlation_id`, and the run's metadata."""
    thread_id: str | None = None
    run_key: str | None = None
    run_id: str | None = None
    checkpoint_ns: str = ""
    node: str | None = None
    """With those around it."""
    step: int | None = None
    correlation_id: str | None = None


def checked_scope(budget: Budget) -> Budget:
    """A budget, if its scope can be filled in.

    >>> checked_scope(Budget("tenant:{}", daily=5))
    Traceback (most recent call last):
    holdfast.checkpointing.budgets.InvalidBudget: budget 'tenant:{}': braces hold a plain name, as in tenant:{tenant}
    """
    try:
        plain = all(
            name is None or (name.isidentifier() and not spec and not conversion)
            for _, name, spec, conversion in string.Formatter().parse(budget.scope)
        )
    except ValueError:  # a brace without its other one
        plain = False
    if not plain:
        raise InvalidBudget(f"budget {budget.scope!r}: braces hold a plain name, as in tenant:{{tenant}}")
    return budget


def filled(budget: Budget, facts: Mapping[str, str]) -> Budget:
    """A budget with the names in its scope filled in.

    Where there are several, colons in what is filled in are escaped: a tenant must not look like a tenant's user.

    >>> filled(Budget("tenant:{tenant}", daily=5), {"tenant": "acme"}).scope
    'tenant:acme'
    >>> filled(Budget("{tenant}:{user}", daily=5), {"tenant": "a:b", "user": "c"}).scope
    'a%3Ab:c'
    """
    if "{" not in budget.scope:
        return budget
    if budget.scope.count("{") > 1:
        facts = {name: fact.replace("%", "%25").replace(":", "%3A") for name, fact in facts.items()}
    try:
        return replace(budget, scope=budget.scope.format_map(facts))
    except KeyError as missing:
        raise UnknownScope(budget.scope, str(missing.args[0]), list(facts)) from None


def nested(namespace: str) -> str:
    """A node's name with those of the nodes around it, as `holdfast costs --by node` tells them.

    >>> nested("research:1f|1|model:2c")
    'research/model'
    """
    levels = (level.partition(":")[0] for level in namespace.split("|"))
    return "/".join(level for level in levels if not level.isdigit())


def joined(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """The budgets of several middlewares, those of one scope as one: the lower limit holds.

    >>> [one] = joined([Budget("a", daily=5, hourly=1), Budget("a", daily=3)])
    >>> one.hourly, one.daily
    (Decimal('1'), Decimal('3'))
    """
    found: dict[tuple[str, str], Budget] = {}
    for budget in budgets:
        other = found.setdefault((budget.scope, budget.unit), budget)
        limits: dict[str, Any] = {name: _lower(getattr(budget, name), getattr(other, name)) for name in LIMITS.values()}
        found[budget.scope, budget.unit] = replace(other, **limits)
    return tuple(found.values())


def _lower(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None else one if other is None else min(one, other)


def located(config: RunnableConfig | None, ledger: Ledger | None) -> Work[Where]:
    """Where the running task is."""
    try:
        config = config or get_config()
    except RuntimeError:  # no graph is running
        config = None
    if config is None:
        if ledger is None:
            raise BudgetNeedsLedger
        return Where(ledger=ledger, facts={})
    settings, metadata = config.get("configurable", {}), config.get("metadata") or {}
    saver = settings.get("__pregel_checkpointer")
    if not isinstance(saver, HoldfastSaver):
        saver = owner_of(config)
    info = getattr(settings.get("__pregel_runtime"), "execution_info", None)
    thread_id = settings.get("thread_id")
    run_key = None
    lease = None
    if isinstance(saver, HoldfastSaver):
        ledger = ledger or saver.ledger
        lease = saver.leases.of(config)
        keys, of = saver.run_keys, config
        if thread_id is not None:
            run_key = yield Action(lambda: keys.of(of), lambda: keys.aof(of))
    if ledger is None:
        raise BudgetNeedsLedger
    correlation_id = correlation_of(config) or (lease.correlation_id if lease is not None else None)
    node, namespace = metadata.get("langgraph_node"), getattr(info, "checkpoint_ns", "") or ""
    # A server says in `configurable` who its caller is; metadata are the caller's own.
    facts: dict[str, Any] = {**metadata, **settings}
    facts |= {"thread_id": thread_id, "node": node, "correlation_id": correlation_id}
    return Where(
        ledger=ledger,
        facts={
            name: str(item) for name, item in facts.items() if isinstance(item, str | int) and not name.startswith("__")
        },
        thread_id=None if thread_id is None else str(thread_id),
        run_key=run_key or (str(thread_id) if thread_id is not None else None),
        run_id=lease.run_id if lease is not None else getattr(info, "run_id", None),
        checkpoint_ns=namespace,
        node=nested(namespace) or node,
        step=metadata.get("langgraph_step"),
        correlation_id=correlation_id,
    )
