"""Does the CPU backend choose the pages, and give the outputs, that the reference defines?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.ir import Candidate
from vortex.reference import Decoder, attend
from vortex.suffix import SuffixAttend, SuffixKV, suffix_attention

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
    layers = 1 if candidate.policies.reuse_layers == 1 else 3
    inputs = [
        (draw(a, _ROWS, _STEPS, shape.group, d), SuffixKV(
            draw(a, context, d), draw(a, context, d), draw(a, _ROWS, _STEPS, d),
            draw(a, _ROWS, _STEPS, d),
        )) for _ in range(layers)
    ]  # fmt: skip
    scale = d**-0.5
    cache = torch.stack([torch.stack([kv.k, kv.v]) for _, kv in inputs])
    backend = SuffixAttend(candidate, cache, scale=scale, workload_context=_WORKLOAD)
    keeps = [backend.pages(layer, q, kv) for layer, (q, kv) in enumerate(inputs)]
    outs = [
        suffix_attention(q, kv, keep, page_size=candidate.page_size, scale=scale)
        for (q, kv), keep in zip(inputs, keeps, strict=True)
    ]
    if not all(bool(torch.isfinite(out).all()) for out in outs):
        return "outputs are not finite"
    for row in {0, _ROWS - 1}:
        decoder = Decoder(
            candidate, scale=scale, context=context, workload_context=_WORKLOAD, layers=layers
        )
        for step in range(_STEPS):
            for layer, (q, kv) in enumerate(inputs):
                at = _At(row, step, layer)
                problem = _one_step(decoder, at, q, kv, keeps[layer], outs[layer])
                if problem:
                    return problem
            decoder.advance()
    return None


@dataclass(frozen=True, slots=True)
class _At:
    row: int
    step: int
    layer: int


def _one_step(
    decoder: Decoder, at: _At, q: Tensor, kv: SuffixKV, keep: Tensor, out: Tensor
) -> str | None:
    size = decoder.candidate.page_size
    keys, values = (
        torch.cat([old, new[:, at.row, : at.step + 1]], 1)
        for old, new in ((kv.k, kv.k_new), (kv.v, kv.v_new))
    )
    query = q[:, at.row, at.step]
    wanted = decoder.pages(at.layer, query, keys, values)
    for head, want in enumerate(wanted):
        got = set(keep[head, at.row, at.step].nonzero()[:, 0].tolist())
        if got != want and not _near_ties(decoder, at.layer, head, got, want):
            return f"backend keeps pages {sorted(got)}, reference {sorted(want)}"
        exact = attend(
            query[head], keys[head], values[head], got, page_size=size, scale=decoder.scale
        )
        gap = float((out[head, at.row, at.step] - exact).abs().max() / exact.abs().max())
        if not gap <= _TOLERANCE:
            return f"outputs differ by {gap:.1e} of the largest"
    return None


def _near_ties(decoder: Decoder, layer: int, head: int, got: set[int], want: set[int]) -> bool:
    """Whether the pages in dispute score alike in some ranking of the reference."""
    disputed = sorted(got ^ want)
    ranked = decoder.ranked.get(decoder.anchors[layer])
    if ranked is None:
        return False
    rankings = decoder.plan.rankings.values()
    loose = any(r.source in ("top_p", "threshold") for r in rankings) or len(rankings) > 1
    if len(got) != len(want) and not loose:  # a count that differs is no tie
        return False
    for scores in ranked[head].values():
        if max(disputed) >= len(scores):
            continue
        found = scores[disputed]
        spread = float(scores[torch.isfinite(scores)].abs().max()) if len(scores) else 0.0
        if float(found.max() - found.min()) <= _TOLERANCE * max(spread, 1e-30):
            return True
    return False
