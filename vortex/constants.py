"""What parts of a program come to that are made of numbers alone, and divisions by 0 among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from vortex.errors import VortexError
from vortex.ir import KnobRef, Node, walk
from vortex.named import Named, Run
from vortex.ops import OPS


def number_of(node: Node, known: Mapping[str, float]) -> float | None:
    """A number in float64, so that none is 0 by rounding; None where more than numbers is read.

    Args:
        known: what this function gave for the inputs, by their keys.
    """
    if node.op == "const":
        value = node.attr("value")
        assert isinstance(value, int | float)
        return float(value)
    entry = OPS[node.op]
    if entry.kind != "elementwise" or entry.run is None:
        return None
    if any(n.key not in known for n in node.inputs):
        return None
    if any(isinstance(value, KnobRef) for _, value in node.attrs):
        return None  # not bound yet
    values = (torch.tensor(known[n.key], dtype=torch.float64) for n in node.inputs)
    found = entry.run(Run(), tuple(Named(x, ()) for x in values), dict(node.attrs))
    return float(found.data)


def divides_by_zero(node: Node, known: Mapping[str, float]) -> bool:
    """Whether it is a division by what is 0 whatever the keys and queries are."""
    return node.op == "div" and known.get(node.inputs[1].key) == 0.0


def check_divisors(roots: Iterable[Node]) -> None:
    """Refuse to divide by 0 once knobs have their values, unless ``where`` may leave it out.

    Raises:
        VortexError: E208, with its place.
    """
    known: dict[str, float] = {}
    roots = tuple(roots)
    used = _surely_used(roots)
    for node in walk(roots):  # inputs come first
        if node.key in used and divides_by_zero(node, known):
            raise VortexError(
                "this divides by 0 at these values of the knobs", code="E208",
                hint="keep the divisor above 0 by the knob's bound, or by vx.maximum or vx.where",
            ).at(node.span)  # fmt: skip
        number = number_of(node, known)
        if number is not None:
            known[node.key] = number


def _surely_used(roots: Iterable[Node]) -> set[str]:
    """Keys of the nodes that are not only read where a ``where`` may take the other branch."""
    found: set[str] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node.key not in found:
            found.add(node.key)
            left += node.inputs[:1] if node.op == "where" else node.inputs
    return found
