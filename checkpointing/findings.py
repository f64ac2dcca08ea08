"""What a verification finds, and how it judges what hangs together (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .integrity import MARK, Seal, Unsound

Severity = Literal["damage", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a thread: `damage` is not as it was written, a `note` is nothing to act on."""

    severity: Severity
    thread_id: str
    what: str
    where: str
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None
    """A checkpoint that has it, the oldest, where one can be named."""

    def __str__(self) -> str:
        inside = f" ({self.checkpoint_ns})" if self.checkpoint_ns else ""
        which = f" checkpoint {self.checkpoint_id}" if self.checkpoint_id else ""
        return f"{self.severity}: thread {self.thread_id}{inside}{which}: {self.what} in {self.where}"


def check_parent(seal: Seal, parent_id: str, kind: str | None, rows: int) -> None:
    """Whether a checkpoint's parent, which has this `kind` and so many rows of writes, is what its seal says.

    Raises:
        Unsound: it is not.
    """
    digest = kind.split(":")[1] if kind and kind.startswith(MARK) else ""
    if seal.parent and digest != seal.parent:
        what = "is not the one that it was written on" if digest else "has lost its digest"
        raise Unsound(f"its parent {parent_id} {what}", "checkpoints")
    if rows < seal.parent_writes:
        raise Unsound(
            f"of {seal.parent_writes} rows of writes on its parent {parent_id} {rows} are left", "checkpoint_writes"
        )


def check_head(
    head: str | None, expected: int | None, newest: str | None, kind: str | None, order: int, rows: int
) -> None:
    """Whether a head is the newest checkpoint, which has this `kind`; `order` is 1 if the head is newer, -1 if older.

    Raises:
        Unsound: it is not, or has fewer rows of writes than are `expected`.
    """
    if head is None:
        if kind is not None:
            raise Unsound("the thread's head is missing", "holdfast.heads")
    elif newest is None or order > 0:
        raise Unsound(f"checkpoint {head} is missing", "checkpoints")
    elif order < 0 and kind is not None:
        raise Unsound(f"the thread's head is not its newest checkpoint {newest}", "holdfast.heads")
    elif order == 0 and kind is None:
        raise Unsound("a checkpoint's digest is missing", f"checkpoints ({head})")
    elif order == 0 and rows < (expected or 0):
        raise Unsound(f"of {expected} rows of writes {rows} are left", f"checkpoint_writes ({head})")
