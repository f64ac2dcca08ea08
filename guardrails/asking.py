"""A person says what became of calls whose outcome is unknown: one question for all of a task's."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.types import interrupt

from ..checkpointing.journal import Doubt, Journal, Said, Verdict, spoken
from ..checkpointing.records import Effect
from .actions import Action, Work

PREFIX: Final = "hf-"
"""Of the ids of effects: LangGraph takes bare hex for its own."""
_VERDICTS: Final[tuple[Verdict, ...]] = ("happened", "did not happen", "abandoned")
Answer = tuple[Verdict, tuple[str, bytes] | None, str]
"""A verdict, the result if it happened, and who says so."""
HOW: Final = (
    'answer {effect_id: {"verdict": "happened", "result": …}}, or with "did not happen" (it is then called) or '
    '"abandoned", for each of the effects'
)


@dataclass(slots=True)
class Asking:
    """What one execution of a task asks a person; calls beside each other share the question.

    In a stock `ToolNode` all calls of a turn are one task, whose answers LangGraph gives in the order of the
    questions, whichever call asks: a question for each call would be answered with another's.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: GraphInterrupt | None = None
    answers: dict[str, tuple[Answer, int]] = field(default_factory=dict[str, tuple[Answer, int]])
    """By effect, with the attempt that is meant."""
    given: list[Any] | None = None
    """What persons have said to the task's questions of this kind."""

    def take(self, config: RunnableConfig) -> None:
        """Take such answers out of those that LangGraph has for the task.

        It gives them in order to whoever asks; a tool that asks something itself would get them once its call is
        in doubt no more.
        """
        with self.lock:
            if self.given is None:
                pad = config.get("configurable", {}).get("__pregel_scratchpad")
                resume: list[Any] = pad.resume if pad is not None else []
                self.given = [answer for answer in resume if _of_this_kind(answer)]
                resume[:] = [answer for answer in resume if not _of_this_kind(answer)]

    def settle(
        self,
        journal: Journal,
        effect: Effect,
        running: Callable[[Doubt], bool],
        no_claims: Callable[[str], Work[None]],
    ) -> Work[None]:
        """Ask about all of the task's calls that nobody is making, and write down what is said of this one.

        Raises:
            GraphInterrupt: nobody has answered yet.
        """
        place = (effect.thread_id, effect.task_id)
        listed = Action(lambda: journal.begun(*place), lambda: journal.abegun(*place))
        doubts: list[Doubt] = yield listed
        # What looks in doubt may have been begun beside us just now: then it is known as running, or ends.
        yield from no_claims(effect.thread_id)
        begun = {doubt.effect_id for doubt in doubts if running(doubt)}
        before = {(doubt.effect_id, doubt.attempt) for doubt in doubts if doubt.effect_id not in begun}
        doubts = yield listed
        doubts = [doubt for doubt in doubts if (doubt.effect_id, doubt.attempt) in before]
        if not any(doubt.effect_id == effect.effect_id for doubt in doubts):
            return  # somebody has said it meanwhile
        # Others may be in doubt that are simply made again when their turn comes.
        doubts = [
            doubt
            for doubt in doubts
            if doubt.effect_id == effect.effect_id or (doubt.on_doubt == "ask" and not running(doubt))
        ]
        with self.lock:
            if self.waiting is not None:
                raise self.waiting
            if effect.effect_id not in self.answers:
                try:
                    found = _answers(doubts, self.given or [])
                    self.answers |= {doubt.effect_id: (found[doubt.effect_id], doubt.attempt) for doubt in doubts}
                except GraphInterrupt as waiting:
                    self.waiting = waiting
                    raise
        # Those of the others too: they may have been answered for and never come.
        for effect_id, (answer, attempt) in list(self.answers.items()):
            yield resolved(journal, replace(effect, effect_id=effect_id), answer, attempt)


def resolved(journal: Journal, effect: Effect, answer: Answer, attempt: int) -> Action:
    """Write down what is said of a call."""
    verdict, result, by = answer
    said = Said(verdict, by, result, digest_of(answer), effect.lease, attempt)
    return Action(
        lambda: journal.resolve(effect.thread_id, effect.effect_id, said),
        lambda: journal.aresolve(effect.thread_id, effect.effect_id, said),
    )


def digest_of(answer: Answer) -> str:
    """Two answers that say the same have the same."""
    return hashlib.blake2b(repr(answer).encode(), digest_size=16).hexdigest()


def _answers(doubts: Sequence[Doubt], given: list[Any]) -> dict[str, Answer]:
    """The answers, asked for until they can be understood.

    LangGraph gives a task its old answers again, those of a process that was killed too. What was said of an earlier
    claim says nothing of this one: it may have been "did not happen", whereupon it was called.
    """
    before = {doubt.effect_id: [*doubt.answers] for doubt in doubts}
    question: dict[str, Any] = {
        "type": "effects_in_doubt",
        "effects": [
            {
                "effect_id": doubt.effect_id,
                "kind": doubt.kind,
                "name": doubt.name,
                "asked": dict(doubt.asked),
                "since": doubt.claimed_at.isoformat(),
                "worker": doubt.worker,
            }
            for doubt in doubts
        ],
        "how": HOW,
    }
    while True:
        answer = given.pop(0) if given else interrupt(question)
        try:
            found = understood(answer, list(before))
        except ValueError as wrong:
            question = {**question, "refused": str(wrong)}
            continue
        old = [effect_id for effect_id, said in found.items() if digest_of(said) in before[effect_id]]
        if not old:
            return found
        for effect_id in old:
            before[effect_id].remove(digest_of(found[effect_id]))
        question = {**question, "refused": f"this was said before of {', '.join(old)}, which was begun again since"}


def _of_this_kind(answer: Any) -> bool:
    if not isinstance(answer, Mapping) or not answer:
        return False
    said = cast("Mapping[str, Any]", answer)
    return said.get("verdict") in _VERDICTS or all(str(key).startswith(PREFIX) for key in said)


def understood(answer: Any, ids: Sequence[str]) -> dict[str, Answer]:
    """What a person said of each effect.

    Raises:
        ValueError: it is not an answer to the question.
    """
    if not isinstance(answer, Mapping):
        raise ValueError(f"the answer is no mapping: {HOW}")
    given = cast("Mapping[str, Any]", answer)
    if "verdict" in given and len(ids) == 1:
        given = {ids[0]: given}
    if missing := [effect_id for effect_id in ids if effect_id not in given]:
        raise ValueError(f"nothing is said of {', '.join(missing)}: {HOW}")
    found: dict[str, Answer] = {}
    for effect_id in ids:
        said = cast("Mapping[str, Any]", given[effect_id] if isinstance(given[effect_id], Mapping) else {})
        verdict = said.get("verdict")
        if verdict not in _VERDICTS:
            raise ValueError(f"the verdict on {effect_id} must be one of: {', '.join(_VERDICTS)}")
        result: tuple[str, bytes] | None = None
        if verdict == "happened":
            try:
                result = spoken(said.get("result"))
            except ValueError as error:
                raise ValueError(f"the result of {effect_id} is not JSON: {error}") from error
        found[effect_id] = (verdict, result, str(said.get("by", "a person")))
    return found


def verdict_of(kept: tuple[str, bytes]) -> Any:
    """The result that a person gave."""
    return json.loads(kept[1])
