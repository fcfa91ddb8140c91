"""Arrays whose axes have names: the values that the reference and the CPU backend compute with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vortex.errors import VortexError
from vortex.ir import AXIS_ORDER, MatrixRef


def axis_rank(name: str) -> tuple[int, int, str]:
    """Sort key: batch axes (underscored, never a program's) first, then canonical order."""
    if name.startswith("_"):
        return (0, 0, name)
    if name in AXIS_ORDER:
        return (1, AXIS_ORDER.index(name), "")
    return (2, 0, name)


class Named(NamedTuple):
    """A tensor and the names of its dimensions, in canonical order."""

    data: Tensor
    names: tuple[str, ...]

    def dim(self, name: str) -> int:
        """Position of the axis."""
        return self.names.index(name)


def named(data: Tensor, *names: str) -> Named:
    """A tensor with names in any order, permuted to the canonical one."""
    order = tuple(sorted(names, key=axis_rank))
    return Named(data.permute([names.index(n) for n in order]), order)


def aligned(*values: Named) -> tuple[list[Tensor], tuple[str, ...]]:
    """Views of the values that broadcast together, and the names of the result."""
    names = tuple(sorted({n for v in values for n in v.names}, key=axis_rank))
    views = []
    for value in values:
        shape = [value.data.shape[value.dim(n)] if n in value.names else 1 for n in names]
        views.append(value.data.reshape(shape))
    return views, names


def _misfit(ref: MatrixRef, found: Tensor, wanted: tuple[int, ...]) -> VortexError:
    return VortexError(
        f"'{ref.tensor}' of {ref.file} has shape {list(found.shape)}, {list(wanted)} is needed",
        code="E206",
        hint="store one matrix [rows, columns], or [layers, rows, columns] with layer=True",
    )


def signs(seed: int, rows: int, columns: int) -> Tensor:
    """A random matrix of +-1/sqrt(columns), the same on every machine (Achlioptas 2003,
    doi:10.1016/S0022-0000(03)00025-4: products with it keep inner products in expectation)."""
    x = torch.arange(rows * columns, dtype=torch.int64) + (seed + 1) * 0x9E3779B1
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    sign = 1.0 - 2.0 * ((x >> 17) & 1).to(torch.float32)
    return sign.view(rows, columns) * math.sqrt(1.0 / columns)


@dataclass(frozen=True, slots=True)
class Run:
    """What an op may know while it runs.

    Attributes:
        page_mask: bool over ``page`` (and batch axes): which pages are complete. None: all.
        layer: index of the layer.
        rope: first column and number of the columns of ``dim`` that are rotary. None: all.
        matrices: stored numbers by their name.
    """

    page_mask: Named | None = None
    layer: int = 0
    rope: tuple[int, int] | None = None
    matrices: Mapping[MatrixRef, Tensor] = field(default_factory=dict)

    def matrix(self, ref: MatrixRef, shape: tuple[int, ...], *names: str) -> Named:
        """The numbers that a program names, as an array of this shape with these axes.

        Raises:
            VortexError: E206, what is stored has another shape.
        """
        if not ref.file:
            return named(signs(ref.seed, *shape), *names)
        found = self.matrices[ref]
        if ref.layer:
            if found.shape[0] <= self.layer:
                raise _misfit(ref, found, (self.layer + 1, *shape))
            found = found[self.layer]
        if tuple(found.shape) != shape:
            raise _misfit(ref, found, shape)
        return named(found, *names)

    def filled(self, x: Named, axis: str, neutral: float) -> Named:
        """``x`` with incomplete pages replaced, when ``axis`` is the page axis."""
        if axis != "page" or self.page_mask is None:
            return x
        (data, mask), names = aligned(x, self.page_mask)
        return Named(torch.where(mask, data, neutral), names)

    def count(self, x: Named, axis: str) -> Named:
        """How many entries a reduction over ``axis`` sees."""
        if axis != "page" or self.page_mask is None:
            size = x.data.shape[x.dim(axis)]
            return Named(torch.full((), float(size), dtype=x.data.dtype), ())
        mask = self.page_mask
        at = mask.dim("page")
        kept = tuple(n for n in mask.names if n != "page")
        return Named(mask.data.sum(at).clamp(min=1).to(x.data.dtype), kept)


def elementwise(function: Callable[..., Tensor], *values: Named) -> Named:
    """Apply a broadcasting torch function by name alignment."""
    views, names = aligned(*values)
    return Named(function(*views), names)


def reduced(x: Named, axis: str, function: Callable[[Tensor, int], Tensor]) -> Named:
    """Apply a torch reduction over a named axis."""
    at = x.dim(axis)
    return Named(function(x.data, at), x.names[:at] + x.names[at + 1 :])


def contracted(a: Named, b: Named, axis: str) -> Named:
    """Sum of products over a named axis, as one matrix product without the outer tensor."""
    letters = {n: chr(97 + i) for i, n in enumerate(dict.fromkeys((*a.names, *b.names)))}
    out = tuple(sorted(letters.keys() - {axis}, key=axis_rank))

    def term(names: tuple[str, ...]) -> str:
        return "".join(letters[n] for n in names)

    return Named(torch.einsum(f"{term(a.names)},{term(b.names)}->{term(out)}", a.data, b.data), out)
