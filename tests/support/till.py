"""A brain for `OpenAIServer` that answers as `extractive` does, and adds up what its answers cost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from holdfast.guardrails import Price, Prices
from holdfast.nodes import draft, plan, research, select
from tests.support.brain import extractive
from tests.support.openai_server import ChatRequest, Reply

PRICES: Final = {
    "gpt-test": Price(input=Decimal("1.37"), output=Decimal("100.03")),
    "gpt-cheap": Price(input=Decimal("0.11"), output=Decimal("0.29")),
}
"""US dollars for a million tokens."""
OWN: Final = Prices(PRICES)
GIVEN: Final = "1.37,100.03"
"""The first model's, as the command line takes it."""
STAGES: Final = {module.INSTRUCTIONS: module.__name__.rpartition(".")[2] for module in (research, plan, select, draft)}


@dataclass
class Till:
    """Each answer has other, known numbers of tokens: about 0.10 dollars of the first model, which may cost 0.43."""

    before: Callable[[str], None] = lambda stage: None
    """Is told of each request's stage before it is answered."""
    by_node: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """What was served, in dollars, as `holdfast costs --by node` names it."""
    by_model: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    asked: Counter[str] = field(default_factory=Counter[str])
    """How often, by stage."""
    last: Decimal = Decimal(0)
    """What the newest answer cost."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: ChatRequest) -> Reply:
        stage = STAGES[request.messages[0]["content"]]
        reply = extractive(request)
        with self._lock:
            number = self.asked.total() + 1
            self.asked[stage] += 1
            tokens = (100 + 7 * number, 1000 + number)
            price = PRICES[request.model]
            self.last = (tokens[0] * price.input + tokens[1] * price.output) / 1_000_000
            for sums, key in ((self.by_node, f"{stage}/model"), (self.by_model, request.model)):
                sums[key] = sums.get(key, Decimal(0)) + self.last
        self.before(stage)
        return replace(reply, input_tokens=tokens[0], output_tokens=tokens[1])

    @property
    def total(self) -> Decimal:
        """All that was served."""
        return sum(self.by_node.values(), Decimal(0))
