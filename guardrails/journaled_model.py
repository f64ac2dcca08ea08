"""A model whose calls are journaled: where one was answered before, the record answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel, RunnableSequence
from langchain_core.tools import BaseTool

from ..checkpointing.records import Claim
from .actions import Action, Work, acarry_out, carry_out, never
from .effects import Codec, begun, ended, made, settled
from .envelope import opened, sealed
from .placing import Call, placed
from .tracing import facts, traced
from .written import digest, told


class JournaledModel(BaseChatModel):
    """A chat model around another, whose calls within a graph's tasks are made once.

    What it is given, and how it is called, is the other's; a call whose worker went away before its answer was
    recorded is made again, and the audit trail says so.
    """

    inner: BaseChatModel

    def __init__(self, inner: BaseChatModel, **given: Any) -> None:
        names = ("rate_limiter", "disable_streaming", "profile", "output_version", "tags", "metadata", "callbacks")
        settings: dict[str, Any] = {name: getattr(inner, name) for name in names}
        # No cache of LangChain's: what it answers would be in no record, and another process would answer otherwise.
        settings |= {"name": inner.get_name(), "cache": False, **given, "inner": inner}
        super().__init__(**settings)

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type  # pyright: ignore[reportPrivateUsage]

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self.inner._identifying_params  # pyright: ignore[reportPrivateUsage]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.inner._get_ls_params(stop, **kwargs)  # pyright: ignore[reportPrivateUsage]

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return cast("Runnable[LanguageModelInput, AIMessage]", self._around(self.inner.bind_tools(tools, **kwargs)))

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        return self._around(self.inner.with_structured_output(schema, **kwargs))

    def _around(self, built: Any) -> Any:
        """What the other model built around itself, around this one.

        Raises:
            TypeError: the model is not found in it, and its calls would not be journaled.
        """
        found = self._replaced(built)
        if found is built:
            raise TypeError(f"what {type(self.inner).__name__} built does not hold it; its calls cannot be journaled")
        return found

    def _replaced(self, built: Any) -> Any:
        if built is self.inner:
            return self
        node: Any = built
        if isinstance(built, RunnableBinding):
            bound = self._replaced(node.bound)
            return node if bound is node.bound else node.model_copy(update={"bound": bound})
        if isinstance(built, RunnableSequence):
            steps = [self._replaced(step) for step in node.steps]
            return node if all(map(is_, steps, node.steps)) else RunnableSequence[Any, Any](*steps, name=node.name)
        if isinstance(built, RunnableParallel):
            branches = {name: self._replaced(step) for name, step in node.steps__.items()}
            same = all(map(is_, branches.values(), node.steps__.values()))
            return node if same else RunnableParallel[Any](branches)
        return node

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        def act() -> ChatResult:
            return self.inner._generate(messages, stop, run_manager, **kwargs)  # pyright: ignore[reportPrivateUsage]

        call = self._placed(messages, stop, kwargs)
        result: ChatResult = carry_out(made(call, Action(act, never), _Answers(run_manager)))
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        async def act() -> ChatResult:
            return await self.inner._agenerate(messages, stop, run_manager, **kwargs)  # pyright: ignore[reportPrivateUsage]

        call = self._placed(messages, stop, kwargs)
        result: ChatResult = await acarry_out(made(call, Action(never, act), _Answers(run_manager)))
        return result

    def _placed(self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> Call:
        params = self._get_ls_params(stop)
        name = str(params.get("ls_model_name") or self._llm_type)
        request = [
            [self._llm_type, name, stop, {key: item for key, item in kwargs.items() if key not in _NOT_ASKED}],
            [_said(message) for message in messages],
        ]
        # What is asked is part of the identity: another question is another call.
        return placed(
            "model",
            name,
            digest(request).hex(),
            request,
            asked={"messages": len(messages), "shown": messages[-1].text if messages else ""},
            on_doubt="retry",
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


class StreamingJournaledModel(JournaledModel):
    """Around a model that streams; LangChain asks the class whether one does."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if type(self.inner)._stream is BaseChatModel._stream:  # pyright: ignore[reportPrivateUsage]
            # It streams under asyncio only.
            for generation in self._generate(messages, stop, run_manager, **kwargs).generations:
                yield _chunk(generation.message)
            return
        stream = _Stream(self._placed(messages, stop, kwargs))
        with stream.trying():
            claim = carry_out(stream.begun())
            traced(run_manager, stream.facts(claim))
            if claim.outcome != "claimed":
                yield from stream.replayed(claim)
                return
            try:
                for chunk in self.inner._stream(messages, stop, run_manager, **kwargs):  # pyright: ignore[reportPrivateUsage]
                    yield stream.took(chunk)
                yield from stream.last()
                carry_out(stream.whole(claim))
            except Exception as error:
                carry_out(stream.broken(claim, error))
                raise

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = _Stream(self._placed(messages, stop, kwargs))
        with stream.trying():
            claim = await acarry_out(stream.begun())
            traced(run_manager, stream.facts(claim))
            if claim.outcome != "claimed":
                for chunk in stream.replayed(claim):
                    yield chunk
                return
            try:
                async for chunk in self.inner._astream(messages, stop, run_manager, **kwargs):  # pyright: ignore[reportPrivateUsage]
                    yield stream.took(chunk)
                for chunk in stream.last():
                    yield chunk
                await acarry_out(stream.whole(claim))
            except Exception as error:
                await acarry_out(stream.broken(claim, error))
                raise


