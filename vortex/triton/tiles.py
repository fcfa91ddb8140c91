"""Values inside a kernel: variables that hold tiles; some axes lie on them, others are unrolled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vortex.errors import VortexError
from vortex.schedule import padded

WIDEST = 128
_UNROLLED = 16
_MOST_VARIABLES = 256

Position = tuple[int, ...]


class Unfused(VortexError):
    """A graph has no generated kernel; the reason is for the launch plan."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="E613")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of columns of a wide axis that one tile holds; ``width`` is a power of two."""

    start: int
    width: int
    used: int


def segments(extent: int) -> tuple[Segment, ...]:
    """A wide axis in runs of powers of two, 16 columns at least and 128 at most."""
    found, start = [], 0
    while start < extent:
        left = extent - start
        width = min(WIDEST, padded(left))
        if width > left and width > 16:
            width //= 2
        used = min(width, left)
        found.append(Segment(start, width, used))
        start += used
    return tuple(found)


def is_wide(name: str, extent: int) -> bool:
    """Whether an axis lies on the tile rather than being unrolled."""
    return name == "dim" or extent > _UNROLLED


@dataclass(frozen=True, slots=True)
class Tile:
    """A value.

    Attributes:
        small: unrolled axes, in order.
        tile: axes of every variable, in order: the lead axis, ``head``, a wide axis.
        names: variables (or numbers) by position along ``small``, then the wide axis' segment.
        exact: whether every number is one of bf16, so that the matrix unit loses nothing.
    """

    small: tuple[str, ...]
    tile: tuple[str, ...]
    names: Mapping[Position, str]
    exact: bool = False

    @staticmethod
    def scalar(text: str) -> Tile:
        """The same number everywhere."""
        return Tile((), (), {(): text})


@dataclass
class Writer:
    """Statements of one function, and what is known of its axes.

    Attributes:
        extents: of every axis but the lead one.
        lead: ``page`` or ``token``.
        heads_tiled: whether ``head`` lies on the tile (padded to 16 at least) or is unrolled.
        unrolled: long axes that are unrolled all the same.
    """

    lead: str
    extents: dict[str, int]
    heads_tiled: bool
    unrolled: frozenset[str] = frozenset()
    lines: list[str] = field(default_factory=list)
    _count: int = 0

    def wide(self, axes: Sequence[str]) -> str | None:
        """The wide axis among those, if any."""
        found = [a for a in axes if a not in (self.lead, "head") and self.is_wide(a)]
        if len(found) > 1:
            raise Unfused(f"a value has two wide axes, {' and '.join(found)}")
        return found[0] if found else None

    def is_wide(self, axis: str) -> bool:
        """Whether the axis, neither the lead one nor ``head``, lies on the tile."""
        return is_wide(axis, self.extents[axis]) and axis not in self.unrolled

    def on_tile(self, axis: str) -> bool:
        """Whether the axis is one of a variable's own."""
        if axis == "head":
            return self.heads_tiled
        return axis == self.lead or self.is_wide(axis)

    def rank(self, axis: str) -> int:
        """Place of an axis on a tile."""
        return 0 if axis == self.lead else 1 if axis == "head" else 2

    def fresh(self, expression: str) -> str:
        """A new variable with that value."""
        name = f"t{self._count}"
        self._count += 1
        self.lines.append(f"{name} = {expression}")
        return name

    def layout(self, axes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axes as (unrolled, on the tile)."""
        small = tuple(a for a in axes if not self.on_tile(a))
        return small, tuple(sorted((a for a in axes if self.on_tile(a)), key=self.rank))

    def positions(self, small: Sequence[str], tile: Sequence[str]) -> Iterator[Position]:
        """Every position of variables with those axes."""
        counts = [range(self.extents[a]) for a in small]
        wide = self.wide(tile)
        if wide:
            counts.append(range(len(segments(self.extents[wide]))))
        total = 1
        for count in counts:
            total *= len(count)
        if total > _MOST_VARIABLES:
            raise Unfused(f"a value would need {total} variables")
        return itertools.product(*counts)

    def segment(self, tile: Sequence[str], position: Position) -> Segment | None:
        """The run of columns at a position."""
        wide = self.wide(tile)
        return segments(self.extents[wide])[position[-1]] if wide else None

    def at(self, x: Tile, small: Sequence[str], tile: Sequence[str], position: Position) -> str:
        """The variable of ``x`` at a position of a value with more axes, broadcast to its tile."""
        place = [position[list(small).index(a)] for a in x.small]
        if self.wide(x.tile):
            place.append(position[-1])
        name = x.names[tuple(place)]
        if not x.tile or tuple(x.tile) == tuple(tile):
            return name
        return name + "[" + ", ".join(":" if a in x.tile else "None" for a in tile) + "]"

    def union(self, *values: Tile) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Axes of what several values make together."""
        names = dict.fromkeys(a for v in values for a in (*v.small, *v.tile))
        small, tile = self.layout(list(names))
        self.wide(tile)
        return small, tile

    def map(self, make: Callable[..., str], *values: Tile, exact: bool = False) -> Tile:
        """Apply an expression to aligned variables; numbers stay numbers."""
        small, tile = self.union(*values)
        names = {}
        for position in self.positions(small, tile):
            expression = make(*(self.at(v, small, tile, position) for v in values))
            names[position] = self.fresh(expression)
        return Tile(small, tile, names, exact)

    def padding(self, x: Tile, axis: str, segment: Segment | None) -> str | None:
        """Which entries of a tile along an axis are real, or None if all are."""
        index = "[" + ", ".join(":" if a == axis else "None" for a in x.tile) + "]"
        index = "" if len(x.tile) == 1 else index
        if axis == self.lead:
            return f"inside{index}" if self.lead == "page" else None
        if axis == "head":
            return f"real{index}" if self.extents["head"] < padded(self.extents["head"]) else None
        assert segment is not None
        if segment.used == segment.width:
            return None
        return f"(tl.arange(0, {segment.width}) < {segment.used}){index}"

    def fold(self, x: Tile, axis: str, how: str) -> Tile:
        """Reduce over an axis: ``sum``, ``max`` or ``min``."""
        neutral = {"sum": "0.0", "max": "float('-inf')", "min": "float('inf')"}[how]
        whole = {"sum": "tl.sum", "max": "largest", "min": "smallest"}[how]
        pair = {"sum": "{} + {}", "max": "larger({}, {})", "min": "smaller({}, {})"}[how]
        if axis not in (*x.small, *x.tile):
            raise Unfused(f"no axis {axis} to reduce")
        small = tuple(a for a in x.small if a != axis)
        tile = tuple(a for a in x.tile if a != axis)
        names: dict[Position, str] = {}
        wide = self.wide(x.tile)
        for position in self.positions(x.small, x.tile):
            name = x.names[position]
            if axis in x.tile:
                real = self.padding(x, axis, self.segment(x.tile, position))
                filled = f"tl.where({real}, {name}, {neutral})" if real else name
                name = self.fresh(f"{whole}({filled}, {x.tile.index(axis)})")
                key = position[:-1] if axis == wide else position
            else:
                at = x.small.index(axis)
                key = position[:at] + position[at + 1 :]
            names[key] = self.fresh(pair.format(names[key], name)) if key in names else name
        return Tile(small, tile, names)
