"""What a request costs: list prices with their sources and dates, and bounds before it is sent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.providers.named import AgentSpec
from agent.providers.records import Message, Request, Usage
from vortex.errors import VortexError, printable

MILLION = 1_000_000
# Tokens that a provider puts around what we send: about a message or tool, and the instructions
# for tools (some hundreds for the models that tell).
FRAME_TOKENS, TOOLS_TOKENS = 32, 2048


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens.

    Attributes:
        input: of the prompt, neither read from a cache nor written to one.
        cached: read from a cache; ``written``: stored in one; ``output``: of the reply.
        source: where the figures are from; ``checked``: the day on which they were looked up there.
        above: prompts of more tokens than this are charged by ``beyond``, all their tokens.
    """

    input: float
    cached: float
    written: float
    output: float
    source: str = ""
    checked: str = ""
    above: int | None = None
    beyond: Price | None = None

    def of(self, usage: Usage) -> float:
        """Dollars of a request that was answered."""
        rate = self._for(usage.prompt)
        fresh = max(0, usage.prompt - usage.cached - usage.written)
        return (
            fresh * rate.input + usage.cached * rate.cached + usage.written * rate.written
            + usage.completion * rate.output
        ) / MILLION  # fmt: skip

    def bound(self, prompt_tokens: int, max_tokens: int) -> float:
        """Dollars that a request costs at most.

        Args:
            prompt_tokens: at least as many as it has; ``max_tokens``: that its reply may have.
        """
        rates = [self] + ([self._for(prompt_tokens)] if self.beyond else [])
        dearest = max(max(r.input, r.cached, r.written) for r in rates)
        return (
            prompt_tokens * dearest + max_tokens * max(r.output for r in rates)
        ) / MILLION  # fmt: skip

    def _for(self, prompt: int) -> Price:
        over = self.above is not None and prompt > self.above
        return self.beyond if over and self.beyond else self


OWN_SERVER = Price(0.0, 0.0, 0.0, 0.0, source="own server")

# The vendors' pages were read as stored copies, on the day that each row says; how old a copy was
# is not known. "vendor" rows: the vendor's own page. "reported" rows: agreeing reports of others,
# not confirmed. Standard processing, five minutes (OpenAI: thirty) of cache, no regional surcharge.
# Models whose price was not found are left out: their cost is unknown, and said to be.
_SEEN = "2026-11-24"
_CLAUDE = "platform.claude.com/docs/en/about-claude/pricing"
_CLAUDE_MODEL = "platform.claude.com/docs/en/models"
_OPENAI = "developers.openai.com/api/docs/models"
_REPORTED = "reported, not confirmed at the vendor"
_OPENAI_LONG = 272_000  # tokens: above, 2x for the prompt and 1.5x for the reply


def _row(
    prices: tuple[float, float, float, float], source: str, above: int | None = None,
    beyond: tuple[float, float, float, float] | None = None,
) -> Price:  # fmt: skip
    price = Price(*prices, source=source, checked=_SEEN)
    if above is None or beyond is None:
        return price
    return replace(price, above=above, beyond=replace(Price(*beyond), source=source, checked=_SEEN))


def _long(input: float, cached: float, written: float, output: float, source: str) -> Price:
    """A row of OpenAI's models with a long context."""
    beyond = (2 * input, 2 * cached, 2 * written, 1.5 * output)
    return _row((input, cached, written, output), source, _OPENAI_LONG, beyond)


