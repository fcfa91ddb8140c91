"""Requests and replies as JSON, as the ledger keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from agent.providers.records import Message, Reply, Request, ToolCall, ToolSpec, Usage
from agent.providers.redact import without_keys


def tidy(text: str) -> str:
    """The text as UTF-8 can hold it: no lone surrogates, no NUL, no key sent back."""
    whole = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
    return without_keys(whole)


def tidied(reply: Reply) -> Reply:
    """A reply that can be stored and comes back the same."""
    calls = tuple(
        replace(c, id=tidy(c.id), name=tidy(c.name), raw=tidy(c.raw), arguments=_clean(c.arguments))
        for c in reply.calls
    )
    return replace(
        reply, text=tidy(reply.text), calls=calls, stop=tidy(reply.stop),
        request_id=tidy(reply.request_id), blocks=tuple(_clean(b) for b in reply.blocks),
    )  # fmt: skip


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, Mapping):
        return {tidy(str(k)): _clean(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_clean(v) for v in value]
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return None
    return value


def request_to_json(request: Request) -> dict[str, Any]:
    """``texts``: the system prompt and the tools; ``messages``: one JSON text each."""
    tools = json.dumps([asdict(t) for t in request.tools], sort_keys=True)
    return {
        "texts": [request.system, tools],
        "messages": [json.dumps(asdict(m), sort_keys=True) for m in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }


def request_from_json(content: Mapping[str, Any]) -> Request:
    """The request that was sent."""
    system, tools = content["texts"]
    return Request(
        system=system,
        messages=tuple(_message(json.loads(m)) for m in content["messages"]),
        tools=tuple(ToolSpec(**t) for t in json.loads(tools)),
        max_tokens=int(content["max_tokens"]),
        temperature=content["temperature"],
    )


def reply_to_json(reply: Reply) -> dict[str, Any]:
    """All of a reply."""
    return asdict(reply)


def reply_from_json(content: Mapping[str, Any]) -> Reply:
    """The reply that came."""
    fields = dict(content)
    return Reply(
        **{
            **fields,
            "calls": tuple(ToolCall(**c) for c in fields["calls"]),
            "usage": Usage(**fields["usage"]),
            "blocks": tuple(fields.get("blocks", ())),
        }
    )


def _message(fields: dict[str, Any]) -> Message:
    calls = tuple(ToolCall(**c) for c in fields.pop("calls"))
    blocks = tuple(fields.pop("blocks", ()))
    return Message(**fields, calls=calls, blocks=blocks)
