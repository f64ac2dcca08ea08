"""One call, made once: claimed before, settled after, answered from the record when it comes again."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp

from ..checkpointing.errors import HoldfastError
from ..checkpointing.journal import Doubt
from ..checkpointing.records import Claim, Effect, Settlement, State
from ..checkpointing.spending import Closing
from .actions import Action, ToItsEnd, Work
from .asking import Answer, resolved
from .envelope import opened, sealed
from .placing import Call, Reconcile
from .runway import noted
from .tracing import facts, logged, traced
from .written import told

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


def idempotency_key() -> str:
    """Within a journaled tool or effect: the same text each time this call is made, and no other call's.

    Raises:
        LookupError: nothing journaled is running here.
    """
    key = _key.get()
    if key is None:
        raise LookupError("no journaled call is running here")
    return key


_running: Final[dict[tuple[str, str], Future[None]]] = {}
"""Calls that this process is making: one that is executed again meanwhile waits for its end."""
_claiming: Final[dict[tuple[str, str], Future[None]]] = {}
"""Calls whose claim is not answered yet."""


def _forked() -> None:
    """None of the calls that a process is making goes on in its child."""
    _running.clear()
    _claiming.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
    if call.payment is not None:
        wanted = yield from call.payment.wanted(call)
        effect = replace(effect, wanted=wanted if wanted.budgets else None)
    again = call.on_doubt in ("retry", "idempotent")
    claim = yield from _claimed(call, effect, again)
    while claim.outcome == "in_doubt":
        logged(logging.WARNING, "was begun before, and nobody knows what became of it", effect)
        if callable(call.on_doubt):
            yield from _reconciled(call, claim, call.on_doubt)
        else:
            yield from call.attempt.asking.settle(journal, effect, _under_way, _no_claims)
        claim = yield from _claimed(call, effect, False)
    if claim.reservation is not None:
        noted(effect.thread_id, claim.reservation.nearest)
    if claim.outcome != "claimed":
        logged(logging.INFO, "was answered from the record", effect)
    return claim


def _claimed(call: Call, effect: Effect, again: bool) -> Work[Claim]:
    key, answered = (effect.thread_id, effect.effect_id), Future[None]()
    _claiming[key] = answered
    ending, journal = ToItsEnd(), call.journal
    try:
        claim: Claim = yield Action(
            lambda: journal.claim(effect, again=again), lambda: ending.of(journal.aclaim(effect, again=again))
        )
        if ending.cancelled and claim.outcome == "claimed":
            # Nothing was called, and that is sure: nobody need be asked about it.
            said = {"error": "cancelled before it was made"}
            yield settled(call, claim, "failed", time.monotonic(), details=said, closing=Closing(outcome="released"))
        ending.check()
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
            yield settled(call, claim, "suspended", began, closing=Closing(outcome="released"))
            raise
        except Exception as error:
            safe = isinstance(error, NotDone) or call.on_doubt in ("retry", "idempotent")
            yield settled(
                call, claim, "failed" if safe else "raised", began, error=error, closing=_unpaid(call, error, safe)
            )
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


def _unpaid(call: Call, error: Exception, safe: bool) -> Closing | None:
    """What becomes of its reservation; None, until a person says what became of the call."""
    if isinstance(error, NotDone):
        return Closing(outcome="released")
    closing = call.payment.failed(error) if call.payment is not None else None
    return Closing(outcome="presumed") if closing is None and safe else closing


class PlainCodec(Codec):
    """Of what the serializer knows."""

    def sealed(self, call: Call, result: Any) -> tuple[str, bytes]:
        return sealed(call.effect.name, result, call.saver.serializer)

    def opened(self, call: Call, kept: tuple[str, bytes]) -> Any:
        return opened(kept, call.saver.serializer)

    def abandoned(self, call: Call) -> Any:
        """Nothing: it is as if it had not been recorded."""
        return None


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
