"""Who pays for a call: what it may cost at the most, and what it did cost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig

from ..checkpointing.budgets import Budget, InvalidBudget
from ..checkpointing.errors import HoldfastError
from ..checkpointing.ledger import Ledger
from ..checkpointing.spending import Closing, Reservation, Wanted
from .actions import Action, ToItsEnd, Work
from .estimates import Margin, counted, output_cap
from .prices import Prices, Spent, model_of, tier_of
from .rates import Tokens, is_mapping
from .runway import noted
from .scopes import Where, filled, joined, located
from .watching import Watch
from .wrapped_model import Asked

ToolPrice = Decimal | Callable[[Mapping[str, Any]], Decimal]
"""What one call of a tool costs, or what says it of the call's arguments; US dollars."""
TOOL_PRICE: Final = "price_usd"
"""In a tool's `metadata`: its `ToolPrice`."""
_ERRORS: Final = 400
"""The HTTP status from which on an answer is an error; a served answer that cannot be read has a lower one."""
_log: Final = logging.getLogger("holdfast.budget")
around: ContextVar[Payer | None] = ContextVar("holdfast_around", default=None)
"""Who pays for the tool inside which calls are made now, and so for what it calls."""
within_tool: ContextVar[str | None] = ContextVar("holdfast_within_tool", default=None)
"""The tool inside which calls are made now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a call did cost."""

    usd: Decimal
    tokens: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of whom and for what, for the audit trail."""

    @property
    def closing(self) -> Closing:
        return Closing(outcome="settled", usd=self.usd, tokens=self.tokens)


@dataclass(slots=True)
class Payer:
    """Budgets and prices, for all calls of an agent."""

    budgets: tuple[Budget, ...]
    prices: Prices
    max_output_tokens: int
    tool_prices: Mapping[str, ToolPrice]
    ledger: Ledger | None = None
    watch: Watch | None = None
    _margins: dict[tuple[str, str | None], Margin] = field(default_factory=dict[tuple[str, str | None], Margin])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def quote(self, model: BaseChatModel, asked: Asked) -> ModelQuote:
        """What a model call may cost.

        Raises:
            UnpricedModel: its model has no price: nothing can be promised of it, and it is not called.
        """
        name, provider = model_of(model)
        cap = output_cap(model, asked.given, self.max_output_tokens)
        shape: Any = asked.given.get("response_format")
        schemas: list[Any] = [*(asked.given.get("tools") or ()), *([dict(shape)] if is_mapping(shape) else [])]
        number = counted(asked.messages, schemas)
        window: Any = (model.profile or {}).get("max_input_tokens")
        bound = self.margin(name, provider).bound(number, window if isinstance(window, int) else None)
        usd = self.prices.worst(name, bound, cap.tokens, provider=provider, tier=tier_of(model, asked.given))
        return ModelQuote(
            payer=self,
            name=name,
            usd=usd,
            tokens=bound + cap.tokens,
            provider=provider,
            counted=number,
            target=cap.model,
            given={**asked.given, **cap.settings},
        )

    def tool_quote(self, name: str, args: Mapping[str, Any], price: ToolPrice | None) -> ToolQuote | None:
        """What a tool call costs; None, if it has no price.

        Raises:
            ValueError: the price is negative or no number.
        """
        price = self.tool_prices.get(name, price)
        if price is None:
            return None
        usd = price(args) if callable(price) else price
        return ToolQuote(payer=self, name=name, usd=checked_price(name, usd), tokens=0)

    def beside(self, other: Payer) -> Payer:
        """Both, in one reservation: by the other's prices, and what is learned is the other's too."""
        return replace(other, budgets=tuple(dict.fromkeys((*self.budgets, *other.budgets))))

    def margin(self, model: str, provider: str | None) -> Margin:
        with self._lock:
            return self._margins.get((model, provider), Margin())

    def observed(self, quote: ModelQuote, input_tokens: int) -> None:
        """Learn from what a provider counted."""
        with self._lock:
            key = (quote.name, quote.provider)
            self._margins[key] = self._margins.get(key, Margin()).observed(quote.counted, input_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a call may cost at the most."""

    payer: Payer
    name: str
    usd: Decimal
    tokens: int

    def wanted(self, config: RunnableConfig | None) -> Work[tuple[Where, Wanted]]:
        """What is to be reserved, and where.

        Raises:
            BudgetNeedsLedger: the graph is not saved by Holdfast, and no ledger was given.
            UnknownScope: a budget's scope names what the run does not say.
            InvalidBudget: a run is limited, and the call is in none.
        """
        where: Where = yield from located(config, self.payer.ledger)
        budgets = joined(filled(budget, where.facts) for budget in self.payer.budgets)
        if where.run_key is None and (limited := next((one for one in budgets if one.per_run), None)) is not None:
            raise InvalidBudget(
                f"budget {limited.scope!r}: per_run is for the runs of a thread, and this call is in none; run the "
                "graph with a thread_id, or limit per_call, hourly or daily"
            )
        if self.payer.watch is not None:
            self.payer.watch.called(where.ledger, budgets)
        wanted = Wanted(
            budgets=budgets,
            usd=self.usd,
            tokens=self.tokens,
            name=self.name,
            run_key=where.run_key,
            thread_id=where.thread_id,
            node=where.node,
            correlation_id=where.correlation_id,
        )
        return where, wanted

    def attributed(self, where: Where, **more: Any) -> dict[str, Any]:
        """Whose cost it is."""
        said = {"tenant": where.facts.get("tenant"), "tool": within_tool.get(), **more}
        return {name: item for name, item in said.items() if item}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuote(Quote):
    """Of a model call."""

    provider: str | None
    counted: int
    target: BaseChatModel
    """The model that is to be called."""
    given: Mapping[str, Any]
    """With these keyword arguments: the cap on the output is among them."""

    def bill(self, message: BaseMessage, where: Where) -> Bill:
        """What the answer did cost; what it may have, where it says nothing of its usage."""
        spent = None
        if isinstance(message, AIMessage):
            spent = self._spent(message)
        if spent is None:
            cost = self.attributed(where, model=self.name, provider=self.provider, estimated=True)
            return Bill(usd=self.usd, tokens=self.tokens, cost=cost)
        tokens: Tokens = spent.tokens
        total = tokens.input + tokens.output + tokens.output_audio + tokens.reasoning
        over = spent.cost > self.usd or total > self.tokens
        if over:
            _log.warning(
                "a call of %s cost %s USD (%s tokens), more than the %s USD (%s tokens) reserved for it",
                self.name, spent.cost, total, self.usd, self.tokens,
            )  # fmt: skip
        self.payer.observed(self, tokens.input)
        cost = self.attributed(
            where,
            model=spent.served.model,
            provider=spent.served.provider,
            tier=spent.served.tier,
            asked=self.name if self.name != spent.served.model else None,
            cache_read=tokens.cache_read,
            cache_write=tokens.cache_write + tokens.cache_write_1h,
            reasoning=tokens.reasoning,
            over=over,
        )
        return Bill(
            usd=spent.cost,
            tokens=total,
            input_tokens=tokens.input,
            output_tokens=total - tokens.input,
            cost=cost,
        )

    def _spent(self, message: AIMessage) -> Spent | None:
        try:
            return self.payer.prices.spent(message, self.name, self.provider)
        except HoldfastError as unpriced:  # too late to refuse it: it was made
            _log.warning("a call of %s counts as what was reserved for it: %s", self.name, unpriced)
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolQuote(Quote):
    """Of a tool call, whose price is known beforehand."""

    def bill(self, where: Where) -> Bill:
        return Bill(usd=self.usd, tokens=0, cost={**self.attributed(where), "tool": self.name})


