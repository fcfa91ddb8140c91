"""What --agent may say, and what a probe of it finds."""

from __future__ import annotations

import sys

import pytest

from agent.providers.named import AgentSpec, parse_agent, provider_named
from agent.providers.probe import probe
from agent.providers.records import Trouble, Usage
from tests.agent.providers.asking import ASK, BOTH, TOOL, provider
from tests.agent.providers.wire import Wire, raw, status, text, tool_calls
from vortex.errors import VortexError

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("anthropic:claude-x", AgentSpec("anthropic", "claude-x")),
        ("openai:Qwen/Qwen3-8B:free", AgentSpec("openai", "Qwen/Qwen3-8B:free")),
        ("openai:m@http://[::1]:8000/v1/", AgentSpec("openai", "m", "http://[::1]:8000/v1")),
        ("anthropic:m@https://host", AgentSpec("anthropic", "m", "https://host")),
    ],
)
def test_a_model_is_named(spec: str, found: AgentSpec) -> None:
    assert parse_agent(spec) == found
    assert parse_agent(found.name) == found
    assert provider_named(found).name == found.name and provider_named(found).model == found.model


@pytest.mark.parametrize(
    "spec",
    [
        "", "claude-x", "openai:", "openai", "gemini:x", "openai:@http://h/v1", "openai:m@",
        "openai:m@host:8000/v1", "openai:m@ftp://h/v1", "openai:m@http:///v1", "openai:a b",
        "openai:m@http://h:99999/v1", "openai:m@http://h/v1?key=1", "openai:m@http://h/v1#x",
        "openai:m@http://h /v1", "openai:m@http://[::1/v1", "openai:m\x1b[2J",
        "openai:m@http://h/v1/chat/completions", "openai:m@http://h:0/v1",
    ],
)  # fmt: skip
def test_what_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(VortexError) as caught:
        parse_agent(spec)
    assert caught.value.code == "E702" and caught.value.hint
    assert "\x1b" not in caught.value.render()


def test_a_login_in_a_url_is_refused_and_not_shown() -> None:
    for url in ("http://me:hunter22@host/v1", "http://hunter22@host/v1"):
        with pytest.raises(VortexError) as caught:
            parse_agent(f"openai:m@{url}")
        assert caught.value.code == "E702" and "hunter22" not in caught.value.render()


def test_this_machine_is_told_from_others() -> None:
    local = ("http://localhost:1/v1", "http://127.0.0.2/v1", "http://[::1]:3/v1", "http://0.0.0.0")
    assert all(AgentSpec("openai", "m", url).local for url in local)
    others = (None, "http://localhost.evil.com/v1", "http://10.0.0.1/v1", "https://127.0.0.1.com")
    assert not any(AgentSpec("openai", "m", url).local for url in others)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_missing_package_is_said_with_what_to_install(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(VortexError) as caught:
        provider_named(f"{kind}:m")
    assert caught.value.code == "E703" and "pip install" in (caught.value.hint or "")


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_model_that_calls_the_tool_is_fit(kind: str, stream: bool) -> None:
    with Wire(tool_calls((TOOL.name, {}))) as wire:
        found = probe(provider(wire, kind, stream), ASK.tools)
    assert (found.ok, found.tools, found.requests, found.trouble) == (True, True, 1, None)
    assert found.usage == Usage(100, 60, 10, 7) and "\n" not in found.line


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_model_without_tools_is_usable(kind: str, stream: bool) -> None:
    no = status(400, {"error": {"message": "tiny does not support tools"}})
    with Wire(no, text("ready")) as wire:
        found = probe(provider(wire, kind, stream), ASK.tools)
        assert "tools" not in wire.requests[1].body
    assert (found.ok, found.tools, found.requests) == (True, False, 2)
    assert "takes no tools" in found.line and found.usage.completion == 7
    with Wire(text("I would rather talk.")) as wire:
        found = probe(provider(wire, kind, stream), ASK.tools)
    assert (found.ok, found.tools, found.requests) == (True, False, 1)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_probe_says_in_one_line_what_is_wrong(kind: str) -> None:
    cases = [
        (status(401, {"error": {"message": "bad key"}}), Trouble.KEY, f"{kind.upper()}_API_KEY"),
        (status(404, {"error": {"message": "model: nope"}}), Trouble.MODEL, "model's name"),
        (status(404, {"detail": "Not Found"}), Trouble.URL, "/v1"),
        (raw(b"<html>"), Trouble.URL, "wire format"),
    ]
    for reply, trouble, word in cases:
        with Wire(reply) as wire:
            asked = provider(wire, kind, False)
            found = probe(asked, ASK.tools)
        assert (found.ok, found.trouble) == (False, trouble)
        assert word in found.line and "\n" not in found.line
    found = probe(provider(wire, kind, False), ASK.tools)  # the server is gone
    assert found.trouble is Trouble.URL and "nobody answers" in found.line
