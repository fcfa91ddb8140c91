"""The CPU backend chooses the pages and gives the outputs that the reference defines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.block_topk import SeedFile, controls, seeds
from vortex import compile_text
from vortex.ir import Candidate
from vortex.reference import Decoder, attend
from vortex.suffix import SuffixAttend

PROGRAMS = [*seeds(), *controls()]
KV_HEADS, GROUP, DIM = 2, 3, 8


def both(candidate: Candidate, context: int, steps: int, rows: int, seed: int) -> None:
    """Every step of a suffix batch against the reference, one sequence, step and layer at a
    time."""
    g = torch.Generator().manual_seed(seed)
    layers = 3 if candidate.policies.reuse_layers > 1 else 1
    cache = torch.randn(layers, 2, KV_HEADS, context, DIM, generator=g).to(torch.bfloat16)
    q = torch.randn(layers, rows, steps, KV_HEADS * GROUP, DIM, generator=g)
    new = torch.randn(layers, 2, rows, steps, KV_HEADS, DIM, generator=g)
    new = new.to(torch.bfloat16).float()
    scale = DIM**-0.5
    backend = SuffixAttend(candidate, cache, scale=scale, workload_context=32768)
    outs = [backend(layer, q[layer], new[layer, 0], new[layer, 1]) for layer in range(layers)]
    for row in range(rows):
        decoder = Decoder(
            candidate, scale=scale, context=context, workload_context=32768, layers=layers
        )
        for step in range(steps):
            for layer in range(layers):
                keys, values = (
                    torch.cat([cache[layer, i].float(), x[row, : step + 1].transpose(0, 1)], 1)
                    for i, x in enumerate(new[layer])
                )
                heads = q[layer, row, step].view(KV_HEADS, GROUP, DIM)
                chosen = decoder.pages(layer, heads, keys, values)
                for head, pages in enumerate(chosen):
                    want = attend(
                        heads[head], keys[head], values[head], pages,
                        page_size=candidate.page_size, scale=scale,
                    )  # fmt: skip
                    got = outs[layer][row, step, head * GROUP : (head + 1) * GROUP]
                    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
            decoder.advance()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
@pytest.mark.parametrize("context", [0, 5, 16, 200])
def test_every_program_agrees_with_the_reference(program: SeedFile, context: int) -> None:
    candidate = compile_text(program.text, reserved=program.control)
    both(candidate, context, steps=19, rows=2, seed=context)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 300), st.integers(0, 10_000), st.sampled_from(["bf16", "fp8", "int8", "int4"])
)
def test_ragged_contexts_and_narrow_fields_agree(context: int, seed: int, dtype: str) -> None:
    text = next(p.text for p in seeds() if p.name == "mean_quest_blend")
    text = text.replace('hi=k.max("token"))', f'hi=k.max("token"), dtype="{dtype}")')
    both(compile_text(text), context, steps=5, rows=2, seed=seed)
