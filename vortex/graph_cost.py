"""Operations of score graphs: as written, and as scoring kernels do them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vortex.ir import Node, extents, walk
from vortex.ops import OPS
from vortex.schedule import padded

DECODE = 6.0  # assumed: unpack, convert and scale one number of a narrow field


def graph_flops(roots: Iterable[Node], sizes: dict[str, int]) -> float:
    """Operations of a graph, each node once: the op's rate times the elements it walks over.

    Args:
        roots: bound nodes (no knob is symbolic).
        sizes: extents of ``page``, ``token``, ``dim``, ``vdim`` and ``head``.
    """
    total = 0.0
    for node in walk(roots):
        if node.inputs and OPS[node.op].kind != "selector":
            axes = {a.name: e for n in node.inputs
                    for a, e in zip(n.axes, extents(n, sizes), strict=True)}  # fmt: skip
            total += OPS[node.op].flops * math.prod(axes.values())
    return total


def vector_operations(
    roots: Sequence[Node], sizes: dict[str, int], stored: float, exact: bool
) -> float:
    """Operations that a scoring kernel does on the vector units.

    Args:
        roots, sizes: as :func:`graph_flops` takes them.
        stored: numbers of fields that are read.
        exact: fields are bf16: products with the heads' queries go to the matrix units.
    """
    nodes, tiled = list(walk(roots)), sizes["head"] > 3
    wide = {**sizes, "head": padded(sizes["head"])} if tiled else sizes
    total = graph_flops(roots, wide)
    for node in nodes:
        if tiled and exact and node.op == "dot" and node.axis("head") and node.axis("page"):
            axes = {a.name: e for n in node.inputs
                    for a, e in zip(n.axes, extents(n, wide), strict=True)}  # fmt: skip
            total -= OPS["dot"].flops * math.prod(axes.values())
    if exact:
        return total
    meets = wide["head"] if heads_meet(sizes["head"], graph_flops(roots, sizes), stored) else 1
    return total + DECODE * stored * meets


def heads_meet(group: int, flops: float, stored: float) -> bool:
    """Whether each number of a field meets every head of a tile, not a mean of them."""
    return group > 3 and flops > 4 * stored


def score_width(group: int, latent: bool, flops: float, stored: float) -> int:
    """Pages that a program scores at most: few where heads make tiles large."""
    if heads_meet(group, flops, stored):
        return 16 if latent else 32
    return 64 if latent else 128
