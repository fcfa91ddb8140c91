"""A selector tree as data: reserved pages, rankings, and budgets in pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vortex.execute import run_graph
from vortex.ir import Candidate, Node, walk
from vortex.named import Named, Run

_SLACK = 1.25  # of a budget: rounding to whole pages stays below it
RANKED = ("top_k", "top_p", "threshold", "random", "oracle")


@dataclass(frozen=True, slots=True)
class Ranking:
    """One ranked part of a selection.

    Attributes:
        source: the selector's name.
        score: the node that it ranks; None for ``random`` and ``oracle``.
        budget: scalar expression of the tokens that it may keep, reserved ones included.
        amount: ``mass`` of top_p, ``above`` of threshold.
    """

    source: str
    score: Node | None
    budget: Node
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A selector tree, read.

    Attributes:
        tree: the selector itself.
        everything: full attention.
        sink_pages, recent_pages: reserved pages given as counts.
        sink_tokens, recent_tokens: reserved pages given as budgets (0: none).
        rankings: the ranked leaves by node key.
    """

    tree: Node
    everything: bool
    sink_pages: int
    recent_pages: int
    sink_tokens: int
    recent_tokens: int
    rankings: dict[str, Ranking]

    @property
    def scores(self) -> list[Node]:
        """The nodes that are ranked."""
        return [r.score for r in self.rankings.values() if r.score is not None]

    @property
    def by_depth(self) -> bool:
        """Whether budgets differ between layers."""
        return any(n.op == "depth" for r in self.rankings.values() for n in walk([r.budget]))


def plan_of(select: Node) -> Plan:
    """Read a bound selector tree."""
    parts = list(walk([select]))

    def most(op: str, attr: str) -> int:
        return max((int(_number(n, attr)) for n in parts if n.op == op), default=0)

    return Plan(
        tree=select,
        everything=any(n.op == "all" for n in parts),
        sink_pages=most("sinks", "pages"),
        recent_pages=most("recent", "pages"),
        sink_tokens=most("sinks", "tokens"),
        recent_tokens=most("recent", "tokens"),
        rankings={n.key: _ranking(n) for n in parts if n.op in RANKED},
    )


def _number(node: Node, attr: str) -> float:
    value = node.attr(attr)
    assert isinstance(value, int | float), (node.op, attr)
    return value


