"""One call, made once: claimed before, settled after, answered from the record when it comes again."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, Literal, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp

from ..checkpointing.errors import HoldfastError, LeaseLost
from ..checkpointing.journal import Claim, Doubt, Effect, Journal, Kind, Settlement, State
from ..checkpointing.leases import correlation_of, owner_of, run_control
from ..checkpointing.saver import HoldfastSaver
from .actions import Action, Work
from .asking import PREFIX, Answer, Asking, resolved
from .envelope import sealed
from .tracing import facts, logged, traced
from .written import digest, told

T = TypeVar("T")
Reconcile = Callable[[Mapping[str, Any]], Any]
"""Asked with what the call was given: what it returned if it happened, or `DID_NOT_HAPPEN`."""
OnDoubt = Literal["ask", "retry", "idempotent"] | Reconcile
"""What to do about a call that was begun by a worker that is gone: let a person say what became of it, make it again
(it is harmless), make it again with the same idempotency key, or ask the outside world."""
_ATTEMPTS: Final = 4096
_key: ContextVar[str | None] = ContextVar("idempotency_key", default=None)


class _DidNotHappen:
    def __repr__(self) -> str:
        return "DID_NOT_HAPPEN"


DID_NOT_HAPPEN: Final = _DidNotHappen()
"""What `reconcile` returns if the outside world knows nothing of the call."""


class NotDone(Exception):
    """Raised by a tool or an effect that failed before it did anything: it may be tried again."""


class CallAbandoned(HoldfastError):
    """A person gave a call up whose outcome was unknown."""


class JournalNeedsSaver(HoldfastError):
    """A call was to be journaled in a graph that Holdfast does not save."""

    def __init__(self) -> None:
        super().__init__(
            "calls are journaled in graphs that Holdfast saves: compile the graph with checkpointer=db.saver, and run "
            "it with a thread_id"
        )


def idempotency_key() -> str:
    """Within a journaled tool or effect: the same text each time this call is made, and no other call's.

    Raises:
        LookupError: nothing journaled is running here.
    """
    key = _key.get()
    if key is None:
        raise LookupError("no journaled call is running here")
    return key


@dataclass(slots=True)
class Attempt:
    """One execution of a task: the calls that it has made so far, and what a person was asked about them."""

    asking: Asking = field(default_factory=Asking)
    answered: Call | None = None
    """The model call that was made last."""
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
_running: Final[dict[tuple[str, str], Future[None]]] = {}
"""Calls that this process is making: one that is executed again meanwhile waits for its end."""
_claiming: Final[dict[tuple[str, str], Future[None]]] = {}
"""Calls whose claim is not answered yet."""


def _forked() -> None:
    """None of the calls that a process is making goes on in its child."""
    _running.clear()
    _claiming.clear()
    _attempts.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
        name=name,
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
    call = Call(saver.journal, saver, config, effect, attempt, f"{kind} {identity}", nth, on_doubt)
    if kind == "model":
        attempt.answered = call
    return call


def _attempt_key(info: Any) -> tuple[Any, ...]:
    return (str(info.thread_id), info.task_id, info.node_first_attempt_time, info.node_attempt)


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


def begun(call: Call) -> Work[Claim]:
    """Claim the call: on return it is to be made, or has a record, or was abandoned.

    Raises:
        GraphInterrupt: a person has to say what became of it.
    """
    journal, effect = call.journal, call.effect
    call.attempt.asking.take(call.config)
    loop = effect.lease.loop if effect.lease is not None else None
    yield Action(lambda: journal.durable.wait(call.config, loop), lambda: journal.durable.await_(call.config))
    key = (effect.thread_id, effect.effect_id)
    while (other := _running.get(key)) is not None:
        yield _until(other)
    again = call.on_doubt in ("retry", "idempotent")
    claim = yield from _claimed(call, again)
    while claim.outcome == "in_doubt":
        logged(logging.WARNING, "was begun before, and nobody knows what became of it", effect)
        if callable(call.on_doubt):
            yield from _reconciled(call, claim, call.on_doubt)
        else:
            yield from call.attempt.asking.settle(journal, effect, _under_way, _no_claims)
        claim = yield from _claimed(call, False)
    if claim.outcome != "claimed":
        logged(logging.INFO, "was answered from the record", effect)
    return claim


def _claimed(call: Call, again: bool) -> Work[Claim]:
    effect = call.effect
    key, answered = (effect.thread_id, effect.effect_id), Future[None]()
    _claiming[key] = answered
    try:
        claim: Claim = yield _claim(call.journal, effect, again)
        if claim.outcome == "claimed":
            if effect.lease is not None:
                effect.lease.check()
            _running[key] = Future()
        return claim
    finally:
        if _claiming.get(key) is answered:
            del _claiming[key]
        answered.set_result(None)


def _no_claims(thread_id: str) -> Work[None]:
    """Wait until all claims that are under way in a thread are known here as running, or in doubt."""
    for (of, _), answered in list(_claiming.items()):
        if of == thread_id:
            yield _until(answered)


def ended(claim: Claim) -> None:
    """The call is over, however it ended; who waits for it may go on."""
    if (running := _running.pop((claim.effect.thread_id, claim.effect.effect_id), None)) is not None:
        running.set_result(None)


def made(call: Call, act: Action, codec: Codec) -> Work[Any]:
    """Make a call once; its result, or the record of it.

    Raises:
        CallAbandoned: a person gave it up, and `codec` has nothing to return for that.
        ResultNotKept: it was made, and its result cannot be recorded: its outcome stays unknown.
    """
    try:
        return (yield from _made(call, act, codec))
    except BaseException:
        call.missed()
        raise


def _made(call: Call, act: Action, codec: Codec) -> Work[Any]:
    claim: Claim = yield from begun(call)
    codec.traced(facts(call.effect, replayed=claim.outcome != "claimed", attempt=claim.attempt))
    if claim.outcome == "abandoned":
        return codec.abandoned(call)
    if claim.outcome == "completed":
        assert claim.result is not None
        return codec.opened(call, claim.result)
    began = time.monotonic()
    token = _key.set(call.effect.effect_id)
    try:
        try:
            result = yield act
        except GraphBubbleUp:
            yield settled(call, claim, "suspended", began)
            raise
        except Exception as error:
            safe = isinstance(error, NotDone) or call.on_doubt in ("retry", "idempotent")
            yield settled(call, claim, "failed" if safe else "raised", began, error=error)
            raise
        try:
            kept = codec.sealed(call, result)
        except HoldfastError as error:
            yield settled(call, claim, "raised", began, error=error)
            raise
        yield settled(call, claim, "completed", began, kept=kept, **codec.told(result))
        return result
    finally:
        ended(claim)
        _key.reset(token)


class Codec:
    """How a kind of call's results are kept."""

    def sealed(self, call: Call, result: Any) -> tuple[str, bytes]:
        raise NotImplementedError

    def opened(self, call: Call, kept: tuple[str, bytes]) -> Any:
        raise NotImplementedError

    def abandoned(self, call: Call) -> Any:
        raise CallAbandoned(f"{call.effect.kind} {call.effect.name!r} was given up by a person; its outcome is unknown")

    def traced(self, said: Mapping[str, Any]) -> None:
        """Say in the trace which call this is, and whether it was replayed."""
        traced(get_config(), said)

    def told(self, result: Any) -> dict[str, Any]:
        """For the audit trail: details, and what the call used."""
        return {"details": {"result": told(str(result))}}


