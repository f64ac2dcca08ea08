"""Where a call stands in a run: which task makes it, and which of the task's calls it is."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, Literal, Protocol, cast

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config

from ..checkpointing.errors import HoldfastError, LeaseLost
from ..checkpointing.journal import Journal
from ..checkpointing.leases import correlation_of, owner_of, run_control
from ..checkpointing.records import Effect, Kind
from ..checkpointing.saver import HoldfastSaver
from ..checkpointing.spending import Closing, Wanted
from .actions import Action, Work
from .asking import PREFIX, Asking
from .written import digest, told

Reconcile = Callable[[Mapping[str, Any]], Any]
"""Asked with what the call was given: what it returned if it happened, or `DID_NOT_HAPPEN`."""
OnDoubt = Literal["ask", "retry", "idempotent"] | Reconcile
"""What to do about a call that was begun by a worker that is gone: let a person say what became of it, make it again
(it is harmless), make it again with the same idempotency key, or ask the outside world."""
_ATTEMPTS: Final = 4096


class JournalNeedsSaver(HoldfastError):
    """A call was to be journaled in a graph that Holdfast does not save."""

    def __init__(self) -> None:
        super().__init__(
            "calls are journaled in graphs that Holdfast saves: compile the graph with checkpointer=db.saver, and run "
            "it with a thread_id"
        )


@dataclass(slots=True)
class Attempt:
    """One execution of a task: the calls that it has made so far, and what a person was asked about them."""

    asking: Asking = field(default_factory=Asking)
    answered: Call | None = None
    """The model call that was made last."""
    of_limits: list[Any] = field(default_factory=list[Any])
    """What persons have said to its questions about budgets."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: Counter[str] = field(default_factory=Counter[str])
    _missed: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def nth(self, identity: str) -> int:
        """How many calls like this one it has made before; those that were missed are not counted."""
        with self._lock:
            if missed := self._missed.get(identity):
                return heappop(missed)
            nth = self._counts[identity]
            self._counts[identity] += 1
            return nth

    def missed(self, identity: str, nth: int) -> None:
        """A call ended in an error: the next one like it is the same call, tried again by whoever retries.

        As another call it would be made beside one that may have happened, and again on every re-execution.
        """
        with self._lock:
            heappush(self._missed.setdefault(identity, []), nth)


class _Attempts:
    """By thread, task and attempt; a task that is run again begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: OrderedDict[tuple[Any, ...], Attempt] = OrderedDict()

    def find(self, key: tuple[Any, ...]) -> Attempt | None:
        """One that has made calls."""
        return self._attempts.get(key)

    def forget(self) -> None:
        """Begin anew, even if the lock is held: by a thread that a forked process does not have."""
        self._lock, self._attempts = threading.Lock(), OrderedDict()

    def of(self, key: tuple[Any, ...]) -> Attempt:
        with self._lock:
            attempt = self._attempts.setdefault(key, Attempt())
            self._attempts.move_to_end(key)
            while len(self._attempts) > _ATTEMPTS:
                self._attempts.popitem(last=False)
            return attempt


_attempts: Final = _Attempts()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_attempts.forget)


class Payment(Protocol):
    """Who pays for a call."""

    def wanted(self, call: Call) -> Work[Wanted]:
        """What is to be reserved for it."""
        ...

    def failed(self, error: BaseException) -> Closing | None:
        """What becomes of that if the call ends in an error; None: it stays until the call's outcome is known."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call in its place in a run."""

    journal: Journal
    saver: HoldfastSaver
    config: RunnableConfig
    effect: Effect
    attempt: Attempt
    identity: str
    nth: int
    on_doubt: OnDoubt
    payment: Payment | None = None

    def missed(self) -> None:
        """It ended in an error; made again by the same execution, it is the same call."""
        self.attempt.missed(self.identity, self.nth)


