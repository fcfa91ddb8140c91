"""What the tests of providers ask, and whom."""

from __future__ import annotations

from typing import Any

from agent.providers.anthropic import Anthropic
from agent.providers.openai import OpenAI
from agent.providers.records import Message, Request, ToolSpec
from tests.agent.providers.wire import Wire

BOTH = [(kind, stream) for kind in ("anthropic", "openai") for stream in (False, True)]
TOOL = ToolSpec(
    "submit_program", "Hand in a program.",
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)  # fmt: skip
OTHER = ToolSpec("check_program", "Check a program.", {"type": "object", "properties": {}})
ASK = Request("You write programs.", (Message("user", "Write one."),), (TOOL, OTHER), max_tokens=64)


def provider(wire: Wire, kind: str, stream: bool, **more: Any) -> Anthropic | OpenAI:
    """A provider of that wire format at the test's server; two seconds of patience."""
    more = {"timeout": 2.0, "stream": stream, **more}
    if kind == "anthropic":
        return Anthropic("claude-x", url=wire.url, **more)
    return OpenAI("tiny-model", url=f"{wire.url}/v1", **more)
