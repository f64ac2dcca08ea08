"""A thread's state, as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .progress import printable
from .state import ThreadState, command, utc

_OFFLINE = "offline: no language model, ranks and quotes sentences"


def as_json(state: ThreadState, tokens: int | None = None) -> dict[str, Any]:
    """Everything about a thread, as plain data; `tokens` are those of the segment that was just run."""
    return {
        **({} if tokens is None else {"tokens": tokens}),
        "thread_id": state.thread_id,
        "status": state.status,
        "node": state.node,
        "updated_at": state.updated_at.isoformat() if state.updated_at else None,
        "error": state.error,
        "model": state.settings.model,
        "correlation_id": state.settings.correlation_id,
        "budget": state.settings.budget,
        "tenant": state.settings.tenant,
        "next_command": state.next_command,
        "values": dict(state.values),
    }


def dump(value: Any) -> str:
    """JSON as the command line prints it."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def one_line(text: str) -> str:
    """A text without line breaks and control characters."""
    return printable(" ".join(text.split()))


def show(console: Console, state: ThreadState, *, full: bool = True) -> None:
    """Print a thread: with `full` everything that its stages left behind, else what is new to whoever waits."""
    for heading, lines in _sections(state, full=full):
        console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(Text(printable(line)), soft_wrap=True)
        console.print()
    console.print(Text(status_line(state), style="bold"), soft_wrap=True)


def status_line(state: ThreadState) -> str:
    """Where the thread stands, and what to type next."""
    said = {
        "waiting": "waits for a decision",
        "finished": "finished",
        "rejected": "finished: the message was rejected",
        "failed": f"failed in {state.node}: {printable(state.error or '')}",
        "stopped": f"stopped before {state.node} was done" if state.node else "stopped",
    }[state.status]
    onward = f"; go on with: {state.next_command}" if state.next_command else ""
    refuse = f"  (or: {command('reject', state.thread_id, '--reason')} …)" if state.status == "waiting" else ""
    return f"thread {state.thread_id} {said}{onward}{refuse}"


def _sections(state: ThreadState, *, full: bool) -> Iterator[tuple[str, list[str]]]:
    values = state.values
    if full:
        yield "Brief", _brief(state)
        if findings := values.get("findings"):
            yield (
                "Findings",
                [
                    findings["summary"],
                    *(f"- {fact['statement']}  ({fact['document']})" for fact in findings["facts"]),
                ],
            )
        if angles := values.get("angles"):
            yield "Angles", [f"- {angle['title']}: {angle['why']}" for angle in angles]
        if evidence := values.get("evidence"):
            yield "Evidence", [line for item in evidence for line in _evidence(item)]
    if (email := values.get("email")) and (full or state.status == "waiting"):
        yield "Message", _message(email)
    if problems := values.get("problems"):
        yield "Left out", [f"- {item['node']}: {item['subject']}: {item['problem']}" for item in problems]
    if approval := values.get("approval"):
        reason = f": {approval['reason']}" if approval.get("reason") else ""
        yield "Decision", [f"{approval['decision']} by {approval['by']} at {approval['at']}{reason}"]
    if receipt := values.get("receipt"):
        yield "Delivery", [str(receipt.get("path") or f"SMTP, {receipt['message_id']}")]


def _brief(state: ThreadState) -> list[str]:
    values = state.values
    model = _OFFLINE if state.settings.model == "offline" else state.settings.model
    shown = {
        "company": values.get("company"),
        "dossier": values.get("dossier"),
        "offer": values.get("offer"),
        "to": values.get("to"),
        "model": model,
        "tenant": state.settings.tenant,
        "budget": state.settings.budget and f"{state.settings.budget} USD",
        "updated": f"{utc(state.updated_at)} UTC",
    }
    return [f"{key:<8} {value}" for key, value in shown.items() if value]


def _evidence(item: Mapping[str, Any]) -> list[str]:
    end = item["position"] + len(item["quote"])
    return [
        f"[{item['number']}] {item['quote']}",
        f"    {item['document']}, characters {item['position']}-{end}",
    ]


def _message(email: Mapping[str, Any]) -> list[str]:
    headers = [
        f"From: {email['sender']}",
        f"To: {email.get('to', '(nobody yet)')}",
        f"Subject: {email['subject']}",
        "",
    ]
    return [*headers, *email["body"].splitlines()]


def table(states: Sequence[ThreadState], queued: Mapping[str, str] = MappingProxyType({})) -> Table:
    """The threads, one a row; `queued` is what the queue of workers says of them, by their ids."""
    rows = Table("thread", "status", "node", "company", "updated (UTC)", box=None, pad_edge=False)
    for state in states:
        company = str(state.values.get("company", ""))
        status = queued.get(state.thread_id, state.status)
        row = (state.thread_id, status, state.node or "", company, utc(state.updated_at))
        rows.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    return rows
