"""How many tokens a call can come to, before it is made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from .rates import is_mapping

_FLOOR: Final = 1.05
_HEADROOM: Final = 1.1
"""Above the greatest ratio that was observed; what comes next may be denser."""
_FALL: Final = 0.02
"""The part of the way back to what is needed that one observation goes."""
_SMALL: Final = 1000
"""A request with fewer counted tokens tells of what a provider adds to each, not of the text's density."""
_IMAGE: Final = 1600
"""Tokens of a large image at Anthropic (width times height / 750, scaled down to 1568 pixels); LangChain's own 85 is
that of a small one at OpenAI."""
_LIE: Final = 10**12
"""More tokens than any request has; what a provider claims beyond that teaches nothing more."""
_BYTES_A_TOKEN: Final = 4
_CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_new_tokens")
"""What call keywords and fields that bound the output are called."""
_TAKES_MAX_TOKENS: Final = ("langchain_openai.", "langchain_anthropic.")
"""Clients whose source was read: a keyword `max_tokens` of a call goes before the model's own, under the name that
the endpoint knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How far a provider's count of a request's tokens may exceed ours; it learns.

    The bound is `counted * factor + overhead`. It rises at once above what was observed, and falls slowly.

    >>> Margin().bound(10_000)
    15256
    >>> Margin().observed(10_000, 20_000).bound(10_000) > 20_000
    True
    """

    factor: float = 1.5
    """For dense text: code, JSON, languages of which a token is a short piece."""
    overhead: int = 256
    """Tokens that a provider adds to a request, such as its own instructions on tools."""

    def __post_init__(self) -> None:
        """Refuse what is no margin.

        Raises:
            ValueError: the factor is below 1.05 or infinite, or the overhead negative.
        """
        if not (_FLOOR <= self.factor < math.inf):
            raise ValueError(f"factor must be a number of at least {_FLOOR}, not {self.factor}")
        if self.overhead < 0:
            raise ValueError(f"overhead must be 0 or more, not {self.overhead}")

    def bound(self, counted: int, window: int | None = None) -> int:
        """No more tokens than this are expected of a request of so many counted ones.

        `window`: the most that the model takes, beyond which it refuses and bills nothing.
        """
        bound = math.ceil(max(counted, 0) * self.factor) + self.overhead
        return bound if window is None or window <= 0 else min(bound, window)

    def observed(self, counted: int, actual: int) -> Margin:
        """What is expected after a request of so many counted tokens came to so many in fact.

        A small request moves the overhead, any other the factor. The new bound covers what was observed.
        """
        actual = min(max(actual, 0), _LIE)
        if counted < _SMALL:
            beyond = max(actual - max(counted, 0) * self.factor, 0.0)
            return replace(self, overhead=math.ceil(_moved(self.overhead, beyond * _HEADROOM)))
        needed = max((actual - self.overhead) / counted * _HEADROOM, _FLOOR)
        return replace(self, factor=_moved(self.factor, needed))


def _moved(now: float, needed: float) -> float:
    """Up at once, down by a small part of the way."""
    return needed if needed > now else now - (now - needed) * _FALL


def counted(
    messages: Sequence[BaseMessage], tools: Sequence[BaseTool | dict[str, Any] | Callable[..., Any] | type] = ()
) -> int:
    """About how many tokens a request has, its tools' schemas included.

    By LangChain's count, of four characters a token, in which each image counts as a large one and letters
    outside ASCII by their length in UTF-8: a Chinese character is near a token of its own. What LangChain cannot
    count (content of a shape of one's own) counts by its length as text. About 1.5 ms for 1,000 messages.
    """
    tokens = sum(map(_foreign, messages))
    try:
        return tokens + count_tokens_approximately(messages, tools=_schemas(tools), tokens_per_image=_IMAGE)
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError):
        of_messages = sum(map(_of_message, messages))
        return tokens + of_messages + sum(_as_text(tool) for tool in _schemas(tools))


def _of_message(message: BaseMessage) -> int:
    try:
        return count_tokens_approximately([message], tokens_per_image=_IMAGE)
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError):
        return _as_text(message)


