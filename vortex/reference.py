"""The definition: a slow, plain executor, one sequence, one KV head and one step at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vortex.compile import executable
from vortex.execute import run_graph
from vortex.ir import Candidate
from vortex.named import Named, Run, named
from vortex.selection import (
    PageBudget,
    Plan,
    page_budget,
    plan_of,
    random_scores,
    tie_hash,
)
from vortex.storage import stored


def summaries(candidate: Candidate, k: Tensor, v: Tensor) -> dict[str, Named]:
    """Stored fields of every complete page, page by page.

    Args:
        k, v: float32 ``[tokens, dim]`` of one KV head, keys after RoPE.

    Returns:
        For each field, its values with a leading ``page`` axis.
    """
    size = candidate.page_size
    pages: dict[str, list[Tensor]] = {name: [] for name in candidate.fields}
    for start in range(0, k.shape[0] // size * size, size):
        sources = {
            "k": named(k[start : start + size], "token", "dim"),
            "v": named(v[start : start + size], "token", "dim"),
        }
        values = run_graph(candidate.fields.values(), sources, Run())
        for name, node in candidate.fields.items():
            value = values[node.key]
            shape = [s.resolve(_sizes(candidate, k, v), {}) for s in (a.extent for a in node.axes)]
            full = value.data.expand(shape) if value.names == node.names else value.data
            pages[name].append(stored(full, candidate.dtype, item_dims=full.dim()))
    return {
        name: Named(torch.stack(items), ("page", *candidate.fields[name].names))
        for name, items in pages.items()
        if items
    }


def _sizes(candidate: Candidate, k: Tensor, v: Tensor) -> dict[str, int]:
    return {"token": candidate.page_size, "dim": k.shape[1], "vdim": v.shape[1], "one": 1}


def scores(
    candidate: Candidate, q: Tensor, fields: Mapping[str, Named], pages: int, scale: float
) -> dict[str, Tensor]:
    """Score of every complete page by output name: float32 ``[pages]``.

    Args:
        q: float32 ``[head, dim]``, the query heads of one KV head.
        fields: from :func:`summaries`.
        pages: complete pages, at least 1.
    """
    index = torch.arange(pages, dtype=torch.float32)
    sources = {
        "q": named(q, "head", "dim"),
        "scale": Named(torch.tensor(scale), ()),
        "page_index": named(index, "page"),
        "page_age": named(pages - 1 - index, "page"),
        "page_count": Named(torch.tensor(float(pages)), ()),
        **{f"field:{name}": value for name, value in fields.items()},
    }
    outputs, _ = executable(candidate, fused=False)
    values = run_graph(outputs.values(), sources, Run())
    return {name: values[node.key].data.expand(pages) for name, node in outputs.items()}


def attention_mass(q: Tensor, k: Tensor, scale: float, page_size: int) -> Tensor:
    """True attention mass of each page, summed over the heads: float32 ``[pages]``."""
    weights = torch.softmax(q @ k.T * scale, dim=-1).sum(0)
    pages = -(-k.shape[0] // page_size)
    mass = torch.zeros(pages)
    return mass.index_add(0, torch.arange(k.shape[0]) // page_size, weights)


def choose(
    ranked: Tensor, tokens: int, *, page_size: int, allowed: int, kept: set[int]
) -> set[int]:
    """The best ``allowed - len(kept)`` complete pages outside ``kept``: larger score first, NaN
    last, ties by the hash of the page."""
    hashes = tie_hash(torch.arange(max(1, ranked.shape[0]))).tolist()

    def order(page: int) -> tuple[bool, float, int]:
        score = float(ranked[page])
        return (score != score, 0.0 if score != score else -score, -hashes[page])

    free = [p for p in range(tokens // page_size) if p not in kept]
    return set(sorted(free, key=order)[: max(0, allowed - len(kept))])


def reserved(tokens: int, *, page_size: int, budget: PageBudget) -> set[int]:
    """Sinks, recent pages and the partial page, as page indices."""
    total = -(-tokens // page_size)
    recent = max(budget.recent, 1 if tokens % page_size else 0)
    first = set(range(min(budget.sinks, total)))
    return first | set(range(max(0, total - recent), total))


def selected_pages(
    candidate: Candidate,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    context: int,
    workload_context: int,
    layer: int = 0,
    kv_head: int = 0,
) -> set[int]:
    """The pages that one decode step attends.

    Args:
        q: float32 ``[head, dim]``; k, v: float32 ``[tokens, dim]``, the step's own token included.
        context, workload_context: see :func:`vortex.selection.page_budget`.
    """
    plan, size, tokens = plan_of(candidate.select), candidate.page_size, k.shape[0]
    total = -(-tokens // size)
    if plan.everything:
        return set(range(total))
    budget = page_budget(plan, page_size=size, context=context, workload_context=workload_context)
    kept = reserved(tokens, page_size=size, budget=budget)
    chosen = set(kept)
    for at, allowed in enumerate(budget.ranked):
        ranked = _ranked(candidate, plan, at, q, k, v, scale, layer, kv_head)
        chosen |= choose(ranked, tokens, page_size=size, allowed=allowed, kept=kept)
    return chosen


def _ranked(
    candidate: Candidate,
    plan: Plan,
    at: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    layer: int,
    kv_head: int,
) -> Tensor:
    ranking, size = plan.rankings[at], candidate.page_size
    tokens = k.shape[0]
    if ranking.source == "oracle":
        return attention_mass(q, k, scale, size)
    if ranking.source == "random":
        step = torch.tensor(tokens)
        return random_scores(layer, kv_head + 1, step, -(-tokens // size))[kv_head]
    pages = tokens // size
    if pages == 0:
        return torch.zeros(0)
    outputs, select = executable(candidate, fused=False)
    by_name = scores(candidate, q, summaries(candidate, k, v), pages, scale)
    name = next(n for n, node in outputs.items() if node == plan_of(select).rankings[at].score)
    return by_name[name]


def attend(
    q: Tensor, k: Tensor, v: Tensor, pages: set[int], *, page_size: int, scale: float
) -> Tensor:
    """Exact attention over the tokens of the given pages: float32 ``[head, vdim]``."""
    tokens = [t for t in range(k.shape[0]) if t // page_size in pages]
    weights = torch.softmax(q @ k[tokens].T * scale, dim=-1)
    return weights @ v[tokens]
