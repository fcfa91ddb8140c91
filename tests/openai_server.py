"""A tiny server on loopback with OpenAI's completions, as an inference engine offers them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "tiny"
Reply = Callable[[str], str]


@dataclass
class TinyServer:
    """Replies word by word, while the context is open.

    Attributes:
        reply: from the prompt's text (token numbers: joined by spaces) to the reply.
        first, each: seconds to the first word and between words.
        counts: whether chunks say how many tokens there are so far; ``usage``: the last one at all.
        break_after: words after which the connection breaks; ``status``: of a refusal.
        requests: bodies that came; ``most_at_once``: requests that were there together.
    """

    reply: Reply = lambda prompt: "It is 42 ."
    first: float = 0.02
    each: float = 0.005
    counts: bool = True
    usage: bool = True
    break_after: int | None = None
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tiny = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def enter(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        """Note a request."""
        with self._lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.requests.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)

    def leave(self) -> None:
        """Note its end."""
        with self._lock:
            self._now -= 1

    def words(self, body: dict[str, Any]) -> tuple[list[str], str]:
        """The words of a reply, and why it ends."""
        if "messages" in body:
            prompt = body["messages"][-1]["content"]
        else:
            prompt = body["prompt"]
            prompt = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        words, most = self.reply(prompt).split(), int(body.get("max_tokens") or 16)
        if body.get("ignore_eos"):
            words = (words * most)[:most]
        return words[:most], "length" if len(words) >= most else "stop"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    tiny: TinyServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        self._send(200 if self.path.endswith("/models") else 404, listed)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        tiny = self.server.tiny
        tiny.enter(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        try:
            if tiny.status != 200:
                self._send(tiny.status, {"error": {"message": "no, " + "so " * 300}})
            elif body.get("stream"):
                self._stream(tiny, body)
            else:
                self._whole(tiny, body)
        finally:
            tiny.leave()

    def _whole(self, tiny: TinyServer, body: dict[str, Any]) -> None:
        words, finish = tiny.words(body)
        time.sleep(tiny.first + tiny.each * len(words))
        text = " ".join(words)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        chat = "messages" in body
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        made = {**_head(body), "choices": [choice]}
        self._send(200, made | ({"usage": _usage(body, len(words))} if tiny.usage else {}))

    def _stream(self, tiny: TinyServer, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for at, piece in enumerate(_pieces(tiny, body)):
            if tiny.break_after is not None and at > tiny.break_after:
                self.close_connection = True
                return
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, code: int, data: Any) -> None:
        raw = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def _pieces(tiny: TinyServer, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    words, finish = tiny.words(body)
    chat, told = "messages" in body, body.get("stream_options") or {}
    for at, word in enumerate(words):
        time.sleep(tiny.first if at == 0 else tiny.each)
        said = word if at == 0 else f" {word}"
        choice = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": said}} if chat else {"text": said}
        counted = tiny.counts and told.get("continuous_usage_stats")
        usage = {"usage": _usage(body, at + 1)} if counted else {}
        yield {**_head(body), "choices": [choice], **usage}
    last: dict[str, Any] = {"index": 0, "finish_reason": finish}
    yield {**_head(body), "choices": [last | ({"delta": {}} if chat else {"text": ""})]}
    if tiny.usage and told.get("include_usage"):
        yield {**_head(body), "choices": [], "usage": _usage(body, len(words))}


def _head(body: dict[str, Any]) -> dict[str, Any]:
    kind = "chat.completion" if "messages" in body else "text_completion"
    kind += ".chunk" if body.get("stream") and "messages" in body else ""
    return {"id": "x-1", "object": kind, "created": 0, "model": body["model"]}


def _usage(body: dict[str, Any], count: int) -> dict[str, Any]:
    prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    size = len(prompt) if isinstance(prompt, list) else len(str(prompt).split())
    return {"prompt_tokens": size, "completion_tokens": count, "total_tokens": size + count,
            "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip
