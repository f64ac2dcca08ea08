"""Index: check the brief, and keep the dossier's documents as they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NotRequired

from langchain_core.runnables import Runnable, RunnableLambda
from typing_extensions import TypedDict

from ..checkpointing.documents import Documents
from .contracts import Problem
from .dossier import load_folder, usable_folder
from .errors import InvalidBrief
from .headers import address_problem

LONGEST: Final = 10_000
"""Characters that a text of the brief may have."""


class Brief(TypedDict):
    """What a run starts from: whom to write to, and the folder that says something about them."""

    company: str
    dossier: str
    offer: NotRequired[str]
    to: NotRequired[str]
    sender: NotRequired[str]


class IndexInput(Brief):
    """The brief; and `dossier_id` where the thread has had its run already."""

    dossier_id: NotRequired[str]


class IndexUpdate(TypedDict):
    """`dossier_id` names the documents as they were read, whatever becomes of the folder."""

    dossier_id: str
    documents: list[str]
    problems: list[Problem]


def index_node(
    *, documents: Callable[[], Documents], within: Path | None = None, needs_recipient: bool = False
) -> Runnable[IndexInput, IndexUpdate]:
    """A node that reads a folder once and keeps what it held, so that no later step depends on the folder.

    It is a step of its own because its result is saved before any model is called: a run that is killed
    and resumed days later works on the same documents. A thread has one run: another brief on it would
    mix two companies' findings and addresses.

    Raises:
        InvalidBrief: see `check_brief`; or the thread has had a run.
        DossierNotFound, DossierNotAllowed, DossierEmpty: the folder cannot be used.
    """

    def index(state: IndexInput) -> IndexUpdate:
        if state.get("dossier_id"):
            raise InvalidBrief("this thread has had its run: start another thread for another brief")
        check_brief(state, within=within, needs_recipient=needs_recipient)
        loaded = load_folder(state["dossier"], within=within)
        return {
            "dossier_id": documents().save(loaded.documents),
            "documents": [document.name for document in loaded.documents],
            "problems": loaded.problems,
        }

    return RunnableLambda(index, name="index")


def check_brief(brief: Brief, *, within: Path | None = None, needs_recipient: bool = False) -> None:
    """Refuse input on which no run could get anywhere, before anything is spent or written.

    Raises:
        InvalidBrief: no company, no dossier, an address that is none, or none where one is needed.
        DossierNotFound, DossierNotAllowed: the folder is not there, or not for this deployment.
    """
    # A server's callers may send anything as JSON, whatever the declared types say.
    given: Mapping[str, object] = {key: value for key, value in brief.items() if value is not None}
    for key in ("company", "dossier", "offer", "to", "sender"):
        if not isinstance(text := given.get(key, ""), str):
            raise InvalidBrief(f"{key!r} is not text")
        if len(text) > LONGEST:
            raise InvalidBrief(f"{key!r} has {len(text):,} characters; at most {LONGEST:,} are taken")
    if not str(given.get("company", "")).strip():
        raise InvalidBrief("no company: say whom the message is for")
    if not str(given.get("dossier", "")).strip():
        raise InvalidBrief("no dossier: give the folder that holds documents about the company")
    for key in ("to", "sender"):
        if key in given and (problem := address_problem(str(given[key]))):
            raise InvalidBrief(f"{key!r} is not an e-mail address: {problem}")
    if needs_recipient and "to" not in given:
        raise InvalidBrief("no recipient: delivery by SMTP needs an address in 'to'")
    usable_folder(brief["dossier"], within)
