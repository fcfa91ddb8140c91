"""The definition: a slow, plain executor, one sequence, one KV head and one step at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.compile import executable
from vortex.execute import run_graph
from vortex.ir import Candidate, Node, extents
from vortex.named import Named, Run, named
from vortex.plan import (
    Plan,
    Ranking,
    Scaling,
    anchors,
    budget_pages,
    depth_of,
    plan_of,
    reserved_counts,
)
from vortex.selection import random_scores, tie_hash
from vortex.storage import stored


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step is: the layer among how many, the KV head, the rotary columns of a key."""

    layer: int = 0
    layers: int = 1
    kv_head: int = 0
    rope: tuple[int, int] | None = None


def summaries(
    candidate: Candidate, k: Tensor, v: Tensor, place: Place | None = None
) -> dict[str, Named]:
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
        rope = place.rope if place else None
        run = Run(layer=place.layer if place else 0, rope=rope, matrices=candidate.matrices)
        values = run_graph(candidate.fields.values(), sources, run)
        for name, node in candidate.fields.items():
            value = values[node.key]
            shape = extents(node, _sizes(candidate, k, v, rope))
            full = value.data.expand(shape) if value.names == node.names else value.data
            pages[name].append(stored(full, candidate.dtype, item_dims=full.dim()))
    return {
        name: Named(torch.stack(items), ("page", *candidate.fields[name].names))
        for name, items in pages.items()
        if items
    }


def _sizes(
    candidate: Candidate, k: Tensor, v: Tensor, rope: tuple[int, int] | None
) -> dict[str, int]:
    rotary = rope[1] if rope else k.shape[1]
    return {
        "token": candidate.page_size, "dim": k.shape[1], "vdim": v.shape[1], "rope": rotary,
        "nope": k.shape[1] - rotary,
    }  # fmt: skip


