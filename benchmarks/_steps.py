"""What the step tracker costs: the same agent with it and without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool

from holdfast.guardrails.steps import StepTrackerMiddleware

TURNS = 10
CALLS = 20
"""In each turn."""
ROUNDS = 7


class Asking(BaseChatModel):
    """Asks for calls turn by turn, and then answers."""

    @property
    def _llm_type(self) -> str:
        return "asking"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        calls = [
            {"name": "look", "args": {"at": at}, "id": f"{turn}.{at}"} for at in range(CALLS if turn < TURNS else 0)
        ]
        usage: Any = {"input_tokens": 100 * turn, "output_tokens": 10, "total_tokens": 100 * turn + 10}
        answer = AIMessage("", tool_calls=calls, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=answer)])


@tool
def look(at: int) -> str:
    """Look."""
    return f"saw {at}"


def overhead() -> float:
    """Microseconds that the tracker adds to a tool call of an agent without a saver, its superstep at the run's
    beginning included: the difference of the quickest of some rounds each, taken in turns."""
    tracker = StepTrackerMiddleware(2 * TURNS * CALLS, context_window=200_000)
    agents: dict[bool, Any] = {
        tracked: create_agent(Asking(), [look], middleware=[tracker] if tracked else []) for tracked in (True, False)
    }
    quickest = dict.fromkeys(agents, float("inf"))
    for turn in count():
        for tracked, agent in agents.items():
            began = time.perf_counter()
            agent.invoke({"messages": [("user", "begin")]})
            taken = time.perf_counter() - began
            if turn:  # the first warms up
                quickest[tracked] = min(quickest[tracked], taken)
        if turn == ROUNDS:
            break
    return (quickest[True] - quickest[False]) / (TURNS * CALLS) * 1e6


if __name__ == "__main__":
    print(f"{overhead():.0f} µs per tool call")
