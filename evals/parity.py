"""Does the CPU backend choose the pages, and give the outputs, that the reference defines?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.ir import Candidate
from vortex.plan import plan_of
from vortex.reference import Decoder, attend
from vortex.suffix import SuffixAttend, SuffixKV, suffix_attention

# Ragged contexts: empty, a partial page, one page, several, and more than a budget's worth.
_CONTEXTS = (0, 3, 1, 2.5, 12)
_ROWS, _STEPS = 2, 3
_TOLERANCE = 1e-4


_Scores = dict[int, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Heads of a model, for synthetic inputs.

    Attributes:
        latent: columns of a key that are its value (MLA); None: values are their own.
        rope: rotary columns of a key, first and count; None: all.
    """

    kv_heads: int
    group: int
    dim: int
    latent: int | None = None
    rope: tuple[int, int] | None = None


def disagreement(candidate: Candidate, shape: Shape, *, seed: int) -> str | None:
    """What differs between backend and reference on random inputs, or None.

    Pages may differ only where the backend's scores are the reference's but for rounding (1e-4 of
    the largest) and the reference would choose the same by them; outputs, for the pages that the
    backend chose, within 1e-4 relative to the largest output.
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

    def values(keys: Tensor) -> Tensor:
        return draw(*keys.shape) if shape.latent is None else keys[..., : shape.latent]

    def drawn() -> tuple[Tensor, SuffixKV]:
        q, k = draw(a, _ROWS, _STEPS, shape.group, d), draw(a, context, d)
        v, new = values(k), draw(a, _ROWS, _STEPS, d)
        return q, SuffixKV(k, v, new, values(new))

    inputs = [drawn() for _ in range(layers)]
    scale, workload = d**-0.5, _workload(candidate)
    cache = torch.stack([kv.k for _, kv in inputs]), torch.stack([kv.v for _, kv in inputs])
    backend = SuffixAttend(
        candidate, cache, scale=scale, workload_context=workload, rope=shape.rope
    )
    given = backend.router.kept_scores = {}
    keeps = [backend.pages(layer, q, kv) for layer, (q, kv) in enumerate(inputs)]
    outs = [
        suffix_attention(q, kv, keep, page_size=candidate.page_size, scale=scale)
        for (q, kv), keep in zip(inputs, keeps, strict=True)
    ]
    if not all(bool(torch.isfinite(out).all()) for out in outs):
        return "outputs are not finite"
    for row in {0, _ROWS - 1}:
        decoder = Decoder(
            candidate, scale=scale, context=context, workload_context=workload, layers=layers,
            rope=shape.rope,
        )  # fmt: skip
        for step in range(_STEPS):
            for layer, (q, kv) in enumerate(inputs):
                at = _At(row, step, layer)
                problem = _one_step(decoder, at, q, kv, keeps[layer], outs[layer], given)
                if problem:
                    return problem
            decoder.advance()
    return None


def _workload(candidate: Candidate) -> int:
    """A workload of which the budget is half, so that there is something to choose."""
    rankings = plan_of(candidate.select).rankings.values()
    written = [r.budget.attr("value") for r in rankings if r.budget.op == "const"]
    return max([2 * int(t) for t in written if isinstance(t, int | float)], default=8192)


@dataclass(frozen=True, slots=True)
class _At:
    row: int
    step: int
    layer: int


def _one_step(
    decoder: Decoder, at: _At, q: Tensor, kv: SuffixKV, keep: Tensor, out: Tensor, given: _Scores
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
        if got != want and not _within_rounding(decoder, at, head, got, given):
            return f"backend keeps pages {sorted(got)}, reference {sorted(want)}"
        exact = attend(
            query[head], keys[head], values[head], got, page_size=size, scale=decoder.scale
        )
        gap = float((out[head, at.row, at.step] - exact).abs().max() / exact.abs().max())
        if not gap <= _TOLERANCE:
            return f"outputs differ by {gap:.1e} of the largest"
    return None


def _within_rounding(decoder: Decoder, at: _At, head: int, got: set[int], given: _Scores) -> bool:
    """Whether the backend's scores are the reference's but for rounding, and its pages exactly
    those that the reference would choose by them."""
    anchor, every = decoder.anchors[at.layer], decoder.candidate.policies.reuse_steps
    exact = decoder.ranked[anchor][head]
    step = at.step - at.step % every
    near = {}
    for (key, wanted), found in zip(exact.items(), given[anchor].values(), strict=True):
        scores = found[head, at.row, step, : len(wanted)]
        slack = _TOLERANCE * _peak(wanted)
        if not torch.allclose(scores, wanted, rtol=0.0, atol=slack, equal_nan=True):
            return False
        near[key] = found[head, at.row, step]
    return decoder.choice(anchor, near) | decoder.kept == got


def _peak(scores: Tensor) -> float:
    finite = scores[torch.isfinite(scores)].abs()
    return max(float(finite.max()), 1e-30) if len(finite) else 1e-30
