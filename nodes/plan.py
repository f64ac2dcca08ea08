"""Plan: from findings to the angles that a message could take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NotRequired

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from typing_extensions import TypedDict

from .contracts import Angle, Angles, Findings
from .prompts import render
from .stage import Guardrails, stage

INSTRUCTIONS: Final = (
    "You plan a short, personal message to a company. Choose the themes that its own documents show to matter "
    "to it and to which the offer speaks. Use only the findings."
)


class PlanInput(TypedDict):
    """What planning needs."""

    company: str
    offer: NotRequired[str]
    findings: Findings


class PlanUpdate(TypedDict):
    """The angles, best first."""

    angles: list[Angle]


def plan_node(model: BaseChatModel, *, guardrails: Guardrails = ()) -> Runnable[PlanInput, PlanUpdate]:
    """A node that turns findings into up to five angles. Raises as `stage` does."""

    def prepare(state: PlanInput) -> Mapping[str, Any]:
        material = {
            "company": state["company"],
            "offer": state.get("offer", ""),
            "summary": state["findings"]["summary"],
            "facts": state["findings"]["facts"],
        }
        return {"messages": [("user", render("Choose the angles of the message.", material))]}

    def finish(_: PlanInput, __: Mapping[str, Any], answer: Angles) -> PlanUpdate:
        return {"angles": answer["angles"]}

    return stage(
        "plan",
        model,
        answer=Angles,
        instructions=INSTRUCTIONS,
        prepare=prepare,
        finish=finish,
        guardrails=guardrails,
    )
