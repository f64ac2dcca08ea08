"""That a cheaper model was chosen is remembered: a resumed run is not to ask the dear one what the other answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.language_models import BaseChatModel

from ..checkpointing.durable import NotResumable
from .actions import Action, Work
from .effects import PlainCodec, made
from .envelope import opened
from .placing import Call, JournalNeedsSaver, placed
from .prices import model_of

_NAME: Final = "downgrade"


class Downgrade:
    """One call's choice among models, the dearest first."""

    def __init__(self, models: Sequence[BaseChatModel]) -> None:
        self._models = models
        self._call: Call | None = None

    def first(self) -> Work[int]:
        """The place of the model that an earlier execution of this very call came to; else 0."""
        if len(self._models) == 1:
            return 0
        try:
            call = placed("effect", _NAME, _NAME, [_NAME], asked={}, on_doubt="retry")
            journal, effect = call.journal, call.effect
            kept = yield Action(lambda: journal.peek(effect), lambda: journal.apeek(effect))
        except (JournalNeedsSaver, RuntimeError):  # nothing is journaled here
            return 0
        self._call = call
        found: Any = opened(kept, call.saver.serializer) if kept is not None else None
        names = [model_of(model)[0] for model in self._models]
        return names.index(found) if found in names else 0

    def fell_to(self, place: int) -> Work[None]:
        """Remember the choice."""
        if self._call is None:
            return
        name = model_of(self._models[place])[0]

        async def soon() -> str:
            return name

        try:
            yield from made(self._call, Action(lambda: name, soon), PlainCodec())
        except NotResumable:
            self._call = None

    def forget(self) -> Work[None]:
        """None of them was called: whoever goes on with more money is to begin with the first."""
        if self._call is not None:
            journal, effect, why = self._call.journal, self._call.effect, "no model was called"
            yield Action(lambda: journal.refuse(effect, why), lambda: journal.arefuse(effect, why))
