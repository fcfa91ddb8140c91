"""The CPU backend: batched routing in plain PyTorch, for many steps at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.compile import executable
from vortex.execute import run_graph
from vortex.ir import Candidate, Node, extents, walk
from vortex.named import Named, Run, aligned, named
from vortex.passes import split_cached
from vortex.plan import Scaling, depth_of, plan_of
from vortex.selection import Frame, Selection, not_finite, random_scores
from vortex.storage import stored

# Batch axes, in the order that named arrays keep them.
KV, ROW, STEP = "_a", "_b", "_t"
_CHUNK_ELEMENTS = 24_000_000


def page_fields(
    candidate: Candidate,
    k: Tensor,
    v: Tensor,
    cached: Mapping[str, Node],
    run: Run,
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
    values = run_graph(candidate.fields.values(), sources, run)
    pages = Named(torch.zeros(k.shape[:3]), (KV, ROW, "page"))
    fields = {}
    for name, node in candidate.fields.items():
        views, names = aligned(values[node.key], pages)
        full = views[0].expand([max(s) for s in zip(*(v.shape for v in views), strict=True)])
        fields[name] = Named(stored(full, candidate.dtype, item_dims=len(names) - 3), names)
    sources |= {f"field:{name}": value for name, value in fields.items()}
    values = run_graph(cached.values(), sources, run)
    fields |= {name: values[node.key] for name, node in cached.items()}
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
        longest: no step has more tokens; None: found by looking at ``tokens``.
    """

    q: Tensor
    tokens: Tensor
    pages: int
    layer: int
    scale: float
    longest: int | None = None

    def complete(self, page_size: int) -> int:
        """No step has more complete pages than this."""
        longest = int(self.tokens.max()) if self.longest is None else self.longest
        return longest // page_size


