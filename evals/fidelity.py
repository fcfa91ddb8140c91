"""Offline fidelity: how much true attention mass the chosen pages hold, on recorded queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evals.models.transformer import CacheShape
from evals.prefill import Prefilled
from vortex.cpu import Router, Steps
from vortex.ir import Candidate
from vortex.plan import anchors
from vortex.suffix import SuffixKV, suffix_fields


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over layers, heads and recorded queries of one context.

    Attributes:
        mass: share of the true attention mass that the kept pages hold.
        best, chance: the same for the best pages, and expected of the random control (a sink,
            two recent pages, the rest by chance), at equal counts.
        error: |output - full output| / |full output|.
        not_finite: share of the ranked scores that were NaN or infinite.
    """

    mass: float
    best: float
    chance: float
    error: float
    not_finite: float

    @property
    def recovered(self) -> float:
        """Share of what the best pages add over random ones that the candidate finds."""
        room = self.best - self.chance
        return (self.mass - self.chance) / room if room > 0 else 1.0


def fidelity(
    candidate: Candidate,
    prefilled: Prefilled,
    *,
    cache: CacheShape,
    scale: float,
    workload_context: int,
    dense: frozenset[int],
) -> Fidelity:
    """Score the recorded queries of a context against its own tokens, every sparse layer."""
    layers = prefilled.kv.shape[0]
    router = Router(
        candidate, context=prefilled.kv.shape[3], workload_context=workload_context, layers=layers,
        rope=cache.rope,
    )  # fmt: skip
    keys, values = cache.split(prefilled.kv)
    picks: dict[int, Tensor | None] = {}
    rows = [
        _layer(router, (keys[layer], values[layer], prefilled.queries[layer]), layer, anchor,
               picks, scale)
        for layer, anchor in anchors(layers, dense, candidate.policies.reuse_layers).items()
    ]  # fmt: skip
    if not rows:
        return Fidelity(1.0, 1.0, 1.0, 0.0, 0.0)
    mass, best, chance, error = (sum(c) / len(rows) for c in zip(*rows, strict=True))
    odd = router.not_finite / router.ranked if router.ranked else 0.0
    return Fidelity(mass, best, chance, error, odd)


def _layer(
    router: Router,
    recorded: tuple[Tensor, Tensor, Tensor],
    layer: int,
    anchor: int,
    picks: dict[int, Tensor | None],
    scale: float,
) -> tuple[float, float, float, float]:
    """Mass held, best, by chance, and error of one layer, from its keys, values and queries."""
    k, v, queries = (x.to(torch.float32) for x in recorded)
    kv_heads, tokens, dim = k.shape
    # Every query is a row of its own whose suffix is empty: it sees the context alone.
    q = queries.view(len(queries), kv_heads, -1, dim).transpose(0, 1)[:, None]
    kv = SuffixKV(k, v, k.new_zeros(kv_heads, 1, 0, dim), v.new_zeros(kv_heads, 1, 0, v.shape[-1]))
    size = router.candidate.page_size
    fields = suffix_fields(router, kv, layer) if router.needs_fields else {}
    mass = _context_mass(q, k, size, scale)
    counts = torch.tensor([tokens]).expand(len(queries))
    pages = -(-tokens // size)
    steps = Steps(q, counts, pages, layer, scale)
    if anchor == layer:
        shape = (kv_heads, 1, pages)
        first = {n: torch.full(shape, value) for n, value in router.candidate.states.items()}
        picks[layer] = router.pick(steps, fields, mass, first)
    keep = router.joined(steps, picks[anchor])
    total = mass.sum(-1)
    held = (mass * keep).sum(-1) / total
    count = keep.sum(-1, keepdim=True)
    ranked = mass.sort(-1, descending=True).values
    top = (ranked * (torch.arange(pages) < count)).sum(-1) / total
    held_anyway = (mass * _reserved(pages)).sum(-1) / total
    left = (count[..., 0] - 3).clamp(min=0) / max(pages - 3, 1)
    chance = held_anyway + (1 - held_anyway) * left
    exact = _attention(q, k, v, None, scale)
    sparse = _attention(q, k, v, keep.repeat_interleave(size, -1)[..., :tokens], scale)
    error = (sparse - exact).norm(dim=-1) / exact.norm(dim=-1)
    return float(held.mean()), float(top.mean()), float(chance.mean()), float(error.mean())


def _reserved(pages: int) -> Tensor:
    """One sink and two recent pages, which the random control keeps: bool ``[page]``."""
    index = torch.arange(pages)
    return (index == 0) | (index >= pages - 2)


def _context_mass(q: Tensor, k: Tensor, size: int, scale: float) -> Tensor:
    """True attention mass by page of the context alone: ``[kv_head, row, step, page]``."""
    weights = torch.softmax(torch.einsum("abthd,and->abthn", q * scale, k), -1).sum(3)
    pad = -weights.shape[-1] % size
    padded = torch.nn.functional.pad(weights, (0, pad))
    return padded.view(*padded.shape[:-1], -1, size).sum(-1)


def _attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    logits = torch.einsum("abthd,and->abthn", q * scale, k)
    if keep is not None:
        logits = logits.masked_fill(~keep[:, :, :, None], float("-inf"))
    return torch.einsum("abthn,and->abthd", torch.softmax(logits, -1), v)
