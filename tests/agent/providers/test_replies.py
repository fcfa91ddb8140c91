"""Replies in both wire formats, whole and streamed, come out as the same records."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from agent.providers.records import Message, ProviderError, Reply, Trouble, Usage
from tests.agent.providers.asking import ASK, BOTH, OTHER, TOOL, provider
from tests.agent.providers.wire import (
    Wire,
    empty,
    huge,
    raw,
    refusal,
    text,
    tool_calls,
    truncated,
)

pytestmark = pytest.mark.timeout(60)


def ask(kind: str, stream: bool, *script: Any) -> Reply:
    with Wire(*script) as wire:
        return provider(wire, kind, stream).complete(ASK)


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_text_and_usage_arrive(kind: str, stream: bool) -> None:
    reply = ask(kind, stream, text("Grüße, 页"))
    assert (reply.text, reply.calls, reply.stop) == ("Grüße, 页", (), "end")
    assert reply.usage == Usage(prompt=100, cached=60, written=10, completion=7)
    assert reply.seconds > 0 and reply.request_id == "req_1" and reply.blocks == ()


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_parallel_calls_arrive_in_order(kind: str, stream: bool) -> None:
    first, second = {"text": "a ✓ program"}, {"text": "b", "n": [1, 2]}
    reply = ask(kind, stream, tool_calls((TOOL.name, first), (OTHER.name, second), text="Two."))
    assert [(c.name, c.arguments) for c in reply.calls] == [
        (TOOL.name, first),
        (OTHER.name, second),
    ]
    assert (reply.text, reply.stop) == ("Two.", "tools")
    assert len({c.id for c in reply.calls}) == 2


@pytest.mark.parametrize(("kind", "stream"), [b for b in BOTH if b != ("anthropic", False)])
@pytest.mark.parametrize("wrong", ['{"text": ', "[1]", "NaN", '{"x": NaN}', "[" * 5000])
def test_wrong_arguments_are_kept_as_they_came(kind: str, stream: bool, wrong: str) -> None:
    (call,) = ask(kind, stream, tool_calls((TOOL.name, wrong))).calls
    assert (call.arguments, call.raw) == (None, wrong)


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_call_without_arguments_has_none(kind: str, stream: bool) -> None:
    (call,) = ask(kind, stream, tool_calls((OTHER.name, {}))).calls
    assert call.arguments == {}


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_refusals_empty_and_cut_replies_are_replies(kind: str, stream: bool) -> None:
    assert ask(kind, stream, refusal("No.")).stop == "refused"
    nothing = ask(kind, stream, empty())
    assert (nothing.text, nothing.calls, nothing.stop) == ("", (), "end")
    assert ask(kind, stream, text("so far", stop="length")).stop == "length"


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_reply_of_two_megabytes_arrives_whole(kind: str, stream: bool) -> None:
    assert ask(kind, stream, huge(2_000_000)).text == "x" * 2_000_000


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_reply_above_the_limit_is_cut(kind: str, stream: bool) -> None:
    with Wire(huge(300_000)) as wire, pytest.raises(ProviderError, match="longer than") as caught:
        provider(wire, kind, stream, max_bytes=100_000).complete(ASK)
    assert (caught.value.trouble, caught.value.sent) == (Trouble.REPLY, True)


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_a_truncated_reply_is_an_error_that_passes(kind: str, stream: bool) -> None:
    with Wire(truncated()) as wire, pytest.raises(ProviderError) as caught:
        provider(wire, kind, stream).complete(ASK)
    assert caught.value.trouble is Trouble.REPLY and caught.value.sent
    assert caught.value.trouble.passes


@pytest.mark.parametrize("stream", [False, True])
def test_missing_ids_usage_and_content_are_tolerated(stream: bool) -> None:
    reply = ask(
        "openai", stream, tool_calls((TOOL.name, {}), (TOOL.name, {}), ids=False, usage=None)
    )
    assert len({c.id for c in reply.calls}) == 2 and all(c.id for c in reply.calls)
    assert reply.usage == Usage()


def test_a_server_that_streams_unasked_or_does_not_though_asked_is_understood() -> None:
    event = {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}
    whole = {"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}]}
    streamed = f": comment\r\n\r\ndata: {json.dumps(event)}\r\n\r\ndata: [DONE]\r\n\r\n"
    assert ask("openai", False, raw(streamed.encode())).text == "hi"
    assert ask("openai", True, raw(json.dumps(whole).encode())).text == "hi"


def test_pieces_of_calls_without_an_index_are_put_together() -> None:
    pieces = [
        {"id": "a", "function": {"name": "one", "arguments": '{"x"'}},
        {"function": {"arguments": ": 1}"}},
        {"id": "b", "function": {"name": "two", "arguments": {"y": 2}}},
    ]
    events = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    reply = ask("openai", True, raw(body.encode()))
    found = [(c.id, c.name, c.arguments) for c in reply.calls]
    assert found == [("a", "one", {"x": 1}), ("b", "two", {"y": 2})]


def test_an_error_inside_a_stream_is_the_servers() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    body = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in (start, error))
    for kind, said in (("anthropic", body), ("openai", 'data: {"error": {"message": "no"}}\n\n')):
        with Wire(raw(said.encode())) as wire, pytest.raises(ProviderError) as caught:
            provider(wire, kind, True).complete(ASK)
        assert (caught.value.trouble, caught.value.sent) == (Trouble.SERVER, True)


def test_half_characters_become_writable_text() -> None:
    body = '{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}'
    assert ask("openai", False, raw(body.encode())).text == "a?b"
    arguments = tool_calls((TOOL.name, '{"text": "\\udc00"}'))
    (call,) = ask("openai", True, arguments).calls
    assert call.arguments == {"text": "?"}


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_goes_back_as_it_came(stream: bool) -> None:
    with Wire(tool_calls((TOOL.name, {"text": "p"}), thinking="Hm."), text("done")) as wire:
        asked = provider(wire, "anthropic", stream)
        reply = asked.complete(ASK)
        result = Message("tool", "wrong", call_id=reply.calls[0].id)
        asked.complete(replace(ASK, messages=(*ASK.messages, reply.message(), result)))
        sent = wire.requests[1].body["messages"]
    assert reply.text == "" and [b["type"] for b in reply.blocks] == ["thinking", "tool_use"]
    assert sent[1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "signed"},
        {"type": "tool_use", "id": "toolu_0", "name": TOOL.name, "input": {"text": "p"}},
    ]


def test_whatever_comes_back_is_a_reply_or_a_provider_error() -> None:
    rng = random.Random(5)
    junk: list[Any] = [None, 1, -1.5, "x", [], {}, [None], {"type": 3}, True, [[]], "data: {"]

    def mangled(value: Any) -> Any:
        if rng.random() < 0.12:
            return rng.choice(junk)
        if isinstance(value, dict):
            return {k: mangled(v) for k, v in value.items()}
        return [mangled(v) for v in value] if isinstance(value, list) else value

    call = {"id": "a", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}, "input_tokens": 2}
    block = {"type": "tool_use", "id": "t", "name": "n", "input": {}}
    shapes: list[Any] = [
        {"choices": [{"message": {"content": "x", "tool_calls": [call]}}], "usage": usage},
        {"type": "message", "content": [block, {"type": "text", "text": "x"}], "usage": usage},
        {"choices": [{"delta": {"content": "x", "tool_calls": [call]}, "finish_reason": "stop"}]},
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]  # fmt: skip

    def reply(_: object) -> Any:
        if rng.random() < 0.5:
            return raw(json.dumps(mangled(rng.choice(shapes))).encode())
        events = [mangled(shape) for shape in shapes[2:]]
        return raw("".join(f"data: {json.dumps(e)}\n\n" for e in events).encode())

    outcomes = set()
    with Wire(reply) as wire:
        for kind, stream in BOTH:
            asked = provider(wire, kind, stream)
            for _ in range(60):
                try:
                    asked.complete(ASK)
                    outcomes.add("reply")
                except ProviderError as error:
                    outcomes.add(error.trouble)
    assert {"reply", Trouble.REPLY} <= outcomes