def _schemas(tools: Sequence[Any]) -> list[BaseTool | dict[str, Any]]:
    return [tool if isinstance(tool, BaseTool | dict) else convert_to_openai_tool(tool) for tool in tools]


def _as_text(value: Any) -> int:
    try:
        text = json.dumps(convert_to_openai_tool(value) if isinstance(value, BaseTool) else value, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return math.ceil(len(text) / _BYTES_A_TOKEN)


def _foreign(message: BaseMessage) -> int:
    """Tokens of letters outside ASCII beyond those that their number makes."""
    content: Any = message.content
    if isinstance(content, str):
        return _beyond(content)
    texts: list[Any] = [block.get("text") if is_mapping(block) else block for block in content or ()]
    return sum(_beyond(text) for text in texts if isinstance(text, str))


def _beyond(text: str) -> int:
    if text.isascii():  # which a string knows of itself
        return 0
    return math.ceil((len(text.encode("utf-8", "surrogatepass")) - len(text)) / _BYTES_A_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A bound on a call's output, and what is to be called so that it holds."""

    tokens: int
    """For all of the answers that are asked for (`n`), reasoning included."""
    model: BaseChatModel
    """To be called in place of the one that was given; the same one, unless the cap can be set on it alone."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keywords to be added to the call."""
    held: bool = True
    """Whether the provider is told; else this is the most that the model writes, or a guess."""


def output_cap(model: BaseChatModel, asked: Mapping[str, Any], default: int) -> Cap:
    """How many tokens a call may write.

    What the call's keywords (`asked`) or the model's own settings say, if they do: reasoning lies inside that at
    OpenAI, Anthropic and Google. Otherwise `default`, or the most that the model writes by its profile if that is
    less, which is then set: as the keyword `max_tokens` where the client is known to take it, as the field of a
    copy of the model where its class has one, and not at all elsewhere; a keyword that a client does not know is an
    error there. A setting that only repeats the profile, as langchain-anthropic fills it in, is nobody's choice.

    Raises:
        ValueError: `default` is below 1.
    """
    if default < 1:
        raise ValueError(f"default must be 1 or more tokens, not {default}")
    most = _number((model.profile or {}).get("max_output_tokens"))
    answers = _number(asked.get("n")) or _number(getattr(model, "n", None)) or _number(_further(model).get("n")) or 1
    if (known := _given(model, asked, most)) is not None:
        return Cap(tokens=known * answers, model=model)
    tokens = _with_thinking(model, asked, default)
    tokens = min(tokens, most) if most else tokens
    if any(base.__module__.startswith(_TAKES_MAX_TOKENS) for base in type(model).__mro__):
        return Cap(tokens=tokens * answers, model=model, settings={"max_tokens": tokens})
    if (name := next((name for name in _CAPS if name in type(model).model_fields), None)) is not None:
        return Cap(tokens=tokens * answers, model=model.model_copy(update={name: tokens}))
    return Cap(tokens=(most or tokens) * answers, model=model, held=False)


def _given(model: BaseChatModel, asked: Mapping[str, Any], most: int | None) -> int | None:
    """What somebody chose already."""
    further = _further(model)
    own = {name: _number(getattr(model, name, None)) or _number(further.get(name)) for name in _CAPS}
    chosen = {name: number for name, number in own.items() if number and number != most}
    by_call = {name: number for name in _CAPS if (number := _number(asked.get(name)))}
    if any(name in chosen or name in type(model).model_fields for name in by_call):
        return max(by_call.values())
    # Under another name than the model's own, either of the two may be what is sent.
    return max([*by_call.values(), *chosen.values()], default=None)


def _with_thinking(model: BaseChatModel, asked: Mapping[str, Any], default: int) -> int:
    """Anthropic refuses a cap that is not above the budget for thinking, which it includes."""
    thinking: Any = asked.get("thinking", getattr(model, "thinking", None))
    return default + ((_number(thinking.get("budget_tokens")) or 0) if is_mapping(thinking) else 0)


def _further(model: BaseChatModel) -> Mapping[str, Any]:
    """What a model passes on to its endpoint besides its fields."""
    further: Any = getattr(model, "model_kwargs", None)
    return further if is_mapping(further) else {}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
