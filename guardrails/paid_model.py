"""A model whose calls are paid for before they are made."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from ..checkpointing.spending import Charge, Closing, Reservation
from .actions import Action, Work
from .model_runs import known
from .paying import ModelQuote, Payer, failed, reserved
from .scopes import Where
from .wrapped_model import Asked, ModelCall, StreamingModel, WrappedModel, last_chunk, streams


class PaidModel(WrappedModel):
    """A chat model around another: what a call may cost is reserved before it, and what it did cost settled after.

    Within a `JournaledModel` it only says who pays: the journal reserves in the claim's own commit.
    """

    payer: Any
    """A `Payer`."""

    def _called(self, asked: Asked) -> ModelCall:
        payer: Payer = self.payer
        return _PaidCall(payer.quote(self.target, asked), asked)


class StreamingPaidModel(PaidModel, StreamingModel):
    """Around a model that streams."""


def paid(model: BaseChatModel, payer: Payer) -> WrappedModel:
    """A model whose calls a payer pays for, within the journal if it is journaled."""
    if isinstance(model, WrappedModel) and not isinstance(model, PaidModel):
        return model.model_copy(update={"inner": paid(model.inner, payer)})
    if isinstance(model, PaidModel):  # two middlewares
        return model.model_copy(update={"payer": payer.beside(model.payer)})
    return (StreamingPaidModel if streams(model) else PaidModel)(inner=model, payer=payer)


def payer_of(model: BaseChatModel) -> Payer:
    """Who pays for the calls of a model that is `paid`."""
    assert isinstance(model, WrappedModel), "it is paid for"
    payer: Payer = model.payer if isinstance(model, PaidModel) else payer_of(model.inner)
    return payer


class _PaidCall:
    """A call that no journal knows of."""

    def __init__(self, quote: ModelQuote, asked: Asked) -> None:
        self._quote = quote
        self._asked = asked
        self.given: Mapping[str, Any] = quote.given
        self.target: BaseChatModel = quote.target

    def made(self, act: Action) -> Work[ChatResult]:
        payment = _Payment(self._quote)
        yield from payment.reserved(self._asked)
        try:
            result: ChatResult = yield act
        except BaseException as error:
            payment.close(failed(error))
            raise
        if result.generations:
            payment.settle(result.generations[0].message)
        else:
            payment.close(Closing(outcome="presumed"))
        return result

    def streamed(self) -> _PaidStream:
        return _PaidStream(self._quote, self._asked)


class _Payment:
    """A reservation, from its beginning to its end."""

    def __init__(self, quote: ModelQuote) -> None:
        self._quote = quote
        self._began = time.monotonic()
        self._where: Where | None = None
        self._reservation: Reservation | None = None

    def reserved(self, asked: Asked) -> Work[None]:
        self._where, wanted = yield from self._quote.wanted(None)
        self._reservation = yield from reserved(self._where, wanted)
        known.add(asked.run)

    def settle(self, message: BaseMessage) -> None:
        assert self._where is not None
        assert self._reservation is not None
        where, bill = self._where, self._quote.bill(message, self._where)
        charge = Charge(
            run_id=where.run_id,
            checkpoint_ns=where.checkpoint_ns,
            step=where.step,
            input_tokens=bill.input_tokens,
            output_tokens=bill.output_tokens,
            duration=time.monotonic() - self._began,
            details={"name": self._quote.name, "cost": bill.cost},
        )
        where.ledger.settle(self._reservation, usd=bill.usd, tokens=bill.tokens, charge=charge, wait=False)

    def close(self, closing: Closing) -> None:
        if self._where is None or self._reservation is None:
            return
        if closing.outcome == "released":
            self._where.ledger.release(self._reservation, wait=False)
        else:
            self._where.ledger.presume(self._reservation, wait=False)


class _PaidStream:
    """A streamed call that no journal knows of; it settles when it ends, however it ends."""

    def __init__(self, quote: ModelQuote, asked: Asked) -> None:
        self._payment = _Payment(quote)
        self._asked = asked
        self._sum: ChatGenerationChunk | None = None

    @contextmanager
    def trying(self) -> Generator[None]:
        yield

    def begun(self) -> Work[Sequence[BaseMessage] | None]:
        yield from self._payment.reserved(self._asked)
        return None

    def took(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        self._sum = chunk if self._sum is None else self._sum + chunk
        return chunk

    def last(self) -> Iterator[ChatGenerationChunk]:
        if (end := last_chunk(self._sum.message if self._sum is not None else None)) is not None:
            yield self.took(end)

    def whole(self) -> Work[None]:
        if self._sum is None:
            self._payment.close(Closing(outcome="presumed"))
        else:
            self._payment.settle(self._sum.message)
        yield from ()

    def broken(self, error: Exception) -> Work[None]:
        # Once a piece has come, the provider has begun to serve, and to bill.
        self._payment.close(failed(error) if self._sum is None else Closing(outcome="presumed"))
        yield from ()

    def left(self) -> None:
        self._payment.close(Closing(outcome="presumed"))
