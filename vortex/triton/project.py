"""Products with a matrix of given numbers, which kernels take as one more array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vortex.ir import MatrixRef, Node, walk
from vortex.schedule import padded
from vortex.triton.tiles import Position, Segment, Tile, Unfused, Writer, is_wide, segments


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that a kernel takes: float32 ``[rows, columns]``, dense.

    Attributes:
        name: its argument.
        ref: which numbers.
    """

    name: str
    ref: MatrixRef
    rows: int
    columns: int


def matrices(
    roots: Iterable[Node], sizes: Mapping[str, int], prefix: str
) -> tuple[dict[str, Matrix], list[Matrix]]:
    """Every matrix of a graph, by the key of the node that multiplies by it; and each once."""
    known: dict[tuple[MatrixRef, int, int], Matrix] = {}
    found = {}
    for node in walk(roots):
        if node.op != "project":
            continue
        ref, axis = node.attr("matrix"), node.inputs[0].axis(str(node.attr("axis")))
        assert isinstance(ref, MatrixRef) and axis is not None
        rows, columns = axis.extent.resolve(sizes, {}), _into(node)
        fresh = Matrix(f"{prefix}{len(known)}", ref, rows, columns)
        found[node.key] = known.setdefault((ref, rows, columns), fresh)
    return found, list(known.values())


def _into(node: Node) -> int:
    into = node.attr("into")
    assert isinstance(into, int)
    return into


def projected(w: Writer, node: Node, x: Tile, matrix: Matrix) -> Tile:
    """``x`` times a matrix, along one of its axes; the writer knows the extents of ``x``.

    Raises:
        Unfused: E613, the product would have two wide axes, or heads beside a wide one.
    """
    axis, name = str(node.attr("axis")), str(node.attr("name"))
    if name in w.unrolled or not is_wide(name, matrix.columns):
        return _narrow(w, x, axis, name, matrix)
    if axis in x.small:
        return _from_unrolled(w, x, axis, name, matrix)
    if x.tile in ((axis,), (w.lead, axis)) and axis not in (w.lead, "head"):
        return _from_wide(w, x, axis, name, matrix)
    raise Unfused(f"'project' along '{axis}' to {matrix.columns} columns beside {_beside(x, axis)}")


def _beside(x: Tile, axis: str) -> str:
    return " and ".join(a for a in x.tile if a != axis) or "nothing"


def _narrow(w: Writer, x: Tile, axis: str, name: str, matrix: Matrix) -> Tile:
    """Each column a sum of products of its own."""
    sums = [
        w.fold(w.map("{} * {}".format, x, _column(w, axis, matrix, c)), axis, "sum")
        for c in range(matrix.columns)
    ]
    small, tile = sums[0].small, sums[0].tile
    names: dict[Position, str] = {}
    for c, one in enumerate(sums):
        for position, text in one.names.items():
            names[(*position[: len(small)], c, *position[len(small) :])] = text
    return Tile((*small, name), tile, names)


def _column(w: Writer, axis: str, matrix: Matrix, column: int) -> Tile:
    """One column of the matrix along the axis."""
    small, tile = w.layout([axis])
    names, step = {}, matrix.columns
    for position in w.positions(small, tile):
        mask = ""
        if small:
            at = str(position[0] * step + column)
        elif axis == "head":
            at = f"{column} + heads * {step}"
            mask = ", mask=real, other=0.0" if matrix.rows < padded(matrix.rows) else ""
        else:
            found = w.segment(tile, position)
            run = found or Segment(0, matrix.rows, matrix.rows)
            at = f"{column} + {_range(run)} * {step}"
            mask = f", mask={_within(run)}, other=0.0" if run.used < run.width else ""
        names[position] = w.fresh(f"tl.load({matrix.name}_at + {at}{mask})")
    return Tile(small, tile, names)


def _from_unrolled(w: Writer, x: Tile, axis: str, name: str, matrix: Matrix) -> Tile:
    """Rows of the matrix times the numbers of an unrolled axis, summed."""
    if w.wide(x.tile):
        raise Unfused(f"'project' to {matrix.columns} columns beside {_beside(x, axis)}")
    at, tile = x.small.index(axis), (*x.tile, name)
    small = tuple(a for a in x.small if a != axis)
    mine = "[" + ", ".join([":"] * len(x.tile) + ["None"]) + "]" if x.tile else ""
    theirs = "[" + ", ".join(["None"] * len(x.tile) + [":"]) + "]" if x.tile else ""
    names: dict[Position, str] = {}
    for i, run in enumerate(segments(matrix.columns)):
        mask = f", mask={_within(run)}, other=0.0" if run.used < run.width else ""
        rows = [
            w.fresh(f"tl.load({matrix.name}_at + {r * matrix.columns} + {_range(run)}{mask})")
            for r in range(matrix.rows)
        ]
        for position in w.positions(small, x.tile):
            terms = (
                f"{x.names[(*position[:at], r, *position[at:])]}{mine} * {row}{theirs}"
                for r, row in enumerate(rows)
            )
            names[(*position, i)] = w.fresh(" + ".join(terms))
    return Tile(small, tile, names)


def _from_wide(w: Writer, x: Tile, axis: str, name: str, matrix: Matrix) -> Tile:
    """Columns on a tile to columns on a tile: a matrix product in full float32."""
    row = w.lead not in x.tile
    if not row and w.lead != "page" and w.extents[w.lead] < 16:
        raise Unfused(f"'project' of {w.extents[w.lead]} rows at once")
    inner = segments(matrix.rows)
    names: dict[Position, str] = {}
    for o, out in enumerate(segments(matrix.columns)):
        blocks = [w.fresh(_block(matrix, run, out)) for run in inner]
        for position in w.positions(x.small, x.tile):
            key, run = (*position[:-1], o), inner[position[-1]]
            value = x.names[position]
            if run.used < run.width:  # what lies beyond may be anything, NaN among it
                real = _within(run) + ("" if row else "[None, :]")
                value = f"tl.where({real}, {value}, 0.0)"
            block = blocks[position[-1]]
            if row:
                value = value if run.used == run.width else f"({value})"
                product = f"tl.sum({value}[:, None] * {block}, 0)"
                product = f"{names[key]} + {product}" if key in names else product
            else:
                before = f", {names[key]}" if key in names else ""
                product = f'tl.dot({value}, {block}{before}, input_precision="ieee")'
            names[key] = w.fresh(product)
    return Tile(x.small, (name,) if row else (w.lead, name), names)


def _block(matrix: Matrix, rows: Segment, columns: Segment) -> str:
    """A load of part of the matrix, 0 beyond its ends."""
    at = f"{_range(rows)}[:, None] * {matrix.columns} + {_range(columns)}[None, :]"
    masks = [f"{_within(rows)}[:, None]"] if rows.used < rows.width else []
    masks += [f"{_within(columns)}[None, :]"] if columns.used < columns.width else []
    mask = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
    return f"tl.load({matrix.name}_at + {at}{mask})"


def _range(run: Segment) -> str:
    base = f"{run.start} + " if run.start else ""
    return f"({base}tl.arange(0, {run.width}))"


def _within(run: Segment) -> str:
    return f"(tl.arange(0, {run.width}) < {run.used})"
