"""A server on loopback that speaks both vendors' wire formats, by a script."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

USAGE = {"prompt": 100, "cached": 60, "written": 10, "completion": 7}


@dataclass(frozen=True)
class Recorded:
    """A request as it came; header names in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True)
class Scripted:
    """What the server answers; see the functions below.

    Attributes:
        calls: (name, arguments) pairs, arguments as JSON-able or as raw text.
        thinking: a block of thought before the rest (Anthropic's format only).
        cut: whether the body ends half way; ``hang``: seconds of silence in its middle.
        silent: whether it hangs before its head; ``drip``: seconds between signs of life.
        raw: this very body instead.
    """

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    stop: str = "end"
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, int] | None = field(default_factory=lambda: dict(USAGE))
    thinking: str = ""
    ids: bool = True
    cut: bool = False
    hang: float = 0.0
    silent: bool = False
    drip: float = 0.0
    raw: bytes | None = None


def text(said: str, **more: Any) -> Scripted:
    """A reply of text."""
    return Scripted(text=said, **more)


def tool_calls(*calls: tuple[str, Any], text: str = "", **more: Any) -> Scripted:
    """Calls of tools, in parallel; arguments that are text are sent as they are."""
    return Scripted(text=text, calls=calls, stop="tools", **more)


def status(code: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Scripted:
    """A refusal. A body that is no text is sent as JSON."""
    return Scripted(status=code, body=body, headers=headers or {})


def truncated(said: str = "half of what was to be said") -> Scripted:
    """A reply whose body ends in its middle, with the connection closed in order."""
    return Scripted(text=said, cut=True)


def hang(seconds: float = 5.0, *, silent: bool = False) -> Scripted:
    """A reply that stops coming; silent: not even its head comes."""
    return Scripted(text="never whole", hang=seconds, silent=silent)


def drip(every: float = 0.05, *, code: int = 200, sign: str = ": still here\n\n") -> Scripted:
    """A body without end that shows a sign of life every so many seconds, and nothing else."""
    return Scripted(drip=every, status=code, body=sign)


def huge(size: int) -> Scripted:
    """A reply with this many characters of text."""
    return Scripted(text="x" * size)


def refusal(said: str = "I will not do that.") -> Scripted:
    return Scripted(text=said, stop="refused")


def empty() -> Scripted:
    """A reply with nothing in it."""
    return Scripted()


def raw(body: bytes) -> Scripted:
    """Any bytes, with status 200."""
    return Scripted(raw=body)


class Wire:
    """The server, while the context is open.

    Args:
        script: the replies, one a request, or a function from the request to its reply. A request
            beyond the script is answered with 418.

    Attributes:
        url: its root; OpenAI's format is under ``url + "/v1"``.
        requests: what came so far; ``connections``: how many were opened.
    """

    def __init__(self, *script: Scripted | Callable[[Recorded], Scripted]) -> None:
        self._script = list(script)
        self._lock = threading.Lock()
        self.requests: list[Recorded] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.wire = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._server.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client closed it already
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def add(self, *script: Scripted) -> None:
        """More replies at the script's end."""
        with self._lock:
            self._script += script

    def answer(self, request: Recorded) -> Scripted:
        """The next reply of the script; notes the request."""
        with self._lock:
            self.requests.append(request)
            if not self._script:
                return status(418, {"error": {"message": "the script is over"}})
            step = self._script[0]
            if not isinstance(step, Scripted):
                return step(request)
            return self._script.pop(0)  # type: ignore[return-value]

    def wait(self, seconds: float) -> bool:
        """Sleep, unless the context ends; whether it did."""
        return self._done.wait(seconds)

    def opened(self, connection: socket.socket) -> None:
        """Note a connection, to be closed at the end."""
        with self._lock:
            self.connections += 1
            self._open.append(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    wire: Wire

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body are 40 ms apart
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.wire.opened(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._send(404, b'{"detail": "Not Found"}', "application/json", {})

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(size) or b"{}")
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Recorded(self.path, headers, body)
        step = self.server.wire.answer(request)
        if step.drip:
            self._drip(step)
        elif step.raw is not None:
            self._send(200, step.raw, "application/json", step.headers)
        elif step.status != 200:
            data = step.body if isinstance(step.body, str) else json.dumps(step.body or {})
            self._send(step.status, data.encode(), "application/json", step.headers)
        else:
            self._reply(request, step)

    def _reply(self, request: Recorded, step: Scripted) -> None:
        spell = _anthropic if request.path.endswith("/messages") else _openai
        pieces = list(spell(request, step))
        kind = "text/event-stream" if request.streams else "application/json"
        whole = "".join(pieces).encode()
        if step.cut:
            self._send(200, whole[: len(whole) // 2], kind, step.headers)
        elif step.silent:
            self.server.wire.wait(step.hang)
            self.close_connection = True
        elif step.hang:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:20])
            self.wfile.flush()
            self.server.wire.wait(step.hang)
            self.close_connection = True
        else:
            self._send(200, whole, kind, {"request-id": "req_1", **step.headers})

    def _drip(self, step: Scripted) -> None:
        self.send_response(step.status)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        while not self.server.wire.wait(step.drip):
            self.wfile.write(step.body.encode())

    def _send(self, code: int, data: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


def _spelt(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _halves(whole: str) -> Iterator[str]:
    """A text in pieces, as streams have it."""
    step = max(1, len(whole) // 3)
    yield from (whole[i : i + step] for i in range(0, len(whole), step))


def _anthropic(request: Recorded, step: Scripted) -> Iterator[str]:
    words = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens", "refused": "refusal"}
    stop = words.get(step.stop, step.stop)
    told = step.usage or {}
    usage = {
        "input_tokens": told.get("prompt", 0) - told.get("cached", 0) - told.get("written", 0),
        "cache_read_input_tokens": told.get("cached", 0),
        "cache_creation_input_tokens": told.get("written", 0),
        "output_tokens": told.get("completion", 0),
    }
    blocks: list[dict[str, Any]] = []
    if step.thinking:
        blocks.append({"type": "thinking", "thinking": step.thinking, "signature": "signed"})
    if step.text:
        blocks.append({"type": "text", "text": step.text})
    for i, (name, arguments) in enumerate(step.calls):
        blocks.append({"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": arguments})
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": request.body["model"]}
    if not request.streams:
        yield json.dumps({**head, "content": blocks, "stop_reason": stop, "usage": usage})
        return
    start = {**head, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for i, block in enumerate(blocks):
        events += _block_events(i, block)
    last = {"output_tokens": usage["output_tokens"]}
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": last})
    events.append({"type": "message_stop"})
    yield from (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = block["type"]
    delta, key = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking"),
                  "tool_use": ("input_json_delta", "partial_json")}[kind]  # fmt: skip
    if kind == "tool_use":
        whole, blank = _spelt(block["input"]), {**block, "input": {}}
    else:
        whole, blank = block[key], {**block, key: ""}
    blank.pop("signature", None)
    yield {"type": "content_block_start", "index": index, "content_block": blank}
    for piece in _halves(whole):
        yield {"type": "content_block_delta", "index": index, "delta": {"type": delta, key: piece}}
    if kind == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        yield {"type": "content_block_delta", "index": index, "delta": signed}
    yield {"type": "content_block_stop", "index": index}


def _openai(request: Recorded, step: Scripted) -> Iterator[str]:
    words = {"end": "stop", "tools": "tool_calls", "refused": "content_filter"}
    stop = words.get(step.stop, step.stop)
    usage: dict[str, Any] | None = None
    if step.usage is not None:
        told = {"cached_tokens": step.usage.get("cached", 0),
                "cache_write_tokens": step.usage.get("written", 0)}  # fmt: skip
        usage = {"prompt_tokens": step.usage.get("prompt", 0), "prompt_tokens_details": told,
                 "completion_tokens": step.usage.get("completion", 0)}  # fmt: skip
    calls: list[dict[str, Any]] = [
        {"function": {"name": name, "arguments": _spelt(arguments)}, "type": "function"}
        | ({"id": f"call-{i}"} if step.ids else {})
        for i, (name, arguments) in enumerate(step.calls)
    ]
    head = {"id": "chatcmpl-1", "model": request.body["model"]}
    if not request.streams:
        message: dict[str, Any] = {"role": "assistant", "content": step.text or None}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "finish_reason": stop}
        yield json.dumps({**head, "object": "chat.completion", "choices": [choice]}
                         | ({"usage": usage} if usage else {}))  # fmt: skip
        return
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _halves(step.text)]
    for i, call in enumerate(calls):
        whole = call["function"]["arguments"]
        first = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [{**call, "index": i, "function": first}]})
        deltas += [
            {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}
            for piece in _halves(whole)
        ]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": stop})
    chunk = {**head, "object": "chat.completion.chunk"}
    for choice in choices:
        yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
    if usage and (request.body.get("stream_options") or {}).get("include_usage"):
        yield f"data: {json.dumps({**chunk, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"