# input, cache read, cache write, output
TABLE: Mapping[str, Mapping[str, Price]] = {
    "anthropic": {
        "claude-fable-5-1": _row((10.0, 0.25, 12.5, 50.0), _CLAUDE),
        "claude-mythos-5-1": _row((10.0, 0.25, 12.5, 50.0), _CLAUDE),
        "claude-fable-5": _row((10.0, 1.0, 12.5, 50.0), _CLAUDE),
        "claude-mythos-5": _row((10.0, 1.0, 12.5, 50.0), _CLAUDE),
        "claude-opus-5-5": _row((4.0, 0.20, 5.0, 20.0), f"{_CLAUDE_MODEL}/opus-5-5/overview"),
        "claude-opus-5": _row((5.0, 0.50, 6.25, 25.0), _CLAUDE),
        "claude-opus-4-8": _row((5.0, 0.50, 6.25, 25.0), _CLAUDE),
        "claude-opus-4-7": _row((5.0, 0.50, 6.25, 25.0), _CLAUDE),
        "claude-opus-4-6": _row((5.0, 0.50, 6.25, 25.0), _CLAUDE),
        "claude-opus-4-5": _row((5.0, 0.50, 6.25, 25.0), _CLAUDE),
        # Reads are reported at 0.10 since 2026-10-07; the copy of the page says 0.20, the bound.
        "claude-sonnet-5-5": _row((2.0, 0.20, 2.5, 10.0), f"{_CLAUDE_MODEL}/sonnet-5-5/overview"),
        "claude-sonnet-5": _row((2.0, 0.20, 2.5, 10.0), f"{_CLAUDE_MODEL}/sonnet-5/overview"),
        # Input and output: the models' pages. Cache: 0.1 and 1.25 of input, the vendor's rule.
        "claude-sonnet-4-6": _row((3.0, 0.30, 3.75, 15.0), f"{_CLAUDE_MODEL}/sonnet-4-6/overview"),
        "claude-sonnet-4-5": _row((3.0, 0.30, 3.75, 15.0), f"{_CLAUDE_MODEL}/sonnet-4-5/overview"),
        "claude-haiku-5-5": _row(
            (0.10, 0.01, 0.125, 0.50),
            f"{_CLAUDE_MODEL}/haiku-5-5/overview (cache read reported)",
            100_000,
            (0.50, 0.05, 0.625, 2.50),
        ),
        "claude-haiku-4-5": _row((1.0, 0.10, 1.25, 5.0), f"{_CLAUDE_MODEL}/haiku-4-5/overview"),
    },
    "openai": {
        # Cache of 6.2 Astra: reads "60% cheaper" than 6's, writes by the vendor's 1.25 of input.
        "gpt-6.2-astra": _long(8.0, 0.40, 10.0, 40.0, _REPORTED),
        "gpt-6-astra": _long(10.0, 1.0, 12.5, 50.0, _REPORTED),
        "gpt-6.2-sol": _long(2.0, 0.10, 2.5, 10.0, f"{_OPENAI}/gpt-6.2-sol"),
        "gpt-6.1-sol": _long(2.0, 0.10, 2.5, 10.0, _REPORTED),
        "gpt-6-sol": _long(2.0, 0.20, 2.5, 10.0, f"{_OPENAI}/gpt-6-sol"),
        "gpt-6.1-terra": _long(1.0, 0.05, 1.25, 5.0, _REPORTED),
        "gpt-6-luna": _long(0.10, 0.01, 0.125, 0.50, f"{_OPENAI}/gpt-6-luna"),
        # A promotion (4.00 and 20.00) was promised until 2026-11-21 only: this is without it.
        "gpt-5.6": _long(5.0, 0.50, 6.25, 30.0, _REPORTED),
        "gpt-5.6-sol": _long(5.0, 0.50, 6.25, 30.0, _REPORTED),
        "gpt-5.6-terra": _long(2.0, 0.20, 2.5, 12.0, _REPORTED),
        "gpt-5.6-luna": _long(0.20, 0.02, 0.25, 1.20, f"{_OPENAI}/gpt-5.6-luna"),
        # Before 5.6, writing to the cache costs nothing extra.
        "gpt-5.5": _long(5.0, 0.50, 5.0, 30.0, _REPORTED),
        "gpt-5.4": _long(2.5, 0.25, 2.5, 15.0, _REPORTED),
        "gpt-5.4-mini": _row((0.75, 0.075, 0.75, 4.5), _REPORTED),
        "gpt-5.4-nano": _row((0.20, 0.02, 0.20, 1.25), _REPORTED),
        "gpt-5.2": _row((1.75, 0.175, 1.75, 14.0), _REPORTED),
        "gpt-5.1": _row((1.25, 0.125, 1.25, 10.0), f"{_OPENAI}/gpt-5.1"),
        "gpt-5": _row((1.25, 0.125, 1.25, 10.0), _REPORTED),
        "gpt-5-mini": _row((0.25, 0.025, 0.25, 2.0), _REPORTED),
        # No price of its cache was found: its input's is the bound.
        "gpt-5-nano": _row((0.05, 0.05, 0.05, 0.40), _REPORTED),
    },
}
_DATED = re.compile(r"-(?:20\d{6}|20\d\d-\d\d-\d\d|latest)$")


def price_of(spec: AgentSpec, overrides: Mapping[str, Price]) -> Price | None:
    """The price of a model, None where it is not known.

    Args:
        overrides: by the agent's whole name, or by the model's.
    """
    for name in (spec.name, spec.model):
        if name in overrides:
            return overrides[name]
    if spec.local:
        return OWN_SERVER
    if spec.url is not None:
        return None  # others sell the same models at other prices
    # A date at the end is a snapshot; any other ending may be another model.
    table = TABLE[spec.kind]
    return table.get(spec.model) or table.get(_DATED.sub("", spec.model))


def parse_price(text: str) -> tuple[str, Price]:
    """A price as given by the user: ``MODEL=INPUT,CACHED,WRITTEN,OUTPUT``, dollars a million.

    Raises:
        VortexError: E704, it is not of that form.
    """
    model, equals, rest = text.rpartition("=")
    try:
        figures = [float(part) for part in rest.split(",")]
    except ValueError:
        figures = []
    good = len(figures) == 4 and all(math.isfinite(x) and x >= 0.0 for x in figures)
    if not equals or not model.strip() or not good:
        raise VortexError(
            f"{printable(text, limit=80)!r} is no price", code="E704",
            hint="write MODEL=INPUT,CACHED,WRITTEN,OUTPUT, in dollars for a million tokens",
        )  # fmt: skip
    first, second, third, fourth = figures
    return model.strip(), Price(first, second, third, fourth, source="given by the user")


def estimate_tokens(request: Request) -> int:
    """At least the prompt's tokens, without a tokenizer.

    A token of the tokenizers in use stands for one byte of UTF-8 or more (those that know no
    whole character fall back to its bytes), so a text has at most as many tokens as bytes. What
    providers add to it is bounded by constants. It is loose: English has about four bytes a token.
    """
    texts = [request.system, *(_sent(m) for m in request.messages)]
    texts += [json.dumps([t.name, t.description, dict(t.parameters)]) for t in request.tools]
    frames = FRAME_TOKENS * (len(texts) + sum(len(m.calls) for m in request.messages))
    return sum(map(_size, texts)) + frames + (TOOLS_TOKENS if request.tools else 0)


def _sent(message: Message) -> str:
    if message.blocks:
        return json.dumps([dict(block) for block in message.blocks], ensure_ascii=False)
    calls = [part for c in message.calls for part in (c.id, c.name, c.raw)]
    return "".join((message.text, message.call_id, *calls))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
