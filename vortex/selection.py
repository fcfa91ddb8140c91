"""From scores to pages: exact top-k, top-p and thresholds, a fixed rule for ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vortex.ir import Node
from vortex.plan import Plan, Ranking, Scaling, budget_pages, reserved_counts

_HASH_BITS = 20


def tie_hash(pages: Tensor) -> Tensor:
    """A fixed bijection on page indices below 2^20 (odd multiplier and xor-shifts), int64."""
    mask = (1 << _HASH_BITS) - 1
    x = pages.to(torch.int64) & mask
    x = (x * 0x9E375) & mask
    x = x ^ (x >> 10)
    x = (x * 0x6C8E5) & mask
    return x ^ (x >> 9)


def rank_keys(scores: Tensor, among: Tensor, hashes: Tensor) -> Tensor:
    """Distinct int64 keys that order pages: larger score first, ties by ``tie_hash``, what is not
    finite last, and after it what is not ranked.

    Args:
        scores: float32 ``[..., page]``.
        among: bool, broadcastable: the pages that are ranked.
        hashes: ``tie_hash`` of the pages.
    """
    clean = (scores + 0.0).to(torch.float32).contiguous()  # -0.0 becomes 0.0
    bits = clean.view(torch.int32).to(torch.int64)
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF) - 1)
    worst = -(1 << 32)
    ordered = torch.where(torch.isfinite(clean), ordered, worst)
    ordered = torch.where(among, ordered, worst - 1)
    return (ordered << _HASH_BITS) | hashes


@dataclass(frozen=True, slots=True)
class Frame:
    """What a selection needs to know of the steps, apart from scores: the same for every layer
    unless budgets differ between layers.

    Attributes:
        kept: bool ``[..., pages]``: reserved pages.
        free: bool like ``kept``: complete pages that are not reserved.
        wanted: for each ranking by node key, int64 ``[...]``: pages that it may add.
        hashes: ``tie_hash`` of the pages.
    """

    kept: Tensor
    free: Tensor
    wanted: Mapping[str, Tensor]
    hashes: Tensor


def reserved_pages(
    tokens: Tensor, pages: int, *, page_size: int, sinks: int, recent: int
) -> Tensor:
    """Which pages are reserved at each step: bool ``[..., pages]``.

    Args:
        tokens: int64 ``[...]``, tokens in the cache, the query's own included.
    """
    index = torch.arange(pages, device=tokens.device)
    total = (tokens + page_size - 1) // page_size
    partial = (tokens % page_size != 0).to(torch.int64)
    last = torch.clamp(partial, min=recent)
    newest = (index >= (total - last)[..., None]) & (index < total[..., None])
    return ((index < sinks) & (index < total[..., None])) | newest


def frame_of(plan: Plan, tokens: Tensor, pages: int, scaling: Scaling, depth: float) -> Frame:
    """The frame of a batch of steps.

    Args:
        tokens: int64 ``[...]``: tokens in the cache at each step.
        pages: pages in the arrays.
    """
    size = scaling.page_size
    sinks, recent = reserved_counts(plan, scaling)
    index = torch.arange(pages, device=tokens.device)
    if plan.everything:
        kept = index < ((tokens + size - 1) // size)[..., None]
    else:
        kept = reserved_pages(tokens, pages, page_size=size, sinks=sinks, recent=recent)
    free = ~kept & (index < (tokens // size)[..., None])
    wanted = {}
    for key, ranking in plan.rankings.items():
        allowed = budget_pages(ranking, tokens, plan=plan, scaling=scaling, depth=depth)
        wanted[key] = torch.minimum(allowed - kept.sum(-1), free.sum(-1)).clamp(min=0)
    return Frame(kept, free, wanted, tie_hash(index))


@dataclass
class Selection:
    """Chooses pages by a plan; remembers the last frame, which successive layers share.

    Attributes:
        scaling: of budgets to the sequences at hand.
        most: no ranking keeps more pages; None: found by looking at the budgets.
    """

    plan: Plan
    scaling: Scaling
    most: int | None = None
    _last: tuple[object, Tensor, Frame] | None = field(default=None, repr=False)

    def frame(self, tokens: Tensor, pages: int, depth: float) -> Frame:
        """See :func:`frame_of`."""
        if self.most is not None:
            return frame_of(self.plan, tokens, pages, self.scaling, depth)
        key = (tuple(tokens.shape), pages, depth if self.plan.by_depth else 0.0)
        if self._last is not None and self._last[0] == key and torch.equal(self._last[1], tokens):
            return self._last[2]
        frame = frame_of(self.plan, tokens, pages, self.scaling, depth)
        self._last = (key, tokens.clone(), frame)
        return frame

    def pick(self, scores: Mapping[str, Tensor], frame: Frame) -> Tensor | None:
        """Pages that the rankings keep beside the reserved ones: bool ``[..., pages]``; None when
        nothing is ranked.

        Args:
            scores: for each ranking by node key, float32 ``[..., pages]``.
        """
        return self._of(self.plan.tree, scores, frame, frame.free)

    def _of(
        self, node: Node, scores: Mapping[str, Tensor], frame: Frame, among: Tensor
    ) -> Tensor | None:
        if node.key in self.plan.rankings:
            ranking = self.plan.rankings[node.key]
            return best(ranking, scores[node.key], frame, among, frame.wanted[node.key], self.most)
        if node.op == "refine":
            coarse = self._of(node.inputs[0], scores, frame, among)
            return None if coarse is None else self._of(node.inputs[1], scores, frame, coarse)
        if node.op == "union":
            found = [self._of(n, scores, frame, among) for n in node.inputs]
            kept = [f for f in found if f is not None]
            return kept[0] | kept[1] if len(kept) == 2 else kept[0] if kept else None
        return None


def best(
    ranking: Ranking,
    scores: Tensor,
    frame: Frame,
    among: Tensor,
    wanted: Tensor,
    most: int | None = None,
) -> Tensor:
    """The pages that one ranking keeps among those given: bool ``[..., pages]``."""
    keys = rank_keys(scores, among, frame.hashes)
    width = min(int(wanted.max()) if most is None else most, scores.shape[-1])
    none = torch.zeros_like(keys, dtype=torch.bool)
    if not width:
        return none
    order = torch.topk(keys, width, dim=-1, sorted=True).indices
    place = torch.arange(width, device=keys.device)
    chosen = place < torch.minimum(wanted, among.sum(-1))[..., None]
    if ranking.source == "threshold":
        chosen = chosen & (scores >= ranking.amount).expand(keys.shape).gather(-1, order)
    elif ranking.source == "top_p":
        chosen = chosen & (place < enough(scores, among, order, ranking.amount)[..., None])
    return none.scatter(-1, order, chosen.expand(order.shape))


def enough(scores: Tensor, among: Tensor, order: Tensor, mass: float) -> Tensor:
    """How many of the best pages hold a share of the score's sum: int64 ``[...]``, at least 1.

    Sums are float64 in the order of the ranking, so that every executor cuts alike.
    """
    positive = torch.where(torch.isfinite(scores) & among, scores, 0.0).clamp(min=0).double()
    total = positive.expand(*order.shape[:-1], positive.shape[-1]).sum(-1, keepdim=True)
    running = positive.expand(*order.shape[:-1], positive.shape[-1]).gather(-1, order).cumsum(-1)
    return (running < mass * total).sum(-1) + 1


def not_finite(scores: Mapping[str, Tensor], frame: Frame) -> int:
    """Scores of ranked pages that are NaN or infinite."""
    return sum(int((~torch.isfinite(s) & frame.free).sum()) for s in scores.values())


def random_scores(layer: int, kv_heads: int, tokens: Tensor, pages: int) -> Tensor:
    """Counter-based noise for the random control: float32 ``[..., kv_heads, pages]``.

    The same (layer, head, step, page) always draws the same number, so every executor agrees.
    """
    head = torch.arange(kv_heads, device=tokens.device)[:, None]
    page = torch.arange(pages, device=tokens.device)
    mask = 0xFFFFFFFF
    x = (tokens[..., None, None] * 0x85EBCA6B + layer * 0xC2B2AE35) & mask
    x = (x ^ (head * 0x27D4EB2F) ^ (page * 0x165667B1)) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return ((x ^ (x >> 16)) >> 8).to(torch.float32)
