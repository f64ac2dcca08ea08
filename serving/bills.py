"""What was spent, as a table, as a chart, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.checkpointing.costs import EXACT, CostLine, Grouping, total

from . import render

_CENTS: Final = 2
_USUAL: Final = 4
_MOST: Final = 12
_PLAIN_BAR: Final = 24
_LONGEST_BAR: Final = 60
_SHORTEST_BAR: Final = 6
_SHORTEST_KEY: Final = 12
_WIDE: Final = 100_000
_BLOCKS: Final = "▏▎▍▌▋▊▉█"
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_COLUMNS: Final = (
    "model_calls", "tool_calls", "replayed", "input_tokens", "output_tokens", "cost", "unseen", "estimated", "unpriced"
)  # fmt: skip


def digits(amounts: Iterable[Decimal]) -> int:
    """How many places after the point show these amounts: all that they have, but no more than 4 where that is enough
    to show two digits of the smallest, and no more than 12.

    >>> digits([Decimal("1.5"), Decimal("0.0300")]), digits([Decimal(1) / 3]), digits([Decimal("0.000001234")])
    (2, 4, 7)
    """
    known = [amount.normalize(EXACT) for amount in amounts if amount.is_finite() and amount]
    exact = max((_places(amount) for amount in known), default=_CENTS)
    small = max((1 - amount.adjusted() for amount in known), default=_CENTS)
    return max(_CENTS, min(exact, max(_USUAL, small), _MOST))


def dollars(amount: Decimal, places: int) -> str:
    """An amount of US dollars.

    >>> dollars(Decimal("-1234.5"), 2)
    '-$1,234.50'
    """
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}" if amount.is_finite() else str(amount)


def as_csv(lines: Sequence[CostLine], by: Grouping) -> str:
    """One row a line, amounts exact; no row for the total, which a spreadsheet would count again.

    A key that a spreadsheet would run as a formula has an apostrophe before it (OWASP, "CSV Injection").
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([by, *_COLUMNS])
    for line in lines:
        writer.writerow([_tame(line.key or ""), *_values(line).values()])
    return out.getvalue()


def as_json(lines: Sequence[CostLine], by: Grouping) -> dict[str, Any]:
    """The lines and their total, as plain data; amounts are text, and exact."""
    return {
        "by": by,
        "lines": [{"key": line.key, **_values(line)} for line in lines],
        "total": _values(total(lines)),
    }


def table(console: Console, lines: Sequence[CostLine], by: Grouping) -> None:
    """Print the lines and their total, with a bar for each line's part where there is room; counts where there is."""
    _print(console, lines, by, counts=True)


def chart(console: Console, lines: Sequence[CostLine], by: Grouping) -> None:
    """Print a bar for each line, as long as the terminal allows, and what it stands for."""
    _print(console, lines, by, counts=False)


def console() -> Console:
    """Standard output: as wide as the terminal, and where it is none as wide as the lines are, so that none breaks."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDE)


def _print(console: Console, lines: Sequence[CostLine], by: Grouping, *, counts: bool) -> None:
    whole, places = total(lines), digits(line.cost for line in lines)
    shown = [_row(line, whole, places, counts=counts) for line in lines]
    sums = _row(whole, whole, places, counts=counts)
    figures = sum(1 + max(map(len, (name, *(row[name] for row in (*shown, sums))))) for name in sums)
    if counts and console.width < figures + _SHORTEST_KEY:
        _print(console, lines, by, counts=False)  # rather than figures that are cut off
        return
    labels = [_label(line, by) for line in lines]
    longest = console.width - figures - max(map(cell_len, ("total", by, *map(str, labels)))) - 1
    longest = min(longest, _LONGEST_BAR) if console.is_terminal else _PLAIN_BAR
    rows = Table(box=None, pad_edge=False, highlight=False, show_header=counts, show_footer=True, footer_style="bold")
    rows.add_column(by, footer="total", overflow="fold")
    for name, footer in sums.items():
        rows.add_column(name, footer=footer, justify="right", no_wrap=True)
    if longest >= _SHORTEST_BAR:
        rows.add_column(min_width=longest, no_wrap=True)
    fancy = console.is_terminal and console.encoding.startswith("utf") and not console.legacy_windows
    dearest = max((line.cost for line in lines if line.cost.is_finite()), default=Decimal(0))
    for label, row, line in zip(labels, shown, lines, strict=True):
        bar = [_bar(line.cost, dearest, longest, fancy=fancy)] if longest >= _SHORTEST_BAR else []
        rows.add_row(label, *row.values(), *bar)
    with console.capture() as captured:
        console.print(rows)
    for text in captured.get().splitlines():
        console.out(text.rstrip(), highlight=False)
    for note in _notes(lines, whole, places):
        click.echo(note)


def _row(line: CostLine, whole: CostLine, places: int, *, counts: bool) -> dict[str, str]:
    """The figures of a line, by the heads of their columns."""
    replayed = {"replayed": line.replayed} if whole.replayed else {}
    counted = {"model calls": line.model_calls, "tool calls": line.tool_calls, **replayed}
    tokens = {"tokens in": line.input_tokens, "tokens out": line.output_tokens}
    figures = {name: f"{count:,}" for name, count in {**counted, **tokens}.items()} if counts else {}
    return {**figures, "cost": dollars(line.cost, places), "share": _share(line, whole)}


def _bar(amount: Decimal, dearest: Decimal, longest: int, *, fancy: bool) -> str:
    """As long as its part of the dearest; what is spent at all has a mark."""
    if not amount.is_finite() or amount <= 0 or dearest <= 0:
        return ""
    if not fancy:
        return "#" * max(1, round(longest * amount / dearest))
    whole, rest = divmod(max(1, round(longest * len(_BLOCKS) * amount / dearest)), len(_BLOCKS))
    return _BLOCKS[-1] * whole + (_BLOCKS[rest - 1] if rest else "")


def _share(line: CostLine, whole: CostLine) -> str:
    if not (whole.cost.is_finite() and line.cost.is_finite()) or whole.cost <= 0:
        return ""
    return f"{100 * line.cost / whole.cost:.1f} %"


def _label(line: CostLine, by: Grouping) -> Text:
    return Text(f"(no {by})", style="italic") if line.key is None else Text(render.one_line(line.key))


def _notes(lines: Sequence[CostLine], whole: CostLine, places: int) -> Iterator[str]:
    """What has to be known of figures that are shown with so many places."""
    if any(_places(line.cost) > places for line in lines if line.cost.is_finite()):
        yield f"amounts are rounded to {places} places; the total is that of the exact ones"
    if whole.unseen:
        yield f"{_alone(whole.unseen)} of it went past every middleware, and was found by a callback"
    if whole.estimated:
        yield f"{_alone(whole.estimated)} of it is estimated, as the provider reported no usage"
    if whole.unpriced:
        several = "answers of models have" if whole.unpriced > 1 else "answer of a model has"
        yield f"{whole.unpriced:,} {several} no known price, and no part in these sums"


def _alone(amount: Decimal) -> str:
    return dollars(amount, digits([amount]))


def _places(amount: Decimal) -> int:
    exponent = amount.normalize(EXACT).as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _values(line: CostLine) -> dict[str, int | str]:
    values = {name: getattr(line, name) for name in _COLUMNS}
    return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in values.items()}


def _tame(key: str) -> str:
    return f"'{key}" if key.startswith(_FORMULA) else key
