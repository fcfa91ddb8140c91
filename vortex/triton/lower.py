"""From a graph of the IR to statements of a kernel: one rule per kind of op."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from vortex.ir import Node, walk
from vortex.named import Named, Run, named
from vortex.ops import OPS
from vortex.triton.project import Matrix, projected
from vortex.triton.tiles import Segment, Tile, Unfused, Writer, segments

_EXACT = ("neg", "abs", "relu", "maximum", "minimum", "sign")
_REDUCTIONS = ("sum", "mean", "max", "min", "norm", "logsumexp", "softmax")


@dataclass(frozen=True, slots=True)
class View:
    """Part of a stored array, not loaded yet.

    Attributes:
        source: which array.
        strides: elements between neighbours along each axis, lead axis apart.
        offset: elements before the first.
        index: a tile of positions that stands for an axis (gather), and that axis' stride.
    """

    source: str
    strides: Mapping[str, int]
    offset: int = 0
    index: tuple[Tile, int] | None = None


Load = Callable[[Writer, View, Sequence[str]], Tile]


@dataclass
class Lowering:
    """Lowers nodes to tiles, each once.

    Attributes:
        writer: where statements go.
        sizes: extents of the geometry's axes.
        rope: rotary columns of a key, first and count.
        views: stored arrays by node key: fields, keys, values, queries, prepared values.
        given: tiles known beforehand by node key.
        load: how a view becomes a tile.
        neighbours: how the value at pages ``i + delta`` is had (where the lead axis is a whole
            row of pages); None: not here.
        matrices: what projections multiply by, by node key.
    """

    writer: Writer
    sizes: Mapping[str, int]
    rope: tuple[int, int]
    views: Mapping[str, View]
    given: dict[str, Tile]
    load: Load
    neighbours: Callable[[Tile, str], Tile] | None = None
    matrices: Mapping[str, Matrix] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._views: dict[str, View] = dict(self.views)
        self._tiles: dict[str, Tile] = dict(self.given)

    def lower(self, roots: Iterable[Node]) -> dict[str, Tile]:
        """Tiles of the roots by node key."""
        roots = list(roots)
        for node in self._needed(roots):
            if node.key in self._tiles or node.key in self._views:
                continue
            self._extents(node)
            view = self._view(node)
            if view is not None:
                self._views[node.key] = view
            else:
                self._tiles[node.key] = self._tile(node)
        return {root.key: self.tile(root) for root in roots}

    def _needed(self, roots: list[Node]) -> list[Node]:
        """Nodes to lower, without what lies behind given values."""
        known: set[str] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node.key in known:
                continue
            known.add(node.key)
            if node.key not in self._tiles and node.key not in self._views:
                stack.extend(node.inputs)
        return [n for n in walk(roots) if n.key in known]

    def _extents(self, node: Node) -> None:
        for axis in node.axes:
            if axis.name == "page":
                continue
            extent = axis.extent.resolve(self.sizes, {})
            if self.writer.extents.setdefault(axis.name, extent) != extent:
                # One name may mean two extents in one program (halves of keys, keys and values).
                self.writer.extents[axis.name] = extent

    def tile(self, node: Node) -> Tile:
        """The node's value, loaded if it is a view."""
        if node.key not in self._tiles:
            self._extents(node)
            self._tiles[node.key] = self.load(self.writer, self._views[node.key], node.names)
        return self._tiles[node.key]

    def _view(self, node: Node) -> View | None:
        """The node as part of a stored array, if its op only picks and its input is one."""
        if not node.inputs or node.inputs[0].key not in self._views:
            return None
        view, attrs = self._views[node.inputs[0].key], dict(node.attrs)
        if view.index is not None:
            return None
        strides = dict(view.strides)
        axis = str(attrs.get("axis", "dim"))
        match node.op:
            case "split":
                inner = self._inner(node, axis)
                strides[str(attrs["name"])] = strides[axis] * inner
                return replace(view, strides=strides)
            case "take" if isinstance(attrs.get("first", 0), int) and "indices" not in attrs:
                first, step = int(attrs.get("first", 0)), max(1, int(attrs.get("step", 1)))  # type: ignore[arg-type]
                offset = view.offset + first * strides[axis]
                strides[axis] *= step
                return replace(view, strides=strides, offset=offset)
            case "rename":
                strides[str(attrs["new"])] = strides.pop(str(attrs["old"]))
                return replace(view, strides=strides)
            case "part":
                first, count = self.rope
                if attrs["part"] == "rope":
                    return replace(view, offset=view.offset + first * strides["dim"])
                return view if first else replace(view, offset=view.offset + count * strides["dim"])
            case "gather":
                index = self.tile(node.inputs[1])
                return replace(view, index=(index, strides.pop(axis)), strides=strides)
        return None

    def _inner(self, node: Node, axis: str) -> int:
        found = node.axis(axis)
        assert found is not None
        return found.extent.resolve(self.sizes, {})

    def _tile(self, node: Node) -> Tile:
        entry, attrs, writer = OPS[node.op], dict(node.attrs), self.writer
        if node.op == "const":
            return Tile.scalar(number(attrs["value"]))
        xs = [self.tile(n) for n in node.inputs]
        for n in node.inputs:
            self._extents(n)
        self._extents(node)
        if entry.kind in ("elementwise", "reduce") and (found := self._known(node, xs)):
            return found
        if node.op == "dot":
            return self._dot(node, *xs)
        if node.op in _REDUCTIONS:
            for n in node.inputs:
                self._extents(n)
            return self._reduced(node.op, xs[0], str(attrs["axis"]))
        if node.op == "project":
            self._extents(node.inputs[0])
            found = projected(writer, node, xs[0], self.matrices[node.key])
            self._extents(node)
            return found
        if node.op == "stack":
            return self._stack(xs, str(attrs["name"]))
        if node.op == "positions":
            return self._positions(str(attrs["axis"]))
        if entry.along_page and self.neighbours is not None:
            return self._along(node, xs[0])
        if node.op == "top_indices":
            return self._top_indices(node, xs[0])
        if node.op in ("take", "split", "rename") and (found := self._cut(node, xs[0])):
            return found
        if not entry.kernel:
            raise Unfused(f"'{node.op}' has no kernel here")
        numbers = {k: number(v) for k, v in attrs.items() if isinstance(v, int | float)}
        exact = node.op in _EXACT and all(x.exact for x in xs)
        return writer.map(lambda *names: entry.kernel.format(*names, **numbers), *xs, exact=exact)

    def _known(self, node: Node, xs: Sequence[Tile]) -> Tile | None:
        """Of numbers alone, a number that the reference gives: the compiler of kernels makes of
        them what Python would (no float32, no infinity from a division by 0)."""
        run = OPS[node.op].run
        values = [self._numbers(x) for x in xs]
        if run is None or not values or None in values:
            return None
        found = run(Run(rope=self.rope), tuple(v for v in values if v), dict(node.attrs))
        every = itertools.product(*map(range, found.data.shape))
        return Tile(found.names, (), {at: number(float(found.data[at])) for at in every})

    def _numbers(self, x: Tile) -> Named | None:
        """A value that is known here."""
        known = {at: literal(text) for at, text in x.names.items()}
        if x.tile or None in known.values():
            return None
        shape = [self.writer.extents[a] for a in x.small]
        every = [known[at] for at in itertools.product(*map(range, shape))]
        return named(torch.tensor(every, dtype=torch.float32).reshape(shape), *x.small)

    def _reduced(self, op: str, x: Tile, axis: str) -> Tile:
        w = self.writer
        match op:
            case "sum" | "max" | "min":
                return w.fold(x, axis, op)
            case "mean":
                count = "float_count" if axis == "page" else number(w.extents[axis])
                return w.map(lambda s: f"{s} / {count}", w.fold(x, axis, "sum"))
            case "norm":
                total = w.fold(w.map(lambda a: f"{a} * {a}", x), axis, "sum")
                return w.map(lambda s: f"tl.sqrt({s})", total)
        top = w.fold(x, axis, "max")
        if op == "logsumexp":
            top = w.map(lambda m: f"tl.where(tl.abs({m}) == float('inf'), 0.0, {m})", top)
        parts = w.map(lambda a, m: f"tl.exp({a} - {m})", x, top)
        total = w.fold(parts, axis, "sum")
        if op == "logsumexp":
            return w.map(lambda s, m: f"tl.log({s}) + {m}", total, top)
        return w.map(lambda e, s: f"{e} / {s}", parts, total)

    def _dot(self, node: Node, a: Tile, b: Tile) -> Tile:
        axis, w = str(node.attr("axis")), self.writer
        if "head" in a.tile and w.lead in b.tile:
            a, b = b, a
        if axis in a.small and axis in b.small:
            return self._unrolled_dot(a, b, axis)
        fits = axis in a.tile and axis in b.tile and a.tile[:1] == (w.lead,) and "head" in b.tile
        if not fits or len(a.tile) != 2 or len(b.tile) != 2:
            return w.fold(w.map(lambda x, y: f"{x} * {y}", a, b), axis, "sum")
        return self._matrix_dot(a, b, exact=a.exact and b.exact)

    def _matrix_dot(self, a: Tile, b: Tile, *, exact: bool) -> Tile:
        """Pages by columns times heads by columns, on the matrix unit where nothing is lost."""
        w = self.writer
        small = tuple(dict.fromkeys((*a.small, *b.small)))
        names: dict[tuple[int, ...], str] = {}
        cast, how = (".to(MATRIX)", "") if exact else ("", ', input_precision="ieee"')
        for position in w.positions(small, a.tile):
            x, y = w.at(a, small, a.tile, position), w.at(b, small, b.tile, position)
            key = position[:-1]
            before = f", {names[key]}" if key in names else ""
            names[key] = w.fresh(f"tl.dot({x}{cast}, tl.trans({y}){cast}{before}{how})")
        return Tile(small, (w.lead, "head"), names)

    def _unrolled_dot(self, a: Tile, b: Tile, axis: str) -> Tile:
        """A sum of products written out, so that its terms need no variables."""
        w = self.writer
        small, tile = w.union(a, b)
        at, rest = small.index(axis), tuple(n for n in small if n != axis)
        names = {}
        for position in w.positions(rest, tile):
            terms = []
            for i in range(w.extents[axis]):
                full = (*position[:at], i, *position[at:])
                terms.append(f"{w.at(a, small, tile, full)} * {w.at(b, small, tile, full)}")
            names[position] = w.fresh(" + ".join(terms))
        return Tile(rest, tile, names)

    def _stack(self, xs: list[Tile], name: str) -> Tile:
        w = self.writer
        small, tile = w.union(*xs)
        if w.on_tile(name):
            raise Unfused(f"'{name}' stacks too many values")
        names = {}
        for position in w.positions(small, tile):
            for i, x in enumerate(xs):
                segment = position[len(small) :]
                text = w.at(x, small, tile, position)
                names[(*position[: len(small)], i, *segment)] = text
        return Tile((*small, name), tile, names)

    def _cut(self, node: Node, x: Tile) -> Tile | None:
        """Part of a computed value, along an axis that is unrolled: the same variables."""
        attrs = dict(node.attrs)
        axis = str(attrs["old" if node.op == "rename" else "axis"])
        if axis not in x.small or "indices" in attrs:
            return None
        at = x.small.index(axis)
        if node.op == "rename":
            return replace(x, small=(*x.small[:at], str(attrs["new"]), *x.small[at + 1 :]))
        inner = self._inner(node, axis)
        if node.op == "split":
            small = (*x.small[:at], str(attrs["name"]), *x.small[at:])
            names = {(*p[:at], *divmod(p[at], inner), *p[at + 1 :]): n for p, n in x.names.items()}
            return replace(x, small=small, names=names)
        first, step = (int(attrs.get(k, v)) for k, v in (("first", 0), ("step", 1)))  # type: ignore[arg-type]
        kept = {first + i * step: i for i in range(inner)}
        return replace(x, names={
            (*p[:at], kept[p[at]], *p[at + 1 :]): n for p, n in x.names.items() if p[at] in kept
        })  # fmt: skip

    def _top_indices(self, node: Node, x: Tile) -> Tile:
        """Tokens of a page by rank: how many are larger, or as large and earlier."""
        w, count = self.writer, int(node.attr("count"))  # type: ignore[arg-type]
        if not x.tile == ("token",) == (node.attr("axis"),) or count & (count - 1):
            raise Unfused("'top_indices' but of tokens, and of 1, 2, 4, ... of them, has no kernel")
        every = f"tl.arange(0, {self._inner(node.inputs[0], 'token')})"
        names = {}
        for at, name in x.names.items():
            value = w.fresh(f"tl.where({name} != {name}, float('-inf'), {name})")
            across, down = f"{value}[None, :]", f"{value}[:, None]"
            earlier = f"({across} == {down}) & ({every}[None, :] < {every}[:, None])"
            rank = w.fresh(f"tl.sum((({across} > {down}) | ({earlier})).to(tl.int32), 1)")
            there = f"{rank}[None, :] == tl.arange(0, {count})[:, None]"
            names[at] = w.fresh(f"tl.sum(tl.where({there}, {every}[None, :], 0), 1).to(tl.float32)")
        return Tile(x.small, x.tile, names)

    def _positions(self, axis: str) -> Tile:
        w = self.writer
        if w.wide([axis]):
            parts = segments(w.extents[axis])
            return Tile((), (axis,), {
                (i,): w.fresh(f"({s.start} + tl.arange(0, {s.width})).to(tl.float32)")
                for i, s in enumerate(parts)
            })  # fmt: skip
        if w.on_tile(axis):
            return Tile((), (axis,), {(): w.fresh(f"{axis}s.to(tl.float32)")})
        return Tile((axis,), (), {(i,): f"{i}.0" for i in range(w.extents[axis])})

    def _along(self, node: Node, x: Tile) -> Tile:
        """Neighbouring pages: the value is put where the whole row can read it."""
        w, near = self.writer, self.neighbours
        assert near is not None
        if node.op == "shift":
            by = int(node.attr("by"))  # type: ignore[arg-type]
            at = f"tl.maximum(tl.minimum(page - {by}, complete - 1), 0)"
            return near(x, at)
        radius = int(node.attr("radius"))  # type: ignore[arg-type]
        total: Tile | None = None
        for delta in range(-radius, radius + 1):
            at = f"page + {delta}"
            found = near(x, at)
            there = f"((page + {delta} >= 0) & (page + {delta} < complete))"
            if node.op == "dilate":
                one = w.map(lambda v, t=there: f"tl.where({t}, {v}, float('-inf'))", found)
                total = one if total is None else w.map("larger({}, {})".format, total, one)
            else:
                one = w.map(lambda v, t=there: f"tl.where({t}, {v}, 0.0)", found)
                total = one if total is None else w.map("{} + {}".format, total, one)
        assert total is not None
        if node.op == "dilate":
            return total
        low, high = f"tl.maximum(page - {radius}, 0)", f"tl.minimum(page + {radius}, complete - 1)"
        count = w.fresh(f"tl.maximum({high} - {low} + 1, 1).to(tl.float32)")
        return w.map(lambda s: f"{s} / {count}", total)


def number(value: object) -> str:
    """A number as kernel text."""
    assert isinstance(value, int | float)
    if not math.isfinite(value):
        return f"float('{value}')"
    text = repr(float(value))
    return f"({text})" if text.startswith("-") else text


def literal(text: str) -> float | None:
    """The number that ``number`` made the text of; None of a variable."""
    found = re.fullmatch(r"\(?(-?\d[\d.e+-]*)\)?|float\('(-?inf|nan)'\)", text)
    return float(found[1] or found[2]) if found else None


def contiguous(axes: Mapping[str, int], wide: str | None) -> dict[str, int]:
    """Strides of a dense array, the wide axis innermost."""
    order = [a for a in axes if a != wide] + ([wide] if wide else [])
    strides, step = {}, 1
    for axis in reversed(order):
        strides[axis] = step
        step *= axes[axis]
    return strides


def columns(segment: Segment | None, stride: int) -> str:
    """Offsets of a segment's columns."""
    assert segment is not None
    base = f"{segment.start} + " if segment.start else ""
    times = f" * {stride}" if stride != 1 else ""
    inner = f"{base}tl.arange(0, {segment.width})"
    return f"({inner}){times}" if base and times else f"{inner}{times}"
