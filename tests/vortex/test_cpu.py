"""The CPU backend chooses the pages and gives the outputs that the reference defines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.block_topk import SeedFile, controls, seeds
from vortex import compile_text
from vortex.cpu import SuffixAttend
from vortex.ir import Candidate
from vortex.reference import attend, selected_pages

PROGRAMS = [*seeds(), *controls()]
KV_HEADS, GROUP, DIM = 2, 3, 8


def both(candidate: Candidate, context: int, steps: int, rows: int, seed: int) -> None:
    """Every step of a suffix batch against the reference, one step and head at a time."""
    g = torch.Generator().manual_seed(seed)
    cache = torch.randn(1, 2, KV_HEADS, context, DIM, generator=g).to(torch.bfloat16)
    q = torch.randn(rows, steps, KV_HEADS * GROUP, DIM, generator=g)
    k, v = (
        torch.randn(rows, steps, KV_HEADS, DIM, generator=g).to(torch.bfloat16).float()
        for _ in range(2)
    )
    backend = SuffixAttend(candidate, cache, scale=DIM**-0.5, workload_context=32768)
    out = backend(0, q, k, v)
    for row in range(rows):
        for step in range(steps):
            for head in range(KV_HEADS):
                keys, values = (
                    torch.cat([cache[0, i, head].float(), x[row, : step + 1, head]])
                    for i, x in enumerate((k, v))
                )
                heads = q[row, step, head * GROUP : (head + 1) * GROUP]
                pages = selected_pages(
                    candidate, heads, keys, values, scale=DIM**-0.5, context=context,
                    workload_context=32768, kv_head=head,
                )  # fmt: skip
                want = attend(
                    heads, keys, values, pages, page_size=candidate.page_size, scale=DIM**-0.5
                )
                got = out[row, step, head * GROUP : (head + 1) * GROUP]
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
@pytest.mark.parametrize("context", [0, 5, 16, 200])
def test_every_program_agrees_with_the_reference(program: SeedFile, context: int) -> None:
    candidate = compile_text(program.text, reserved=program.control)
    both(candidate, context, steps=19, rows=2, seed=context)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.integers(0, 10_000), st.sampled_from(["bf16", "fp8", "int8"]))
def test_ragged_contexts_and_narrow_fields_agree(context: int, seed: int, dtype: str) -> None:
    text = next(p.text for p in seeds() if p.name == "mean_quest_blend")
    text = text.replace('hi=k.max("token"))', f'hi=k.max("token"), dtype="{dtype}")')
    both(compile_text(text), context, steps=5, rows=2, seed=seed)
