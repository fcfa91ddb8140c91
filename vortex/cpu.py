"""The CPU backend: batched routing and attention in plain PyTorch, for many steps at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.compile import executable
from vortex.execute import run_graph
from vortex.ir import Candidate, Node, walk
from vortex.named import Named, Run, aligned, named
from vortex.passes import split_cached
from vortex.selection import page_budget, plan_of, random_scores, select_pages
from vortex.storage import stored

# Batch axes, in the order that named arrays keep them.
KV, ROW, STEP = "_a", "_b", "_t"
_CHUNK_ELEMENTS = 24_000_000


def page_fields(
    candidate: Candidate, k: Tensor, v: Tensor, cached: Mapping[str, Node] | None = None
) -> dict[str, Named]:
    """Stored fields of pages, all at once, and what scores compute from them alone.

    Args:
        cached: from :func:`vortex.passes.split_cached`.
        k, v: float32 ``[kv_head, row, page, token, dim]``, complete pages.

    Returns:
        For each field an array with axes ``_a`` (KV head), ``_b`` (row), ``page`` and its own.
    """
    sources = {
        "k": named(k, KV, ROW, "page", "token", "dim"),
        "v": named(v, KV, ROW, "page", "token", "dim"),
    }
    values = run_graph(candidate.fields.values(), sources, Run())
    pages = Named(torch.zeros(k.shape[:3]), (KV, ROW, "page"))
    fields = {}
    for name, node in candidate.fields.items():
        views, names = aligned(values[node.key], pages)
        full = views[0].expand([max(s) for s in zip(*(v.shape for v in views), strict=True)])
        fields[name] = Named(stored(full, candidate.dtype, item_dims=len(names) - 3), names)
    roots = {name: node for name, node in (cached or {}).items()}
    sources |= {f"field:{name}": value for name, value in fields.items()}
    values = run_graph(roots.values(), sources, Run())
    fields |= {name: values[node.key] for name, node in roots.items()}
    return {name: dim_last(value) for name, value in fields.items()}


def dim_last(x: Named) -> Named:
    """The same array with ``dim`` innermost in memory, where products over it want it."""
    if "dim" not in x.names:
        return x
    at = x.dim("dim")
    return Named(x.data.movedim(at, -1).contiguous().movedim(-1, at), x.names)


@dataclass(frozen=True, slots=True)
class Steps:
    """A batch of decode steps whose pages are to be chosen.

    Attributes:
        q: float32 ``[kv_head, row, step, head, dim]``.
        tokens: int64 ``[step]`` or ``[row, step]``: tokens in the cache, the step's own included.
        pages: pages in the arrays, at least ``ceil(tokens / page_size)`` of the longest step.
        layer: index of the layer (for the random control).
        scale: the model's softmax scale.
    """

    q: Tensor
    tokens: Tensor
    pages: int
    layer: int
    scale: float


class Router:
    """Chooses pages for batches of steps; compiled once per candidate and context.

    Args:
        context, workload_context: see :func:`vortex.selection.page_budget`.
    """

    def __init__(self, candidate: Candidate, *, context: int, workload_context: int) -> None:
        self.candidate = candidate
        outputs, select = executable(candidate)
        self.cached, (*scores, select) = split_cached([*outputs.values(), select])
        self.outputs = dict(zip(outputs, scores, strict=True))
        self.plan = plan_of(select)
        self.budget = page_budget(
            self.plan,
            page_size=candidate.page_size,
            context=context,
            workload_context=workload_context,
        )
        self.needs_fields = any(n.op == "field" for n in walk(self.outputs.values()))
        self.needs_mass = any(r.source == "oracle" for r in self.plan.rankings)

    def page_fields(self, k: Tensor, v: Tensor) -> dict[str, Named]:
        """See :func:`page_fields`."""
        return page_fields(self.candidate, k, v, self.cached)

    def select(
        self, steps: Steps, fields: Mapping[str, Named], mass: Tensor | None = None
    ) -> Tensor:
        """Pages that each step attends: bool ``[kv_head, row, step, page]``.

        Args:
            fields: from :func:`page_fields`, over at least the complete pages.
            mass: for the oracle, true attention mass ``[kv_head, row, step, page]``.
        """
        kv_heads, rows, count = steps.q.shape[:3]
        tokens = steps.tokens if steps.tokens.dim() == 2 else steps.tokens[None]
        shape = (kv_heads, rows, count, steps.pages)
        ranked: dict[int, Tensor] = {}
        by_key = self._scores(steps, fields) if self.plan.rankings else {}
        for at, ranking in enumerate(self.plan.rankings):
            if ranking.source == "oracle":
                assert mass is not None
                ranked[at] = mass
            elif ranking.source == "random":
                noise = random_scores(steps.layer, kv_heads, tokens, steps.pages)
                ranked[at] = noise.permute(2, 0, 1, 3)
            else:
                assert ranking.score is not None
                ranked[at] = by_key[ranking.score.key].expand(shape)
        return select_pages(
            ranked,
            tokens,
            plan=self.plan,
            budget=self.budget,
            page_size=self.candidate.page_size,
            pages=steps.pages,
        ).expand(shape)

    def _scores(self, steps: Steps, fields: Mapping[str, Named]) -> dict[str, Tensor]:
        """Padded score arrays by node key: float32 ``[kv_head, row, step, pages]``."""
        roots = [r.score for r in self.plan.rankings if r.score is not None]
        complete = int(steps.tokens.max()) // self.candidate.page_size
        kv_heads, rows, count = steps.q.shape[:3]
        padded = {
            root.key: torch.full((kv_heads, rows, count, steps.pages), float("nan"))
            for root in roots
        }
        if not complete or not roots:
            return padded
        step = max(1, _CHUNK_ELEMENTS // self._elements(roots, steps, complete))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            values = run_graph(roots, *self._sources(steps, fields, part, complete))
            for key, value in values.items():
                target = padded[key][:, part, :, :complete]
                target.copy_(_ordered(value))
        return padded

    def _sources(
        self, steps: Steps, fields: Mapping[str, Named], part: slice, complete: int
    ) -> tuple[dict[str, Named], Run]:
        size = self.candidate.page_size
        tokens = steps.tokens if steps.tokens.dim() == 1 else steps.tokens[part]
        axes = (STEP,) if steps.tokens.dim() == 1 else (ROW, STEP)
        count = (tokens // size).to(torch.float32)
        index = torch.arange(complete, dtype=torch.float32)
        sources = {
            "q": named(steps.q[:, part], KV, ROW, STEP, "head", "dim"),
            "scale": Named(torch.tensor(steps.scale), ()),
            "page_index": Named(index, ("page",)),
            "page_count": Named(count, axes),
            "page_age": Named(count[..., None] - 1 - index, (*axes, "page")),
        }
        for name, value in fields.items():
            rows = value.data[:, part] if value.data.shape[1] > 1 else value.data
            sources[f"field:{name}"] = Named(rows.narrow(2, 0, complete), value.names)
        return sources, Run(Named(index < count[..., None], (*axes, "page")))

    def _elements(self, roots: list[Node], steps: Steps, complete: int) -> int:
        """Elements of the largest intermediate, for one row."""
        kv_heads, _, count, heads, dim = steps.q.shape
        sizes = {"page": complete, "head": heads, "dim": dim, "vdim": dim}
        sizes |= {"token": self.candidate.page_size, "one": 1}
        largest = 1
        for node in walk(roots):
            total = kv_heads * count
            for axis in node.axes:
                total *= axis.extent.resolve(sizes, {})
            largest = max(largest, total)
        return largest


def _ordered(value: Named) -> Tensor:
    """A score as ``[kv_head, row, step, page]``, missing axes of extent 1."""
    names = (KV, ROW, STEP, "page")
    shape = [value.data.shape[value.dim(n)] if n in value.names else 1 for n in names]
    return value.data.reshape(shape)


@dataclass(frozen=True, slots=True)
class SuffixKV:
    """Keys and values that a batch of teacher-forced suffixes sees in one layer.

    Attributes:
        k, v: float32 ``[kv_head, context, dim]``, shared by all rows.
        k_new, v_new: float32 ``[kv_head, row, step, dim]``: each row's own suffix.
    """

    k: Tensor
    v: Tensor
    k_new: Tensor
    v_new: Tensor


def suffix_fields(router: Router, kv: SuffixKV) -> dict[str, Named]:
    """Fields of all complete pages of every row; the shared context is summarised once."""
    size = router.candidate.page_size
    kv_heads, rows, steps, dim = kv.k_new.shape
    context = kv.k.shape[1]
    shared = context // size

    def pages(x: Tensor) -> Tensor:
        return x[:, : shared * size].reshape(kv_heads, 1, shared, size, dim)

    parts = [router.page_fields(pages(kv.k), pages(kv.v))]
    tail = context - shared * size
    own = (tail + steps) // size
    if own:
        length = own * size

        def tails(old: Tensor, new: Tensor) -> Tensor:
            edge = old[:, None, shared * size :].expand(kv_heads, rows, tail, dim)
            joined = torch.cat([edge, new], 2)[:, :, :length]
            return joined.reshape(kv_heads, rows, own, size, dim)

        parts.append(router.page_fields(tails(kv.k, kv.k_new), tails(kv.v, kv.v_new)))
    return {name: _joined([p[name] for p in parts], rows) for name in parts[0]}


def _joined(parts: list[Named], rows: int) -> Named:
    """Pages of the context, repeated for each row, followed by each row's own."""
    if len(parts) == 1:
        return parts[0]
    full = [p.data.expand(p.data.shape[0], rows, *p.data.shape[2:]) for p in parts]
    return Named(torch.cat(full, 2), parts[0].names)


