"""Graphs whose calls somebody has to approve, and how they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] - upstream's checkpointer type
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import Field

from holdfast.checkpointing import ApprovalRequest, Database, Decided
from holdfast.checkpointing.requests import STATES
from holdfast.guardrails import ApprovalMiddleware, JournalMiddleware
from holdfast.nodes import approve_calls_node, each_call, guarded, tool_node

KINDS: Final = ("agent", "hand-made")
MODES: Final = ("sync", "async")
MAIL: Final = ("send", {"to": "bob@example.com", "text": "Hi."})
PAY: Final = ("pay", {"to": "bob", "usd": 500})
LOOK: Final = ("look", {"word": "gauge"})
APPROVE: Final[Mapping[str, Any]] = {"type": "approve"}

Call = tuple[str, dict[str, Any]]


class Asks(BaseChatModel):
    """Asks for calls in its turns, one list for each, and then answers; it knows nothing but the messages."""

    turns: Sequence[Sequence[Call]]
    requests: list[list[BaseMessage]] = Field(default_factory=list[list[BaseMessage]])

    @property
    def _llm_type(self) -> str:
        return "asks"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.requests.append(list(messages))
        turn = sum(isinstance(message, AIMessage) for message in messages)
        answer = AIMessage("done")
        if turn < len(self.turns):
            calls = [
                {"name": name, "args": args, "id": f"call_{turn}_{at}"}
                for at, (name, args) in enumerate(self.turns[turn])
            ]
            answer = AIMessage("Let me.", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Desk:
    """A thread of a graph that asks, the tools that were run, and the people who answer."""

    def __init__(
        self,
        db: Database,
        policies: Mapping[str, Any],
        *turns: Sequence[Call],
        kind: str = "agent",
        mode: str = "sync",
        around: Sequence[Any] = (),
        inside: Sequence[Any] = (),
        thread: str = "t",
        **options: Any,
    ) -> None:
        self.db = db
        self.mode = mode
        self.thread = thread
        self.done: list[Call] = []
        self.sent: Callable[[str], None] = lambda what: None
        self.model = Asks(turns=turns)
        self.tools = self._tools()
        if kind == "hand-made":
            options = {"tools": self.tools, **options}
        self.approval = ApprovalMiddleware(policies, **options)
        self.layers = [*around, self.approval, *inside]
        self.graph: Any = self._agent() if kind == "agent" else self._hand_made()

    def again(self, policies: Mapping[str, Any]) -> Desk:
        """The same thread, as another process with other policies has it."""
        other = Desk(self.db, policies, *self.model.turns, mode=self.mode)
        other.done = self.done
        return other

    def _tools(self) -> list[BaseTool]:
        def send(to: str, text: str = "") -> str:
            """Send a message."""
            self.done.append(("send", {"to": to, "text": text}))
            self.sent(to)
            return f"sent to {to}"

        def pay(to: str, usd: float) -> str:
            """Pay somebody."""
            self.done.append(("pay", {"to": to, "usd": usd}))
            return f"paid {usd} to {to}"

        def look(word: str) -> str:
            """Look a word up."""
            self.done.append(("look", {"word": word}))
            return f"{word} is a word"

        return [StructuredTool.from_function(tool) for tool in (send, pay, look)]

    def _agent(self) -> Any:
        middleware = [*self.layers, JournalMiddleware()]
        return create_agent(self.model, self.tools, middleware=middleware, checkpointer=self.db.saver)

    def _hand_made(self) -> Any:
        bound = guarded(self.model).bind_tools(self.tools)

        def ask(state: MessagesState) -> Any:
            return {"messages": [bound.invoke(state["messages"])]}

        async def aask(state: MessagesState) -> Any:
            return {"messages": [await bound.ainvoke(state["messages"])]}

        builder = StateGraph(MessagesState).add_node("model", RunnableLambda(ask, aask)).add_edge(START, "model")
        builder.add_node("approve", approve_calls_node(self.approval)).add_edge("model", "approve")
        builder.add_node("tools", tool_node(self.tools, around=self.layers)).add_edge("tools", "model")
        # A turn of which nothing is left to be made goes back to the model, as in an agent.
        builder.add_conditional_edges("approve", _after_approval)
        return builder.compile(checkpointer=self.db.saver)

    def run(self, given: Any = None, *, by: str | None = "ada", **configurable: Any) -> Any:
        """Run or resume it; its state."""
        settings = {"thread_id": self.thread, **({"actor": by} if by else {}), **configurable}
        config: Any = {"configurable": settings}
        if self.mode == "async":
            return asyncio.run(self.graph.ainvoke(given, config, durability="sync"))
        return self.graph.invoke(given, config, durability="sync")

    def begin(self, **configurable: Any) -> Any:
        """Begin with a question; the first interrupt's value, if it comes to one."""
        self.run({"messages": [HumanMessage("Do it.", id="begin")]}, **configurable)
        return self.asked

    def answer(self, resume: Any, *, by: str | None = "ada", **configurable: Any) -> Any:
        """Answer the interrupt as somebody."""
        return self.run(Command(resume=resume), by=by, **configurable)

    @property
    def state(self) -> Any:
        return self.graph.get_state({"configurable": {"thread_id": self.thread}})

    @property
    def asked(self) -> Any:
        """What the thread waits for; None if for nothing."""
        interrupts = self.state.interrupts
        return interrupts[0].value if interrupts else None

    @property
    def interrupt_id(self) -> str:
        return self.state.interrupts[0].id

    @property
    def requests(self) -> list[ApprovalRequest]:
        """All that is on record, in the order of the calls."""
        return sorted(self.db.approvals.find(thread_id=self.thread, states=STATES), key=lambda one: one.call_id)

    def decide(self, request: ApprovalRequest, by: str = "bob", **given: Any) -> ApprovalRequest:
        """Decide beside the graph, as the inbox does."""
        said: dict[str, Any] = {"type": "approve", "by": by, "digest": request.digest, **given}
        return self.db.approvals.decide(request.request_id, Decided(**said))

    @property
    def results(self) -> list[ToolMessage]:
        """The answers to calls."""
        return [message for message in self.state.values["messages"] if isinstance(message, ToolMessage)]

    @property
    def told(self) -> list[tuple[str, str]]:
        """The kinds of the audit trail's events about approvals, with who caused them."""
        events = self.db.audit.read(thread_id=self.thread)
        return [(event.kind, event.actor) for event in events if event.kind.startswith("approval.")]


def _after_approval(state: MessagesState) -> Any:
    newest = next(message for message in reversed(state["messages"]) if isinstance(message, AIMessage))
    return each_call(then="model" if newest.tool_calls else "__end__")(state)
