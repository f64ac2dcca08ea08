"""Model calls that no middleware saw: inside tools, by summarisers and graders. They are charged, and flagged."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from langgraph.config import get_config

from ..checkpointing.errors import HoldfastError
from ..checkpointing.leases import Lease, owner_of
from ..checkpointing.runs import Deaf
from ..checkpointing.saver import HoldfastSaver
from ..checkpointing.spending import Charge, Wanted
from .actions import carry_out
from .model_runs import ModelsOnly, current_run, inside_model, known
from .paying import Payer, around, within_tool
from .rates import Tokens
from .scopes import Where, filled, joined, located

_RUNS: Final = 4096
_NOTHING: Final = Decimal(0)
_log: Final = logging.getLogger("holdfast.budget")


_payers: Final = WeakKeyDictionary[Lease, Payer]()
"""By run, for as long as it holds its thread."""


def watch(payer: Payer) -> None:
    """Have the other model calls of the run that is under way charged to a payer, from now on."""
    if (lease := _lease()) is not None:
        _payers[lease] = payer


def _payer() -> Payer | None:
    lease = _lease()
    return _payers.get(lease) if lease is not None else None


def _lease() -> Lease | None:
    try:
        config = get_config()
    except RuntimeError:  # no graph is running
        return None
    saver = owner_of(config)
    return saver.leases.of(config) if isinstance(saver, HoldfastSaver) else None


class _Begun(ModelsOnly):
    """Remembers what began."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._runs: OrderedDict[UUID, tuple[float, dict[str, Any]]] = OrderedDict()

    def take(self, run_id: UUID) -> tuple[float, dict[str, Any]] | None:
        """When a run began, and its metadata."""
        with self._lock:
            return self._runs.pop(run_id, None)

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: Any, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        self._start(run_id, metadata)

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: Any, *, run_id: UUID, metadata: Any = None, **kwargs: Any
    ) -> None:
        self._start(run_id, metadata)

    def _start(self, run_id: UUID, metadata: Any) -> None:
        # Whoever calls `generate` itself hands on no metadata.
        if inside_model() or ((metadata or {}).get("thread_id") is None and _lease() is None):
            return
        with self._lock:
            self._runs[run_id] = (time.monotonic(), dict(metadata or {}))
            while len(self._runs) > _RUNS:
                self._runs.popitem(last=False)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.take(run_id)


class _Charger(Deaf):
    """Charges the calls that nobody has paid for; in a thread under asyncio, for which only those wait."""

    run_inline = False

    @property
    def ignore_llm(self) -> bool:
        return current_run() in known or (around.get() is None and _payer() is None)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        begun, payer = _BEGUN.take(run_id), around.get() or _payer()
        if begun is None or payer is None or run_id in known:
            return
        try:
            _charge(payer, response, begun[1], time.monotonic() - begun[0])
        except Exception:
            _log.exception("a model call that no budget saw could not be charged")


def _charge(payer: Payer, response: LLMResult, metadata: dict[str, Any], duration: float) -> None:
    message = _message(response)
    name = str(metadata.get("ls_model_name") or "unknown")
    provider = metadata.get("ls_provider")
    usage: Any = message.usage_metadata if message is not None else None
    if (usage or {}).get("total_cost") == 0:  # LangChain's mark of an answer out of its cache
        return
    tokens = Tokens.of(usage or {})
    total = tokens.input + tokens.output + tokens.output_audio + tokens.reasoning
    try:
        spent = payer.prices.spent(message, name, provider) if message is not None else None
    except HoldfastError as unpriced:
        _log.warning("a model call that no budget saw has no price: %s", unpriced)
        spent = None
    where: Where = carry_out(located(None, payer.ledger))
    wanted = Wanted(
        budgets=joined(filled(budget, where.facts) for budget in payer.budgets),
        usd=spent.cost if spent is not None else _NOTHING,
        tokens=total,
        name=name,
        run_key=where.run_key,
        thread_id=where.thread_id,
        node=where.node,
        correlation_id=where.correlation_id,
    )
    cost = {
        "model": spent.served.model if spent is not None else name,
        "provider": provider,
        "tenant": where.facts.get("tenant"),
        "tool": within_tool.get(),
        "unseen": True,
        "unpriced": spent is None,
    }
    charge = Charge(
        event="model.charged",
        run_id=where.run_id,
        checkpoint_ns=where.checkpoint_ns,
        step=where.step,
        input_tokens=tokens.input,
        output_tokens=total - tokens.input,
        duration=duration,
        details={"name": name, "cost": {key: item for key, item in cost.items() if item}},
    )
    where.ledger.charge(wanted, charge)
    _log.info("a call of %s that no middleware saw was charged: %s USD", name, wanted.usd)


def _message(response: LLMResult) -> AIMessage | None:
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                return generation.message
    return None


_BEGUN: Final = _Begun()
_CHARGER: Final = _Charger()
_begun: ContextVar[BaseCallbackHandler | None] = ContextVar("holdfast_models_begun", default=_BEGUN)
_charger: ContextVar[BaseCallbackHandler | None] = ContextVar("holdfast_unseen", default=_CHARGER)
register_configure_hook(_begun, inheritable=True)
register_configure_hook(_charger, inheritable=True)
