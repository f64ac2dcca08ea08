"""What the outreach nodes hand to one another.

Plain dictionaries with declared keys: they pass through strict msgpack, so no checkpoint names a
class of ours and no renamed module breaks an old thread. The descriptions go to the model.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from .headers import header_problem


def one_header(text: str) -> str:
    """The text, for a field that goes into a mail header; else a `ValueError` that says why not."""
    if problem := header_problem(text):
        raise ValueError(problem)
    return text


class Fact(TypedDict):
    """Something that a document says."""

    statement: Annotated[str, Field(description="One fact about the company, in one sentence.")]
    document: Annotated[str, Field(description="The name of the document that says so.")]


class Findings(TypedDict):
    """What research found out about the company."""

    summary: Annotated[str, Field(description="Who the company is and what occupies it, in a short paragraph.")]
    facts: Annotated[list[Fact], Field(min_length=1, max_length=12, description="The facts that matter most.")]


class Angle(TypedDict):
    """A theme that a message to the company could take up."""

    title: Annotated[str, Field(min_length=1, description="The theme, in a few words.")]
    why: Annotated[str, Field(description="Why it would interest the reader, in one sentence.")]


class Angles(TypedDict):
    """The themes of the message, best first."""

    angles: Annotated[list[Angle], Field(min_length=1, max_length=5)]


class Quote(TypedDict):
    """A verbatim quotation from a document."""

    quote: Annotated[str, Field(description="The exact words of the document, one or two sentences.")]
    document: Annotated[str, Field(description="The name of the document.")]
    angle: Annotated[str, Field(description="The title of the angle it supports.")]


class Selection(TypedDict):
    """The best quotations, ranked, from as many different documents as make sense."""

    quotes: Annotated[list[Quote], Field(min_length=1, max_length=8)]


class Letter(TypedDict):
    """The message to the company."""

    subject: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_header)]
    body: Annotated[
        str,
        Field(
            min_length=1,
            description=(
                "The message as plain text, without a list of sources. Quote evidence only in its exact words, "
                "between double quotation marks, each followed by its number in brackets, like [1]."
            ),
        ),
    ]


class Evidence(TypedDict):
    """A quotation that was found in its document: `quote` stands there at character `position`."""

    number: int
    quote: str
    document: str
    position: int
    angle: str


class Problem(TypedDict):
    """Something that was left out, and why; the run went on without it."""

    node: str
    subject: str
    problem: str


class Email(TypedDict):
    """A message as it will be sent; `sender` and `to` are RFC 5322 addresses, `drafted_by` is a model's name."""

    sender: str
    to: NotRequired[str]
    subject: str
    body: str
    drafted_by: str


class Approval(TypedDict):
    """A person's verdict; `at` is ISO 8601 in UTC. `by` is who the caller said it was."""

    decision: Literal["approved", "edited", "rejected"]
    by: str
    at: str
    reason: NotRequired[str]


class Receipt(TypedDict):
    """How the message left: `channel` "outbox" (then `path` is set) or "smtp"."""

    channel: Literal["outbox", "smtp"]
    message_id: str
    path: NotRequired[str]
