"""The minimiser leaves out what does not matter, and nothing that does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from agent.minimise import minimise, smaller
from search_spaces.block_topk import SeedFile, library
from vortex import compile_text
from vortex.compile import defaults, parse
from vortex.errors import VortexError
from vortex.reference import Decoder

PADDED = """import vortex as vx


class Padded(vx.Algorithm):
    page_size = 16
    budget = vx.integer(128, 8192, default=256)
    weight = vx.real(0.0001, 1.0, log=True, default=0.0001)
    dense_layers = vx.layers(first=1)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"), size=v.norm("dim").mean("token"))

    def score(self, q, page):
        match = vx.dot(q, page.mean, "dim").max("head")
        return (match + self.weight * page.size).smooth(radius=0)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
"""


def overlap(texts: Sequence[str]) -> list[float | None]:
    """How many of the pages of the best matches each program keeps."""
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, 1000, 16, generator=g) for _ in range(2))
    q = torch.randn(1, 2, 16, generator=g)
    best = (q[0] @ k[0, :992].view(62, 16, 16).mean(1).T).amax(0).topk(10).indices.tolist()
    found: list[float | None] = []
    for text in texts:
        candidate = compile_text(text, {})
        decoder = Decoder(candidate, scale=0.25, context=1000, workload_context=1000)
        (pages,) = decoder.pages(0, q, k, v)
        found.append(len(pages & set(best)) / len(best))
    return found


def test_what_does_not_matter_is_left_out() -> None:
    first, steps = minimise(PADDED, {}, overlap, tolerance=0.0)
    text = steps[-1].text
    assert overlap([text]) == [first]
    assert "smooth" not in text and "page.size" not in text and "weight" not in text
    assert "dense_layers" not in text  # the measure does not see it
    assert "page.mean" in text and "top_k" in text, "what matters is still there"


@pytest.mark.parametrize("program", library(), ids=lambda p: p.name)
def test_every_smaller_program_compiles_and_is_shorter(program: SeedFile) -> None:
    text = program.text
    knobs = defaults(parse(text))
    for name, shorter in smaller(text, knobs):
        assert name and len(shorter) < len(text)
        compile_text(shorter)


def test_a_program_that_cannot_be_measured_is_said() -> None:
    with pytest.raises(VortexError) as caught:
        minimise(PADDED, {}, lambda texts: [None for _ in texts], tolerance=0.1)
    assert caught.value.code == "E612"
