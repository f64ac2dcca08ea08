"""A local HTTP server that speaks OpenAI's chat-completions protocol, for tests.

It covers plain answers, tool calls, structured output (the brain sees `response_format` and writes the
JSON), usage numbers and streaming, and it misbehaves on demand. It needs only the standard library.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from uuid import uuid4


@dataclass(frozen=True)
class ToolCall:
    """A call the model asks for; `arguments` is raw JSON text, sent exactly as it is, malformed or not."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One turn of the model; a token number of 0 means "count the whitespace-separated words"."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class ChatRequest:
    """What the client asked for, in OpenAI's own JSON shapes."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    response_format: dict[str, Any] | None
    model: str
    stream: bool


Brain = Callable[[ChatRequest], Reply]
Fault = Literal["429", "500", "hang", "malformed_body", "malformed_arguments", "cut_stream"]

_Json = dict[str, Any]


class OpenAIServer:
    """Answers `POST {base_url}/chat/completions` with what `brain` says, on a free port of 127.0.0.1.

    Each chat request consumes one entry of `faults`; when they are used up it suffers `always`, or is
    answered well if that is None. `requests` holds every chat request in order of arrival, recorded before
    it is answered, so `requests[i]` suffered the i-th fault. "429", "500" and "hang" do not ask the brain.
    The brain is called from the server's threads, several at once when requests overlap; if it raises, the
    client gets an HTTP 500 of type `brain_error` carrying the exception.

    `base_url` is known at once; requests are served inside the `with` block. Leaving it drops hanging
    requests and frees the port without waiting for anything else.
    """

    def __init__(self, brain: Brain, faults: Iterable[Fault] = (), *, always: Fault | None = None) -> None:
        self._script = _Script(brain, chain[Fault | None](faults, repeat(always)))
        self._http = _HTTPServer(("127.0.0.1", 0), partial(_Handler, self._script))
        # The default poll interval (0.5 s) would be paid by every test that closes a server.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self.requests: list[ChatRequest] = self._script.requests
        self.base_url: str = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and release every hanging request; calling it again does nothing."""
        self._script.closing.set()
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


@dataclass
class _Script:
    """What the server and the threads that answer its requests share."""

    brain: Brain
    faults: Iterator[Fault | None]
    requests: list[ChatRequest] = field(default_factory=list[ChatRequest])
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, request: ChatRequest) -> Fault | None:
        """Record the request and give the fault it must suffer, as one step."""
        with self.lock:
            self.requests.append(request)
            return next(self.faults)


