"""Does the CPU backend choose the pages, and give the outputs, that the reference defines?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.compile import executable
from vortex.cpu import SuffixAttend, SuffixKV, suffix_attention
from vortex.ir import Candidate
from vortex.reference import attend, scores, selected_pages, summaries
from vortex.selection import plan_of

# Ragged contexts: empty, a partial page, one page, several, and more than a budget's worth.
_CONTEXTS = (0, 3, 1, 2.5, 12)
_ROWS, _STEPS, _WORKLOAD = 2, 3, 32768
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Shape:
    """Heads of a model, for synthetic inputs."""

    kv_heads: int
    group: int
    dim: int


def disagreement(candidate: Candidate, shape: Shape, *, seed: int) -> str | None:
    """What differs between backend and reference on random inputs, or None.

    Pages may differ only where their reference scores are within rounding of the cut; outputs,
    for the pages that the backend chose, within 1e-4 relative to the largest output.
    """
    for number, pages in enumerate(_CONTEXTS):
        tokens = round(pages * candidate.page_size) if pages != 3 else 3
        problem = _one_context(candidate, shape, tokens, seed * 100 + number)
        if problem:
            return f"at {tokens} tokens of context: {problem}"
    return None


def _one_context(candidate: Candidate, shape: Shape, context: int, seed: int) -> str | None:
    g = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=g).to(torch.bfloat16).to(torch.float32)

    a, d = shape.kv_heads, shape.dim
    kv = SuffixKV(
        draw(a, context, d), draw(a, context, d), draw(a, _ROWS, _STEPS, d),
        draw(a, _ROWS, _STEPS, d),
    )  # fmt: skip
    q = draw(a, _ROWS, _STEPS, shape.group, d)
    scale = d**-0.5
    cache = torch.stack([kv.k, kv.v])[None]
    backend = SuffixAttend(candidate, cache, scale=scale, workload_context=_WORKLOAD)
    keep = backend.pages(0, q, kv)
    out = suffix_attention(q, kv, keep, page_size=candidate.page_size, scale=scale)
    if not bool(torch.isfinite(out).all()):
        return "outputs are not finite"
    for head, row, step in _corners(shape):
        keys, values = (
            torch.cat([old[head], new[head, row, : step + 1]])
            for old, new in ((kv.k, kv.k_new), (kv.v, kv.v_new))
        )
        got = set(keep[head, row, step].nonzero()[:, 0].tolist())
        query = q[head, row, step]
        want = selected_pages(
            candidate, query, keys, values, scale=scale, context=context,
            workload_context=_WORKLOAD, kv_head=head,
        )  # fmt: skip
        if got != want and not _near_ties(candidate, query, keys, values, got ^ want, scale):
            return f"backend keeps pages {sorted(got)}, reference {sorted(want)}"
        exact = attend(query, keys, values, got, page_size=candidate.page_size, scale=scale)
        gap = float((out[head, row, step] - exact).abs().max() / exact.abs().max())
        if not gap <= _TOLERANCE:
            return f"outputs differ by {gap:.1e} of the largest"
    return None


def _corners(shape: Shape) -> Iterator[tuple[int, int, int]]:
    """First and last head, row and step: the reference is slow."""
    for head in {0, shape.kv_heads - 1}:
        for row in {0, _ROWS - 1}:
            for step in {0, _STEPS - 1}:
                yield head, row, step


def _near_ties(
    candidate: Candidate, q: Tensor, k: Tensor, v: Tensor, pages: set[int], scale: float
) -> bool:
    """Whether the pages in dispute score alike in some ranking of the reference."""
    complete = k.shape[0] // candidate.page_size
    if not pages or max(pages) >= complete or not candidate.scores:
        return False
    outputs, select = executable(candidate, fused=False)
    found = scores(candidate, q, summaries(candidate, k, v), complete, scale)
    ranked = [r.score for r in plan_of(select).rankings if r.score is not None]
    for name, node in outputs.items():
        if node not in ranked:
            continue
        disputed = found[name][sorted(pages)]
        spread = float(found[name].abs().max())
        if float(disputed.max() - disputed.min()) <= _TOLERANCE * max(spread, 1e-30):
            return True
    return False
