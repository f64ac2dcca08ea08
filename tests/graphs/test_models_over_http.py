"""The outreach graph keeps its promises with a provider's real client, over HTTP, through good and bad weather."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, cast

import psycopg
import pytest
from langchain.chat_models import init_chat_model
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langgraph.errors import NodeTimeoutError
from langgraph.types import Command, RetryPolicy
from psycopg import sql

from holdfast.checkpointing import Database, HoldfastError
from holdfast.graphs.outreach import OutreachInput, build
from holdfast.guardrails import MalformedAnswer, ModelCallFailed
from holdfast.nodes import Letter, TooManyModelCalls, draft, load_model, plan, research, select, web_tools
from tests.support.brain import extractive
from tests.support.openai_server import Brain, ChatRequest, Fault, OpenAIServer, Reply, ToolCall

KEY = "sk-distinctive-4f1d8c0b7a"
TOOL_STRATEGY, PROVIDER_STRATEGY = "openai:gpt-test", "openai:gpt-4o"
STRATEGIES = [TOOL_STRATEGY, PROVIDER_STRATEGY]
STAGES = {module.INSTRUCTIONS: module.__name__.rpartition(".")[2] for module in (research, plan, select, draft)}
APPROVAL: Command[Any] = Command(resume={"decisions": [{"type": "approve"}]})
FAULTS: dict[Fault, type[HoldfastError]] = {
    "429": ModelCallFailed,
    "500": ModelCallFailed,
    "cut_stream": ModelCallFailed,
    "malformed_body": MalformedAnswer,
    "malformed_arguments": MalformedAnswer,
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the developer's own; and the graph's retries do not wait, how often it tries stays as it is."""
    for provider in ("OPENAI", "TAVILY"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)
    monkeypatch.setattr("holdfast.graphs.outreach.RetryPolicy", partial(RetryPolicy, initial_interval=0, jitter=False))


class Serve(Protocol):
    """Starts a server that the OpenAI client will find."""

    def __call__(self, faults: Iterable[Fault] = (), brain: Brain = extractive) -> OpenAIServer: ...


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Servers that live as long as the test; the environment names the last one."""
    with ExitStack() as stack:

        def start(faults: Iterable[Fault] = (), brain: Brain = extractive) -> OpenAIServer:
            server = stack.enter_context(OpenAIServer(brain, faults))
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            return server

        yield start


@pytest.fixture
def brief(dossier: Path) -> OutreachInput:
    """What every run here starts from."""
    return {
        "company": "Tidewater Instruments",
        "dossier": str(dossier),
        "offer": "We check field data while it arrives.",
        "to": "desk@tidewater.example",
    }


class Healing:
    """A fault that every request suffers until `heal` is called."""

    def __init__(self, fault: Fault) -> None:
        self.fault: Fault = fault
        self.healthy = threading.Event()

    def __iter__(self) -> Iterator[Fault]:
        while not self.healthy.is_set():
            yield self.fault

    def heal(self) -> None:
        """Answer well from now on."""
        self.healthy.set()


def outreach(
    db: Database, model: BaseChatModel, outbox: Path = Path("outbox"), *, stage_timeout: float | None = None
) -> Any:
    """The compiled graph; `Any`, because LangGraph's own signatures are too wide to be of use here."""
    builder = build(model, database=lambda: db, outbox=outbox, stage_timeout=stage_timeout)
    return builder.compile(checkpointer=db.saver)


def fragile(name: str = TOOL_STRATEGY, *, timeout: float = 60.0) -> BaseChatModel:
    """A model whose client does not repeat requests by itself."""
    return load_model(name, timeout=timeout, max_retries=0)


def thread(*callbacks: UsageMetadataCallbackHandler) -> dict[str, Any]:
    """A run's configuration."""
    return {"configurable": {"thread_id": "t"}, "callbacks": list(callbacks)}