def suffix_attention(
    q: Tensor, kv: SuffixKV, keep: Tensor | None, *, page_size: int, scale: float
) -> Tensor:
    """Attention of every step over the kept pages, causal within the suffix.

    Args:
        q: float32 ``[kv_head, row, step, head, dim]``.
        keep: bool ``[kv_head, row, step, page]``; None attends to everything.

    Returns:
        float32 ``[kv_head, row, step, head, dim]``.
    """
    kv_heads, rows, steps, heads, dim = q.shape
    context = kv.k.shape[1]
    out = torch.empty_like(q)
    causal = torch.full((steps, steps), float("-inf")).triu(1)
    lines = rows * steps
    for a in range(kv_heads):
        query = (q[a] * scale).reshape(lines * heads, dim)
        logits = torch.empty(lines * heads, context + steps)
        torch.mm(query, kv.k[a].T, out=logits[:, :context])
        own = query.view(rows, steps * heads, dim) @ kv.k_new[a].transpose(1, 2)
        logits[:, context:] = own.reshape(lines * heads, steps)
        bias = causal.expand(rows, steps, steps)
        if keep is not None:
            pages = torch.where(keep[a], 0.0, float("-inf"))
            tokens = pages.repeat_interleave(page_size, -1)[..., : context + steps]
            logits.view(lines, heads, -1)[..., :context] += tokens[..., :context].reshape(
                lines, 1, context
            )
            bias = bias + tokens[..., context:]
        logits.view(lines, heads, -1)[..., context:] += bias.reshape(lines, 1, steps)
        weights = torch.softmax(logits, -1)
        value = weights[:, :context] @ kv.v[a]
        tail = weights[:, context:].reshape(rows, steps * heads, steps) @ kv.v_new[a]
        out[a] = value.view(rows, steps, heads, dim) + tail.view(rows, steps, heads, dim)
    return out


