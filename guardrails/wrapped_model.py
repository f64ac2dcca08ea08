"""A chat model around another: what becomes of its calls, streamed or not, is for a `ModelCall` to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import is_
from typing import Any, Protocol, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableParallel, RunnableSequence
from langchain_core.tools import BaseTool

from .actions import Action, Work, acarry_out, carry_out, never
from .model_runs import apieces, pieces, within_model


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked."""

    messages: Sequence[BaseMessage]
    stop: list[str] | None
    run: BaseRunManager | None
    given: Mapping[str, Any]


class StreamCall(Protocol):
    """A call whose answer comes in pieces."""

    def trying(self) -> AbstractContextManager[None]:
        """Lies around all of it."""
        ...

    def begun(self) -> Work[Sequence[BaseMessage] | None]:
        """Before it is made: the recorded answer, if it is not to be made."""
        ...

    def took(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """A piece on its way out."""
        ...

    def last(self) -> Iterator[ChatGenerationChunk]:
        """What has to follow the last piece."""
        ...

    def whole(self) -> Work[None]:
        """After the last piece."""
        ...

    def broken(self, error: Exception) -> Work[None]:
        """It ended in an error."""
        ...

    def left(self) -> None:
        """Nobody wants the rest; must not wait."""
        ...


class ModelCall(Protocol):
    """One call of a model."""

    given: Mapping[str, Any]
    """The keyword arguments with which it is to be made."""
    target: BaseChatModel
    """The model by which it is to be made."""

    def made(self, act: Action) -> Work[ChatResult]:
        """Make it, or answer otherwise."""
        ...

    def streamed(self) -> StreamCall: ...


class WrappedModel(BaseChatModel):
    """A chat model around another; what it is given, and how it is called, is the other's."""

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

    @property
    def target(self) -> BaseChatModel:
        """The model that is called in the end."""
        return self.inner.target if isinstance(self.inner, WrappedModel) else self.inner

    def _called(self, asked: Asked) -> ModelCall:
        raise NotImplementedError

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return cast("Runnable[LanguageModelInput, AIMessage]", self._around(self.inner.bind_tools(tools, **kwargs)))

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        return self._around(self.inner.with_structured_output(schema, **kwargs))

    def _around(self, built: Any) -> Any:
        """What the other model built around itself, around this one.

        Raises:
            TypeError: the model is not found in it, and its calls would not be seen.
        """
        found = self._replaced(built)
        if found is built:
            raise TypeError(f"what {type(self.inner).__name__} built does not hold it; its calls cannot be guarded")
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
        call = self._called(Asked(messages, stop, run_manager, kwargs))

        def act() -> ChatResult:
            with within_model():
                return call.target._generate(messages, stop, run_manager, **call.given)  # pyright: ignore[reportPrivateUsage]

        result: ChatResult = carry_out(call.made(Action(act, never)))
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._called(Asked(messages, stop, run_manager, kwargs))

        async def act() -> ChatResult:
            with within_model():
                return await call.target._agenerate(messages, stop, run_manager, **call.given)  # pyright: ignore[reportPrivateUsage]

        result: ChatResult = await acarry_out(call.made(Action(never, act)))
        return result


class StreamingModel(WrappedModel):
    """Around a model that streams; LangChain asks the class whether one does."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if type(self.target)._stream is BaseChatModel._stream:  # pyright: ignore[reportPrivateUsage]
            # It streams under asyncio only.
            for generation in self._generate(messages, stop, run_manager, **kwargs).generations:
                yield as_chunk(generation.message)
            return
        call = self._called(Asked(messages, stop, run_manager, kwargs))
        stream = call.streamed()
        with stream.trying():
            recorded = carry_out(stream.begun())
            if recorded is not None:
                yield from map(as_chunk, recorded)
                return
            try:
                stream_of = call.target._stream  # pyright: ignore[reportPrivateUsage]
                for chunk in pieces(stream_of(messages, stop, run_manager, **call.given)):
                    yield stream.took(chunk)
                yield from stream.last()
                carry_out(stream.whole())
            except Exception as error:
                carry_out(stream.broken(error))
                raise
            except BaseException:
                stream.left()
                raise

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._called(Asked(messages, stop, run_manager, kwargs))
        stream = call.streamed()
        with stream.trying():
            recorded = await acarry_out(stream.begun())
            if recorded is not None:
                for message in recorded:
                    yield as_chunk(message)
                return
            try:
                stream_of = call.target._astream  # pyright: ignore[reportPrivateUsage]
                async for chunk in apieces(stream_of(messages, stop, run_manager, **call.given)):
                    yield stream.took(chunk)
                for chunk in stream.last():
                    yield chunk
                await acarry_out(stream.whole())
            except Exception as error:
                await acarry_out(stream.broken(error))
                raise
            except BaseException:
                stream.left()
                raise


def streams(model: BaseChatModel) -> bool:
    """Whether LangChain would stream it."""
    methods = (type(model)._stream, type(model)._astream)  # pyright: ignore[reportPrivateUsage]
    return methods != (BaseChatModel._stream, BaseChatModel._astream)  # pyright: ignore[reportPrivateUsage]


def as_chunk(message: BaseMessage) -> ChatGenerationChunk:
    """A whole answer as the only piece of a stream."""
    given = {name: item for name, item in message.__dict__.items() if name != "type"}
    return ChatGenerationChunk(message=AIMessageChunk(**given, chunk_position="last"))


def last_chunk(said: BaseMessage | None) -> ChatGenerationChunk | None:
    """The end of a stream that has none: LangChain would add one, with another id."""
    if not isinstance(said, AIMessageChunk) or said.chunk_position is not None:
        return None
    content: str | list[str | dict[Any, Any]] = [] if isinstance(said.content, list) else ""
    end = AIMessageChunk(content=content, id=said.id)
    end.chunk_position = "last"
    return ChatGenerationChunk(message=end)
