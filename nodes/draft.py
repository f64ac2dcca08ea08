"""Draft: a message that cites the evidence, and nothing but the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NotRequired

from langchain.agents import AgentState
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from typing_extensions import TypedDict

from ..guardrails.quotes import locate, quotation_ranges
from .contracts import Email, Evidence, Letter
from .errors import UnsupportedQuote
from .models import model_name
from .prompts import render
from .stage import Guardrails, stage

DEFAULT_SENDER: Final = "Draft <draft@localhost>"

INSTRUCTIONS: Final = (
    "You write a short, friendly, concrete message to a company, in plain text. Take up its own words: quote the "
    "evidence exactly, between double quotation marks, each quotation followed by its number like [1]. Say what is "
    "offered in one or two sentences, and close with a simple question. Claim nothing that the evidence does not say."
)


class DraftInput(TypedDict):
    """What drafting needs."""

    company: str
    offer: NotRequired[str]
    to: NotRequired[str]
    sender: NotRequired[str]
    evidence: list[Evidence]


class DraftState(AgentState[Any]):
    """The drafting agent's state: what it may cite, and what it was given to say."""

    evidence: list[Evidence]
    given: list[str]


class DraftUpdate(TypedDict):
    """The message, ready for review."""

    email: Email


def draft_node(model: BaseChatModel, *, guardrails: Guardrails = ()) -> Runnable[DraftInput, DraftUpdate]:
    """A node that writes the message and appends its sources.

    Raises:
        UnsupportedQuote: the message quotes or cites what the evidence does not hold.
        MalformedAnswer, ModelCallFailed: see `stage`.
    """

    def prepare(state: DraftInput) -> Mapping[str, Any]:
        material = {
            "company": state["company"],
            "offer": state.get("offer", ""),
            "sender": state.get("sender", ""),
            "evidence": [
                {
                    "number": item["number"],
                    "document": item["document"],
                    "angle": item["angle"],
                    "quote": item["quote"],
                }
                for item in state["evidence"]
            ],
        }
        return {
            "messages": [("user", render("Write the message.", material))],
            "evidence": state["evidence"],
            "given": _given(state),
        }

    def check(agent: Mapping[str, Any], answer: Letter) -> None:
        check_citations(answer["body"], agent["evidence"], agent["given"])

    def finish(state: DraftInput, _: Mapping[str, Any], answer: Letter) -> DraftUpdate:
        body = check_citations(answer["body"].strip(), state["evidence"], _given(state))
        email = Email(
            sender=state.get("sender") or DEFAULT_SENDER,
            subject=answer["subject"].strip(),
            body=f"{body}\n\n{sources(body, state['evidence'], _given(state))}\n",
            drafted_by=model_name(model),
        )
        if to := state.get("to"):
            email["to"] = to
        return {"email": email}

    return stage(
        "draft",
        model,
        answer=Letter,
        instructions=INSTRUCTIONS,
        prepare=prepare,
        check=check,
        finish=finish,
        guardrails=guardrails,
        state_schema=DraftState,
    )


def _given(state: DraftInput) -> list[str]:
    return [state["company"], state.get("offer", ""), state.get("sender", "")]


def check_citations(body: str, evidence: Sequence[Evidence], given: Sequence[str] = ()) -> str:
    """The body, with every quotation in the exact characters of its document.

    What the brief gave (the company's name, the offer) may hold quotation marks and brackets of its own,
    and is left alone where the body repeats it.

    Raises:
        UnsupportedQuote: a quotation is not in the evidence, a cited number does not exist, or
            nothing is cited at all.
    """
    numbers = cited(body, given)
    if strays := sorted(numbers - {item["number"] for item in evidence}):
        raise UnsupportedQuote(f"the draft cites evidence that does not exist: {strays}")
    if not numbers:
        raise UnsupportedQuote("the draft cites no evidence: expected numbers like [1]")
    for start, end in reversed(quotation_ranges(_masked(body, given))):
        body = body[:start] + _supported(body[start:end], body[end + 1 :], evidence) + body[end:]
    return body


def _masked(body: str, given: Sequence[str]) -> str:
    """The body with what was given blanked out, every character else in its place."""
    for text in sorted((part.strip() for part in given if part.strip()), key=len, reverse=True):
        body = body.replace(text, " " * len(text))
    return body


def _supported(span: str, behind: str, evidence: Sequence[Evidence]) -> str:
    """The evidence's own characters for a quotation; the evidence that is cited right behind it comes first."""
    number = re.match(r"[\s,.;:]*\[([0-9]+)\]", behind)
    cited_first = sorted(evidence, key=lambda item: number is None or str(item["number"]) != number[1])
    for item in cited_first:
        # As a part of what has been found verbatim, a short quotation proves as much as a long one.
        if located := locate(span, item["quote"], min_characters=1):
            return located.text
    raise UnsupportedQuote(f"the draft quotes words that are not in the evidence: {span}")


def cited(body: str, given: Sequence[str] = ()) -> set[int]:
    """The numbers that a text cites; brackets inside a quotation are the document's own.

    >>> sorted(cited("As [2] says, \u201cin [7] we were told so\u201d [1]."))
    [1, 2]
    """
    body = _masked(body, given)
    for start, end in reversed(quotation_ranges(body)):
        body = body[:start] + body[end:]
    return {int(number) for number in re.findall(r"\[([0-9]+)\]", body)}


def sources(body: str, evidence: Sequence[Evidence], given: Sequence[str] = ()) -> str:
    """The list of what the body cites: document and characters, and the quotation if the body lacks it."""
    lines = ["Sources"]
    numbers = cited(body, given)
    for item in evidence:
        if item["number"] in numbers:
            end = item["position"] + len(item["quote"])
            lines.append(f"[{item['number']}] {item['document']}, characters {item['position']}-{end}")
            if item["quote"] not in body:
                lines.append(f"    \u201c{item['quote']}\u201d")
    return "\n".join(lines)
