"""The embedded default model: no network, no weights, no language model.

`OfflineExtractiveModel` speaks LangChain's chat interface, tool calls and typed answers included, and
does real extraction: it searches, reads, ranks sentences with BM25 and copies them. It writes
nothing of its own but a letter's frame, and says so in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from ..guardrails.steps_text import without_line
from .prompts import material_of
from .ranking import Ranking, Sentence, sentences

NAME: Final = "offline"
DISCLAIMER: Final = (
    "(Assembled by Holdfast's offline extractive model: the quotations are exact, everything between them is a "
    "template. No language model was used; rewrite before sending.)"
)
_DOCUMENTS_READ: Final = 4
_SOURCES: Final = (["query"], ["document"])
"""What a tool that searches, and one that reads, asks for."""
_ITEMS: Final = 5


class OfflineExtractiveModel(BaseChatModel):
    """A chat model that extracts instead of generating.

    What it does depends on nothing but the request:

    1. With a tool that takes `query`, it first searches: for each of the material's `questions`.
    2. With a tool that takes `document`, it then reads the documents that were found most often.
    3. With any other tool (the last one offered), it fills that tool's arguments from what it was given:
       a list of objects becomes the best-ranked sentences, from different documents first; fields called `quote`,
       `statement`, `document`, `angle`, `title`, `why`, `subject`, `body` mean what they say, and any
       other text becomes the best sentence for the field's description.
    4. Without tools, it answers with the best sentences.

    The same request gets the same answer, ids included. It reports no token usage, because there are
    no tokens.
    """

    model_name: str = "offline-extractive"

    @property
    def _llm_type(self) -> str:
        return "holdfast-offline-extractive"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; `tool_choice` changes nothing, it always uses one."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        case = _Case.of(messages, kwargs.get("tools") or [])
        calls = list(case.calls())
        text = "" if calls else " ".join(sentence.text for sentence in case.ranking.best(case.topic)[:3])
        message = AIMessage(
            content=text,
            tool_calls=[_identified(call, number, messages) for number, call in enumerate(calls)],
            response_metadata={"model_name": self.model_name, "language_model": False},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One request, taken apart."""

    material: dict[str, Any]
    results: list[Any]
    tools: dict[str, dict[str, Any]]
    used: frozenset[str]
    ranking: Ranking

    @classmethod
    def of(cls, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]]) -> _Case:
        parsed = [material_of(message.text) for message in messages if isinstance(message, HumanMessage)]
        material = next((found for item in parsed for found in _dicts([item])), dict[str, Any]())
        results = [material_of(without_line(message.text)) for message in messages if isinstance(message, ToolMessage)]
        return cls(
            material=material,
            results=results,
            tools={tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools},
            used=frozenset(message.name or "" for message in messages if isinstance(message, ToolMessage)),
            ranking=Ranking(_sentences([material, results])),
        )

    @property
    def topic(self) -> str:
        """What the request is about, as one query."""
        return " ".join([self.text("company"), self.text("offer"), *self.themes])

    @property
    def themes(self) -> list[str]:
        """What to look for, one theme each: angles if there are some, else questions, else the company."""
        angles = [f"{angle.get('title', '')} {angle.get('why', '')}" for angle in _dicts(self.material.get("angles"))]
        questions = [str(question) for question in _list(self.material.get("questions"))]
        return angles or questions or [self.text("company")]

    def text(self, key: str) -> str:
        """A plain text of the material, or nothing."""
        value = self.material.get(key, "")
        return value if isinstance(value, str) else ""

    def calls(self) -> Iterator[ToolCall]:
        searcher = self._tool_taking("query")
        reader = self._tool_taking("document")
        if searcher and searcher not in self.used:
            for query in self.themes:
                yield ToolCall(name=searcher, args={"query": query}, id=None)
        elif reader and reader not in self.used and (names := self._found()):
            for name in names[:_DOCUMENTS_READ]:
                yield ToolCall(name=reader, args={"document": name}, id=None)
        else:
            # An agent's answer is offered after its tools.
            answers = [name for name, schema in self.tools.items() if schema.get("required") not in _SOURCES]
            for name in answers[-1:]:
                yield ToolCall(name=name, args=_Filler(self).object(self.tools[name]), id=None)

    def _tool_taking(self, argument: str) -> str | None:
        return next((name for name, schema in self.tools.items() if schema.get("required") == [argument]), None)

    def _found(self) -> list[str]:
        """The documents that searches returned: the top hit of each search first, then the rest."""
        hits = [[str(hit["document"]) for hit in _dicts(result) if "document" in hit] for result in self.results]
        depth = max((len(names) for names in hits), default=0)
        return list(dict.fromkeys(names[rank] for rank in range(depth) for names in hits if rank < len(names)))


