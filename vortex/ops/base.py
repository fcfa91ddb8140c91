"""What an entry of the op table is: axes, meaning, cost and help; and the common axis rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from vortex.ir import Attr, Axis, Extent, Node, canonical_axes
from vortex.named import Named, Run, elementwise

Kind = Literal["source", "scalar", "elementwise", "reduce", "shape", "selector"]
AxisRule = Callable[[tuple[Node, ...], Mapping[str, Attr]], tuple[Axis, ...]]
Meaning = Callable[[Run, tuple[Named, ...], Mapping[str, Attr]], Named]
ParamKind = Literal[
    "axis", "new_axis", "number", "count", "offset", "tokens", "budget", "field", "matrix"
]


class AxisError(Exception):
    """An axis rule refuses its inputs; the front end adds the place."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True, slots=True)
class Param:
    """An argument after the operands: its name, what it may be, and a default.

    A ``budget`` is an expression of numbers, knobs, ``vx.context`` and ``vx.depth``: it becomes
    one more input. Everything else becomes an attribute.
    """

    name: str
    kind: ParamKind
    default: Attr | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """One entry of the table.

    Attributes:
        arity: operands; 0 with ``variadic`` means two or more.
        params: arguments after the operands, in call order.
        method, function: spelled ``x.name(...)``, ``vx.name(...)``.
        kernel: the expression in a generated kernel, for elementwise ops: ``{0}``, ``{1}`` are the
            operands, attributes go by name.
        flops: operations per element of the largest operand (for the cost model).
        commutes: operands may be swapped without changing a bit of the result.
        along_page: mixes pages with their neighbours or with all of them.
        reserved: only controls may use it.
        aliases: what others call it; messages suggest it there.
    """

    name: str
    kind: Kind
    arity: int
    axes: AxisRule
    run: Meaning | None
    doc: str
    formula: str
    example: str = ""
    params: tuple[Param, ...] = ()
    method: bool = False
    function: bool = True
    kernel: str = ""
    flops: float = 1.0
    commutes: bool = False
    along_page: bool = False
    variadic: bool = False
    reserved: bool = False
    aliases: tuple[str, ...] = ()

    def takes(self, inputs: int) -> bool:
        """Whether a node of this op may have that many inputs, budgets included."""
        if self.variadic:
            return inputs >= 2
        return inputs == self.arity + sum(p.kind == "budget" for p in self.params)


PAGE = Axis("page", Extent("page"))
HEAD = Axis("head", Extent("head"))
TOKEN = Axis("token", Extent("token"))
DIM = Axis("dim", Extent("dim"))
VDIM = Axis("dim", Extent("vdim"))
AXIS = (Param("axis", "axis"),)


def show_axes(axes: tuple[Axis, ...]) -> str:
    """Axes as messages print them."""
    return "[" + ", ".join(a.name for a in axes) + "]"


def union_axes(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    """The union of the inputs' axes; one name must mean one extent."""
    found: dict[str, Axis] = {}
    for node in inputs:
        for axis in node.axes:
            other = found.setdefault(axis.name, axis)
            if other.extent != axis.extent:
                raise AxisError(
                    "E104",
                    f"'{axis.name}' has two different extents here: "
                    f"{show_axes(inputs[0].axes)} against {show_axes(node.axes)}",
                    "cut both operands alike, or reduce the axis first "
                    "(k and v differ in 'dim' on MLA models)",
                )
    return canonical_axes(found.values())


def need(inputs: tuple[Node, ...], name: str) -> tuple[Axis, ...]:
    """The inputs' axes, after checking that ``name`` is among them."""
    axes = union_axes(inputs, {})
    if all(a.name != name for a in axes):
        raise AxisError(
            "E103",
            f"there is no axis '{name}' here, only {show_axes(axes)}",
            f"its axes are {', '.join(a.name for a in axes) or 'none'}",
        )
    return axes


def drop_axis(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    """All axes but the one reduced."""
    name = str(attrs["axis"])
    return tuple(a for a in need(inputs, name) if a.name != name)


def keep_axes(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    """The first input's axes, among them the one named."""
    need(inputs, str(attrs["axis"]))
    return inputs[0].axes


def no_axes(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    """A scalar, or a selection."""
    return ()


def fixed(*axes: Axis) -> AxisRule:
    """Always the same axes."""
    return lambda inputs, attrs: axes


def free_name(axes: tuple[Axis, ...], name: str) -> None:
    """Refuse a new axis whose name is taken, or has a meaning of its own."""
    if any(a.name == name for a in axes) or name in ("page", "head", "token", "dim"):
        raise AxisError("E104", f"axis '{name}' exists already", "give the new axis another name")


def size_of(value: Attr) -> int | Attr:
    """A count that becomes an extent."""
    assert not isinstance(value, str | float | bool)
    return value


def pure(function: Callable[..., torch.Tensor]) -> Meaning:
    """The meaning of a broadcasting torch function."""
    return lambda run, xs, attrs: elementwise(function, *xs)