def tokens(usage: UsageMetadataCallbackHandler) -> int:
    """Everything that was counted."""
    return sum(used["total_tokens"] for used in usage.usage_metadata.values())


def stage_of(request: ChatRequest) -> str:
    """The node that sent a request, told by its instructions."""
    return STAGES[request.messages[0]["content"]]


def assert_verbatim(db: Database, values: Mapping[str, Any]) -> None:
    """Evidence from three documents or more, each quotation in its document where it is said to stand."""
    evidence = values["evidence"]
    assert len({item["document"] for item in evidence}) >= 3
    for item in evidence:
        text = db.documents.read(values["dossier_id"], item["document"]).text
        assert text[item["position"] :].startswith(item["quote"])


# A whole run


@pytest.mark.parametrize("name", STRATEGIES)
async def test_an_async_run_quotes_verbatim_counts_tokens_and_sends(
    name: str, serve: Serve, db: Database, brief: OutreachInput, tmp_path: Path
) -> None:
    """From the brief to the approval, and through it to the outbox."""
    server = serve()
    usage = UsageMetadataCallbackHandler()
    graph = outreach(db, load_model(name), tmp_path)

    await graph.ainvoke(brief, thread(usage))
    waiting = await graph.aget_state(thread())
    assert waiting.next == ("approve",)
    assert_verbatim(db, waiting.values)
    assert tokens(usage) > 0

    asked = len(server.requests)
    final = await graph.ainvoke(APPROVAL, thread())
    assert Path(final["receipt"]["path"]).is_relative_to(tmp_path)
    assert final["evidence"][0]["quote"] in final["email"]["body"]
    assert len(server.requests) == asked  # sending needs no model


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sync_run_quotes_verbatim_counts_tokens_and_sends(
    name: str, serve: Serve, db: Database, brief: OutreachInput, tmp_path: Path
) -> None:
    """The same with `invoke`."""
    serve()
    usage = UsageMetadataCallbackHandler()
    graph = outreach(db, load_model(name), tmp_path)

    graph.invoke(brief, thread(usage))
    waiting = graph.get_state(thread())
    assert waiting.next == ("approve",)
    assert_verbatim(db, waiting.values)
    assert tokens(usage) > 0

    final = graph.invoke(APPROVAL, thread())
    assert [Path(final["receipt"]["path"])] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "typed"), [(TOOL_STRATEGY, False), (PROVIDER_STRATEGY, True)])
