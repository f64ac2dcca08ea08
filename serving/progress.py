"""What a person sees while a graph runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import TasksStreamPart
from rich.console import Console
from rich.text import Text

from holdfast.nodes import Problem

_SHORT: Final = 72


class Progress:
    """Prints a line when a stage starts, for each call in it, and when it ends; on a terminal a spinner too.

    `clock` gives seconds from any start.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._started: dict[str, float] = {}
        self._stage = ""
        self._calls = 0
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def event(self, part: TasksStreamPart, tokens: int) -> None:
        """Take in one `tasks` part of the stream (version 2)."""
        data, inner = part["data"], bool(part["ns"])
        if "input" not in data:
            self._ended(data, inner, tokens)
        elif not inner:
            self._started[data["id"]] = self._clock()
            self._stage, self._calls = data["name"], 0
            self._line("\u25b8", "cyan", data["name"])
        if self._status:
            self._status.update(
                f"{self._stage} \u00b7 step {self._calls} \u00b7 {self._elapsed()} \u00b7 {tokens:,} tokens"
            )

    def _ended(self, data: Mapping[str, Any], inner: bool, tokens: int) -> None:
        if inner:
            if said := call_summary(data):
                self._calls += 1
                self._line(" ", "dim", f"  step {self._calls}: {said}", style="dim")
            return
        took = self._clock() - self._started.pop(data["id"], self._clock())
        if data["interrupts"]:
            self._line("\u23f8", "yellow", f"{data['name']} waits for a person")
        elif data["error"]:
            self._line("\u2717", "red", f"{data['name']} failed after {took:.1f} s")
        else:
            result: dict[str, Any] = data["result"] or {}
            summary = stage_summary(data["name"], result)
            spent = f"{self._calls} step{'s' * (self._calls > 1)}  {tokens:,} tokens  " if self._calls else ""
            self._line("\u2713", "green", f"{data['name']:<9}{took:6.1f} s  {spent}{summary}")
            problems: list[Problem] = result.get("problems", [])
            for problem in problems:
                self._line("!", "yellow", f"  left out: {problem['subject']}: {problem['problem']}")

    def _line(self, sign: str, colour: str, text: str, style: str = "") -> None:
        # Text, not markup: names and documents are not ours and may hold brackets or control codes.
        self._console.print(Text.assemble((sign, colour), " ", (printable(text), style)), soft_wrap=True)

    def _elapsed(self) -> str:
        return f"{self._clock() - self._began:.0f} s"


def call_summary(task: Mapping[str, Any]) -> str | None:
    """One line on a finished step of an agent: which calls it asked for, or what it made; None for bookkeeping."""
    result: dict[str, Any] = task["result"] or {}
    messages: list[BaseMessage] = result.get("messages", [])
    if task["error"] or not messages:
        return None
    last = messages[-1]
    calls = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    if calls:
        shown = ", ".join(f"{call['name']}({_first(call['args'])})" for call in calls)
        return f"model asks for {_cut(shown)}" if len(messages) == 1 else f"model answers with {calls[0]['name']}"
    if isinstance(last, ToolMessage):
        return f"{last.name} returned {len(last.text):,} characters"
    return f"model answers: {_cut(last.text)}"


def stage_summary(name: str, result: Mapping[str, Any]) -> str:
    """What a stage left behind, in a few words."""
    match name:
        case "index":
            return f"{len(result.get('documents', []))} documents"
        case "research":
            return f"{len(result.get('findings', {}).get('facts', []))} facts"
        case "plan":
            return f"{len(result.get('angles', []))} angles"
        case "select":
            evidence = result.get("evidence", [])
            return f"{len(evidence)} quotations from {len({item['document'] for item in evidence})} documents"
        case "draft":
            return f"\u201c{_cut(result.get('email', {}).get('subject', ''))}\u201d"
        case "approve":
            return str(result.get("approval", {}).get("decision", ""))
        case "send":
            receipt = result.get("receipt", {})
            return str(receipt.get("path") or receipt.get("channel", ""))
        case _:
            return ""


def printable(text: str) -> str:
    """A text without control characters, which could move a terminal's cursor; line breaks and tabs stay.

    >>> printable("a\\x1b[2Jb")
    'a\ufffd[2Jb'
    """
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def _first(arguments: Mapping[str, Any]) -> str:
    return _cut(str(next(iter(arguments.values()), "")), 40)


def _cut(text: str, limit: int = _SHORT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"
