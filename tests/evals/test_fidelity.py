"""Fidelity scores recorded queries of a context, whatever a program keeps beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from evals.fidelity import Fidelity, fidelity
from evals.models.transformer import CacheShape
from evals.prefill import Prefilled
from vortex.compile import compile_text

KV_HEADS, GROUP, DIM, TOKENS, LAYERS, QUERIES = 3, 2, 8, 200, 2, 5


def context() -> Prefilled:
    g = torch.Generator().manual_seed(0)
    kv = torch.randn(LAYERS, 2, KV_HEADS, TOKENS, DIM, generator=g).to(torch.bfloat16)
    queries = 3 * torch.randn(LAYERS, QUERIES, KV_HEADS * GROUP, DIM, generator=g)
    parts = SimpleNamespace(kv=kv, queries=queries)
    return cast(Prefilled, parts)


def measured(score: str, state: str = "", update: str = "") -> Fidelity:
    text = f"""import vortex as vx

class P(vx.Algorithm):
    page_size = 8
    budget = vx.integer(16, 4096, default=64)
    {state}

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return {score}

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
{update}"""
    more: dict[str, Any] = {
        "cache": CacheShape(KV_HEADS, DIM, DIM), "scale": DIM**-0.5, "workload_context": TOKENS,
        "dense": frozenset(),
    }  # fmt: skip
    return fidelity(compile_text(text, {}), context(), **more)


PLAIN = 'vx.dot(q, page.mean, "dim").max("head")'
UPDATE = """
    def update(self, page, mass):
        return vx.State(heat=page.heat + mass)
"""


@pytest.mark.parametrize(
    "score",
    [
        f"{PLAIN} + page.heat",
        f"{PLAIN} + page.heat.shift(by=1)",
        f"{PLAIN} + vx.maximum(page.heat, page.heat.smooth(radius=1))",
        f"{PLAIN} + page.heat.mean('page')",
    ],
)
def test_a_state_that_is_still_nothing_changes_nothing(score: str) -> None:
    plain = measured(PLAIN)
    assert 0.0 < plain.mass <= plain.best <= 1.0
    assert measured(score, "heat = vx.state(init=0.0)", UPDATE) == plain