async def test_each_model_is_asked_for_types_in_the_way_it_knows(
    name: str, typed: bool, serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """As a schema where the provider takes one, else as a tool; the other tests stand on this difference."""
    server = serve()
    await outreach(db, load_model(name)).ainvoke(brief, thread())
    assert {stage_of(request) for request in server.requests} == set(STAGES.values())
    assert {request.response_format is not None for request in server.requests} == {typed}


# Streaming


def spoken(chunks: Sequence[AIMessageChunk]) -> str:
    """What a model's chunks add up to: its text, else its first call's arguments."""
    whole = sum(chunks[1:], chunks[0])
    return whole.text or str(whole.tool_call_chunks[0]["args"])


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_stream_of_messages_yields_the_server_s_tokens_and_counts_them(
    name: str, serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """A streaming model's letter arrives in pieces that add up to the letter in the state."""
    server = serve()
    usage = UsageMetadataCallbackHandler()
    graph = outreach(db, init_chat_model(name, streaming=True, stream_usage=True))

    letter: list[AIMessageChunk] = []
    async for namespace, (message, _) in graph.astream(brief, thread(usage), stream_mode="messages", subgraphs=True):
        if namespace and namespace[0].startswith("draft:") and isinstance(message, AIMessageChunk):
            letter.append(message)

    state = await graph.aget_state(thread())
    written = cast("Letter", json.loads(spoken(letter)))
    assert len(letter) > 10
    assert written["subject"] == state.values["email"]["subject"]
    assert state.values["email"]["body"].startswith(written["body"].strip())
    assert tokens(usage) > 0
    assert all(request.stream for request in server.requests)


async def test_tokens_are_counted_when_only_the_caller_streams(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """`stream_mode="messages"` makes any model stream; what `load_model` gives still reports its usage."""
    server = serve()
    usage = UsageMetadataCallbackHandler()
    graph = outreach(db, load_model(TOOL_STRATEGY))
    chunks = [chunk async for chunk in graph.astream(brief, thread(usage), stream_mode="messages", subgraphs=True)]
    assert chunks
    assert all(request.stream for request in server.requests)
    assert tokens(usage) > 0


# Faults that pass


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_one_fault_at_the_first_request_does_not_end_a_run(
    fault: Fault, name: str, serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """The stage asks again, with a client that does not repeat anything by itself."""
    serve([fault])
    graph = outreach(db, fragile(name))
    await graph.ainvoke(brief, thread())
    state = await graph.aget_state(thread())
    assert state.next == ("approve",)
    assert_verbatim(db, state.values)


def test_one_fault_does_not_end_a_sync_run(serve: Serve, db: Database, brief: OutreachInput) -> None:
    """Retries are not a privilege of `ainvoke`."""
    serve(["500"])
    graph = outreach(db, fragile())
    graph.invoke(brief, thread())
    assert graph.get_state(thread()).next == ("approve",)


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_fault_in_a_stream_does_not_end_a_run(
    fault: Fault, serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """What goes wrong between two tokens is retried like what goes wrong before the first."""
    serve([fault])
    graph = outreach(db, init_chat_model(TOOL_STRATEGY, streaming=True, max_retries=0))
    await graph.ainvoke(brief, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)


async def test_a_typed_answer_that_is_no_json_is_asked_for_again(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """The provider's own structured output may be broken too: the model is told, and answers once more."""
    broken: list[ChatRequest] = []

    def stumbling(request: ChatRequest) -> Reply:
        reply = extractive(request)
        if reply.tool_calls or broken:
            return reply
        broken.append(request)
        return Reply(text=reply.text[:-20])

    server = serve(brain=stumbling)
    graph = outreach(db, fragile(PROVIDER_STRATEGY))
    await graph.ainvoke(brief, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)
    complaint = server.requests[server.requests.index(broken[0]) + 1].messages[-1]
    assert complaint["role"] == "user"
    assert "does not fit the expected shape" in complaint["content"]


# Faults that stay


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("fault", "named"), FAULTS.items())
async def test_a_lasting_fault_fails_its_node_by_name_and_the_thread_goes_on_later(
    fault: Fault, named: type[HoldfastError], name: str, serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """The thread stands at the failed node with its error, and resumes from there once the server is well."""
    weather = Healing(fault)
    serve(weather)
    graph = outreach(db, fragile(name))
    with pytest.raises(named):
        await graph.ainvoke(brief, thread())
    failed = await graph.aget_state(thread())
    assert failed.next == ("research",)
    assert named.__name__ in str(failed.tasks[0].error)

    weather.heal()
    await graph.ainvoke(None, thread())
    state = await graph.aget_state(thread())
    assert state.next == ("approve",)
    assert_verbatim(db, state.values)


def test_a_lasting_fault_fails_a_sync_run_by_name_too(serve: Serve, db: Database, brief: OutreachInput) -> None:
    """`invoke` names the error, keeps the thread and resumes it."""
    weather = Healing("500")
    serve(weather)
    graph = outreach(db, fragile())
    with pytest.raises(ModelCallFailed, match="gpt-test"):
        graph.invoke(brief, thread())
    assert graph.get_state(thread()).next == ("research",)
    weather.heal()
    graph.invoke(None, thread())
    assert graph.get_state(thread()).next == ("approve",)


async def test_a_hang_beyond_the_model_s_timeout_is_a_failed_call(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """A server that says nothing costs the model's timeout, no more, and the thread resumes."""
    weather = Healing("hang")
    serve(weather)
    with pytest.raises(ModelCallFailed) as caught:
        await outreach(db, fragile(timeout=0.2)).ainvoke(brief, thread())
    assert caught.value.transient

    weather.heal()
    graph = outreach(db, fragile())
    assert (await graph.aget_state(thread())).next == ("research",)
    await graph.ainvoke(None, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)


async def test_a_hang_beyond_the_stage_s_timeout_names_the_node(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """LangGraph's own timeout stops a stage whose model would wait longer, and the thread resumes."""
    weather = Healing("hang")
    serve(weather)
    with pytest.raises(NodeTimeoutError) as caught:
        await outreach(db, fragile(), stage_timeout=0.5).ainvoke(brief, thread())
    assert caught.value.node == "research"

    weather.heal()
    graph = outreach(db, fragile())
    failed = await graph.aget_state(thread())
    assert failed.next == ("research",)
    assert "NodeTimeoutError" in str(failed.tasks[0].error)
    await graph.ainvoke(None, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)


async def test_a_fault_in_one_node_costs_no_other_node_a_second_call(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """Only drafting fails and only drafting is asked for again."""
    healthy = threading.Event()

    def refusing_drafts(request: ChatRequest) -> Reply:
        if stage_of(request) == "draft" and not healthy.is_set():
            raise RuntimeError("no drafts today")
        return extractive(request)

    server = serve(brain=refusing_drafts)
    graph = outreach(db, fragile())
    with pytest.raises(ModelCallFailed, match="no drafts today"):
        await graph.ainvoke(brief, thread())
    assert (await graph.aget_state(thread())).next == ("draft",)
    before = Counter(map(stage_of, server.requests))

    healthy.set()
    await graph.ainvoke(None, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)
    assert Counter(map(stage_of, server.requests)) - before == Counter(draft=1)


async def test_a_resume_inside_research_repeats_no_answered_call(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """A fault after research's first answers costs none of them: the agent's own steps are kept."""
    healthy = threading.Event()

    def refusing_answers(request: ChatRequest) -> Reply:
        reply = extractive(request)
        if reply.tool_calls[0].name == "Findings" and not healthy.is_set():
            raise RuntimeError("no findings today")
        return reply

    server = serve(brain=refusing_answers)
    graph = outreach(db, fragile())
    with pytest.raises(ModelCallFailed, match="no findings today"):
        await graph.ainvoke(brief, thread())
    before = len(server.requests)

    healthy.set()
    await graph.ainvoke(None, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)
    resumed = [request for request in server.requests[before:] if stage_of(request) == "research"]
    assert len(resumed) == 1
    assert resumed[0].messages[-1]["role"] == "tool"


# Models that take long


def searching(turns: float) -> Brain:
    """A brain that searches so many times, one search a turn, before it goes on."""

    def answer(request: ChatRequest) -> Reply:
        taken = sum(message["role"] == "tool" for message in request.messages)
        if stage_of(request) == "research" and taken < turns:
            return Reply(tool_calls=(ToolCall("search", json.dumps({"query": f"pump {taken}"})),))
        return extractive(request)

    return answer


async def test_research_may_take_as_many_turns_as_it_was_allowed(
    serve: Serve, db: Database, brief: OutreachInput
) -> None:
    """Twenty searches, one after the other, are within the 25 model calls that a stage may make."""
    serve(brain=searching(20))
    graph = outreach(db, fragile())
    await graph.ainvoke(brief, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)


async def test_a_model_that_never_answers_is_stopped_by_name(serve: Serve, db: Database, brief: OutreachInput) -> None:
    """The 26th call is not made; the error says so, and the thread stands at the node."""
    server = serve(brain=searching(float("inf")))
    graph = outreach(db, fragile())
    with pytest.raises(TooManyModelCalls, match="research made 25 model calls"):
        await graph.ainvoke(brief, thread())
    assert len(server.requests) == 25
    assert (await graph.aget_state(thread())).next == ("research",)


# Through the command line


class Holdfast(Protocol):
    """Runs the command to its end, with these arguments and environment variables."""

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def holdfast(environment: dict[str, str], tmp_path: Path) -> Holdfast:
    """The command as a process of its own, on the test's database."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "holdfast.serving", *arguments],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run


@pytest.fixture
def run_outreach(brief: OutreachInput) -> tuple[str, ...]:
    """The arguments that start the thread `t`; the model is still to be named."""
    fixed = (
        "--company",
        brief["company"],
        "--dossier",
        brief["dossier"],
        "--thread",
        "t",
        "--timeout",
        "30",
        "--price",
        "1,2",
    )
    return ("run", "outreach", *fixed, "--model")


def client_of(server: OpenAIServer) -> dict[str, str]:
    """The variables with which a process finds the server."""
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY}


def stored(uri: str) -> bytes:
    """Everything that the checkpoints' tables hold, as the server's own bytes."""
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
    with psycopg.connect(uri) as connection, connection.cursor() as cursor:
        held = bytearray()
        for table in tables:
            with cursor.copy(sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(sql.Identifier(table))) as rows:
                held += b"".join(bytes(row) for row in rows)
        return bytes(held)


def test_the_command_runs_a_model_to_the_approval_and_keeps_its_key_to_itself(
    serve: Serve, holdfast: Holdfast, run_outreach: tuple[str, ...], database_uri: str
) -> None:
    """The result is on standard output; the key is nowhere, neither printed nor kept."""
    done = holdfast(*run_outreach, TOOL_STRATEGY, "--json", **client_of(serve()))
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["status"], result["node"], result["model"]) == ("waiting", "approve", TOOL_STRATEGY)
    assert result["tokens"] > 0

    held = stored(database_uri)
    assert b"Tidewater Instruments" in held
    assert KEY.encode() not in held
    assert KEY not in done.stdout


def test_the_command_tells_a_failed_run_in_one_line_that_names_the_node(
    serve: Serve, holdfast: Holdfast, run_outreach: tuple[str, ...], database_uri: str
) -> None:
    """Progress first, then one line with the error and how to go on; the key is nowhere."""
    done = holdfast(*run_outreach, TOOL_STRATEGY, **client_of(serve(Healing("500"))))
    assert (done.returncode, done.stdout) == (2, "")
    *progress, last = done.stderr.splitlines()
    assert last.startswith("holdfast: RunFailed: research failed: ModelCallFailed: ")
    assert last.endswith("holdfast resume t")
    assert not [line for line in progress if line.startswith("holdfast:") or "Traceback" in line]

    held = stored(database_uri)
    assert b"ModelCallFailed" in held
    assert KEY.encode() not in held
    assert KEY not in done.stderr


def test_the_command_with_json_says_nothing_but_the_error_and_resumes_with_the_same_model(
    serve: Serve, holdfast: Holdfast, run_outreach: tuple[str, ...]
) -> None:
    """Standard output stays empty, standard error holds one line, and what it advises works."""
    weather = Healing("malformed_arguments")
    server = serve(weather)
    failed = holdfast(*run_outreach, TOOL_STRATEGY, "--json", **client_of(server))
    assert (failed.returncode, failed.stdout) == (2, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("holdfast: RunFailed: research failed: MalformedAnswer: ")

    weather.heal()
    resumed = holdfast("resume", "t", "--json", **client_of(server))
    assert (resumed.returncode, resumed.stderr) == (0, "")
    result = json.loads(resumed.stdout)
    assert (result["status"], result["values"]["email"]["drafted_by"]) == ("waiting", "gpt-test")


@pytest.mark.parametrize(
    ("model", "variables"),
    [
        pytest.param(TOOL_STRATEGY, {}, id="no key"),
        pytest.param("nosuch:model", {"OPENAI_API_KEY": KEY}, id="unknown provider"),
    ],
)
def test_the_command_refuses_a_model_that_cannot_be_had(
    model: str, variables: dict[str, str], holdfast: Holdfast, run_outreach: tuple[str, ...], database_uri: str
) -> None:
    """One line, the model's name in it and no key, and no thread is begun."""
    done = holdfast(*run_outreach, model, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"holdfast: UnknownModel: no model '{model}'")
    assert KEY not in line
    with Database.connect(database_uri) as db:
        assert db.threads.recent() == []


# The web


class Tavily:
    """A local server that speaks Tavily's `/search`; `queries` holds what was asked, with the key it came with."""

    def __init__(self) -> None:
        tavily = self
        self.queries: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/search"
                tavily.queries.append((asked["query"], self.headers["Authorization"]))
                found = {"title": "Tides", "url": "https://tides.example", "content": "The tide rose.", "score": 0.9}
                body = json.dumps({"query": asked["query"], "images": [], "results": [found]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def tavily(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tavily]:
    """Tavily, near by; graphs that are built find it, and a key is set."""
    server = Tavily()
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-key")
    # The tool takes its address from a constructor argument only, and `build` makes the tool.
    monkeypatch.setattr("langchain_tavily._utilities.TAVILY_API_URL", server.url)
    yield server
    server.close()


def offered(request: ChatRequest) -> list[str]:
    """The names of a request's tools."""
    return [tool["function"]["name"] for tool in request.tools]


def test_the_web_tool_searches_the_web(tavily: Tavily) -> None:
    """What `web_tools` gives sends the question with the key, and returns what was found, sync and async."""
    [tool] = web_tools()
    for found in (tool.invoke({"query": "tides"}), asyncio.run(tool.ainvoke({"query": "tides"}))):
        assert found["results"][0]["content"] == "The tide rose."
    assert tavily.queries == [("tides", "Bearer tvly-key")] * 2


def test_without_a_key_there_is_no_web_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with an empty one."""
    assert web_tools() == []
    monkeypatch.setenv("TAVILY_API_KEY", "")
    assert web_tools() == []


async def test_research_without_a_key_offers_two_tools(serve: Serve, db: Database, brief: OutreachInput) -> None:
    """The dossier's search and reader; after them only the typed answer."""
    server = serve()
    await outreach(db, load_model(TOOL_STRATEGY)).ainvoke(brief, thread())
    assert offered(server.requests[0]) == ["search", "read_document", "Findings"]


@pytest.mark.parametrize("name", STRATEGIES)
async def test_research_with_a_key_searches_the_web_as_well(
    name: str, serve: Serve, tavily: Tavily, db: Database, brief: OutreachInput
) -> None:
    """A model that asks the web first comes to the approval, quoting the dossier alone."""

    def curious(request: ChatRequest) -> Reply:
        if stage_of(request) == "research" and len(request.messages) == 2:
            return Reply(tool_calls=(ToolCall("tavily_search", json.dumps({"query": "tides"})),))
        known = [tool for tool in request.tools if tool["function"]["name"] != "tavily_search"]
        return extractive(replace(request, tools=known))

    server = serve(brain=curious)
    graph = outreach(db, load_model(name))
    await graph.ainvoke(brief, thread())
    assert offered(server.requests[0])[:3] == ["search", "read_document", "tavily_search"]
    assert tavily.queries == [("tides", "Bearer tvly-key")]
    state = await graph.aget_state(thread())
    assert state.next == ("approve",)
    assert_verbatim(db, state.values)


async def test_the_offline_model_ends_well_with_a_web_key(tavily: Tavily, db: Database, brief: OutreachInput) -> None:
    """A tool more does not keep it from its answer."""
    graph = outreach(db, load_model())
    await graph.ainvoke(brief, thread())
    assert (await graph.aget_state(thread())).next == ("approve",)
