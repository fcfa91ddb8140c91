"""Statements that choose pages by their scores: reserved pages, rankings, and their union."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vortex.ir import Node, walk
from vortex.plan import Plan, Ranking, Scaling, floor_pages, reserved_counts
from vortex.triton.arrays import Shapes
from vortex.triton.lower import Lowering, View, number
from vortex.triton.tiles import Tile, Unfused, Writer


@dataclass
class Rankings:
    """Writes the selection: reserved pages, rankings, and their union.

    Attributes:
        scores: number of a score's variable by its node key.
        keeps: name what the rankings pick apart from the reserved pages.
    """

    writer: Writer
    plan: Plan
    scores: Mapping[str, int]
    page_size: int
    shapes: Shapes
    keeps: bool

    def write(self) -> None:
        """Statements from scores to the written list."""
        w, plan = self.writer, self.plan
        scaling = Scaling(self.page_size, self.shapes.share)
        sinks, recent = reserved_counts(plan, scaling)
        shape = f"SIZE={self.page_size}, SINKS={sinks}, RECENT={recent}"
        w.lines.append(f"keep = reserved_pages(page, length, {shape})")
        if plan.rankings:
            w.lines.append(f"kept, free = free_count(length, {shape})")
            w.lines.append("among = inside & ~keep")
            for i, ranking in enumerate(plan.rankings.values()):
                self._wanted(i, ranking, scaling)
            picked = self._of(plan.tree, "among")
            if picked is not None and self.keeps:
                w.lines.append(f"picked = {picked}")
            if picked is not None:
                w.lines.append(f"keep = keep | {picked}")

    def _wanted(self, i: int, ranking: Ranking, scaling: Scaling) -> None:
        w = self.writer
        least = floor_pages(self.plan, scaling)
        if ranking.budget.op == "const":
            tokens = ranking.budget.attr("value")
            assert isinstance(tokens, int | float)
            pages = str(max(scaling.pages(int(min(max(tokens, 0), 2.0**31))), least))
        else:
            pages = self._expression(ranking.budget, least)
        w.lines.append(f"wanted{i} = tl.minimum(tl.maximum({pages} - kept, 0), free)")

    def _expression(self, budget: Node, least: int) -> str:
        """A budget that depends on the context or the depth, in float64 as the reference has it."""
        w, share = self.writer, self.shapes.share
        given = {}
        for node in walk([budget]):
            if node.op == "context":
                name = w.fresh(f"length.to(tl.float64) / {share!r}")
                given[node.key] = Tile.scalar(name)
            elif node.op == "depth":
                name = w.fresh(f"layer.to(tl.float64) / {max(1, self.shapes.layers - 1)!r}")
                given[node.key] = Tile.scalar(name)
        lowering = Lowering(w, {}, (0, 0), {}, given, _no_load)
        value = lowering.lower([budget])[budget.key].names[()]
        tokens = w.fresh(f"tl.minimum(tl.maximum({value} * {share!r}, 0.0), 2147483647.0)")
        pages = w.fresh(f"tl.floor({tokens}).to(tl.int32) // {self.page_size}")
        return f"tl.maximum({pages}, {least})"

    def _of(self, node: Node, among: str) -> str | None:
        w, keys = self.writer, list(self.plan.rankings)
        if node.key in self.plan.rankings:
            i, ranking = keys.index(node.key), self.plan.rankings[node.key]
            assert ranking.score is not None
            s = self.scores[ranking.score.key]
            if ranking.source == "top_p":
                share = number(ranking.amount)
                return w.fresh(f"top_p(score{s}, key{s}, page, {among}, wanted{i}, {share})")
            # Reserved pages apart, no ranking wants more than there are; a refinement may.
            need = f"wanted{i}" if among == "among" else f"limited(wanted{i}, {among})"
            found = w.fresh(f"top_k(key{s}, page, {among}, {need})")
            if ranking.source == "threshold":
                return w.fresh(f"{found} & (score{s} >= {number(ranking.amount)})")
            return found
        if node.op == "refine":
            coarse = self._of(node.inputs[0], among)
            return None if coarse is None else self._of(node.inputs[1], coarse)
        if node.op == "union":
            parts = [p for p in (self._of(n, among) for n in node.inputs) if p is not None]
            return w.fresh(" | ".join(parts)) if len(parts) == 2 else parts[0] if parts else None
        return None


def _no_load(w: Writer, view: View, axes: object) -> Tile:
    raise Unfused("a budget reads no pages")