class _Answers(Codec):
    """Of a call that answers at once."""

    def __init__(self, run: BaseRunManager | None) -> None:
        self._run = run

    def traced(self, said: Mapping[str, Any]) -> None:
        traced(self._run, said)

    def sealed(self, call: Call, result: ChatResult) -> tuple[str, bytes]:
        messages = [_whole(generation, call, number) for number, generation in enumerate(result.generations)]
        return sealed(call.effect.name, messages, call.saver.serializer)

    def opened(self, call: Call, kept: tuple[str, bytes]) -> ChatResult:
        messages = opened(kept, call.saver.serializer)
        return ChatResult(generations=[ChatGeneration(message=message) for message in messages])

    def told(self, result: ChatResult) -> dict[str, Any]:
        return _told(result.generations[0].message) if result.generations else {}


class _Stream:
    """One streamed answer, on its way out and into the record."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._began = time.monotonic()
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

    def begun(self) -> Work[Claim]:
        claim: Claim = yield from begun(self.call)
        if claim.outcome == "claimed":
            # Who takes the stream may keep it and never come for the rest: nobody is to wait for that.
            ended(claim)
        return claim

    def facts(self, claim: Claim) -> dict[str, Any]:
        return facts(self.call.effect, replayed=claim.outcome != "claimed", attempt=claim.attempt)

    def took(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        if chunk.message.id is None:
            chunk.message.id = _id(self.call, 0)
        self._sum = chunk if self._sum is None else self._sum + chunk
        return chunk

    def last(self) -> Iterator[ChatGenerationChunk]:
        """The end of the stream, if it has none: LangChain would add one, with another id."""
        said = None if self._sum is None else self._sum.message
        if isinstance(said, AIMessageChunk) and said.chunk_position is None:
            content: str | list[str | dict[Any, Any]] = [] if isinstance(said.content, list) else ""
            end = AIMessageChunk(content=content, id=said.id)
            end.chunk_position = "last"
            yield self.took(ChatGenerationChunk(message=end))

    def whole(self, claim: Claim) -> Work[None]:
        if self._sum is None:  # what came is no answer, and is not to come again from the record
            yield settled(self.call, claim, "failed", self._began, details={"error": "the stream was empty"})
            return
        message = _whole(self._sum, self.call, 0)
        kept = sealed(self.call.effect.name, [message], self.call.saver.serializer)
        yield settled(self.call, claim, "completed", self._began, kept=kept, **_told(message))

    def broken(self, claim: Claim, error: Exception) -> Work[None]:
        yield settled(self.call, claim, "failed", self._began, error=error)

    def replayed(self, claim: Claim) -> Iterator[ChatGenerationChunk]:
        """The record as a stream."""
        assert claim.result is not None
        yield from map(_chunk, opened(claim.result, self.call.saver.serializer))


def journaled(model: BaseChatModel) -> JournaledModel:
    """A model whose calls are made once, for a node that calls it itself."""
    if isinstance(model, JournaledModel):
        return model
    methods = (type(model)._stream, type(model)._astream)  # pyright: ignore[reportPrivateUsage]
    streams = methods != (BaseChatModel._stream, BaseChatModel._astream)  # pyright: ignore[reportPrivateUsage]
    return StreamingJournaledModel(inner=model) if streams else JournaledModel(inner=model)


def _chunk(message: BaseMessage) -> ChatGenerationChunk:
    """A whole answer as the only piece of a stream."""
    given = {name: item for name, item in message.__dict__.items() if name != "type"}
    return ChatGenerationChunk(message=AIMessageChunk(**given, chunk_position="last"))


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


def _told(message: BaseMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"text": told(message.text)}
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = [{"name": call["name"], "args": told(call["args"])} for call in calls]
    usage: Mapping[str, Any] = getattr(message, "usage_metadata", None) or {}
    return {
        "event": "answered",
        "details": said,
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
    }
