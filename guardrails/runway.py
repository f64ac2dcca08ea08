"""How far the money of a thread still reaches, as its last reservation showed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock
from typing import Final, Literal

from ..checkpointing.spending import Nearest

Unit = Literal["usd", "tokens"]
Window = Literal["run", "hour", "day"]
_THREADS: Final = 4096


@dataclass(frozen=True, slots=True)
class Runway:
    """What is left of the limit that is nearest to its end.

    >>> Runway("tenant:acme", "usd", "hour", Decimal(2), Decimal("1.50")).fraction
    0.25
    """

    scope: str
    unit: Unit
    window: Window
    limit: Decimal
    used: Decimal
    """Spent and reserved, by everybody in the scope."""

    @property
    def left(self) -> Decimal:
        return max(self.limit - self.used, Decimal(0))

    @property
    def fraction(self) -> float:
        """Of the limit, 0 to 1."""
        return float(self.left / self.limit)


_lock: Final = Lock()
_known: Final[OrderedDict[str, Runway]] = OrderedDict()


def note_runway(thread_id: str, runway: Runway | None) -> None:
    """Remember what a thread's newest reservation left; None: it has no limit any more."""
    with _lock:
        _known.pop(thread_id, None)
        if runway is not None:
            _known[thread_id] = runway
        while len(_known) > _THREADS:
            _known.popitem(last=False)


def noted(thread_id: str, nearest: Nearest | None) -> None:
    """`note_runway` by a reservation's answer."""
    runway = None
    if nearest is not None and nearest.window != "call":
        runway = Runway(nearest.scope, nearest.unit, nearest.window, nearest.limit, nearest.used)
    note_runway(thread_id, runway)


def runway_of(thread_id: str) -> Runway | None:
    """What this process knows of a thread's money; None where it has reserved nothing for it, or has no limit."""
    with _lock:
        return _known.get(thread_id)
