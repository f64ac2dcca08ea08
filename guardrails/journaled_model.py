"""A model whose calls are journaled: where one was answered before, the record answers."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from ..checkpointing.records import Claim, State
from ..checkpointing.spending import Closing
from .actions import Action, Work
from .effects import Codec, begun, ended, made, settled
from .envelope import opened, sealed
from .model_runs import known
from .paid_model import PaidModel
from .paying import Bill, ModelQuote, Payer, failed
from .placing import Call, placed
from .scopes import Where
from .tracing import facts, traced
from .wrapped_model import Asked, ModelCall, StreamingModel, WrappedModel, last_chunk, streams
from .written import digest, told


class JournaledModel(WrappedModel):
    """A chat model around another, whose calls within a graph's tasks are made once.

    A call whose worker went away before its answer was recorded is made again, and the audit trail says so. Around
    a model that is paid for, what a call may cost is reserved by the claim's own commit, and a replay is free.
    """

    def _called(self, asked: Asked) -> ModelCall:
        quote = None
        if isinstance(self.inner, PaidModel):
            payer: Payer = self.inner.payer
            quote = payer.quote(self.target, asked)
        return _JournaledCall(self._placed(asked, quote), asked, self.target)

    def _placed(self, asked: Asked, quote: ModelQuote | None) -> Call:
        params = self._get_ls_params(asked.stop)
        name = str(params.get("ls_model_name") or self._llm_type)
        given = {key: item for key, item in asked.given.items() if key not in _NOT_ASKED}
        request = [[self._llm_type, name, asked.stop, given], [_said(message) for message in asked.messages]]
        # What is asked is part of the identity: another question is another call.
        return placed(
            "model",
            name,
            digest(request).hex(),
            request,
            asked={"messages": len(asked.messages), "shown": asked.messages[-1].text if asked.messages else ""},
            on_doubt="retry",
            payment=_Payment(quote) if quote is not None else None,
        )


_NOT_ASKED = {"stream", "ls_structured_output_format"}


def _said(message: BaseMessage) -> list[Any]:
    """What a model sees of a message; not its id, which may be made anew on a re-execution."""
    return [
        message.type,
        message.content,
        message.name,
        getattr(message, "tool_calls", None),
        getattr(message, "tool_call_id", None),
        getattr(message, "status", None),
    ]


class StreamingJournaledModel(JournaledModel, StreamingModel):
    """Around a model that streams."""


class _Payment:
    """Of a journaled call of a model."""

    def __init__(self, quote: ModelQuote) -> None:
        self.quote = quote
        self._where: Where | None = None

    def wanted(self, call: Call) -> Work[Any]:
        self._where, wanted = yield from self.quote.wanted(call.config)
        return wanted

    def failed(self, error: BaseException) -> Closing | None:
        return failed(error)

    def bill(self, result: BaseMessage) -> Bill:
        assert self._where is not None
        return self.quote.bill(result, self._where)


class _JournaledCall:
    def __init__(self, call: Call, asked: Asked, target: BaseChatModel) -> None:
        self._call = call
        self._asked = asked
        quote = call.payment.quote if isinstance(call.payment, _Payment) else None
        self.given: Mapping[str, Any] = quote.given if quote is not None else asked.given
        self.target = quote.target if quote is not None else target

    def made(self, act: Action) -> Work[ChatResult]:
        return made(self._call, act, _Answers(self._asked.run, self._call))

    def streamed(self) -> _Stream:
        return _Stream(self._call, self._asked.run)


class _Answers(Codec):
    """Of a call that answers at once."""

    def __init__(self, run: BaseRunManager | None, call: Call) -> None:
        self._run = run
        self._call = call

    def traced(self, said: Mapping[str, Any]) -> None:
        _known(self._run, self._call, said)
        traced(self._run, said)

    def sealed(self, call: Call, result: ChatResult) -> tuple[str, bytes]:
        messages = [_whole(generation, call, number) for number, generation in enumerate(result.generations)]
        return sealed(call.effect.name, messages, call.saver.serializer)

    def opened(self, call: Call, kept: tuple[str, bytes]) -> ChatResult:
        messages = opened(kept, call.saver.serializer)
        return ChatResult(generations=[ChatGeneration(message=message) for message in messages])

    def told(self, result: ChatResult) -> dict[str, Any]:
        if not result.generations:
            return {"closing": Closing(outcome="presumed")}
        return _told(result.generations[0].message, self._call)


class _Stream:
    """One streamed answer, on its way out and into the record."""

    def __init__(self, call: Call, run: BaseRunManager | None) -> None:
        self.call = call
        self._run = run
        self._began = time.monotonic()
        self._claim: Claim | None = None
        self._sum: ChatGenerationChunk | None = None

    @contextmanager
    def trying(self) -> Generator[None]:
        """A stream that breaks is the same call when it is tried again; one that nobody wants to the end is not."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException:
            self.call.missed()
            raise

    def begun(self) -> Work[Sequence[BaseMessage] | None]:
        claim = self._claim = yield from begun(self.call)
        said = facts(self.call.effect, replayed=claim.outcome != "claimed", attempt=claim.attempt)
        _known(self._run, self.call, said)
        traced(self._run, said)
        if claim.outcome == "claimed":
            # Who takes the stream may keep it and never come for the rest: nobody is to wait for that.
            ended(claim)
            return None
        assert claim.result is not None
        recorded: Sequence[BaseMessage] = opened(claim.result, self.call.saver.serializer)
        return recorded

    def took(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        if chunk.message.id is None:
            chunk.message.id = _id(self.call, 0)
        self._sum = chunk if self._sum is None else self._sum + chunk
        return chunk

    def last(self) -> Iterator[ChatGenerationChunk]:
        if (end := last_chunk(None if self._sum is None else self._sum.message)) is not None:
            yield self.took(end)

    def whole(self) -> Work[None]:
        if self._sum is None:  # what came is no answer, and is not to come again from the record
            yield self._settled(
                "failed", details={"error": "the stream was empty"}, closing=Closing(outcome="presumed")
            )
            return
        message = _whole(self._sum, self.call, 0)
        kept = sealed(self.call.effect.name, [message], self.call.saver.serializer)
        yield self._settled("completed", kept=kept, **_told(message, self.call))

    def broken(self, error: Exception) -> Work[None]:
        # Once a piece has come, the provider has begun to serve, and to bill.
        closing = failed(error) if self._sum is None else Closing(outcome="presumed")
        yield self._settled("failed", error=error, closing=closing)

    def left(self) -> None:
        if self._claim is not None and self._claim.reservation is not None:
            self.call.saver.ledger.presume(self._claim.reservation, wait=False)

    def _settled(self, state: State, **more: Any) -> Action:
        assert self._claim is not None
        return settled(self.call, self._claim, state, self._began, **more)


def _known(run: BaseRunManager | None, call: Call, said: Mapping[str, Any]) -> None:
    """What is paid for, and what costs nothing, is not to be charged by who watches for other calls."""
    if said["replayed"] or call.payment is not None:
        known.add(run)


def journaled(model: BaseChatModel) -> JournaledModel:
    """A model whose calls are made once, for a node that calls it itself."""
    if isinstance(model, JournaledModel):
        return model
    return StreamingJournaledModel(inner=model) if streams(model) else JournaledModel(inner=model)


def _whole(generation: ChatGeneration, call: Call, number: int) -> BaseMessage:
    """An answer as it is recorded: with the id and the metadata that it has when it comes out of the model."""
    message = generation.message
    if message.id is None:
        message.id = _id(call, number)
    metadata = {**(generation.generation_info or {}), **message.response_metadata}
    whole = message.model_copy(update={"response_metadata": metadata})
    return message_chunk_to_message(whole) if isinstance(whole, AIMessageChunk) else whole


def _id(call: Call, number: int) -> str:
    return f"lc_run--{call.effect.effect_id}-{number}"


def _told(message: BaseMessage, call: Call) -> dict[str, Any]:
    said: dict[str, Any] = {"text": told(message.text)}
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = [{"name": each["name"], "args": told(each["args"])} for each in calls]
    usage: Mapping[str, Any] = getattr(message, "usage_metadata", None) or {}
    known: dict[str, Any] = {
        "event": "answered",
        "details": said,
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
    }
    if isinstance(call.payment, _Payment):
        bill = call.payment.bill(message)
        said["cost"] = bill.cost
        known |= {"cost": bill.usd, "closing": bill.closing}
    return known
