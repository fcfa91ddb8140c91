"""Generates the kernel that scores pages and chooses among them.

Two functions and a launch: ``score_pages`` computes a block of pages from their fields;
``choose_pages`` computes, for a whole row, what needs every page (softmax over pages, neighbours),
selects and writes the list. In the joint launch, the program that finishes a row's last block
chooses for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vortex.compile import executable
from vortex.ir import Candidate, Node, walk
from vortex.ops import OPS
from vortex.plan import Plan, Ranking, Scaling, floor_pages, plan_of, reserved_counts
from vortex.schedule import padded
from vortex.triton.arrays import Loader, Shapes, Stored, check_power, field_layouts, stored_layout
from vortex.triton.lower import Lowering, View, number
from vortex.triton.module import scoring_module
from vortex.triton.tiles import Tile, Unfused, Writer

_PREPARED = ("top_indices", "project")


@dataclass(frozen=True, slots=True)
class Scoring:
    """A generated scoring kernel.

    Attributes:
        text: functions of the module.
        arrays: stored arrays that the kernel reads, in the order of its arguments.
        prepared: values of the queries that are computed before the launch, by argument.
        channels: float32 numbers per page of scratch memory.
        chooses: whether pages are ranked at all.
    """

    text: str
    arrays: tuple[Stored, ...]
    prepared: Mapping[str, Node]
    channels: int
    chooses: bool


@dataclass
class _Channels:
    """Scratch memory of a row: one float32 per page and channel."""

    count: int = 0
    first: dict[str, int] = field(default_factory=dict)

    def room(self, key: str, axes: Mapping[str, int]) -> dict[str, int]:
        """Channels of a value, strides by axis."""
        strides, step = {}, 1
        for axis, extent in reversed(list(axes.items())):
            strides[axis] = step
            step *= extent
        if key not in self.first:
            self.first[key] = self.count
            self.count += step
        return strides


def scoring(candidate: Candidate, shapes: Shapes) -> Scoring:
    """The scoring kernel of a candidate.

    Raises:
        Unfused: E613, it has none; the message says why.
    """
    check_power(candidate.page_size)
    if candidate.states or candidate.policies.shared or candidate.policies.reuse_steps > 1:
        raise Unfused("states, shared lists and rankings kept over steps run without it")
    _, select = executable(candidate)
    plan = plan_of(select)
    if any(r.source in ("random", "oracle") for r in plan.rankings.values()):
        raise Unfused("controls run without it")
    sizes = shapes.sizes(candidate.page_size)
    roots = list(dict.fromkeys(plan.scores))
    prepared = _prepared(roots)
    stored = {s.name: s for s in field_layouts(candidate, shapes).values()}
    for i, node in enumerate(prepared):
        stored[f"prepared{i}"] = stored_layout(f"prepared{i}", node, sizes, "fp32")
    views = {node.key: stored[f"prepared{i}"].view() for i, node in enumerate(prepared)}
    views |= _field_views(candidate, roots, stored)
    parts = _Parts(candidate, shapes, plan, sizes, views, Loader(stored), _Channels())
    score = parts.score(roots)
    choose = parts.choose(roots)
    used = [stored[name] for name in parts.loader.used if name in stored]
    text = scoring_module(candidate, shapes, score, choose, used)
    return Scoring(
        text, tuple(used), {f"prepared{i}": n for i, n in enumerate(prepared)},
        parts.channels.count, bool(roots),
    )  # fmt: skip


def _field_views(
    candidate: Candidate, roots: list[Node], stored: Mapping[str, Stored]
) -> dict[str, View]:
    names = {name: f"field{i}" for i, name in enumerate(candidate.fields)}
    return {
        node.key: stored[names[str(node.attr("name"))]].view()
        for node in walk(roots) if node.op == "field"
    }  # fmt: skip


def _prepared(roots: list[Node]) -> list[Node]:
    """What queries alone decide and no kernel computes: the outermost such nodes."""
    alone: dict[str, bool] = {}
    hard: dict[str, bool] = {}
    found: dict[str, Node] = {}
    for node in walk(roots):
        alone[node.key] = node.op in ("q", "const", "scale", "depth") or (
            bool(node.inputs) and all(alone[n.key] for n in node.inputs)
        )
        hard[node.key] = _is_hard(node) or any(hard[n.key] for n in node.inputs)
        if hard[node.key] and not alone[node.key]:
            for n in node.inputs:
                if alone[n.key] and hard[n.key]:
                    found[n.key] = n
            if _is_hard(node):
                raise Unfused(f"'{node.op}' of page fields has no kernel")
            hard[node.key] = False
    return list(found.values())


def _is_hard(node: Node) -> bool:
    return node.op in _PREPARED or (node.op == "take" and "indices" in dict(node.attrs))


@dataclass
class _Parts:
    candidate: Candidate
    shapes: Shapes
    plan: Plan
    sizes: Mapping[str, int]
    views: Mapping[str, View]
    loader: Loader
    channels: _Channels

    def _lowering(self, writer: Writer, roots: list[Node], given: dict[str, Tile]) -> Lowering:
        q = View("q", {"head": self.shapes.dim, "dim": 1})
        views = dict(self.views)
        for node in walk(roots):
            if node.op == "q":
                views[node.key] = q
            elif node.op == "page_index":
                given.setdefault(node.key, Tile((), ("page",), {(): "page.to(tl.float32)"}))
            elif node.op == "page_age":
                age = "(complete - 1 - page).to(tl.float32)"
                given.setdefault(node.key, Tile((), ("page",), {(): age}))
            elif node.op == "page_count":
                given.setdefault(node.key, Tile.scalar("float_count"))
            elif node.op == "scale":
                given.setdefault(node.key, Tile.scalar("scale"))
            elif node.op == "depth":
                given.setdefault(node.key, Tile.scalar("depth"))
        return Lowering(writer, self.sizes, self.shapes.rope, views, given, self.loader)

    def score(self, roots: list[Node]) -> list[str]:
        """Statements that compute what a block of pages needs from its fields, and keep it."""
        group = self.shapes.group
        extents = {"head": group}
        writer = Writer("page", extents, heads_tiled=group > 3)
        kept = _frontier(roots)
        tiles = self._lowering(writer, kept, {}).lower(kept)
        for node in kept:
            self._keep(writer, node, tiles[node.key])
        return writer.lines

    def _axes(self, node: Node) -> dict[str, int]:
        return {
            a.name: a.extent.resolve(self.sizes, {}) for a in node.axes if a.name != "page"
        }  # fmt: skip

    def _keep(self, w: Writer, node: Node, tile: Tile) -> None:
        axes = self._axes(node)
        if w.wide(tile.tile):
            raise Unfused("what is reduced over pages is wide")
        strides = self.channels.room(node.key, axes)
        first = self.channels.first[node.key]
        for position in w.positions(tile.small, tile.tile):
            channel = first + sum(p * strides[a] for p, a in zip(position, tile.small, strict=True))
            name = tile.names[position]
            if "head" in tile.tile:
                at = f"({channel} + heads * {strides['head']})[None, :] * width + page[:, None]"
                mask = "inside[:, None] & real[None, :]"
                value = name if "page" in tile.tile else f"{name}[None, :]"
                value = f"tl.broadcast_to({value}, (BLOCK, {padded(self.shapes.group)}))"
            else:
                at, mask = f"{channel} * width + page", "inside"
                value = name if "page" in tile.tile else f"tl.zeros((BLOCK,), tl.float32) + {name}"
            w.lines.append(f"tl.store(scratch_at + {at}, {value}, mask={mask})")

    def choose(self, roots: list[Node]) -> list[str]:
        """Statements that rank a row's pages and write its list."""
        writer = Writer("page", {"head": self.shapes.group}, heads_tiled=False)
        given = {n.key: self._kept(writer, n) for n in _frontier(roots)}
        lowering = self._lowering(writer, roots, given)
        lowering.neighbours = lambda x, at: self._neighbours(writer, x, at)
        tiles = lowering.lower(roots)
        scores = {}
        for i, node in enumerate(roots):
            (value,) = tiles[node.key].names.values()
            flat = "" if "page" in tiles[node.key].tile else "tl.zeros((PAGES,), tl.float32) + "
            writer.lines += [f"score{i} = {flat}{value}", f"key{i} = rank_key(score{i})"]
            scores[node.key] = i
        chooser = _Chooser(writer, self.plan, scores, self.candidate.page_size, self.shapes)
        chooser.write()
        return writer.lines

    def _kept(self, w: Writer, node: Node) -> Tile:
        axes = self._axes(node)
        w.extents.update(axes)
        strides = self.channels.room(node.key, axes)
        first, small = self.channels.first[node.key], tuple(axes)
        names = {}
        for position in w.positions(small, ("page",)):
            channel = first + sum(p * strides[a] for p, a in zip(position, small, strict=True))
            names[position] = w.fresh(
                f"tl.load(scratch_at + {channel} * width + page, mask=inside, other=0.0, "
                'cache_modifier=".cg")'
            )
        return Tile(small, ("page",), names)

    def _neighbours(self, w: Writer, x: Tile, at: str) -> Tile:
        """Put a value where the whole row can read it, and read it at other pages."""
        key = ",".join(x.names.values())
        if "page" not in x.tile:
            return x
        fresh = key not in self.channels.first
        strides = self.channels.room(key, {a: w.extents[a] for a in x.small})
        first, names = self.channels.first[key], {}
        places = {
            p: first + sum(i * strides[a] for i, a in zip(p, x.small, strict=True)) for p in x.names
        }
        if fresh:
            for position, name in x.names.items():
                text = (
                    f"tl.store(scratch_at + {places[position]} * width + page, {name}, mask=inside)"
                )
                w.lines.append(text)
            w.lines.append("tl.debug_barrier()")
        for position in x.names:
            names[position] = w.fresh(
                f"tl.load(scratch_at + {places[position]} * width + ({at}), "
                f"mask=inside & ({at} >= 0) & ({at} < complete), other=0.0)"
            )
        return Tile(x.small, x.tile, names)


def _frontier(roots: list[Node]) -> list[Node]:
    """What is computed from single pages and used by something that needs all of them: the roots
    themselves where nothing does."""
    whole: dict[str, bool] = {}
    found: dict[str, Node] = {}
    for node in walk(roots):
        along = any(v == "page" for name, v in node.attrs if name == "axis")
        along = along or OPS[node.op].along_page
        whole[node.key] = along or any(whole[n.key] for n in node.inputs)
        if whole[node.key]:
            for n in node.inputs:
                if not whole[n.key] and n.axis("page") is not None and n.op != "page_index":
                    found[n.key] = n
    for root in roots:
        if not whole[root.key]:
            found[root.key] = root
    return list(found.values())


@dataclass
class _Chooser:
    """Writes the selection: reserved pages, rankings, and their union."""

    writer: Writer
    plan: Plan
    scores: Mapping[str, int]
    page_size: int
    shapes: Shapes

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
