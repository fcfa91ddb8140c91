"""From scores to pages: budgets, reserved pages, exact top-k with a fixed rule for ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.ir import Candidate, Node
from vortex.ops import OPS

_HASH_BITS = 20


@dataclass(frozen=True, slots=True)
class Ranking:
    """One ranked part of a selection.

    Attributes:
        source: ``top_k``, ``random`` or ``oracle``.
        score: the node that ``top_k`` ranks.
        tokens: budget as written, at the workload's context.
    """

    source: str
    score: Node | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A selector tree as flat data.

    Attributes:
        everything: full attention.
        sink_pages, recent_pages: reserved pages given as counts.
        sink_tokens, recent_tokens: reserved pages given as budgets (0: none).
        rankings: the ranked parts, united.
    """

    everything: bool
    sink_pages: int
    recent_pages: int
    sink_tokens: int
    recent_tokens: int
    rankings: tuple[Ranking, ...]


def plan_of(select: Node) -> Plan:
    """Flatten the union tree of a bound selector."""
    parts, stack = [], [select]
    while stack:
        node = stack.pop()
        if node.op == "union":
            stack.extend(reversed(node.inputs))
        else:
            parts.append(node)

    def most(op: str, attr: str) -> int:
        return max((_int(n, attr) for n in parts if n.op == op), default=0)

    return Plan(
        everything=any(n.op == "all" for n in parts),
        sink_pages=most("sinks", "pages"),
        recent_pages=most("recent", "pages"),
        sink_tokens=most("sinks", "tokens"),
        recent_tokens=most("recent", "tokens"),
        rankings=tuple(
            Ranking(n.op, n.inputs[0] if n.inputs else None, _int(n, "tokens"))
            for n in parts
            if n.op in ("top_k", "random", "oracle")
        ),
    )


def _int(node: Node, attr: str) -> int:
    value = node.attr(attr)
    assert isinstance(value, int), (node.op, OPS[node.op].params)
    return value


@dataclass(frozen=True, slots=True)
class PageBudget:
    """A plan in pages, at one evaluation context.

    Attributes:
        sinks, recent: reserved first and last pages (the partial page is the first recent one).
        ranked: pages in total (reserved included) for each ranking of the plan.
    """

    sinks: int
    recent: int
    ranked: tuple[int, ...]


def page_budget(plan: Plan, *, page_size: int, context: int, workload_context: int) -> PageBudget:
    """Budgets in pages: floor(tokens / page_size), scaled when the context is a stand-in's.

    Tokens are stated at ``workload_context``; on a shorter ``context`` they shrink in proportion,
    never below the reserved pages plus one. A page counts whole, the partial one too.
    """
    share = min(1.0, context / workload_context)

    def pages(tokens: int) -> int:
        return int(tokens * share) // page_size

    counted = plan.sink_pages + plan.recent_pages
    sinks = max(plan.sink_pages, pages(plan.sink_tokens) - plan.recent_pages)
    recent = plan.recent_pages
    if plan.recent_tokens:
        recent = max(recent, pages(plan.recent_tokens) - sinks, 1)
    floor = (sinks + max(recent, 1)) + 1 if plan.rankings else counted
    ranked = tuple(max(pages(r.tokens), floor) for r in plan.rankings)
    return PageBudget(sinks, recent, ranked)


def attended_tokens(candidate: Candidate, context: int, workload_context: int) -> int:
    """Most tokens that one query head attends per step on a sparse layer, whole pages counted.

    Rankings of a union are taken as disjoint but for the reserved pages: an upper bound.
    """
    plan = plan_of(candidate.select)
    page_size = candidate.page_size
    if plan.everything:
        return context
    budget = page_budget(
        plan, page_size=page_size, context=context, workload_context=workload_context
    )
    reserved = budget.sinks + max(budget.recent, 1)
    pages = reserved + sum(n - reserved for n in budget.ranked)
    return min(context, pages * page_size)


def dense_layers(candidate: Candidate, layers: int, target_layers: int) -> frozenset[int]:
    """Layers that run full attention; counts are stated for the target and scale with depth."""
    share = min(1.0, layers / target_layers)

    def scaled(count: int) -> int:
        return min(layers, max(1, round(count * share))) if count else 0

    first, last = scaled(candidate.dense_first), scaled(candidate.dense_last)
    return frozenset([*range(first), *range(layers - last, layers)])


def tie_hash(pages: Tensor) -> Tensor:
    """A fixed bijection on page indices below 2^20 (odd multiplier and xor-shifts), int64."""
    mask = (1 << _HASH_BITS) - 1
    x = pages.to(torch.int64) & mask
    x = (x * 0x9E375) & mask
    x = x ^ (x >> 10)
    x = (x * 0x6C8E5) & mask
    return x ^ (x >> 9)


def rank_keys(scores: Tensor, excluded: Tensor) -> Tensor:
    """Distinct int64 keys that order pages: larger score first, ties by ``tie_hash``, NaN last.

    Args:
        scores: float32 ``[..., page]``.
        excluded: bool, broadcastable: pages that are not ranked; they come after NaN.
    """
    clean = (scores + 0.0).to(torch.float32).contiguous()  # -0.0 becomes 0.0
    bits = clean.view(torch.int32).to(torch.int64)
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF) - 1)
    worst = -(1 << 32)
    ordered = torch.where(torch.isnan(clean), worst, ordered)
    ordered = torch.where(excluded, worst - 1, ordered)
    pages = torch.arange(scores.shape[-1], device=scores.device)
    return (ordered << _HASH_BITS) | tie_hash(pages)


def reserved_pages(tokens: Tensor, pages: int, *, page_size: int, budget: PageBudget) -> Tensor:
    """Which pages are reserved at each step: bool ``[..., pages]``.

    Args:
        tokens: int64 ``[...]``, tokens in the cache, the query's own included.
    """
    index = torch.arange(pages, device=tokens.device)
    total = (tokens + page_size - 1) // page_size
    partial = (tokens % page_size != 0).to(torch.int64)
    recent = torch.clamp(partial, min=budget.recent)
    last = (index >= (total - recent)[..., None]) & (index < total[..., None])
    return ((index < budget.sinks) & (index < total[..., None])) | last


def select_pages(
    scores: Mapping[int, Tensor],
    tokens: Tensor,
    *,
    plan: Plan,
    budget: PageBudget,
    page_size: int,
    pages: int,
) -> Tensor:
    """The pages that each row attends: bool ``[..., pages]``.

    Args:
        scores: for each ranking by position in the plan, float32 ``[..., pages]``.
        tokens: int64, broadcastable to the rows ``[...]``: tokens in the cache at that step.
    """
    index = torch.arange(pages, device=tokens.device)
    total = ((tokens + page_size - 1) // page_size)[..., None]
    if plan.everything:
        return index < total
    keep = reserved_pages(tokens, pages, page_size=page_size, budget=budget)
    complete = index < (tokens // page_size)[..., None]
    reserved = keep.sum(-1)
    excluded = keep | ~complete
    for at, allowed in enumerate(budget.ranked):
        keys = rank_keys(scores[at], excluded)
        width = min(allowed, pages)
        best = torch.topk(keys, width, dim=-1, sorted=True).indices
        wanted = torch.minimum(allowed - reserved, (~excluded).sum(-1)).clamp(min=0)
        chosen = torch.arange(width, device=keys.device) < wanted[..., None]
        keep = keep | torch.zeros_like(keys, dtype=torch.bool).scatter(
            -1, best, chosen.expand(best.shape)
        )
    return keep


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