def placed(
    kind: Kind,
    name: str,
    identity: str,
    request: Any,
    *,
    asked: Mapping[str, Any],
    on_doubt: OnDoubt,
    config: RunnableConfig | None = None,
    payment: Payment | None = None,
) -> Call:
    """A call that the running task is about to make.

    Args:
        kind: what is called.
        name: its name.
        identity: what tells it from the task's other calls; the n-th of the same identity is another call.
        request: what it is asked; the same on every re-execution, or it is `JournalMismatch`.
        asked: the same for people, as JSON.
        on_doubt: what to do if it was begun before and nobody knows what became of it.
        config: the running task's, if it is not the current one.
        payment: who pays for it, if anybody does.

    Raises:
        JournalNeedsSaver: the graph has another saver, or none.
        LeaseLost: the run that makes it is over.
    """
    config = config or get_config()
    settings = config.get("configurable", {})
    saver, runtime = settings.get("__pregel_checkpointer"), settings.get("__pregel_runtime")
    if not isinstance(saver, HoldfastSaver):
        saver = owner_of(config)
    info = getattr(runtime, "execution_info", None)
    if not isinstance(saver, HoldfastSaver) or info is None or info.thread_id is None:
        raise JournalNeedsSaver
    thread_id = str(info.thread_id)
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    lease = saver.leases.of(config)
    if lease is None and run_control(config) is not None:
        raise LeaseLost(thread_id)  # its run has ended, and this is what was left of it
    digested, shown = digest(request), told(asked)
    attempt = _attempts.of(_attempt_key(info))
    nth = attempt.nth(f"{kind} {identity}")
    effect = Effect(
        thread_id=thread_id,
        effect_id=f"{PREFIX}{digest([info.task_id, kind, identity, nth]).hex()}",
        kind=kind,
        name=told(name),  # a model may have made it up
        request=digested,
        asked=shown,
        task_id=info.task_id,
        checkpoint_ns=info.checkpoint_ns,
        node=metadata.get("langgraph_node"),
        step=metadata.get("langgraph_step"),
        correlation_id=correlation_of(config) or (lease.correlation_id if lease else None),
        run_id=None if info.run_id is None else str(info.run_id),
        lease=lease,
        on_doubt="reconcile" if callable(on_doubt) else on_doubt,
    )
    call = Call(saver.journal, saver, config, effect, attempt, f"{kind} {identity}", nth, on_doubt, payment)
    if kind == "model":
        attempt.answered = call
    return call


def checked(on_doubt: Any) -> OnDoubt:
    """What somebody declared.

    >>> checked("sometimes")
    Traceback (most recent call last):
    ValueError: on_doubt must be "ask", "retry", "idempotent" or a function, not 'sometimes'
    """
    if callable(on_doubt) or on_doubt in ("ask", "retry", "idempotent"):
        return cast("OnDoubt", on_doubt)
    raise ValueError(f'on_doubt must be "ask", "retry", "idempotent" or a function, not {on_doubt!r}')


def _attempt_key(info: Any) -> tuple[Any, ...]:
    return (str(info.thread_id), info.task_id, info.node_first_attempt_time, info.node_attempt)


def attempt_of(config: RunnableConfig) -> Attempt | None:
    """The execution of the task that a config belongs to; None outside of graphs."""
    info = getattr(config.get("configurable", {}).get("__pregel_runtime"), "execution_info", None)
    return _attempts.of(_attempt_key(info)) if info is not None else None


def refusal(why: str) -> Action | None:
    """Have the running task's newest model call made again on the next execution: its answer was of no use.

    For who judges answers and gives up: from the record would come the same answer for ever. None where calls
    are not journaled.
    """
    try:
        info = getattr(get_config().get("configurable", {}).get("__pregel_runtime"), "execution_info", None)
    except RuntimeError:  # no graph is running
        return None
    attempt = _attempts.find(_attempt_key(info)) if info is not None else None
    if attempt is None or attempt.answered is None:
        return None
    journal, effect = attempt.answered.journal, attempt.answered.effect
    return Action(lambda: journal.refuse(effect, why), lambda: journal.arefuse(effect, why))
