"""Where tools stand, in numbers: as a table, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.checkpointing import AutomaticRun
from holdfast.checkpointing.evidence import RINGS
from holdfast.guardrails.trust import TrustRecord

from . import render
from .state import utc

_SHOWN: Final = 10
"""Cases that are shown of one kind of action."""


def subject(record: TrustRecord) -> str:
    """The tool, and the kind of action if it is another than the tool."""
    evidence = record.evidence
    return evidence.tool if evidence.pattern == evidence.tool else f"{evidence.tool} ({evidence.pattern})"


def short(record: TrustRecord) -> str:
    """Ring and numbers on one line.

    >>> from holdfast.checkpointing import Evidence
    >>> from holdfast.guardrails import TrustRule
    >>> short(TrustRule().judge(Evidence(tool="send", pattern="send", cases=[])))
    'ring 0, 0 of 0 good, bound 0.000 of 0.70, 9 good cases to ring 1'
    """
    upper = _next(record)
    missing = "" if upper is None else f", {record.missing} good cases to ring {upper}"
    return f"ring {record.ring}{_pinned(record)}, {record.good} of {record.cases} good, bound {_bound(record)}{missing}"


def lines(record: TrustRecord) -> Iterator[str]:
    """All that the ring follows from."""
    counts, evidence, rule = record.counts, record.evidence, record.rule
    yield render.one_line(f"{subject(record)}: ring {record.ring}{_pinned(record)}")
    yield (
        f"  cases         {record.cases} of the newest {rule.window}: {counts['approved']} approved, {counts['fine']} "
        f"found fine, {counts['edited']} edited, {counts['responded']} answered instead, {counts['failed']} failed "
        f"a check, {counts['rejected']} rejected, {counts['incident']} incidents"
    )
    yield f"  good          {record.good}, of them {record.clean} since the newest rejection or incident"
    yield f"  bound         {record.bound:.4f} (Wilson, lower, z {rule.z:g})"
    for ring in RINGS[1:]:
        bar = rule.bar(ring)
        yield f"  ring {ring} needs  a bound of {bar.bound:g} and {bar.clean} good cases since the newest setback"
    if (upper := _next(record)) is not None:
        yield f"  missing       {record.missing} good cases in a row to ring {upper}"
    if (pin := evidence.pin) is not None:
        kind = "exactly" if pin.exact and not pin.broken else "at the most"
        ended = ", given up by a setback since" if pin.exact and pin.broken else ""
        why = f": {pin.why}" if pin.why else ""
        told = render.one_line(f"ring {pin.ring} {kind}, by {pin.by}, {utc(pin.at)} UTC{ended}{why}")
        yield f"  pinned        {told}"
    yield f"  automatic     {evidence.automatic or 0} runs, {evidence.unreviewed} of them wait for a review"
    yield f"  checks        {evidence.checks_passed or 0} passed, {evidence.checks_failed or 0} failed"


def table(console: Console, records: Sequence[TrustRecord]) -> None:
    """Print one line for each kind of action."""
    rows = Table(box=None, pad_edge=False, highlight=False)
    for name in ("tool", "pattern"):
        rows.add_column(name, overflow="fold")
    figures = ("ring", "cases", "approved", "fine", "edited", "rejected", "incidents", "other", "bound", "missing")
    for name in (*figures, "to review"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("pinned", overflow="fold")
    for record in records:
        counts, evidence, pin = record.counts, record.evidence, record.evidence.pin
        upper = _next(record)
        cells = [
            evidence.tool, evidence.pattern if evidence.pattern != evidence.tool else "",
            str(record.ring), str(record.cases),
            *(str(counts[name]) for name in ("approved", "fine", "edited", "rejected", "incident")),
            str(counts["responded"] + counts["failed"]), _bound(record),
            "" if upper is None else f"{record.missing} to ring {upper}", str(evidence.unreviewed),
            "" if pin is None else f"{'=' if pin.exact and not pin.broken else '<='} {pin.ring} by {pin.by}",
        ]  # fmt: skip
        rows.add_row(*(Text(render.one_line(cell)) for cell in cells))
    _print(console, rows)


def cases(console: Console, record: TrustRecord) -> None:
    """Print the newest cases."""
    newest = record.evidence.cases[:_SHOWN]
    if not newest:
        return
    rows = Table(box=None, pad_edge=False, highlight=False)
    for name in ("newest cases", "at (UTC)", "by", "request", "why"):
        rows.add_column(name, overflow="fold")
    for case in newest:
        cells = [case.outcome, utc(case.at), case.by, case.request_id or "", case.why]
        rows.add_row(*(Text(render.one_line(cell)) for cell in cells))
    _print(console, rows)


def runs(console: Console, waiting: Sequence[AutomaticRun]) -> None:
    """Print the runs that wait for a review."""
    rows = Table(box=None, pad_edge=False, highlight=False)
    for name in ("request", "tool", "pattern", "ring", "made at (UTC)", "thread"):
        rows.add_column(name, overflow="fold")
    for run in waiting:
        pattern = run.pattern if run.pattern != run.tool else ""
        cells = [run.request_id, run.tool, pattern, str(run.ring), utc(run.at), run.thread_id]
        rows.add_row(*(Text(render.one_line(cell)) for cell in cells))
    _print(console, rows)


def as_json(record: TrustRecord, *, cases: bool = False) -> dict[str, Any]:
    """Everything as plain data."""
    evidence, pin = record.evidence, record.evidence.pin
    pinned = None if pin is None else {
        "ring": pin.ring, "exact": pin.exact, "broken": pin.broken, "by": pin.by, "why": pin.why,
        "at": pin.at.isoformat(),
    }  # fmt: skip
    found: dict[str, Any] = {
        "tool": evidence.tool, "pattern": evidence.pattern, **record.numbers(), "pin": pinned,
        "rule": {
            "z": record.rule.z, "window": record.rule.window, "unreviewed": record.rule.unreviewed,
            "reviewed": {"bound": record.rule.reviewed.bound, "clean": record.rule.reviewed.clean},
            "automatic": {"bound": record.rule.automatic.bound, "clean": record.rule.automatic.clean},
        },
    }  # fmt: skip
    if cases:
        found["newest"] = [
            {
                "outcome": case.outcome, "at": case.at.isoformat(), "by": case.by, "request": case.request_id,
                "why": case.why,
            }
            for case in evidence.cases
        ]  # fmt: skip
    return found


def run_as_json(run: AutomaticRun) -> dict[str, Any]:
    """A run that waits for a review, as plain data."""
    return {
        "request": run.request_id, "thread_id": run.thread_id, "tool": run.tool, "pattern": run.pattern,
        "ring": run.ring, "why": run.why, "at": run.at.isoformat(),
    }  # fmt: skip


def _next(record: TrustRecord) -> int | None:
    return None if record.missing is None else record.earned + 1


def _bound(record: TrustRecord) -> str:
    upper = min(record.earned + 1, RINGS[-1])
    return f"{record.bound:.3f} of {record.rule.bar(RINGS[upper]).bound:.2f}"


def _pinned(record: TrustRecord) -> str:
    pin = record.evidence.pin
    if pin is None or record.ring == record.earned:
        return ""
    return f" (pinned by {pin.by}; earned: {record.earned})"


def _print(console: Console, rows: Table) -> None:
    with console.capture() as captured:
        console.print(rows)
    for text in captured.get().splitlines():
        console.out(text.rstrip(), highlight=False)