def page_mass(q: Tensor, kv: SuffixKV, *, page_size: int, scale: float) -> Tensor:
    """True attention mass by page, summed over heads: ``[kv_head, row, step, page]``."""
    kv_heads, rows, steps = q.shape[:3]
    context = kv.k.shape[1]
    pages = -(-(context + steps) // page_size)
    causal = torch.ones(steps, steps, dtype=torch.bool).tril()
    mass = torch.zeros(kv_heads, rows, steps, pages * page_size)
    for a in range(kv_heads):
        old = torch.einsum("bthd,nd->bthn", q[a] * scale, kv.k[a])
        new = torch.einsum("bthd,bnd->bthn", q[a] * scale, kv.k_new[a])
        new = new.masked_fill(~causal[:, None], float("-inf"))
        weights = torch.softmax(torch.cat([old, new], -1), -1)
        mass[a, ..., : context + steps] = weights.sum(2)
    return mass.view(kv_heads, rows, steps, pages, page_size).sum(-1)


class SuffixAttend:
    """Attention of teacher-forced suffixes on one shared context, under a candidate.

    One batch equals token-by-token decoding: each step sees the pages that are complete at that
    step, its own row's included.

    Args:
        kv: ``[layer, 2, kv_head, context, dim]``, keys after RoPE.
        dense: layers that attend to everything.
    """

    def __init__(
        self,
        candidate: Candidate,
        kv: Tensor,
        *,
        scale: float,
        workload_context: int,
        dense: frozenset[int] = frozenset(),
    ) -> None:
        self.candidate, self.kv, self.scale, self.dense = candidate, kv, scale, dense
        self.router = Router(candidate, context=kv.shape[3], workload_context=workload_context)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the model's Attend protocol: q ``[row, step, head, dim]``, k and v by KV head."""
        rows, steps, heads, dim = q.shape
        kv_heads = k.shape[2]
        grouped = q.view(rows, steps, kv_heads, heads // kv_heads, dim).permute(2, 0, 1, 3, 4)
        old = self.kv[layer].to(torch.float32)
        kv = SuffixKV(old[0], old[1], _rounded(k), _rounded(v))
        keep = None
        if layer not in self.dense and not self.router.plan.everything:
            keep = self.pages(layer, grouped, kv)
        out = suffix_attention(
            grouped, kv, keep, page_size=self.candidate.page_size, scale=self.scale
        )
        return out.permute(1, 2, 0, 3, 4).reshape(rows, steps, heads, dim)

    def pages(self, layer: int, q: Tensor, kv: SuffixKV) -> Tensor:
        """Pages that each step attends: bool ``[kv_head, row, step, page]``."""
        size, steps = self.candidate.page_size, q.shape[2]
        context = kv.k.shape[1]
        tokens = context + 1 + torch.arange(steps)
        pages = -(-(context + steps) // size)
        fields = suffix_fields(self.router, kv) if self.router.needs_fields else {}
        mass = (
            page_mass(q, kv, page_size=size, scale=self.scale) if self.router.needs_mass else None
        )
        return self.router.select(Steps(q, tokens, pages, layer, self.scale), fields, mass)


def _rounded(x: Tensor) -> Tensor:
    """New keys or values as the cache stores them (bf16), ``[kv_head, row, step, dim]``."""
    return x.to(torch.bfloat16).to(torch.float32).permute(2, 0, 1, 3)
