"""One tiny request that says whether a model answers, and whether it calls tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.providers.records import (
    Message,
    Provider,
    ProviderError,
    Reply,
    Request,
    ToolSpec,
    Trouble,
    Usage,
)  # fmt: skip
from agent.providers.wording import about_tools

# Models that think before they act spend hundreds of tokens on it; what is unused costs nothing.
MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe found.

    Attributes:
        ok: whether the model answers. Without tools it is usable: it writes code blocks.
        tools: whether it called one.
        line: what was found, or what is wrong and what to do, in one line.
        usage: tokens spent; ``requests``: how many were sent, those that failed included.
        trouble: why it does not answer.
    """

    ok: bool
    tools: bool
    line: str
    usage: Usage
    requests: int = 1
    trouble: Trouble | None = None


def probe(provider: Provider, tools: Sequence[ToolSpec]) -> Probe:
    """Ask a model to call the first of the tools; without tools, to say a word.

    Where the tools are refused it is asked once more, without them.
    """
    try:
        reply = provider.complete(_request(tools))
    except ProviderError as error:
        if tools and error.trouble.passes is False and about_tools(str(error)):
            return _without_tools(provider, error)
        return _failed(error, 1)
    called = {call.name for call in reply.calls} & {tool.name for tool in tools}
    if called or not tools:
        word = "answers and calls tools" if called else "answers"
        return Probe(True, bool(called), _line(provider, word, reply), reply.usage)
    why = {"length": f"no tool called within {MAX_TOKENS} tokens",
           "refused": "the request was refused"}.get(reply.stop, "no tool called")  # fmt: skip
    word = f"answers, {why}: its text will be searched for a code block"
    return Probe(True, False, _line(provider, word, reply), reply.usage)


def _without_tools(provider: Provider, refusal: ProviderError) -> Probe:
    try:
        reply = provider.complete(_request(()))
    except ProviderError as error:
        return _failed(error, 2)
    word = f"answers, but takes no tools; its text will be searched for a code block ({refusal})"
    return Probe(True, False, _line(provider, word, reply), reply.usage, requests=2)


def _failed(error: ProviderError, requests: int) -> Probe:
    line = str(error) + (f"; {error.hint}" if error.hint else "")
    return Probe(False, False, line, Usage(), requests, error.trouble)


def _line(provider: Provider, word: str, reply: Reply) -> str:
    adapted: tuple[str, ...] = getattr(provider, "adapted", ())
    notes = f" ({'; '.join(adapted)})" if adapted else ""
    return f"{provider.name}: {word}, {reply.seconds:.1f} s{notes}"


def _request(tools: Sequence[ToolSpec]) -> Request:
    if tools:
        ask = f"Call the tool {tools[0].name} now, with the shortest arguments that it allows."
    else:
        ask = "Answer with the word ready."
    system = "This is a test of the connection. Do what is asked, nothing else."
    return Request(system, (Message("user", ask),), tuple(tools), max_tokens=MAX_TOKENS)
