"""Budgets, reserved pages and exact selection, against a sort in plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.block_topk import seeds
from vortex import compile_text
from vortex.reference import choose, reserved
from vortex.selection import (
    attended_tokens,
    dense_layers,
    page_budget,
    plan_of,
    select_pages,
    tie_hash,
)

CENTROID = next(s.text for s in seeds() if s.name == "block_centroid")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_selection_is_the_sort_that_the_reference_defines(data: st.DataObject) -> None:
    size = 16
    tokens = data.draw(st.integers(1, 700))
    pages = -(-tokens // size)
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, float("nan"), float("inf"), -float("inf")])
    scores = torch.tensor(data.draw(st.lists(values, min_size=pages, max_size=pages)))
    plan = plan_of(compile_text(CENTROID).select)
    context = data.draw(st.sampled_from([256, 512, 2048]))
    budget = page_budget(plan, page_size=size, context=context, workload_context=32768)
    keep = select_pages(
        {0: scores}, torch.tensor(tokens), plan=plan, budget=budget, page_size=size, pages=pages
    )
    kept = reserved(tokens, page_size=size, budget=budget)
    want = kept | choose(scores, tokens, page_size=size, allowed=budget.ranked[0], kept=kept)
    assert set(keep.nonzero()[:, 0].tolist()) == want


def test_ties_are_broken_by_a_bijection() -> None:
    pages = torch.arange(1 << 20)
    assert len(torch.unique(tie_hash(pages))) == len(pages)


def test_a_budget_at_the_context_is_full_attention() -> None:
    candidate = compile_text(CENTROID, {"budget": 16384})
    plan = plan_of(candidate.select)
    budget = page_budget(plan, page_size=16, context=16384, workload_context=16384)
    tokens, pages = torch.tensor(16384), 1024
    scores = {0: torch.randn(pages)}
    keep = select_pages(scores, tokens, plan=plan, budget=budget, page_size=16, pages=pages)
    assert bool(keep.all())


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
