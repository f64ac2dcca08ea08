"""What a trace says of a journaled call: LangSmith's runs and OpenTelemetry's spans, where somebody collects them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.base import BaseTracer

from ..checkpointing.records import Effect

_log: Final = logging.getLogger("holdfast.journal")


def facts(effect: Effect, **more: Any) -> dict[str, Any]:
    """What finds a call again, in traces and in logs alike: a resume in a new trace has the same ids."""
    known = {
        "correlation_id": effect.correlation_id,
        "thread_id": effect.thread_id,
        "effect_id": effect.effect_id,
        **more,
    }
    return {name: value for name, value in known.items() if value is not None}


def logged(level: int, message: str, effect: Effect, **more: Any) -> None:
    """A log line with the call's ids as fields of the record."""
    fields = {**facts(effect, **more), "effect_kind": effect.kind, "effect_name": effect.name, "node": effect.node}
    _log.log(level, "%s %r of thread %s %s", effect.kind, effect.name, effect.thread_id, message, extra=fields)


def traced(run: BaseRunManager | RunnableConfig | None, said: Mapping[str, Any]) -> None:
    """Add to the metadata of the run that is being traced, and to the attributes of the current span.

    A model's own run is given; for other calls the config of the node that makes them, whose run lists them all.
    A collector that fails harms no call: this one is claimed by now.
    """
    try:
        _traced(run, said)
    except Exception:
        _log.warning("a call could not be traced", exc_info=True)


def _traced(run: BaseRunManager | RunnableConfig | None, said: Mapping[str, Any]) -> None:
    if isinstance(run, BaseRunManager):
        for metadata in _metadata(run.handlers, run.run_id):
            metadata.update({f"holdfast_{name}": value for name, value in said.items()})
    elif run is not None:
        manager = run.get("callbacks")
        if isinstance(manager, BaseCallbackManager) and manager.parent_run_id is not None:
            for metadata in _metadata(manager.handlers, manager.parent_run_id):
                metadata.setdefault("holdfast_effects", []).append(dict(said))
    # Only if the program itself uses OpenTelemetry: nothing is imported for it.
    if (telemetry := sys.modules.get("opentelemetry.trace")) is not None:
        span = telemetry.get_current_span()
        if span.is_recording():
            span.set_attributes({f"holdfast.{name}": value for name, value in said.items()})


def _metadata(handlers: list[Any], run_id: UUID) -> Iterator[dict[str, Any]]:
    for handler in handlers:
        if isinstance(handler, BaseTracer) and (run := handler.run_map.get(str(run_id))) is not None:
            yield cast("dict[str, Any]", run.extra.setdefault("metadata", {}))