def _ranking(node: Node) -> Ranking:
    score = node.inputs[0] if len(node.inputs) == 2 else None
    amount = {"top_p": "mass", "threshold": "above"}.get(node.op)
    return Ranking(node.op, score, node.inputs[-1], _number(node, amount) if amount else 0.0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How budgets, stated at the workload's context, apply to the sequences at hand.

    Attributes:
        page_size: tokens of a page.
        share: evaluation context over workload context, at most 1.
    """

    page_size: int
    share: float

    @staticmethod
    def of(page_size: int, context: int, workload_context: int) -> Scaling:
        """At an evaluation context."""
        return Scaling(page_size, min(1.0, context / workload_context))

    def pages(self, tokens: int) -> int:
        """A budget of tokens, in whole pages."""
        return int(tokens * self.share) // self.page_size


def reserved_counts(plan: Plan, scaling: Scaling) -> tuple[int, int]:
    """(sinks, recent): reserved first and last pages; the partial page is the first recent one."""
    sinks = max(plan.sink_pages, scaling.pages(plan.sink_tokens) - plan.recent_pages)
    recent = plan.recent_pages
    if plan.recent_tokens:
        recent = max(recent, scaling.pages(plan.recent_tokens) - sinks, 1)
    return sinks, recent


def floor_pages(plan: Plan, scaling: Scaling) -> int:
    """No ranking keeps fewer pages than this: the reserved ones and one more."""
    sinks, recent = reserved_counts(plan, scaling)
    return sinks + max(recent, 1) + 1


def budget_pages(
    ranking: Ranking, tokens: Tensor, *, plan: Plan, scaling: Scaling, depth: float
) -> Tensor:
    """Pages that a ranking may keep in all, reserved ones included: int64 like ``tokens``.

    The expression sees the sequence as long as the workload would have it, and its value shrinks
    by the same share; it is never below the reserved pages plus one.

    Args:
        tokens: int64, tokens of each sequence at this step.
        depth: of the layer, 0 to 1.
    """
    sources = {
        "context": Named(tokens.to(torch.float64) / scaling.share, _batch(tokens)),
        "depth": Named(torch.full((), depth, dtype=torch.float64), ()),
    }
    value = run_graph([ranking.budget], sources, Run())[ranking.budget.key]
    shares = value.data.to(torch.float64) * scaling.share
    whole = shares.nan_to_num(0.0).clamp(0, 2.0**31).floor().to(torch.int64)
    pages = torch.div(whole, scaling.page_size, rounding_mode="floor")
    return pages.expand(tokens.shape).clamp(min=floor_pages(plan, scaling))


def _batch(tokens: Tensor) -> tuple[str, ...]:
    return tuple(f"_{i}" for i in range(tokens.dim()))


def _most_pages(node: Node, plan: Plan, tokens: Tensor, scaling: Scaling, depth: float) -> int:
    """Pages beside the reserved ones that a selector keeps, at most."""
    if node.key in plan.rankings:
        ranking = plan.rankings[node.key]
        allowed = budget_pages(ranking, tokens, plan=plan, scaling=scaling, depth=depth)
        return int(allowed) - (floor_pages(plan, scaling) - 1)
    if node.op == "union":
        return sum(_most_pages(n, plan, tokens, scaling, depth) for n in node.inputs)
    if node.op == "refine":
        return min(_most_pages(n, plan, tokens, scaling, depth) for n in node.inputs)
    return 0


def attended_tokens(
    candidate: Candidate, context: int, workload_context: int, *, layers: int = 1
) -> int:
    """Most tokens that one query head attends per step on a sparse layer, whole pages counted,
    averaged over the layers where budgets differ between them.

    The parts of a union are taken as disjoint but for the reserved pages: an upper bound.
    """
    plan = plan_of(candidate.select)
    if plan.everything:
        return context
    scaling = Scaling.of(candidate.page_size, context, workload_context)
    reserved = sum(reserved_counts(plan, scaling))
    if plan.rankings:
        reserved = floor_pages(plan, scaling) - 1
    reserved = max(reserved, 1)
    found = []
    for layer in range(layers if plan.by_depth else 1):
        depth = depth_of(layer, layers)
        more = _most_pages(plan.tree, plan, torch.tensor(context), scaling, depth)
        found.append(min(context, (reserved + more) * candidate.page_size))
    return math.ceil(sum(found) / len(found))


def raised(candidate: Candidate, context: int, workload_context: int, *, layers: int = 1) -> int:
    """Tokens at the workload's context that a program is judged by at a shorter one, where that is
    over a quarter more than it states: reserved pages and one more are kept however short the
    context, so a small budget of large pages would be priced at one size and judged at another.

    Returns:
        0 where the budget scales as it should.
    """
    stated = attended_tokens(candidate, workload_context, workload_context, layers=layers)
    kept = attended_tokens(candidate, context, workload_context, layers=layers)
    scaled = math.ceil(kept * workload_context / context)
    return scaled if scaled > stated * _SLACK else 0


def depth_of(layer: int, layers: int) -> float:
    """0 for the first layer, 1 for the last."""
    return layer / max(1, layers - 1)


def dense_layers(candidate: Candidate, layers: int, target_layers: int) -> frozenset[int]:
    """Layers that run full attention; counts are stated for the target and scale with depth."""
    share = min(1.0, layers / target_layers)

    def scaled(count: int) -> int:
        return min(layers, max(1, round(count * share))) if count else 0

    policies = candidate.policies
    first, last = scaled(policies.dense_first), scaled(policies.dense_last)
    return frozenset([*range(first), *range(layers - last, layers)])


def anchors(layers: int, dense: frozenset[int], every: int) -> dict[int, int]:
    """For each sparse layer, the layer whose ranking it uses (itself, or an earlier one)."""
    sparse = [layer for layer in range(layers) if layer not in dense]
    return {layer: sparse[at - at % every] for at, layer in enumerate(sparse)}