def settled(
    call: Call,
    claim: Claim,
    state: State,
    began: float,
    *,
    kept: tuple[str, bytes] | None = None,
    error: BaseException | None = None,
    details: Mapping[str, Any] | None = None,
    **more: Any,
) -> Action:
    """Write down what became of a call."""
    said = {"error": told(f"{type(error).__name__}: {error}")} if error is not None else details or {}
    settlement = Settlement(
        claim=claim, state=state, result=kept, duration=time.monotonic() - began, details=said, **more
    )
    return Action(lambda: call.journal.settle(settlement), lambda: call.journal.asettle(settlement))


def _claim(journal: Journal, effect: Effect, again: bool) -> Action:
    return Action(lambda: journal.claim(effect, again=again), lambda: journal.aclaim(effect, again=again))


def _under_way(doubt: Doubt) -> bool:
    return (doubt.thread_id, doubt.effect_id) in _running


def _until(other: Future[None]) -> Action:
    return Action(other.result, lambda: asyncio.shield(asyncio.wrap_future(other)))


def _reconciled(call: Call, claim: Claim, reconcile: Reconcile) -> Work[None]:
    effect = call.effect
    found = yield Action(lambda: _waited_for(reconcile, effect.asked), lambda: _maybe_awaited(reconcile, effect.asked))
    if found is DID_NOT_HAPPEN:
        answer: Answer = ("did not happen", None, "reconcile")
    else:
        answer = ("happened", sealed(effect.name, found, call.saver.serializer), "reconcile")
    yield resolved(call.journal, effect, answer, claim.attempt)


def _waited_for(reconcile: Reconcile, asked: Mapping[str, Any]) -> Any:
    found = reconcile(asked)
    if not inspect.isawaitable(found):
        return found

    async def wait() -> Any:
        return await found

    with ThreadPoolExecutor(1) as pool:  # a loop may be running in this thread
        return pool.submit(asyncio.run, wait()).result()


async def _maybe_awaited(reconcile: Reconcile, asked: Mapping[str, Any]) -> Any:
    found = reconcile(asked)
    if inspect.isawaitable(found):
        found = await found
    return found
