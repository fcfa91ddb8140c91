"""Arrays that generated kernels read and write: their layout, and how a view of one is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vortex.geometry import Geometry
from vortex.ir import Candidate, Node
from vortex.schedule import padded
from vortex.storage import BITS
from vortex.triton.lower import View, columns, contiguous
from vortex.triton.tiles import Position, Segment, Tile, Unfused, Writer, is_wide


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a kernel is generated for.

    Attributes:
        group: query heads of a KV head.
        dim, vdim: columns of a key and of a value.
        rope: rotary columns of a key, first and count.
        layers: of the model.
        token_stride: elements between tokens of a page, for keys and for values.
        share: evaluation context over workload context, at most 1 (budgets shrink by it).
    """

    group: int
    dim: int
    vdim: int
    rope: tuple[int, int]
    layers: int
    token_stride: tuple[int, int]
    share: float = 1.0

    @staticmethod
    def of(geometry: Geometry, *, heads_of_a_row: int = 1) -> Shapes:
        """Of a model.

        Args:
            heads_of_a_row: KV heads whose columns lie together in a token's row of the pool.
        """
        dim, vdim = geometry.dim, geometry.dim if geometry.kind == "mla" else geometry.vdim
        strides = (heads_of_a_row * dim, heads_of_a_row * vdim)
        return Shapes(
            geometry.group, geometry.dim, geometry.vdim, geometry.rope, geometry.layers, strides
        )

    def sizes(self, page_size: int) -> dict[str, int]:
        """Extents of the geometry's axes."""
        return {
            "head": self.group, "dim": self.dim, "vdim": self.vdim, "token": page_size,
            "rope": self.rope[1], "nope": self.dim - self.rope[1],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """A dense array that a kernel takes.

    Attributes:
        name: its argument in a kernel.
        axes: extents by axis, in the order of the memory.
        dtype: ``bf16``, ``fp8``, ``int8``, ``int4`` or ``fp32``; narrow fields have one float32
            scale per page, argument ``NAME_scale``.
        per: what it holds one item of: ``page`` and KV head (a field), ``row`` and KV head (a
            prepared value), ``slot``, the pages of a row and KV head in logical order (a state,
            picks), or ``all``: there is only one (a matrix).
    """

    name: str
    axes: Mapping[str, int]
    dtype: str
    per: str = "page"

    @property
    def elements(self) -> int:
        """Numbers of one page and KV head."""
        total = 1
        for extent in self.axes.values():
            total *= extent
        return total

    @property
    def run(self) -> int:
        """Stored words of one page and KV head: two numbers a byte for int4."""
        return (self.elements + 1) // 2 if self.dtype == "int4" else self.elements

    @property
    def scaled(self) -> bool:
        """Whether each page has a scale."""
        return self.per == "page" and self.dtype in BITS and self.dtype != "bf16"

    def view(self) -> View:
        """All of it."""
        return View(self.name, contiguous(self.axes, next(reversed(list(self.axes)), None)))


def stored_layout(
    name: str, node: Node, sizes: Mapping[str, int], dtype: str, per: str = "page"
) -> Stored:
    """The layout of a node's numbers: its wide axis innermost, so that columns lie together."""
    axes = {a.name: a.extent.resolve(sizes, {}) for a in node.axes if a.name != "page"}
    wide = [a for a, extent in axes.items() if a != "head" and is_wide(a, extent)]
    order = [a for a in axes if a not in wide] + wide
    return Stored(name, {a: axes[a] for a in order}, dtype, per)


def field_layouts(candidate: Candidate, shapes: Shapes) -> dict[str, Stored]:
    """Where the fields of a candidate lie, by name."""
    sizes = shapes.sizes(candidate.page_size)
    return {
        name: stored_layout(f"field{i}", node, sizes, candidate.dtype)
        for i, (name, node) in enumerate(candidate.fields.items())
    }


@dataclass
class Loader:
    """Loads views; notes which arrays a kernel reads.

    Attributes:
        stored: arrays by argument name. Queries, keys and values are known besides.
    """

    stored: Mapping[str, Stored]
    used: dict[str, None] = field(default_factory=dict)

    def __call__(self, w: Writer, view: View, axes: Sequence[str]) -> Tile:
        """The view as a tile with those axes."""
        self.used.setdefault(view.source)
        small, tile = w.layout(axes)
        index = view.index[0] if view.index else None
        names = {}
        for position in w.positions(small, tile):
            segment = w.segment(tile, position)
            offset = view.offset + sum(
                position[i] * view.strides[a] for i, a in enumerate(small) if a in view.strides
            )
            names[position] = self._one(w, view, tile, segment, offset, index, small, position)
        exact = view.source == "q" or self._dtype(view.source) == "bf16"
        return Tile(small, tile, names, exact)

    def _dtype(self, source: str) -> str:
        return self.stored[source].dtype if source in self.stored else "bf16"

    def _one(
        self,
        w: Writer,
        view: View,
        tile: Sequence[str],
        segment: Segment | None,
        offset: int,
        index: Tile | None,
        small: Sequence[str],
        position: Position,
    ) -> str:
        parts = [f"{offset}"] if offset else []
        masks: list[str] = []
        for axis in tile:
            at = _place(tile, axis)
            if axis == w.lead and w.lead == "page":
                masks.append(f"inside{at}")
            elif axis == w.lead and axis in view.strides:
                parts.append(f"(tl.arange(0, {w.extents[axis]}) * {view.strides[axis]}){at}")
            elif axis == "head" and axis in view.strides:
                parts.append(f"(heads * {view.strides[axis]}){at}")
                if w.extents["head"] < padded(w.extents["head"]):
                    masks.append(f"real{at}")
            elif axis in view.strides:
                parts.append(f"({columns(segment, view.strides[axis])}){at}")
                if segment is not None and segment.used < segment.width:
                    masks.append(f"(tl.arange(0, {segment.width}) < {segment.used}){at}")
        if index is not None and view.index is not None:
            place = w.at(index, small, tile, position)
            parts.append(f"{place}.to(tl.int32) * {view.index[1]}")
        return self._load(w, view, tile, parts, masks)

    def _load(
        self, w: Writer, view: View, tile: Sequence[str], parts: list[str], masks: list[str]
    ) -> str:
        source = view.source
        lead = _place(tile, w.lead) if w.lead == "page" and w.lead in tile else ""
        dtype = self._dtype(source)
        offsets = " + ".join(parts) or "0"
        empty = "0" if dtype.startswith("int") else "0.0"
        mask = f", mask={' & '.join(masks)}, other={empty}" if masks else ""
        if dtype == "int4":
            place = w.fresh(offsets)
            byte = f"tl.load({source}_at{lead} + ({place}) // 2{mask})"
            return w.fresh(f"low_bits({byte}, ({place}) % 2 == 1) * {source}_scale_of{lead}")
        text = f"tl.load({source}_at{lead} + {offsets}{mask}).to(tl.float32)"
        if source in self.stored and self.stored[source].scaled:
            text += f" * {source}_scale_of{lead}"
        return w.fresh(text)


def _place(tile: Sequence[str], axis: str) -> str:
    if len(tile) == 1:
        return ""
    return "[" + ", ".join(":" if a == axis else "None" for a in tile) + "]"


def check_power(page_size: int) -> None:
    """Tiles of tokens need a power of two."""
    if page_size & (page_size - 1):
        raise Unfused(f"pages of {page_size} tokens are no power of two")
