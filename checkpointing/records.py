"""Calls as the journal knows them: about to be made, claimed, settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from .errors import HoldfastError
from .leases import Lease
from .spending import Closing, Reservation, Wanted

Kind = Literal["model", "tool", "effect"]
State = Literal["completed", "failed", "raised", "suspended"]
OnDoubt = Literal["ask", "retry", "idempotent", "reconcile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A call that is about to be made, and where."""

    thread_id: str
    effect_id: str
    """The same on every re-execution; what a tool is given as its idempotency key."""
    kind: Kind
    name: str
    request: bytes
    """Digest of what is asked."""
    asked: Mapping[str, Any]
    """What is asked, as JSON, for people."""
    on_doubt: OnDoubt = "ask"
    """Who says what became of it, if its worker goes away."""
    task_id: str
    checkpoint_ns: str = ""
    node: str | None = None
    step: int | None = None
    correlation_id: str | None = None
    run_id: str | None = None
    lease: Lease | None = None
    wanted: Wanted | None = None
    """What is to be reserved for it, by the same commit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What may be done about a call.

    `claimed`: make it, then settle it. `completed`: `result` is its record. `abandoned`: a person gave it up.
    `in_doubt`: it was begun by somebody who is gone; nobody knows what became of it.
    """

    effect: Effect
    outcome: Literal["claimed", "completed", "abandoned", "in_doubt"]
    attempt: int
    token: str
    result: tuple[str, bytes] | None = None
    reservation: Reservation | None = None
    """What is reserved for it, if it is to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of a call."""

    claim: Claim
    state: State
    result: tuple[str, bytes] | None = None
    event: str | None = None
    """The audit event's second word, if it is another than the state's."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None
    """US dollars; where `closing` settles a reservation, what that says holds."""
    duration: float | None = None
    """Seconds."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For the audit trail, as JSON."""
    closing: Closing | None = None
    """What becomes of its reservation, if it has one; None: it stays, until it is known what became of the call."""


class JournalMismatch(HoldfastError):
    """A call is not the one that was written down under its id: the graph was changed under a running thread."""

    def __init__(self, effect: Effect) -> None:
        self.effect_id: Final = effect.effect_id
        super().__init__(
            f"{effect.kind} {effect.name!r} of thread {effect.thread_id!r} was recorded with other arguments under the "
            f"id {effect.effect_id}: the graph was changed while the thread ran; run the thread to its end with the "
            "graph it was begun with, or go on from an earlier checkpoint"
        )
