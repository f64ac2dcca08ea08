"""A person is asked to raise a limit, and what is answered goes to nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from langgraph.config import get_config
from langgraph.types import interrupt

from ..checkpointing.budgets import BudgetExceeded
from .placing import attempt_of

_OURS: Final = ("retry", "end")


def take_answers() -> None:
    """Take the answers to such questions out of those that LangGraph has for the task.

    It gives them in order to whoever asks. Once the limit is raised this question is not asked again, and a tool
    that asks for an approval would get what was said of the money.
    """
    config = get_config()
    pad, attempt = config.get("configurable", {}).get("__pregel_scratchpad"), attempt_of(config)
    if pad is None or attempt is None:
        return
    with attempt.asking.lock:
        attempt.of_limits += [answer for answer in pad.resume if _of_this_kind(answer)]
        pad.resume[:] = [answer for answer in pad.resume if not _of_this_kind(answer)]
        if _of_this_kind(pad.get_null_resume(False)):
            attempt.of_limits.append(pad.get_null_resume(True))


def given_up(error: BudgetExceeded) -> bool:
    """Ask a person, and whether they want no more; any other answer tries again.

    Raises:
        GraphInterrupt: nobody has answered yet.
    """
    attempt = attempt_of(get_config())
    said = attempt.of_limits.pop(0) if attempt is not None and attempt.of_limits else interrupt(_question(error))
    return isinstance(said, Mapping) and cast("Mapping[str, Any]", said).get("type") in ("end", "reject")


def _of_this_kind(answer: Any) -> bool:
    return isinstance(answer, Mapping) and cast("Mapping[str, Any]", answer).get("type") in _OURS


def _question(error: BudgetExceeded) -> dict[str, Any]:
    return {
        "type": "budget_exceeded",
        "text": str(error),
        "scope": error.scope,
        "unit": error.unit,
        "window": error.window,
        "limit": str(error.limit),
        "used": str(error.used),
        "needed": str(error.needed),
        "short": str(error.short),
        "how": 'raise the limit, then answer {"type": "retry"}; {"type": "end"} ends with what there is',
    }
