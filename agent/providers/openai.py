"""Models behind chat completions: OpenAI's, and every server that speaks their wire format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from agent.providers.exchange import MAX_BYTES, Line, arguments_of, count, documents
from agent.providers.records import (
    Message,
    ProviderError,
    Reply,
    Request,
    ToolCall,
    Trouble,
    Usage,
)  # fmt: skip
from agent.providers.wording import failed_midway

HOME = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
STOPS = {"stop": "end", "tool_calls": "tools", "function_call": "tools", "length": "length",
         "content_filter": "refused"}  # fmt: skip
# What a request has that some models and servers refuse, and what is done about it.
ADAPTED = {
    "tokens": "the other name of max_tokens", "temperature": "no temperature",
    "usage": "no usage asked for in streams", "effort": "no reasoning, which tools exclude here",
}  # fmt: skip
_UNKNOWN = re.compile(r"(?i)unsupported|not supported|unrecognized|unknown|not permitted")


class OpenAI:
    """A model of OpenAI's, or of a server with its wire format (SGLang, vLLM, Ollama, llama.cpp).

    Args:
        model: its name there.
        url: the server's base, mostly with ``/v1`` at its end; None for OpenAI's own.
        stream: whether the reply comes in pieces.
        timeout: seconds without a byte, and of the whole reply.
        max_bytes: of the reply.

    Raises:
        VortexError: E703, the package ``openai`` is not installed.
    """

    def __init__(
        self, model: str, *, url: str | None = None, stream: bool = False, timeout: float = 600.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self.name = f"openai:{model}" + (f"@{url}" if url else "")
        self.model, self._stream = model, stream
        # OpenAI's newer models want the one name, servers know the other.
        self._official = url is None or urlsplit(url).hostname == urlsplit(HOME).hostname
        self._refused: frozenset[str] = frozenset()  # keys of ADAPTED
        self._line = Line("openai", "OpenAI", name=self.name, variable=KEY, url=url, home=HOME,
                          timeout=timeout, max_bytes=max_bytes)  # fmt: skip

    def __repr__(self) -> str:
        return f"OpenAI({self.name!r})"

    @property
    def adapted(self) -> tuple[str, ...]:
        """What of a request is said otherwise because the model or server refused it."""
        return tuple(ADAPTED[key] for key in sorted(self._refused))

    def complete(self, request: Request) -> Reply:
        """Send one request.

        One that is refused because of a parameter (and so was not worked on) is sent again in the
        other form, once for each such parameter; what was learned holds for the next requests.

        Raises:
            ProviderError: it failed.
        """
        without_effort: ProviderError | None = None
        while True:
            refused = self._refused
            try:
                return self._ask(request, refused)
            except ProviderError as error:
                named = self._objection(error, request)
                if named == "effort" and named in refused and without_effort:
                    # Tools exclude reasoning here, and this model cannot go without it.
                    self._refused = self._refused - {named}
                    raise without_effort from None
                if named is None or named in refused:
                    raise
                without_effort = error if named == "effort" else without_effort
                self._refused = self._refused | {named}

    def _objection(self, error: ProviderError, request: Request) -> str | None:
        """The parameter that a refusal is about, a key of ``ADAPTED``."""
        said = str(error)
        if error.trouble not in (Trouble.REQUEST, Trouble.MODEL) or error.sent:
            return None
        if "max_tokens" in said or "max_completion_tokens" in said:
            # A limit above the model's is our fault, whatever the parameter is called.
            return "tokens" if _UNKNOWN.search(said) else None
        if "reasoning_effort" in said and request.tools:
            return "effort"
        if "temperature" in said and request.temperature is not None:
            return "temperature"
        return "usage" if "stream_options" in said and self._stream else None

    def _ask(self, request: Request, refused: frozenset[str]) -> Reply:
        newer = self._official != ("tokens" in refused)
        asked: dict[str, Any] = {
            "model": self.model, "messages": list(_messages(request)),
            "max_completion_tokens" if newer else "max_tokens": request.max_tokens,
        }  # fmt: skip
        if request.tools:
            asked["tools"] = [
                {"type": "function", "function": {
                    "name": t.name, "description": t.description, "parameters": dict(t.parameters)}}
                for t in request.tools
            ]  # fmt: skip
            if "effort" in refused:
                asked["reasoning_effort"] = "none"
        if request.temperature is not None and "temperature" not in refused:
            asked["temperature"] = request.temperature
        if self._stream and "usage" not in refused:
            asked["stream_options"] = {"include_usage": True}
        body = self._line.fetch(
            lambda client: client.chat.completions.with_streaming_response.create(
                **asked, stream=self._stream
            )
        )
        found = documents(body, self._line)
        first = found[0] if isinstance(found[0], dict) else {}
        if first.get("error") or first.get("object") == "error":
            raise failed_midway(self._line.name, first)
        whole = _choice(first).get("message")
        message = whole if isinstance(whole, dict) else self._assembled(found)
        usage: dict[str, Any] = next((d["usage"] for d in reversed(found)
                      if isinstance(d, dict) and isinstance(d.get("usage"), dict)), {})  # fmt: skip
        stop = message.get("finish_reason") or _choice(first).get("finish_reason")
        reply = reply_of(
            message, str(stop or "stop"), usage, turn=len(request.messages),
            seconds=body.seconds, request_id=body.request_id or str(first.get("id") or "")[:100],
        )  # fmt: skip
        self._line.accept()
        return reply

    def _assembled(self, events: list[Any]) -> dict[str, Any]:
        """The message that a stream spells, with its ``finish_reason``."""
        text, refusal, stop, seen = "", "", None, False
        calls: dict[int, dict[str, str]] = {}
        for event in events:
            if not isinstance(event, dict):
                continue
            if event.get("error"):
                raise failed_midway(self._line.name, event)
            seen = seen or isinstance(event.get("choices"), list)
            choice = _choice(event)
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            text += _text(delta.get("content"))
            refusal += _text(delta.get("refusal"))
            stop = choice.get("finish_reason") or stop
            for piece in _list(delta.get("tool_calls")):
                _extend(calls, piece if isinstance(piece, dict) else {})
        if not seen:
            raise self._line.unreadable("the reply has no choices")
        if stop is None and "[DONE]" not in events:
            raise ProviderError(
                f"{self._line.name}: the reply broke off before its end", Trouble.REPLY, sent=True
            )
        found = [{"id": c["id"], "function": c} for _, c in sorted(calls.items())]
        return {"content": text, "refusal": refusal, "tool_calls": found, "finish_reason": stop}


def _choice(document: Any) -> Mapping[str, Any]:
    choices = _list(document.get("choices")) if isinstance(document, dict) else []
    return choices[0] if choices and isinstance(choices[0], dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Content, a string or a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _extend(calls: dict[int, dict[str, str]], piece: Mapping[str, Any]) -> None:
    """Add a piece of a call. Without an index, a piece with an id begins the next call."""
    name = piece.get("function")
    function = name if isinstance(name, dict) else {}
    index = piece.get("index")
    if type(index) is not int:
        # The latest is the last that was begun: a search for it would take forever in a long reply.
        index = len(calls) if piece.get("id") or not calls else next(reversed(calls))
    call = calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
    call["id"] = call["id"] or str(piece.get("id") or "")
    call["name"] = call["name"] or str(function.get("name") or "")
    call["arguments"] += _raw(function.get("arguments"))


def _raw(arguments: Any) -> str:
    """Arguments as text; some servers send the object itself."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def reply_of(
    message: Mapping[str, Any], stop: str, usage: Mapping[str, Any], *, turn: int, seconds: float,
    request_id: str,
) -> Reply:  # fmt: skip
    """A reply from the API's message.

    Args:
        turn: messages before this one: calls without an id are named by it.
    """
    calls = []
    for i, item in enumerate(_list(message.get("tool_calls"))):
        function = item.get("function") if isinstance(item, dict) else None
        if isinstance(function, dict):
            raw = _raw(function.get("arguments"))
            name = str(item.get("id") or f"call_{turn}_{i}")
            calls.append(ToolCall(name, str(function.get("name") or ""), arguments_of(raw), raw))
    refusal = _text(message.get("refusal"))
    ended = "refused" if refusal else STOPS.get(stop, stop)
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Reply(
        text=_text(message.get("content")) or refusal, calls=tuple(calls),
        usage=Usage(
            prompt=count(usage.get("prompt_tokens")), cached=count(details.get("cached_tokens")),
            written=count(details.get("cache_write_tokens")),
            completion=count(usage.get("completion_tokens")),
        ),
        stop="tools" if calls and ended == "end" else ended, seconds=seconds, request_id=request_id,
    )  # fmt: skip


def _messages(request: Request) -> Iterator[dict[str, Any]]:
    if request.system:
        yield {"role": "system", "content": request.system}
    for message in request.messages:
        yield _message(message)


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    if not message.calls:
        return {"role": message.role, "content": message.text}
    return {
        "role": "assistant",
        "content": message.text or None,
        "tool_calls": [
            # Servers read the arguments, and fail at text that is no JSON.
            {"id": c.id, "type": "function", "function": {
                "name": c.name, "arguments": "{}" if c.arguments is None else c.raw or "{}"}}
            for c in message.calls
        ],
    }  # fmt: skip