class _HTTPServer(ThreadingHTTPServer):
    # The default backlog of 5 makes bursts of parallel requests wait for a TCP retransmission.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # for chunked bodies: without them a cut stream looks like a finished one

    def __init__(self, script: _Script, *args: Any) -> None:
        self._script = script  # first: the base constructor already answers the request
        super().__init__(*args)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that gave up (a timeout under test) is no news
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the tests look at `requests`."""

    def do_POST(self) -> None:
        """Answer a request of either method."""
        # Read before anything else: closing with unread input would reset the connection.
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = f"{self.command} {urlsplit(self.path).path}"
        if route == "POST /v1/chat/completions":
            self._answer(json.loads(raw))
        elif route == "GET /v1/models":
            model = {"id": "test-model", "object": "model", "created": 0, "owned_by": "test"}
            self._send(200, json.dumps({"object": "list", "data": [model]}).encode())
        else:
            self._send_error(404, f"Invalid URL ({route})", "invalid_request_error", "unknown_url")

    def do_GET(self) -> None:
        self.do_POST()

    def _answer(self, body: _Json) -> None:
        request = _chat_request(body)
        fault = self._script.receive(request)
        if fault == "429":
            self._send_error(429, "Rate limit reached (test fault).", "requests", "rate_limit_exceeded")
        elif fault == "500":
            self._send_error(500, "Server error (test fault).", "server_error")
        elif fault == "hang":
            self._script.closing.wait()
            self.close_connection = True
        else:
            self._ask_brain(request, body.get("stream_options") or {}, fault)

    def _ask_brain(self, request: ChatRequest, options: _Json, fault: Fault | None) -> None:
        try:
            reply = self._script.brain(request)
        except Exception as error:
            self._send_error(500, f"The test's brain raised {error!r}", "brain_error")
            return
        if fault == "malformed_arguments":
            reply = _damaged(reply)
        completion = _completion(request, reply)
        stream = request.stream and fault != "malformed_body"
        with_usage = bool(options.get("include_usage"))
        body = (_event_stream(completion, with_usage) if stream else json.dumps(completion)).encode()
        if fault in ("malformed_body", "cut_stream"):
            body = body[: len(body) // 2]
        self._send(200, body, stream=stream, cut=fault == "cut_stream")

    def _send_error(self, status: int, message: str, kind: str, code: str | None = None) -> None:
        error = {"message": message, "type": kind, "param": None, "code": code}
        self._send(status, json.dumps({"error": error}).encode())

    def _send(self, status: int, body: bytes, *, stream: bool = False, cut: bool = False) -> None:
        """Send one response; with `cut` the client can tell that the body is not complete."""
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        if stream:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n" % (len(body), body) + (b"" if cut else b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body) + cut))
        if status in (429, 500):
            self.send_header("Retry-After", "0")
        # A connection kept alive would go on being answered after the server is closed.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _chat_request(body: _Json) -> ChatRequest:
    return ChatRequest(
        messages=body["messages"],
        tools=body.get("tools") or [],
        response_format=body.get("response_format"),
        model=str(body.get("model", "")),
        stream=bool(body.get("stream")),
    )


def _damaged(reply: Reply) -> Reply:
    if not reply.tool_calls:
        return replace(reply, text=_damage(reply.text))
    calls = (replace(call, arguments=_damage(call.arguments)) for call in reply.tool_calls)
    return replace(reply, tool_calls=tuple(calls))


def _damage(text: str) -> str:
    # Halving alone may leave valid JSON ("12"), or something that a parser of partial JSON completes, as
    # langchain-core does with streamed arguments; no JSON, partial or whole, begins with a closing brace.
    return "}" + text[: len(text) // 2]


def _completion(request: ChatRequest, reply: Reply) -> _Json:
    """The `chat.completion` object, the answer to a request that does not stream."""
    message: _Json = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            {"id": f"call_{uuid4().hex}", "type": "function", "function": asdict(call)} for call in reply.tool_calls
        ]
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [_choice("message", message, "tool_calls" if reply.tool_calls else "stop")],
        "usage": _usage(request, reply),
    }


def _choice(key: str, value: _Json, finish_reason: str | None) -> _Json:
    return {"index": 0, key: value, "logprobs": None, "finish_reason": finish_reason}


def _usage(request: ChatRequest, reply: Reply) -> _Json:
    prompt = reply.input_tokens or sum(_words(message.get("content")) for message in request.messages)
    written = (reply.text, *(call.arguments for call in reply.tool_calls))
    completion = reply.output_tokens or sum(map(_words, written))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _words(content: str | list[_Json] | None) -> int:
    if isinstance(content, list):
        return sum(_words(part.get("text")) for part in content)
    return len((content or "").split())


def _event_stream(completion: _Json, with_usage: bool) -> str:
    """The same answer as server-sent events: `chat.completion.chunk` objects, then `[DONE]`."""
    head = completion | {"object": "chat.completion.chunk", "usage": None}
    if not with_usage:
        del head["usage"]
    choice: _Json = completion["choices"][0]
    chunks = [head | {"choices": [_choice("delta", delta, None)]} for delta in _deltas(choice["message"])]
    chunks.append(head | {"choices": [_choice("delta", {}, choice["finish_reason"])]})
    if with_usage:
        chunks.append(head | {"choices": [], "usage": completion["usage"]})
    return "".join(f"data: {data}\n\n" for data in (*map(json.dumps, chunks), "[DONE]"))


def _deltas(message: _Json) -> Iterator[_Json]:
    text: str | None = message["content"]
    yield {"role": "assistant", "content": text and ""}
    for word in re.findall(r"\s*\S+|\s+", text or ""):
        yield {"content": word}
    for index, call in enumerate(message.get("tool_calls", ())):
        function: dict[str, str] = call["function"]
        yield {"tool_calls": [call | {"index": index, "function": function | {"arguments": ""}}]}
        for piece in re.findall(r"(?s).{1,4}", function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
