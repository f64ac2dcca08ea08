"""Figures with floors, and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that has a floor, or with `most` a ceiling."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    guard: float | None = None
    """What must hold on a busy machine, where that is less than the floor."""

    def held(self, *, guarded: bool) -> bool:
        bound = self.guard if guarded and self.guard is not None else None
        if self.least is not None:
            return self.value >= (self.least if bound is None else bound)
        return self.most is None or self.value <= (self.most if bound is None else bound)

    def line(self, *, check: bool) -> str:
        shown = f"  {self.name:<58} {self.value:>9.2f}"
        if not check:
            return shown
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{shown}   floor: {bound:<14} {'held' if self.held(guarded=False) else 'NOT HELD'}"


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> None:
    print(f"\n{title}\n\n  {'':<44}" + "".join(f"{column:>16}" for column in columns))
    for label, cells in rows:
        print(f"  {label:<44}" + "".join(f"{cell:>16}" for cell in cells))


def shown(figures: Sequence[Figure], *, check: bool, guarded: bool) -> int:
    """Print them; the exit code: 1 if one is below its floor, where that is to be checked."""
    print()
    for figure in figures:
        print(figure.line(check=check))
    return 0 if not check or all(figure.held(guarded=guarded) for figure in figures) else 1