class Router:
    """Chooses pages for batches of steps; compiled once per candidate and context.

    Args:
        context, workload_context: see :class:`vortex.plan.Scaling`.
        layers: of the model, for what depends on depth.
        rope: rotary columns of a key, first and count; None: all.
        most: rankings keep at most so many pages; given, nothing is read back from the device (and
            nothing counted), so that a step can be captured.

    Attributes:
        ranked, not_finite: scores that were ranked so far, and how many were NaN or infinite.
        kept_scores: the last ranked scores of each layer, if someone asked by making it a dict.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        context: int,
        workload_context: int,
        layers: int = 1,
        rope: tuple[int, int] | None = None,
        most: int | None = None,
    ) -> None:
        self.candidate, self.layers, self.rope, self.most = candidate, layers, rope, most
        outputs, select = executable(candidate)
        self.cached, (*scores, select) = split_cached([*outputs.values(), select])
        self.outputs = dict(zip(outputs, scores, strict=True))
        self.plan = plan_of(select)
        scaling = Scaling.of(candidate.page_size, context, workload_context)
        self.selection = Selection(self.plan, scaling, most)
        reads = [*self.outputs.values(), *candidate.updates.values()]
        self.needs_fields = any(n.op == "field" for n in walk(reads))
        self.needs_mass = any(r.source == "oracle" for r in self.plan.rankings.values())
        self.ranked = self.not_finite = 0
        self.kept_scores: dict[int, dict[str, Tensor]] | None = None

    def page_fields(self, k: Tensor, v: Tensor, layer: int) -> dict[str, Named]:
        """See :func:`page_fields`; the layer chooses among stored matrices."""
        run = Run(layer=layer, rope=self.rope, matrices=self.candidate.matrices)
        return page_fields(self.candidate, k, v, self.cached, run)

    def frame(self, steps: Steps) -> Frame:
        """Reserved pages and budgets of the steps."""
        tokens = steps.tokens if steps.tokens.dim() == 2 else steps.tokens[None]
        return self.selection.frame(tokens, steps.pages, depth_of(steps.layer, self.layers))

    def select(
        self, steps: Steps, fields: Mapping[str, Named], mass: Tensor | None = None
    ) -> Tensor:
        """Pages that each step attends: bool ``[kv_head, row, step, page]``."""
        return self.joined(steps, self.pick(steps, fields, mass))

    def joined(self, steps: Steps, picked: Tensor | None) -> Tensor:
        """Picked pages and those that every step reserves."""
        kept = self.frame(steps).kept
        both = kept if picked is None else kept | picked
        return both.expand(*steps.q.shape[:3], steps.pages)

    def pick(
        self,
        steps: Steps,
        fields: Mapping[str, Named],
        mass: Tensor | None = None,
        states: Mapping[str, Tensor] | None = None,
    ) -> Tensor | None:
        """Pages that the rankings keep, reserved ones apart: bool ``[kv_head, row, step, page]``.

        Args:
            fields: from :func:`page_fields`, over at least the complete pages.
            mass: for the oracle, true attention mass ``[kv_head, row, step, page]``.
            states: float32 ``[kv_head, row, page]`` by name, over at least the complete pages.
        """
        kv_heads, rows, count = steps.q.shape[:3]
        shape = (kv_heads, rows, count, steps.pages)
        found = self._scores(steps, fields, states or {}) if self.plan.rankings else {}
        scores: dict[str, Tensor] = {}
        for key, ranking in self.plan.rankings.items():
            if ranking.source == "oracle":
                assert mass is not None
                scores[key] = mass
            elif ranking.source == "random":
                tokens = steps.tokens if steps.tokens.dim() == 2 else steps.tokens[None]
                noise = random_scores(steps.layer, kv_heads, tokens, steps.pages)
                scores[key] = noise.permute(2, 0, 1, 3)
            else:
                assert ranking.score is not None
                scores[key] = found[ranking.score.key]
            scores[key] = self._shared(scores[key].expand(shape))
        if self.kept_scores is not None:
            self.kept_scores[steps.layer] = scores
        frame = self.frame(steps)
        if self.most is None:
            self.ranked += len(scores) * int(frame.free.sum()) * kv_heads * rows // len(frame.free)
            self.not_finite += not_finite(scores, frame)
        picked = self.selection.pick(scores, frame)
        return None if picked is None else picked.expand(shape)

    def _shared(self, scores: Tensor) -> Tensor:
        """Scores joined over KV heads, where the program asks for it."""
        how = self.candidate.policies.shared
        if not how:
            return scores
        joined = scores.amax(0) if how == "max" else scores.sum(0)
        return (joined / scores.shape[0] if how == "mean" else joined).expand(scores.shape)

    def updated(
        self,
        steps: Steps,
        fields: Mapping[str, Named],
        states: Mapping[str, Tensor],
        mass: Tensor,
    ) -> dict[str, Tensor]:
        """States after a step: what update() returns for its complete pages.

        Args:
            steps: one step of every row.
            mass: attention mass of the step, ``[kv_head, row, page]``.
        """
        complete = steps.complete(self.candidate.page_size)
        if not complete:
            return dict(states)
        sources, run = self._sources(steps, fields, slice(None), complete, states)
        sources["mass"] = Named(mass[..., :complete], (KV, ROW, "page"))
        nodes = self.candidate.updates
        values = run_graph(nodes.values(), sources, run)
        new = {}
        own = steps.tokens.reshape(-1, 1) // self.candidate.page_size
        for name, node in nodes.items():
            value = _ordered(values[node.key]).expand(*mass.shape[:2], 1, complete)[:, :, 0]
            old, rest = states[name][..., :complete], states[name][..., complete:]
            value = torch.where(torch.arange(complete) < own, value, old)
            new[name] = torch.cat([value, rest], -1)
        return new

    def _scores(
        self, steps: Steps, fields: Mapping[str, Named], states: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Padded score arrays by node key: float32 ``[kv_head, row, step, pages]``."""
        roots = self.plan.scores
        complete = steps.complete(self.candidate.page_size)
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
            values = run_graph(roots, *self._sources(steps, fields, part, complete, states))
            for key, value in values.items():
                target = padded[key][:, part, :, :complete]
                target.copy_(_ordered(value))
        return padded

    def _sources(
        self,
        steps: Steps,
        fields: Mapping[str, Named],
        part: slice,
        complete: int,
        states: Mapping[str, Tensor],
    ) -> tuple[dict[str, Named], Run]:
        size = self.candidate.page_size
        tokens = steps.tokens if steps.tokens.dim() == 1 else steps.tokens[part]
        axes = (STEP,) if steps.tokens.dim() == 1 else (ROW, STEP)
        count = (tokens // size).to(torch.float32)
        index = torch.arange(complete, dtype=torch.float32)
        sources = {
            "q": named(steps.q[:, part], KV, ROW, STEP, "head", "dim"),
            "scale": Named(torch.full((), steps.scale), ()),
            "depth": Named(torch.full((), depth_of(steps.layer, self.layers)), ()),
            "page_index": Named(index, ("page",)),
            "page_count": Named(count, axes),
            "page_age": Named(count[..., None] - 1 - index, (*axes, "page")),
        }
        for name, value in fields.items():
            rows = value.data[:, part] if value.data.shape[1] > 1 else value.data
            sources[f"field:{name}"] = Named(rows.narrow(2, 0, complete), value.names)
        for name, state in states.items():
            sources[f"state:{name}"] = Named(state[:, part, :complete], (KV, ROW, "page"))
        mask = Named(index < count[..., None], (*axes, "page"))
        return sources, Run(mask, steps.layer, self.rope, self.candidate.matrices)

    def _elements(self, roots: list[Node], steps: Steps, complete: int) -> int:
        """Elements of the largest intermediate, for one row."""
        kv_heads, _, count, heads, dim = steps.q.shape
        sizes = {"page": complete, "head": heads, "dim": dim, "vdim": dim}
        rope = self.rope[1] if self.rope else dim
        sizes |= {"token": self.candidate.page_size, "rope": rope, "nope": max(1, dim - rope)}
        total, largest = kv_heads * count, 1
        for node in walk(roots):
            largest = max(largest, total * math.prod(extents(node, sizes)))
        return largest


def _ordered(value: Named) -> Tensor:
    """A score as ``[kv_head, row, step, page]``, missing axes of extent 1."""
    names = (KV, ROW, STEP, "page")
    shape = [value.data.shape[value.dim(n)] if n in value.names else 1 for n in names]
    return value.data.reshape(shape)