def scores(
    candidate: Candidate,
    q: Tensor,
    fields: Mapping[str, Named],
    pages: int,
    scale: float,
    *,
    place: Place,
    states: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Score of every complete page by output name: float32 ``[pages]``.

    Args:
        q: float32 ``[head, dim]``, the query heads of one KV head.
        fields: from :func:`summaries`.
        pages: complete pages, at least 1.
        states: float32 ``[pages]`` by name.
    """
    sources = _page_sources(fields, states, pages, scale, place)
    sources["q"] = named(q, "head", "dim")
    outputs, _ = executable(candidate, fused=False)
    run = Run(layer=place.layer, rope=place.rope, matrices=candidate.matrices)
    values = run_graph(outputs.values(), sources, run)
    return {name: values[node.key].data.expand(pages) for name, node in outputs.items()}


def _page_sources(
    fields: Mapping[str, Named],
    states: Mapping[str, Tensor],
    pages: int,
    scale: float,
    place: Place,
) -> dict[str, Named]:
    index = torch.arange(pages, dtype=torch.float32)
    return {
        "scale": Named(torch.tensor(scale), ()),
        "depth": Named(torch.tensor(depth_of(place.layer, place.layers)), ()),
        "page_index": named(index, "page"),
        "page_age": named(pages - 1 - index, "page"),
        "page_count": Named(torch.tensor(float(pages)), ()),
        **{f"field:{name}": value for name, value in fields.items()},
        **{f"state:{name}": named(value[:pages], "page") for name, value in states.items()},
    }


def attention_mass(q: Tensor, k: Tensor, scale: float, page_size: int) -> Tensor:
    """True attention mass of each page, summed over the heads: float32 ``[pages]``."""
    weights = torch.softmax(q @ k.T * scale, dim=-1).sum(0)
    pages = -(-k.shape[0] // page_size)
    mass = torch.zeros(pages)
    return mass.index_add(0, torch.arange(k.shape[0]) // page_size, weights)


def order_of(ranked: Tensor, among: set[int]) -> list[int]:
    """Pages, best first: larger score first, what is not finite last, ties by the hash."""
    hashes = tie_hash(torch.arange(max(1, ranked.shape[0]))).tolist()

    def order(page: int) -> tuple[bool, float, int]:
        score = float(ranked[page])
        good = math.isfinite(score)
        return (not good, -score if good else 0.0, -hashes[page])

    return sorted(among, key=order)


def choose(ranking: Ranking, ranked: Tensor, among: set[int], wanted: int) -> set[int]:
    """The pages that one ranking keeps of those given, at most ``wanted``."""
    ordered = order_of(ranked, among)
    kept = ordered[: max(0, wanted)]
    if ranking.source == "threshold":
        kept = [page for page in kept if float(ranked[page]) >= ranking.amount]
    elif ranking.source == "top_p":
        share = [max(0.0, float(ranked[p])) if math.isfinite(ranked[p]) else 0.0 for p in ordered]
        total, running, enough = sum(share), 0.0, 0
        for value in share:
            running += value
            enough += 1
            if running >= ranking.amount * total:
                break
        kept = kept[: max(1, enough)]
    return set(kept)


def reserved(tokens: int, *, page_size: int, sinks: int, recent: int) -> set[int]:
    """Sinks, recent pages and the partial page, as page indices."""
    total = -(-tokens // page_size)
    last = max(recent, 1 if tokens % page_size else 0)
    first = set(range(min(sinks, total)))
    return first | set(range(max(0, total - last), total))


def picked_pages(
    plan: Plan, ranked: Mapping[str, Tensor], tokens: int, kept: set[int], scaling: Scaling,
    depth: float,
) -> set[int]:  # fmt: skip
    """Pages that the rankings keep beside the reserved ones."""
    free = set(range(tokens // scaling.page_size)) - kept

    def pick(node: Node, among: set[int]) -> set[int]:
        if node.key in plan.rankings:
            ranking = plan.rankings[node.key]
            count = torch.tensor(tokens)
            allowed = budget_pages(ranking, count, plan=plan, scaling=scaling, depth=depth)
            return choose(ranking, ranked[node.key], among, int(allowed) - len(kept))
        if node.op == "refine":
            return pick(node.inputs[1], pick(node.inputs[0], among))
        if node.op == "union":
            return pick(node.inputs[0], among) | pick(node.inputs[1], among)
        return set()

    return pick(plan.tree, free)


class Decoder:
    """One sequence, decoded step by step, layer by layer: the meaning of a whole program.

    Call :meth:`pages` for every sparse layer in order, then :meth:`advance`.

    Args:
        context, workload_context: see :class:`vortex.plan.Scaling`.
        dense: layers that attend to everything.

    Attributes:
        ranked: the scores behind the last ranking of each layer, one mapping a KV head.
        kept: pages that the last step reserved.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        scale: float,
        context: int,
        workload_context: int,
        layers: int = 1,
        dense: frozenset[int] = frozenset(),
        rope: tuple[int, int] | None = None,
    ) -> None:
        self.candidate, self.scale, self.layers, self.rope = candidate, scale, layers, rope
        self.plan = plan_of(executable(candidate, fused=False)[1])
        self.scaling = Scaling.of(candidate.page_size, context, workload_context)
        self.anchors = anchors(layers, dense, candidate.policies.reuse_layers)
        self.step = 0
        self.ranked: dict[int, list[dict[str, Tensor]]] = {}
        self.kept: set[int] = set()
        self._tokens, self._kept = 0, self.kept
        self._picks: dict[int, list[set[int]]] = {}
        self._states: dict[tuple[int, int], dict[str, Tensor]] = {}

    def advance(self) -> None:
        """The step is done in every layer."""
        self.step += 1

    def pages(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> list[set[int]]:
        """The pages that each KV head attends.

        Args:
            q: float32 ``[kv_head, head, dim]``; k, v: float32 ``[kv_head, tokens, dim]``, the
                step's own token included.
        """
        size, tokens = self.candidate.page_size, k.shape[1]
        total = -(-tokens // size)
        if self.plan.everything:
            return [set(range(total)) for _ in q]
        sinks, recent = reserved_counts(self.plan, self.scaling)
        kept = reserved(tokens, page_size=size, sinks=sinks, recent=recent)
        self.kept = kept
        anchor = self.anchors[layer]
        if anchor == layer and self.step % self.candidate.policies.reuse_steps == 0:
            self._rank(layer, q, k, v, kept)
        chosen = [kept | picked for picked in self._picks[anchor]]
        if self.candidate.states:
            for head, pages in enumerate(chosen):
                self._update(layer, head, q[head], k[head], v[head], pages)
        return chosen

    def _place(self, layer: int, head: int) -> Place:
        return Place(layer, self.layers, head, self.rope)

    def _rank(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kept: set[int]) -> None:
        found = [
            {
                key: self._score(ranking, q[h], k[h], v[h], self._place(layer, h))
                for key, ranking in self.plan.rankings.items()
            }
            for h in range(len(q))
        ]
        how = self.candidate.policies.shared
        if how:
            joint = {
                key: joined(torch.stack([f[key] for f in found]), how) for key in self.plan.rankings
            }
            found = [joint for _ in found]
        self.ranked[layer], self._tokens, self._kept = found, k.shape[1], kept
        self._picks[layer] = [self.choice(layer, ranked) for ranked in found]

    def choice(self, layer: int, ranked: Mapping[str, Tensor]) -> set[int]:
        """The pages that the last ranking of a layer would have picked by these scores."""
        depth = depth_of(layer, self.layers)
        return picked_pages(self.plan, ranked, self._tokens, self._kept, self.scaling, depth)

    def _score(self, ranking: Ranking, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        size, tokens = self.candidate.page_size, k.shape[0]
        if ranking.source == "oracle":
            return attention_mass(q, k, self.scale, size)
        if ranking.source == "random":
            heads = random_scores(
                place.layer, place.kv_head + 1, torch.tensor(tokens), -(-tokens // size)
            )
            return heads[place.kv_head]
        pages = tokens // size
        if pages == 0:
            return torch.zeros(0)
        outputs, _ = executable(self.candidate, fused=False)
        fields = summaries(self.candidate, k, v, place)
        states = self._state(place, pages)
        found = scores(self.candidate, q, fields, pages, self.scale, place=place, states=states)
        return found[next(n for n, node in outputs.items() if node == ranking.score)]

    def _state(self, place: Place, pages: int) -> dict[str, Tensor]:
        """States of the complete pages; new pages begin at their first value."""
        old = self._states.get((place.layer, place.kv_head), {})
        grown = {}
        for name, init in self.candidate.states.items():
            before = old.get(name, torch.zeros(0))
            grown[name] = torch.cat([before, torch.full((pages - len(before),), init)])
        return grown

    def _update(
        self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor, pages: set[int]
    ) -> None:
        size = self.candidate.page_size
        complete = k.shape[0] // size
        if not complete:
            return
        place = self._place(layer, head)
        tokens = [t for t in range(k.shape[0]) if t // size in pages]
        weights = torch.softmax(q @ k[tokens].T * self.scale, dim=-1).sum(0)
        mass = torch.zeros(-(-k.shape[0] // size))
        mass = mass.index_add(0, torch.tensor(tokens) // size, weights)
        states = self._state(place, complete)
        fields = summaries(self.candidate, k, v, place)
        sources = _page_sources(fields, states, complete, self.scale, place)
        sources["mass"] = named(mass[:complete], "page")
        run = Run(layer=layer, rope=self.rope, matrices=self.candidate.matrices)
        values = run_graph(self.candidate.updates.values(), sources, run)
        self._states[layer, head] = {
            name: values[node.key].data.expand(complete)
            for name, node in self.candidate.updates.items()
        }


def joined(found: Tensor, how: str) -> Tensor:
    """Scores ``[kv_head, page]`` of all KV heads as one."""
    if how == "max":
        return found.amax(0)
    return found.mean(0) if how == "mean" else found.sum(0)


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
    layers: int = 1,
    rope: tuple[int, int] | None = None,
) -> list[set[int]]:
    """The pages that the first decode step of a sequence attends in one layer, by KV head.

    Args:
        q: float32 ``[kv_head, head, dim]``; k, v: float32 ``[kv_head, tokens, dim]``, the step's
            own token included.
    """
    decoder = Decoder(
        candidate, scale=scale, context=context, workload_context=workload_context,
        layers=layers, rope=rope,
    )  # fmt: skip
    decoder.anchors = {layer: layer}
    return decoder.pages(layer, q, k, v)


def attend(
    q: Tensor, k: Tensor, v: Tensor, pages: set[int], *, page_size: int, scale: float
) -> Tensor:
    """Exact attention over the tokens of the given pages: float32 ``[head, vdim]``."""
    tokens = [t for t in range(k.shape[0]) if t // page_size in pages]
    weights = torch.softmax(q @ k[tokens].T * scale, dim=-1)
    return weights @ v[tokens]
