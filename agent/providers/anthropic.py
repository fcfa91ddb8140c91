"""Models behind Anthropic's Messages API: tools, prompt caching, thinking sent back unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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

HOME = "https://api.anthropic.com"
KEY = "ANTHROPIC_API_KEY"
STOPS = {
    "end_turn": "end", "stop_sequence": "end", "tool_use": "tools", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "refused",
}  # fmt: skip
CACHE = {"type": "ephemeral"}
# Pieces of a streamed block: the delta's field, and the block's field that it extends.
GROWS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking"),
         "signature_delta": ("signature", "signature"),
         "input_json_delta": ("partial_json", "json")}  # fmt: skip


class Anthropic:
    """A model of Anthropic's, or of a server that speaks its wire format.

    Args:
        model: its name there.
        url: the server, None for Anthropic's own; a ``/v1`` at its end is dropped.
        stream: long replies break idle connections, so it streams unless told not to.
        timeout: seconds without a byte, and of the whole reply.
        max_bytes: of the reply.

    Raises:
        VortexError: E703, the package ``anthropic`` is not installed.
    """

    def __init__(
        self, model: str, *, url: str | None = None, stream: bool = True, timeout: float = 600.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self.name = f"anthropic:{model}" + (f"@{url}" if url else "")
        self.model, self._stream = model, stream
        self._sampled = True  # whether the model takes a temperature, until it says otherwise
        self._line = Line(
            "anthropic", "Anthropic", name=self.name, variable=KEY, home=HOME, timeout=timeout,
            url=url.rstrip("/").removesuffix("/v1") if url else None, max_bytes=max_bytes,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Anthropic({self.name!r})"

    @property
    def adapted(self) -> tuple[str, ...]:
        """What of a request is left out because the model refused it."""
        return () if self._sampled else ("no temperature",)

    def complete(self, request: Request) -> Reply:
        """Send one request. A model that takes no temperature is asked again without, once.

        Raises:
            ProviderError: it failed.
        """
        try:
            return self._ask(request)
        except ProviderError as error:
            refused = error.trouble is Trouble.REQUEST and "temperature" in str(error)
            if not (refused and self._sampled and request.temperature is not None):
                raise
        self._sampled = False
        return self._ask(request)

    def _ask(self, request: Request) -> Reply:
        asked = body_of(request, self.model)
        if self._sampled and request.temperature is not None:
            # Newer versions of the package have no such parameter: older models still take it.
            asked["extra_body"] = {"temperature": request.temperature}
        body = self._line.fetch(
            lambda client: client.messages.with_streaming_response.create(
                **asked, stream=self._stream
            )
        )
        found = documents(body, self._line)
        events = [event for event in found if isinstance(event, dict)]
        streamed = any(event.get("type") == "message_start" for event in events)
        message = self._assembled(events) if streamed else (events or [{}])[0]
        if message.get("type") == "error":
            raise failed_midway(self._line.name, message)
        if not isinstance(message.get("content"), list):
            raise self._line.unreadable("the reply has no content")
        reply = reply_of(message, body.seconds, body.request_id)
        self._line.accept()
        return reply

    def _assembled(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """The message that a stream spells."""
        message: dict[str, Any] = {}
        blocks: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        ended = False
        for event in events:
            kind = event.get("type")
            if kind == "error":
                raise failed_midway(self._line.name, event)
            if kind == "message_start":
                message = dict(_object(event.get("message")))
                usage |= _known(message.get("usage"))
            elif kind == "content_block_start":
                blocks[_index(event)] = {**_object(event.get("content_block"))}
            elif kind == "content_block_delta":
                _grow(blocks.setdefault(_index(event), {}), _object(event.get("delta")))
            elif kind == "message_delta":
                message |= _known(event.get("delta"))
                usage |= _known(event.get("usage"))
            ended = ended or kind == "message_stop"
        if not ended:
            raise ProviderError(
                f"{self._line.name}: the reply broke off before its end", Trouble.REPLY, sent=True
            )
        return {**message, "content": [blocks[i] for i in sorted(blocks)], "usage": usage}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _known(value: Any) -> dict[str, Any]:
    """What an object says: its fields that are not null."""
    return {k: v for k, v in _object(value).items() if v is not None}


def _index(event: Mapping[str, Any]) -> int:
    return count(event.get("index"))


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    source, target = GROWS.get(str(delta.get("type")), ("", ""))
    piece = delta.get(source)
    if source and isinstance(piece, str):
        block[target] = str(block.get(target) or "") + piece


def reply_of(message: Mapping[str, Any], seconds: float, request_id: str) -> Reply:
    """A reply from the API's message, whole or assembled from a stream."""
    texts, calls, kept, plain = [], [], [], True
    for block in message["content"]:
        if not isinstance(block, dict):
            continue
        kind, kept_as = block.get("type"), block
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind == "tool_use":
            call = _call(block)
            calls.append(call)
            kept_as = {"type": "tool_use", "id": call.id, "name": call.name,
                       "input": dict(call.arguments or {})}  # fmt: skip
        else:
            plain = False
        kept.append({k: v for k, v in kept_as.items() if k != "json"})
    usage = _object(message.get("usage"))
    cached = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    stop = str(message.get("stop_reason") or "end")
    return Reply(
        text="".join(texts), calls=tuple(calls),
        usage=Usage(
            prompt=count(usage.get("input_tokens")) + cached + written, cached=cached,
            written=written, completion=count(usage.get("output_tokens")),
        ),
        stop=STOPS.get(stop, stop), seconds=seconds, request_id=request_id,
        blocks=() if plain else tuple(kept),
    )  # fmt: skip


