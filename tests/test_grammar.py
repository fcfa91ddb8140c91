"""What the grammar draws are programs that keep to what they declare, and mean one thing."""

from __future__ import annotations

import pytest
import torch

from evals.declared import over_declared
from evals.parity import Shape, disagreement
from search_spaces.grammar import program
from vortex.compile import bind, compile_text, defaults, parse
from vortex.printer import print_program
from vortex.reference import Decoder

DIM, CONTEXT = 16, 700
SLOW = pytest.mark.slow


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(2, CONTEXT, DIM, generator=g) for _ in range(2))
    return torch.randn(2, 2, DIM, generator=g), k, v


@pytest.mark.parametrize(
    "first", [pytest.param(n, marks=SLOW if n >= 200 else ()) for n in range(0, 400, 40)]
)
def test_drawn_programs_compile_print_and_keep_to_their_declarations(first: int) -> None:
    for seed in range(first, first + 40):
        text = program(seed)
        assert program(seed) == text
        parsed = parse(text)
        candidate = bind(parsed, defaults(parsed) | {"budget": 512})
        again = parse(print_program(parsed))
        assert bind(again, candidate.knobs).structure_hash == candidate.structure_hash, text
        assert over_declared(candidate, Shape(2, 2, DIM), context=CONTEXT, seed=seed) is None, text


@pytest.mark.parametrize("drawn", [8, pytest.param(40, marks=SLOW)])
def test_drawn_programs_mean_the_same_in_both_executors(drawn: int) -> None:
    for seed in range(drawn):
        text = program(seed)
        candidate = compile_text(text, {"budget": 512})
        assert disagreement(candidate, Shape(2, 2, DIM), seed=seed) is None, text


@pytest.mark.parametrize("drawn", [80, pytest.param(300, marks=SLOW)])
def test_programs_that_choose_differently_never_share_a_hash(drawn: int) -> None:
    chosen: dict[str, list[list[set[int]]]] = {}
    for seed in range(drawn):
        candidate = compile_text(program(seed), {"budget": 512})
        pages = []
        for at in range(2):
            q, k, v = inputs(at)
            decoder = Decoder(candidate, scale=0.25, context=CONTEXT, workload_context=CONTEXT)
            pages.append(decoder.pages(0, q, k, v))
        assert chosen.setdefault(candidate.candidate_hash, pages) == pages, program(seed)
    assert len(chosen) > drawn * 5 // 6