class _Filler:
    """Fills a typed answer from the sentences of a request."""

    def __init__(self, case: _Case) -> None:
        self.case = case

    def object(self, schema: Mapping[str, Any], theme: str = "", sentence: Sentence | None = None) -> dict[str, Any]:
        return {
            name: self._value(name, _resolved(field, schema), theme, sentence)
            for name, field in schema.get("properties", {}).items()
        }

    def _value(self, name: str, field: Mapping[str, Any], theme: str, sentence: Sentence | None) -> Any:
        if "const" in field or field.get("enum"):
            return field["const"] if "const" in field else field["enum"][0]
        kind = field.get("type")
        if kind == "array":
            return self._array(name, field, theme, sentence)
        if kind == "object":
            return self.object(field, theme, sentence)
        if kind in {"integer", "number"}:
            return _number(field)
        if kind == "boolean":
            return False
        return None if kind == "null" else self._text(name, field, theme, sentence)[: field.get("maxLength")]

    def _array(self, name: str, field: Mapping[str, Any], theme: str, sentence: Sentence | None) -> list[Any]:
        items = _resolved(field.get("items", {}), field)
        chosen = list(self._spread(min(int(field.get("maxItems", _ITEMS)), _ITEMS)))
        if items.get("type") == "object":
            return [self.object(items, theme, sentence) for theme, sentence in chosen]
        if items.get("type", "string") == "string" and not ("enum" in items or "const" in items):
            return [sentence.text for _, sentence in chosen]
        return [self._value(name, items, theme, sentence)]

    def _spread(self, limit: int) -> Iterator[tuple[str, Sentence]]:
        """The best sentence of each theme in turn; documents that have none yet come first."""
        ranked = [(theme, self.case.ranking.best(theme)) for theme in self.case.themes]
        taken: list[Sentence] = []
        for turn in range(limit if ranked else 0):
            theme, order = ranked[turn % len(ranked)]
            documents = {sentence.document for sentence in taken}
            free = [sentence for sentence in order if sentence not in taken]
            best = next((sentence for sentence in free if sentence.document not in documents), None)
            if best or free:
                taken.append(best or free[0])
                yield theme, taken[-1]

    def _text(self, name: str, field: Mapping[str, Any], theme: str, sentence: Sentence | None) -> str:
        if name in {"subject", "body"}:
            return _Letter(self.case).subject() if name == "subject" else _Letter(self.case).body()
        if sentence is None:
            query = f"{self.case.topic} {field.get('description', '')}"
            return " ".join(best.text for best in self.case.ranking.best(query)[:2])
        if name == "document":
            return sentence.document
        if name in {"title", "angle"}:
            return self._title(name, theme, sentence)
        return sentence.text

    def _title(self, name: str, theme: str, sentence: Sentence) -> str:
        titles = [str(angle["title"]) for angle in _dicts(self.case.material.get("angles")) if "title" in angle]
        if name == "angle" and (known := next((title for title in titles if theme.startswith(title)), None)):
            return known
        return ", ".join(self.case.ranking.keywords(sentence.text)) or sentence.document


class _Letter:
    """A letter's frame around quotations."""

    def __init__(self, case: _Case) -> None:
        self.case = case
        self.evidence = _dicts(case.material.get("evidence"))

    def subject(self) -> str:
        return f"{' '.join(self.case.text('company').split())}: a question about your documents"

    def body(self) -> str:
        quotations = [f"\u201c{item.get('quote', '')}\u201d [{item.get('number', 0)}]" for item in self.evidence]
        blocks = [
            f"Hello {self.case.text('company')} team,",
            "I have been reading your documents, and these passages stayed with me:",
            *quotations,
            self.case.text("offer") or "I would like to hear how you go about this today.",
            "Would half an hour in the coming weeks suit you?",
            self.case.text("sender"),
            DISCLAIMER,
        ]
        return "\n\n".join(block for block in blocks if block)


def _sentences(value: Any) -> Iterator[Sentence]:
    """Every sentence of everything in a JSON value that names a document and holds text."""
    for item in _all_dicts(value):
        document, text = item.get("document"), item.get("text", item.get("statement", item.get("quote")))
        if isinstance(document, str) and isinstance(text, str):
            yield from sentences(document, text)


def _all_dicts(value: Any) -> Iterator[dict[str, Any]]:
    for item in _dicts([value]):
        yield item
        for inner in item.values():
            yield from _all_dicts(inner)
    for item in _list(value):
        yield from _all_dicts(item)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _list(value: Any) -> list[Any]:
    return value if _is_list(value) else []


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field with its `$ref` followed and its first possible type chosen.

    Definitions travel along, so that the next level finds them.
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    options = [*field.get("allOf", []), *field.get("anyOf", []), *field.get("oneOf", [])]
    reference = str(field.get("$ref", "")).rpartition("/")[2]
    target: Mapping[str, Any] = definitions.get(reference, {})
    if options:
        target = _resolved(options[0], schema)
    return {**target, **field, "$defs": definitions}


def _number(field: Mapping[str, Any]) -> int:
    """The whole number nearest to nothing that a schema's bounds allow."""
    least: float = field.get("minimum", field.get("exclusiveMinimum", -math.inf))
    most: float = field.get("maximum", field.get("exclusiveMaximum", math.inf))
    least = math.floor(least) + 1 if "exclusiveMinimum" in field else least
    most = math.ceil(most) - 1 if "exclusiveMaximum" in field else most
    return math.ceil(max(least, min(0, most)))


def _identified(call: ToolCall, number: int, messages: Sequence[BaseMessage]) -> ToolCall:
    """The call with an id that depends on the request alone, so that a repeated request repeats it."""
    content = json.dumps([number, call["name"], call["args"], len(messages)], sort_keys=True, default=str)
    return ToolCall(
        name=call["name"], args=call["args"], id=f"call_{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    )
