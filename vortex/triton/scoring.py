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
from vortex.plan import Plan, Scaling, plan_of, reserved_counts
from vortex.schedule import padded
from vortex.triton.arrays import Loader, Shapes, Stored, check_power, field_layouts, stored_layout
from vortex.triton.lower import Lowering, View
from vortex.triton.module import Halves, scoring_module
from vortex.triton.project import Matrix, matrices
from vortex.triton.rankings import Rankings
from vortex.triton.tiles import Tile, Unfused, Writer, is_wide

_MOST_UNROLLED = 64
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
        keeps: whether it writes what its rankings pick, for the steps that do not rank; each row
            of such a launch ranks or lists what was picked.
        shared: whether one list serves the KV heads of a row.
        states: names of all states by argument, where it reads one; it then also writes which
            logical pages it lists.
        matrices: what it multiplies page fields by.
    """

    text: str
    arrays: tuple[Stored, ...]
    prepared: Mapping[str, Node]
    channels: int
    chooses: bool
    keeps: bool = False
    shared: bool = False
    states: Mapping[str, str] = field(default_factory=dict)
    matrices: tuple[Matrix, ...] = ()


@dataclass
class Channels:
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
    _, select = executable(candidate)
    plan = plan_of(select)
    if any(r.source in ("random", "oracle") for r in plan.rankings.values()):
        raise Unfused("controls run without it")
    sizes = shapes.sizes(candidate.page_size)
    roots = list(dict.fromkeys(plan.scores))
    prepared = _prepared(roots)
    stored = {s.name: s for s in field_layouts(candidate, shapes).values()}
    for i, node in enumerate(prepared):
        stored[f"prepared{i}"] = stored_layout(f"prepared{i}", node, sizes, "fp32", "row")
    views = {node.key: stored[f"prepared{i}"].view() for i, node in enumerate(prepared)}
    views |= _field_views(candidate, roots, stored)
    states = {f"state{i}": name for i, name in enumerate(candidate.states)}
    views |= _state_views(states, roots, stored)
    by_node, numbers = matrices(roots, sizes, "factor")
    stored |= {m.name: Stored(m.name, {}, "fp32", "all") for m in numbers}
    parts = Parts(candidate, shapes, plan, sizes, views, Loader(stored), Channels(), by_node)
    score = parts.score(roots)
    ranks, chooses = parts.choose(roots)
    for matrix in numbers:  # loaded without the loader
        if any(f"{matrix.name}_at" in line for line in (*score, *ranks)):
            parts.loader.used.setdefault(matrix.name)
    keeps = bool(plan.rankings) and candidate.policies.reuse_steps > 1
    if keeps:
        stored["picks"] = Stored("picks", {}, "uint8", "all")
        parts.loader.used.setdefault("picks")
    used = [stored[name] for name in parts.loader.used if name in stored]
    shared = candidate.policies.shared if roots else ""
    placed = any(argument in parts.loader.used for argument in states)
    reserves = reserved_counts(plan, Scaling(candidate.page_size, shapes.share))
    halves = Halves(
        score, ranks, chooses, len(roots), parts.channels.count, shared, keeps, placed, reserves
    )
    return Scoring(
        scoring_module(candidate, shapes, halves, used), tuple(used),
        {f"prepared{i}": n for i, n in enumerate(prepared)}, parts.channels.count, bool(roots),
        keeps, bool(shared), states if placed else {},
        tuple(m for m in numbers if m.name in parts.loader.used),
    )  # fmt: skip


def _state_views(
    states: Mapping[str, str], roots: list[Node], stored: dict[str, Stored]
) -> dict[str, View]:
    """States of a row's pages; their addresses go by the page, so that no axis has a stride."""
    stored |= {argument: Stored(argument, {}, "fp32", "slot") for argument in states}
    arguments = {name: argument for argument, name in states.items()}
    return {
        node.key: View(arguments[str(node.attr("name"))], {})
        for node in walk(roots) if node.op == "state"
    }  # fmt: skip


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
            if _is_hard(node) and node.op != "project":
                raise Unfused(f"'{node.op}' of page fields has no kernel")
            hard[node.key] = False
    return list(found.values())


def _is_hard(node: Node) -> bool:
    return node.op in _PREPARED or (node.op == "take" and "indices" in dict(node.attrs))


@dataclass
class Parts:
    """Lowers parts of a program over pages.

    Attributes:
        plan: of the selection; None where nothing is chosen.
        sizes: extents of axes.
        views: what stored arrays hold, by node key.
        matrices: what projections multiply by, by node key.
    """

    candidate: Candidate
    shapes: Shapes
    plan: Plan | None
    sizes: Mapping[str, int]
    views: Mapping[str, View]
    loader: Loader
    channels: Channels
    matrices: Mapping[str, Matrix]

    def lowering(self, writer: Writer, roots: list[Node], given: dict[str, Tile]) -> Lowering:
        """A lowering that knows queries, stored arrays and the scalars of pages."""
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
        return Lowering(
            writer, self.sizes, self.shapes.rope, views, given, self.loader,
            matrices=self.matrices,
        )  # fmt: skip

    def score(self, roots: list[Node]) -> list[str]:
        """Statements that compute what a block of pages needs from its fields, and keep it."""
        group = self.shapes.group
        extents, kept = {"head": group}, _frontier(roots)
        writer = Writer("page", extents, group > 3, self._unrolled(roots))
        tiles = self.lowering(writer, kept, {}).lower(kept)
        for node in kept:
            self._keep(writer, node, tiles[node.key])
        return writer.lines

    def _unrolled(self, roots: list[Node]) -> frozenset[str]:
        """Long axes that are unrolled: one of two that meet in a value, and what all pages meet."""
        found: set[str] = set()
        kept = {n.key for n in _frontier(roots)}
        for node in walk(roots):
            axes = {a: n for a, n in self._axes(node).items() if a != "head" and is_wide(a, n)}
            left = sorted((n, a) for a, n in axes.items() if a != "dim" and n <= _MOST_UNROLLED)
            free = 0 if node.key in kept else 1
            while left and len(axes.keys() - found) > free:
                found.add(left.pop(0)[1])
        return frozenset(found)

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

    def choose(self, roots: list[Node]) -> tuple[list[str], list[str]]:
        """Statements that finish the scores of a row's pages, and that choose among them."""
        policies = self.candidate.policies
        writer = Writer("page", {"head": self.shapes.group}, False, self._unrolled(roots))
        given = {n.key: self._kept(writer, n) for n in _frontier(roots)}
        lowering = self.lowering(writer, roots, given)
        lowering.neighbours = lambda x, at: self.neighbours(writer, x, at)
        tiles = lowering.lower(roots)
        scores = {}
        for i, node in enumerate(roots):
            (value,) = tiles[node.key].names.values()
            flat = "" if "page" in tiles[node.key].tile else "tl.zeros((PAGES,), tl.float32) + "
            writer.lines.append(f"score{i} = {flat}{value}")
            if not policies.shared:  # else ranked once joined
                writer.lines.append(f"key{i} = rank_key(score{i})")
            scores[node.key] = i
        assert self.plan is not None
        done, size = len(writer.lines), self.candidate.page_size
        keeps = policies.reuse_steps > 1
        Rankings(writer, self.plan, scores, size, self.shapes, keeps).write()
        return writer.lines[:done], writer.lines[done:]

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

    def neighbours(self, w: Writer, x: Tile, at: str) -> Tile:
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