def failed(error: BaseException) -> Closing:
    """What a model call costs that ended in an error.

    Nothing, where the provider's answer was an error, or nobody was reached; else what it may have cost.

    >>> failed(ConnectionRefusedError()).outcome, failed(TimeoutError()).outcome
    ('released', 'presumed')
    """
    status = getattr(error, "status_code", getattr(getattr(error, "response", None), "status_code", None))
    refused = any("ConnectError" in kind.__name__ or kind is ConnectionRefusedError for kind in _causes(error))
    answered = isinstance(status, int) and status >= _ERRORS
    return Closing(outcome="released" if answered or refused else "presumed")


def _causes(error: BaseException | None) -> list[type]:
    kinds: list[type] = []
    while error is not None and len(kinds) < 100:  # noqa: PLR2004 - causes may go in a circle
        kinds.append(type(error))
        error = error.__cause__
    return kinds


def checked_price(name: str, usd: Any) -> Decimal:
    """A tool's price, if it is one.

    >>> checked_price("search", 0.01)
    Traceback (most recent call last):
    ValueError: the price of tool 'search' must be a Decimal of 0 or more US dollars, not 0.01
    """
    if not isinstance(usd, Decimal) or not usd.is_finite() or usd < 0:
        raise ValueError(f"the price of tool {name!r} must be a Decimal of 0 or more US dollars, not {usd!r}")
    return usd


def reserved(where: Where, wanted: Wanted) -> Work[Reservation]:
    """Reserve it; given back at once if who wants it is cancelled meanwhile, as nothing is called then.

    Raises:
        BudgetExceeded: it is more than what is left.
    """
    ending, ledger = ToItsEnd(), where.ledger
    reservation: Reservation = yield Action(lambda: ledger.reserve(wanted), lambda: ending.of(ledger.areserve(wanted)))
    if ending.cancelled:
        ledger.release(reservation, wait=False)
    ending.check()
    if where.thread_id is not None:
        noted(where.thread_id, reservation.nearest)
    return reservation
