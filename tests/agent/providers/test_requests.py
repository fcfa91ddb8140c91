"""What is sent: tools, the marks of the cache, dialogues, and what servers want said otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.providers.records import Message, ProviderError, ToolCall, Trouble
from tests.agent.providers.asking import ASK, BOTH, TOOL, provider
from tests.agent.providers.wire import Wire, status, text

pytestmark = pytest.mark.timeout(60)

CALLS = (ToolCall("id-1", TOOL.name, {"text": "p"}, '{"text": "p"}'),
         ToolCall("id-2", TOOL.name, None, '{"text": '))  # fmt: skip
DIALOGUE = replace(ASK, messages=(
    *ASK.messages, Message("assistant", "", calls=CALLS),
    Message("tool", "fine", call_id="id-1"), Message("tool", "no JSON", call_id="id-2"),
    Message("user", "Go on."),
))  # fmt: skip


def sent(kind: str, stream: bool, request: Any) -> dict[str, Any]:
    with Wire(text("ok")) as wire:
        provider(wire, kind, stream).complete(request)
        body: dict[str, Any] = wire.requests[0].body
    return body


def test_anthropic_marks_the_stable_prefix_and_the_dialogues_end_for_the_cache() -> None:
    body = sent("anthropic", True, DIALOGUE)
    mark = {"type": "ephemeral"}
    assert body["system"] == [
        {"type": "text", "text": "You write programs.", "cache_control": mark}
    ]  # fmt: skip
    assert body["messages"][-1]["content"][-1]["cache_control"] == mark
    marks = str(body).count("cache_control")
    assert marks == 2 and body["stream"] is True
    bare = sent("anthropic", False, replace(ASK, system=""))
    assert bare["tools"][-1]["cache_control"] == mark and "system" not in bare


def test_anthropic_gets_parallel_results_in_one_user_message() -> None:
    messages = sent("anthropic", False, DIALOGUE)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert [b["type"] for b in messages[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert [b["tool_use_id"] for b in messages[2]["content"][:2]] == ["id-1", "id-2"]
    assert messages[1]["content"][1]["input"] == {}


def test_chat_completions_get_each_result_apart_and_arguments_that_are_json() -> None:
    messages = sent("openai", False, DIALOGUE)["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    calls = messages[2]["tool_calls"]
    assert [c["function"]["arguments"] for c in calls] == ['{"text": "p"}', "{}"]
    assert messages[2]["content"] is None and messages[4]["tool_call_id"] == "id-2"


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_the_stable_prefix_is_the_same_bytes_whatever_follows(kind: str) -> None:
    first, later = sent(kind, False, ASK), sent(kind, False, DIALOGUE)
    assert first["tools"] == later["tools"]
    assert first.get("system") == later.get("system")
    assert first["messages"][0] == later["messages"][0] or kind == "anthropic"


@pytest.mark.parametrize(("kind", "stream"), BOTH)
def test_temperature_is_left_out_once_a_model_refuses_it(kind: str, stream: bool) -> None:
    no = status(400, {"error": {"message": "temperature is not supported with this model"}})
    with Wire(no, text("ok"), text("ok")) as wire:
        asked = provider(wire, kind, stream)
        for _ in range(2):
            assert asked.complete(replace(ASK, temperature=0.5)).text == "ok"
        assert ["temperature" in r.body for r in wire.requests] == [True, False, False]
    assert asked.adapted == ("no temperature",)


def test_the_other_name_of_max_tokens_is_tried_once_and_remembered() -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."  # noqa: E501
    no = status(400, {"error": {"message": said, "param": "max_tokens"}})
    with Wire(no, text("ok"), text("ok")) as wire:
        asked = provider(wire, "openai", False)
        asked.complete(ASK)
        asked.complete(ASK)
        assert [r.body.get("max_completion_tokens") for r in wire.requests] == [None, 64, 64]
    with Wire(no, no) as wire, pytest.raises(ProviderError):
        provider(wire, "openai", False).complete(ASK)


def test_a_limit_above_the_models_is_no_reason_to_rename_it() -> None:
    no = status(400, {"error": {"message": "max_tokens is too large: 99. It supports at most 9."}})
    with Wire(no) as wire, pytest.raises(ProviderError) as caught:
        provider(wire, "openai", False).complete(ASK)
    assert caught.value.trouble is Trouble.REQUEST and len(wire.requests) == 1


NO_EFFORT = status(400, {"error": {"message": "Function tools with reasoning_effort are not supported for this model in /v1/chat/completions."}})  # noqa: E501  # fmt: skip


def test_tools_that_exclude_reasoning_are_asked_for_without_it() -> None:
    with Wire(NO_EFFORT, text("ok")) as wire:
        asked = provider(wire, "openai", False)
        assert asked.complete(ASK).text == "ok"
        assert wire.requests[1].body["reasoning_effort"] == "none"
    assert asked.adapted == ("no reasoning, which tools exclude here",)


def test_a_model_that_cannot_go_without_reasoning_takes_no_tools_here() -> None:
    never = status(400, {"error": {"message": "'reasoning_effort' does not support 'none'"}})
    with Wire(NO_EFFORT, never) as wire:
        asked = provider(wire, "openai", False)
        with pytest.raises(ProviderError, match="Function tools") as caught:
            asked.complete(ASK)
    assert caught.value.trouble is Trouble.MODEL and asked.adapted == ()


def test_usage_of_streams_is_not_asked_for_where_that_is_refused() -> None:
    no = status(422, {"detail": "stream_options: extra fields not permitted"})
    with Wire(no, text("ok")) as wire:
        assert provider(wire, "openai", True).complete(ASK).text == "ok"
        assert "stream_options" not in wire.requests[1].body
