"""Prices: found by name, applied to usage, and bounds that hold."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date

import pytest

from agent.providers.named import AgentSpec, parse_agent
from agent.providers.prices import TABLE, Price, estimate_tokens, parse_price, price_of
from agent.providers.records import Message, ToolCall, Usage
from tests.agent.providers.asking import ASK
from vortex.errors import VortexError

PRICE = Price(3.0, 0.3, 3.75, 15.0)
TIERED = Price(1.0, 0.1, 1.25, 5.0, above=1000, beyond=Price(2.0, 0.2, 2.5, 7.5))


def test_each_kind_of_token_has_its_price() -> None:
    million = 1_000_000
    assert PRICE.of(Usage(prompt=million)) == pytest.approx(3.0)
    assert PRICE.of(Usage(prompt=million, cached=million)) == pytest.approx(0.3)
    assert PRICE.of(Usage(prompt=million, written=million)) == pytest.approx(3.75)
    assert PRICE.of(Usage(completion=million)) == pytest.approx(15.0)
    assert PRICE.of(Usage()) == 0.0


def test_a_long_prompt_is_charged_by_its_own_rate_in_all() -> None:
    assert TIERED.of(Usage(prompt=1000, completion=1000)) == pytest.approx(0.006)
    assert TIERED.of(Usage(prompt=1001, completion=1000)) == pytest.approx(0.009502)


@pytest.mark.parametrize("price", [PRICE, TIERED, *TABLE["openai"].values()])
def test_no_request_costs_more_than_its_bound(price: Price) -> None:
    rng = random.Random(1)
    for _ in range(200):
        prompt = rng.randrange(600_000)
        cached = rng.randrange(prompt + 1)
        written = rng.randrange(prompt - cached + 1)
        usage = Usage(prompt, cached, written, rng.randrange(8192))
        assert price.of(usage) <= price.bound(prompt + rng.randrange(1000), 8192) * (1 + 1e-12)


def test_models_are_found_by_name_and_by_date() -> None:
    def known(spec: str) -> Price | None:
        return price_of(parse_agent(spec), {})

    table = TABLE["anthropic"]
    assert known("anthropic:claude-sonnet-4-5-20250929") is table["claude-sonnet-4-5"]
    assert known("anthropic:claude-opus-5-5") is table["claude-opus-5-5"] is not None
    assert known("openai:gpt-5-mini-2025-08-07") is TABLE["openai"]["gpt-5-mini"]
    # Another model, not a snapshot: unknown, rather than wrong.
    assert known("openai:gpt-5.2-pro") is None and known("openai:gpt-7") is None
    assert known("openai:claude-opus-5-5") is None


def test_own_servers_are_free_others_are_unknown_and_the_user_has_the_last_word() -> None:
    own = price_of(parse_agent("openai:gpt-5@http://127.0.0.1:8000/v1"), {})
    assert (
        own is not None and own.of(Usage(10**6, 0, 0, 10**6)) == 0.0 and own.source == "own server"
    )
    there = AgentSpec("openai", "gpt-5", "https://elsewhere.example/v1")
    assert price_of(there, {}) is None
    assert price_of(there, {"gpt-5": PRICE}) is PRICE
    assert price_of(there, {there.name: TIERED, "gpt-5": PRICE}) is TIERED


def test_every_row_has_a_source_and_a_day_and_is_in_order() -> None:
    for rows in TABLE.values():
        for price in rows.values():
            assert price.source and date.fromisoformat(price.checked) <= date.today()
            assert 0 < price.cached <= price.input <= price.written < price.output
            beyond = price.beyond
            assert beyond is None or (beyond.input > price.input and beyond.output > price.output)


def test_a_price_is_read() -> None:
    name, price = parse_price("org/model=x=1,0.1,1.25,5")
    assert name == "org/model=x"
    assert (price.input, price.cached, price.written, price.output) == (1.0, 0.1, 1.25, 5.0)


@pytest.mark.parametrize(
    "text",
    ["", "m", "m=1,2,3", "m=1,2,3,4,5", "m=1,2,3,x", "=1,2,3,4", "m=1,2,3,-4", "m=nan,1,1,1"],
)  # fmt: skip
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(VortexError) as caught:
        parse_price(text)
    assert caught.value.code == "E704" and caught.value.hint


def test_the_estimate_covers_every_byte_that_is_sent() -> None:
    base = estimate_tokens(ASK)
    assert base >= len(ASK.system) + 2048
    word = "页" * 100
    call = ToolCall("id", "submit_program", {"text": word}, word)
    for message in (
        Message("user", word), Message("assistant", "", calls=(call,)),
        Message("tool", word, call_id="id"),
        Message("assistant", "", blocks=({"type": "thinking", "thinking": word},)),
    ):  # fmt: skip
        longer = replace(ASK, messages=(*ASK.messages, message))
        assert estimate_tokens(longer) - base >= len(word.encode())
    assert estimate_tokens(replace(ASK, system=word)) >= len(word.encode())
