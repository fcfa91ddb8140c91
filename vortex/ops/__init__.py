"""THE op table: one entry per op, from which the front end, executors, costs and docs are fed."""

from __future__ import annotations

from collections.abc import Mapping

from vortex.errors import Span
from vortex.ir import Attr, Axis, Node, canonical_axes
from vortex.ops.base import PAGE, AxisError, Op, Param, show_axes
from vortex.ops.shape import SHAPE_OPS
from vortex.ops.sources import SELECTORS, SOURCES
from vortex.ops.tensor import TENSOR_OPS

__all__ = ["OPS", "AxisError", "Op", "Param", "make", "make_field", "rebuild", "show_axes"]

OPS: Mapping[str, Op] = {op.name: op for op in (*TENSOR_OPS, *SHAPE_OPS, *SOURCES, *SELECTORS)}


def make(op: str, *inputs: Node, span: Span | None = None, **attrs: Attr) -> Node:
    """A node of the table's op, its axes derived by the op's rule.

    Raises:
        AxisError: the inputs' axes do not fit.
    """
    entry = OPS[op]
    return Node(op, inputs, tuple(sorted(attrs.items())), entry.axes(inputs, attrs), span)


def make_field(name: str, content: Node, span: Span | None = None) -> Node:
    """The node that reads field ``name`` of every page: axes ``page`` and the field's own."""
    axes: tuple[Axis, ...] = canonical_axes((PAGE, *content.axes))
    return Node("field", (), (("name", name),), axes, span)


def rebuild(node: Node, inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> Node:
    """The same op on other inputs or attributes; sources keep their axes."""
    entry = OPS[node.op]
    axes = node.axes if entry.kind == "source" else entry.axes(inputs, attrs)
    return Node(node.op, inputs, tuple(sorted(attrs.items())), axes, node.span)
