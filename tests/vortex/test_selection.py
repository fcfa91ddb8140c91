"""Budgets, reserved pages and exact selection, against a sort in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.block_topk import seeds
from vortex import compile_text
from vortex.plan import Scaling, attended_tokens, dense_layers, plan_of, reserved_counts
from vortex.reference import picked_pages, reserved
from vortex.selection import Selection, frame_of, tie_hash

TOP_K = "vx.top_k(score, tokens=self.budget)"
SELECTORS = {
    "top_k": TOP_K,
    "top_p": "vx.top_p(score, mass=0.6, max_tokens=self.budget)",
    "threshold": "vx.threshold(score, above=0.5, max_tokens=self.budget)",
    "refine": "vx.refine(vx.top_k(score, tokens=2 * self.budget), vx.threshold(score, above=0.5,"
    " max_tokens=self.budget))",
    "expression": "vx.top_k(score, tokens=vx.minimum(0.1 * vx.context, self.budget) * vx.depth)",
}
CENTROID = next(s.text for s in seeds() if s.name == "block_centroid")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_selection_is_the_sort_that_the_reference_defines(data: st.DataObject) -> None:
    size = 16
    tokens = data.draw(st.integers(1, 700))
    pages = -(-tokens // size)
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, float("nan"), float("inf"), -float("inf")])
    scores = torch.tensor(data.draw(st.lists(values, min_size=pages, max_size=pages)))
    kind = data.draw(st.sampled_from(list(SELECTORS)))
    plan = plan_of(compile_text(CENTROID.replace(TOP_K, SELECTORS[kind])).select)
    context = data.draw(st.sampled_from([256, 512, 2048]))
    scaling = Scaling.of(size, context, 32768)
    count = torch.tensor([tokens])
    frame = frame_of(plan, count, pages, scaling, 0.5)
    by_key = {key: scores[None] for key in plan.rankings}
    picked = Selection(plan, scaling).pick(by_key, frame)
    assert picked is not None
    sinks, recent = reserved_counts(plan, scaling)
    kept = reserved(tokens, page_size=size, sinks=sinks, recent=recent)
    assert set(frame.kept[0].nonzero()[:, 0].tolist()) == kept
    ranked = {key: scores for key in plan.rankings}
    want = picked_pages(plan, ranked, tokens, kept, scaling, 0.5)
    assert set(picked[0].nonzero()[:, 0].tolist()) == want


def test_ties_are_broken_by_a_bijection() -> None:
    pages = torch.arange(1 << 20)
    assert len(torch.unique(tie_hash(pages))) == len(pages)


def test_a_budget_at_the_context_is_full_attention() -> None:
    candidate = compile_text(CENTROID, {"budget": 16384})
    plan = plan_of(candidate.select)
    scaling = Scaling.of(16, 16384, 16384)
    frame = frame_of(plan, torch.tensor([16384]), 1024, scaling, 0.0)
    picked = Selection(plan, scaling).pick({k: torch.randn(1, 1024) for k in plan.rankings}, frame)
    assert picked is not None and bool((frame.kept | picked).all())


def test_budgets_scale_with_the_context_but_keep_one_ranked_page() -> None:
    candidate = compile_text(CENTROID, {"budget": 4096})
    assert attended_tokens(candidate, 32768, 32768) == 4096
    assert attended_tokens(candidate, 2048, 32768) == 256
    assert attended_tokens(candidate, 128, 32768) == 64  # sink, two recent, one ranked


def test_dense_layers_scale_with_depth() -> None:
    text = CENTROID.replace(
        "    budget", "    dense_layers = vx.layers(first=4, last=2)\n    budget"
    )
    candidate = compile_text(text)
    assert dense_layers(candidate, 30, 60) == {0, 1, 29}
    assert dense_layers(candidate, 60, 60) == {0, 1, 2, 3, 58, 59}


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [("1000.7", 62 * 16), ("self.budget + self.blend", 62 * 16), ("0.5 * self.budget - 490", 64)],
)
def test_a_budget_is_floored_to_whole_pages_and_arithmetic_is_raised_to_the_least(
    tokens: str, kept: int
) -> None:
    knobs = "budget = 1000\n    blend = vx.real(0.0, 1.0, default=0.7)"
    knobs = knobs if "blend" in tokens else knobs.partition("\n")[0]
    text = f"""import vortex as vx


class Fraction(vx.Algorithm):
    page_size = 16
    {knobs if "self" in tokens else ""}

    def score(self, q, page):
        return -vx.page_age

    def select(self, score):
        return vx.top_k(score, tokens={tokens}) | vx.sinks(1) | vx.recent(2)
"""
    assert attended_tokens(compile_text(text), 32768, 32768) == kept
