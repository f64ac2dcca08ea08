"""The rows of one commit: what a batch of puts and put_writes adds to the tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from .arrays import BytesArray, IntArray, TextArray
from .memory import Head

_COLUMNS: Final = {
    "m": (
        *("thread", "digest", "type", "body", "shown", "role", "cid", "ns", "node", "step", "tokens"),
        "sum",
    ),
    "b": ("thread", "ns", "channel", "version", "type", "blob"),
    "w": ("thread", "ns", "checkpoint", "task", "path", "idx", "channel", "type", "blob"),
    "c": ("thread", "ns", "id", "parent", "type", "checkpoint", "metadata"),
    "h": ("thread", "ns", "id", "generation"),
    "t": ("thread", "ns", "generation"),
    "k": ("thread", "ns"),
}
"""The parameters of the commit statement, one array for each column."""


_ARRAYS: Final[dict[str, type[TextArray] | type[BytesArray] | type[IntArray]]] = {
    **dict.fromkeys(("digest", "body", "blob"), BytesArray),
    **dict.fromkeys(("step", "tokens", "idx", "generation"), IntArray),
}

_OUTSIDE: Final = "00000000-0000-0000-0000-000000000000"
"""The task of input and updates (LangGraph's NULL_TASK_ID)."""
Row = tuple[Any, ...]
_Place = tuple[str, str]
"""A thread and a namespace."""
_Write = tuple[str, str, str, str, int]


@dataclass(slots=True)
class Batch:
    """Rows by primary key: a statement may not touch one row twice."""

    messages: dict[tuple[str, bytes], Row] = field(default_factory=dict[tuple[str, bytes], Row])
    blobs: dict[tuple[str, str, str, str], Row] = field(default_factory=dict[tuple[str, str, str, str], Row])
    writes: dict[_Write, Row] = field(default_factory=dict[_Write, Row])
    checkpoints: dict[tuple[str, str, str], Row] = field(default_factory=dict[tuple[str, str, str], Row])
    heads: dict[_Place, tuple[str, Head]] = field(default_factory=dict[_Place, tuple[str, Head]])
    touched: dict[_Place, Head] = field(default_factory=dict[_Place, Head])

    def message(self, row: tuple[Any, ...]) -> None:
        """A message; of two opinions on its visibility the stricter holds."""
        key = (row[0], row[1])
        if key not in self.messages or row[4] < self.messages[key][4]:
            self.messages[key] = row

    def write(self, row: tuple[Any, ...], count: int) -> None:
        """A row of writes; what an earlier one holds stands, but for what comes from outside, which grows."""
        key = (row[0], row[1], row[2], row[3], row[5])
        kept = self.writes.get(key)
        grows = row[3] == _OUTSIDE and kept is not None and count > int(kept[7].rpartition(":")[2])
        if kept is None or row[5] < 0 or grows:
            self.writes[key] = row

    def checkpoint(self, row: tuple[Any, ...], head: Head) -> None:
        """A checkpoint, which is its namespace's head if it is the newest."""
        thread_id, ns, checkpoint_id = row[:3]
        self.checkpoints[thread_id, ns, checkpoint_id] = row
        kept = self.heads.get((thread_id, ns))
        self.heads[thread_id, ns] = (max(checkpoint_id, kept[0]) if kept else checkpoint_id, head)

    def parameters(self) -> dict[str, list[Any]]:
        """The arrays that the commit statement takes."""
        touched = {key: head for key, head in self.touched.items() if key not in self.heads}
        rows: dict[str, Collection[Sequence[Any]]] = {
            "m": self.messages.values(),
            "b": self.blobs.values(),
            "w": self.writes.values(),
            "c": self.checkpoints.values(),
            "h": [(*key, newest, head.generation) for key, (newest, head) in sorted(self.heads.items())],
            "t": [(*key, head.generation) for key, head in sorted(touched.items())],
            "k": [key for key, (_, head) in self.heads.items() if head.exists],
        }
        return {
            f"{prefix}_{name}": _ARRAYS.get(name, TextArray)(map(itemgetter(index), rows[prefix]))
            for prefix, names in _COLUMNS.items()
            for index, name in enumerate(names)
        }

    def committed(self) -> None:
        """The rows are there: the heads exist from now on."""
        for _, head in self.heads.values():
            head.exists = True