def _call(block: Mapping[str, Any]) -> ToolCall:
    """A call; its streamed text if there is one, else its input."""
    given = block.get("input")
    raw = str(block["json"]) if "json" in block else json.dumps(given)
    arguments = arguments_of(raw) if "json" in block else given if isinstance(given, dict) else None
    return ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), arguments, raw)


def body_of(request: Request, model: str) -> dict[str, Any]:
    """The API's form of a request, with the marks up to which its prompt is to be cached."""
    tools: list[dict[str, Any]] = [
        {"name": t.name, "description": t.description, "input_schema": dict(t.parameters)}
        for t in request.tools
    ]
    body: dict[str, Any] = {
        "model": model, "max_tokens": request.max_tokens, "messages": _messages(request.messages),
    }  # fmt: skip
    # The order of a prompt is tools, system, messages: a mark covers what is before it, too.
    if request.system:
        body["system"] = [{"type": "text", "text": request.system, "cache_control": CACHE}]
    elif tools:
        tools[-1]["cache_control"] = CACHE
    if tools:
        body["tools"] = tools
    # Writing to the cache costs extra: only for a dialogue that goes on, or may.
    if tools or len(request.messages) > 1:
        last = body["messages"][-1]["content"][-1]
        if last["type"] in ("text", "tool_result"):
            last["cache_control"] = CACHE
    return body


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The dialogue. Results of parallel calls, and what follows, are one user message."""
    found: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        content = _content(message)
        if found and found[-1]["role"] == role:
            found[-1]["content"] += content
        else:
            found.append({"role": role, "content": content})
    return found


def _content(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {"type": "tool_result", "tool_use_id": message.call_id, "content": message.text or "-"}
        ]
    if message.role == "assistant" and message.blocks:
        return [dict(block) for block in message.blocks]
    blocks: list[dict[str, Any]] = []
    if message.text.strip():  # the API refuses empty text
        blocks.append({"type": "text", "text": message.text})
    for call in message.calls:
        blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name,
             "input": dict(call.arguments or {})}
        )  # fmt: skip
    return blocks or [{"type": "text", "text": "-"}]
