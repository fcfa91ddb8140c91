"""Ops of the reference on tensors with named axes: each becomes text of the language.

The reference has tensors of rank 3, ``[page or batch, rows, cols]``, aligned by position. Here rows
and cols are lists of named axes, so that what aligns by position there aligns by name here; where
the two would differ, the op is refused.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vortex.errors import ProgramError

Const = int | float | str | tuple["Const", ...]
Refuse = Callable[[str, str, ast.AST | None, str | None], ProgramError]

NEEDED = object()  # an argument without a default
_AXPBY = {"alpha": 1.0, "beta": 1.0}
_AFFINE = {"alpha": 0.0, "beta": 1.0}
_SHIFTED = {"alpha": 0.0, "beta": 0.0}
_WHERE = {"Equal": "==", "NotEqual": "!=", "Greater": ">", "GreaterEqual": ">=", "Less": "<",
          "LessEqual": "<="}  # fmt: skip
_REDUCE = {"Max": "max", "Mean": "mean", "Min": "min", "Sum": "sum", "L2Norm": "norm"}

# Constructor arguments in call order, and how many tensors a call takes.
OPS: Mapping[str, tuple[Mapping[str, object], int]] = {
    "GeMM": ({}, 2), "GeMV": ({}, 2), "Kron": ({"dim": (1, 2)}, 2),
    **{name: ({"dim": 1}, 1) for name in _REDUCE},
    **{f"{name}Interleave": ({"dim": 1, "k": 2}, 1) for name in _REDUCE},
    **{name: (_AXPBY, 2) for name in ("Maximum", "Minimum", "Multiply", "Add")},
    **{f"Where{name}": ({}, 2) for name in _WHERE},
    **{name: (_SHIFTED, 1) for name in ("Relu", "Sigmoid", "Silu")},
    **{name: (_AFFINE, 1) for name in ("Add_Mul", "Abs", "Log", "Exp")},
    "Softmax": ({"dim": 0, "scale": 1.0}, 1), "Transpose": ({}, 1), "Load": ({}, 1),
    "Reshape": ({"batch_dim": NEEDED, "x2": NEEDED, "y2": NEEDED}, 1),
    "MaskSlice": ({"start": NEEDED, "end": NEEDED, "dim": NEEDED, "alpha": 1.0, "beta": 0.0}, 1),
    "Fill": ({"alpha": 0.0}, 0), "Save": ({}, 1), "topK": ({}, 1),
    "approxTopK": ({"tolerate_ratio": 0.0}, 1), "TopK": ({"k": NEEDED}, 1), "Union": ({}, 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpObject:
    """An op made in ``__init__``: which one, on which side, and its arguments."""

    kind: str
    side: str
    args: Mapping[str, Const]

    def number(self, name: str) -> float:
        value = self.args[name]
        return value if isinstance(value, int | float) else math.nan


class Axis(NamedTuple):
    """A named axis: ``base`` cut into ``parts``; ``outer`` counts the parts."""

    name: str
    base: str
    parts: int = 1
    outer: bool = False


PAGE, HEAD, TOKEN = Axis("page", "page"), Axis("head", "head"), Axis("token", "token")
DIM, VDIM = Axis("dim", "dim"), Axis("dim", "vdim")
Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the flow.

    Attributes:
        text: the expression; ``atom``: a method call may follow it directly.
        rows, cols: the axes that positions 1 and 2 run over, row-major.
        has: axes of the expression itself; along the others the value repeats.
        where: of a mask, its condition and the values where it holds and where not.
        constant: a written number.
    """

    text: str
    rows: Axes = ()
    cols: Axes = ()
    has: frozenset[Axis] = frozenset()
    atom: bool = True
    where: tuple[str, float, float] | None = None
    constant: bool = False

    @property
    def wrapped(self) -> str:
        return self.text if self.atom else f"({self.text})"


def named(name: str, known: Collection[str]) -> str:
    """A name of the language close to the given one, and not yet known."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")[:24] or "x"
    clean = f"x{clean}" if clean[0].isdigit() else clean
    found, at = clean, 2
    while found in known:
        found, at = f"{clean}_{at}", at + 1
    return found


@dataclass
class Algebra:
    """Applies ops; knows how long axes are.

    Attributes:
        refuse: makes the exception for a construct.
        sizes: extent of every base axis that is known.
        parts: names of the axes that splits made.
        notes: where the result is not the reference's to the bit.
    """

    refuse: Refuse
    sizes: dict[str, int] = field(default_factory=dict)
    parts: dict[tuple[str, int], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    op: OpObject = field(default_factory=lambda: OpObject("", "", {}))
    tree: ast.AST = field(default_factory=ast.Pass)

    def apply(self, op: OpObject, xs: list[Tensor], tree: ast.AST) -> Tensor:
        """The result of an op that computes."""
        self.op, self.tree = op, tree
        kind = op.kind
        if kind in ("Load", "Transpose"):
            x = xs[0]
            return x if kind == "Load" else replace(x, rows=x.cols, cols=x.rows)
        if kind in _REDUCE:
            return self.reduced(xs[0], _REDUCE[kind])
        if kind.endswith("Interleave"):
            return self._interleaved(xs[0], _REDUCE[kind.removesuffix("Interleave")])
        if kind in ("Softmax", "Reshape", "MaskSlice"):
            return {"Softmax": self._softmax, "Reshape": self._reshape,
                    "MaskSlice": self._mask}[kind](xs[0])  # fmt: skip
        if kind in ("GeMM", "GeMV"):
            return self._product(*xs)
        return self._unary(xs[0]) if len(xs) == 1 else self._binary(*xs)

    def problem(self, message: str, hint: str | None = None, code: str = "E307") -> ProgramError:
        return self.refuse(code, f"{self.op.kind}: {message}", self.tree, hint)

    def size(self, axes: Axes) -> int | None:
        """How many positions the axes have together; None where nothing says so."""
        total = 1
        for axis in axes:
            base = self.sizes.get(axis.base, 0)
            if not axis.outer and not base:
                return None
            total *= axis.parts if axis.outer else base // axis.parts
        return total

    def reduced(self, x: Tensor, how: str) -> Tensor:
        """A reduction over rows, cols or pages; the reduced position keeps one entry."""
        dim = self.op.number("dim")
        if dim == 0:
            if PAGE not in x.has:
                raise self.problem("there are no pages to reduce")
            self.note("means over pages take all complete pages, not all but the reserved last.")
            return self._over(x, (PAGE,), how)
        if dim not in (1, 2):
            raise self.problem(f"there is no dim {dim:g}")
        axes = x.rows if dim == 1 else x.cols
        if not axes and how == "norm":
            return self._method(x, "abs()")
        found = self._over(x, axes, how)
        return replace(found, rows=()) if dim == 1 else replace(found, cols=())

    def _over(self, x: Tensor, axes: Axes, how: str) -> Tensor:
        for axis in reversed(axes):
            if axis in x.has:
                x = self._method(x, f'{how}("{axis.name}")', has=x.has - {axis})
            elif how in ("sum", "norm"):
                raise self.problem(f"the operand repeats along '{axis.name}'", "reduce the mask's "
                                   "product, not the mask")  # fmt: skip
        return x

    def _method(self, x: Tensor, call: str, *, has: frozenset[Axis] | None = None) -> Tensor:
        if x.constant:
            raise self.problem("the operand is a constant")
        left = x.has if has is None else has
        return replace(x, text=f"{x.wrapped}.{call}", atom=True, has=left, where=None)

    def _softmax(self, x: Tensor) -> Tensor:
        if self.op.args["dim"] != 0 or PAGE not in x.has:
            raise self.problem("only the softmax over pages (dim=0) exists")
        self.note("softmax takes all complete pages, not all but the reserved last.")
        scaled = self._affine(x, self.op.number("scale"), 0.0)
        return self._method(scaled, 'softmax("page")')

    def _affine(self, x: Tensor, beta: float, alpha: float) -> Tensor:
        """beta * x + alpha."""
        text, atom = x.text, x.atom
        if beta == -1:
            text, atom = f"-{x.wrapped}", False
        elif beta != 1:
            text, atom = f"{x.wrapped} * {_number(beta)}", False
        if alpha:
            text, atom = f"{text} {'-' if alpha < 0 else '+'} {abs(alpha)!r}", False
        return replace(x, text=text, atom=atom, where=None if text != x.text else x.where)

    def _unary(self, x: Tensor) -> Tensor:
        alpha, beta = self.op.number("alpha"), self.op.number("beta")
        match self.op.kind:
            case "Add_Mul":
                return self._affine(x, beta, alpha)
            case "Abs" | "Log" | "Exp" as kind:
                return self._method(self._affine(x, beta, alpha), f"{kind.lower()}()")
            case "Relu" if alpha == beta == 0:
                return self._method(x, "relu()")
            case "Relu":
                text = f"vx.where({x.text} >= {alpha!r}, {x.text}, {_number(beta)})"
                return replace(x, text=text, atom=True, where=None)
            case "Silu" if (alpha, beta) == (0, -1):
                return self._method(x, "silu()")
        gate = self._method(self._affine(x, -beta, -alpha), "sigmoid()")
        if self.op.kind == "Sigmoid":
            return gate
        return replace(gate, text=f"{x.wrapped} * {gate.text}", atom=False)

    def _binary(self, x: Tensor, y: Tensor) -> Tensor:
        kind = self.op.kind
        if kind == "Kron":
            return self._kron(x, y)
        rows, cols = self._together(x.rows, y.rows), self._together(x.cols, y.cols)
        joined = self._joined(rows, cols, x.has | y.has)
        if kind in ("Maximum", "Minimum"):
            return replace(joined, text=f"vx.{kind.lower()}({x.text}, {y.text})", atom=True)
        if kind.startswith("Where"):  # the log of 1 or 0 is 0 or -inf
            sign = _WHERE[kind.removeprefix("Where")]
            return replace(joined, text=f"({x.wrapped} {sign} {y.wrapped}).log()", atom=True)
        if kind == "Multiply":
            return self._times(joined, x, y)
        a = self._affine(x, self.op.number("alpha"), 0.0)
        beta = self.op.number("beta")
        b = self._affine(y, abs(beta), 0.0)
        return replace(joined, text=f"{a.wrapped} {'-' if beta < 0 else '+'} {b.wrapped}")

    def _times(self, joined: Tensor, x: Tensor, y: Tensor) -> Tensor:
        for mask, other in ((y, x), (x, y)):
            if mask.where and mask.where[1:] in ((0, 1), (1, 0)):
                condition, inside, _ = mask.where
                a, b = (other.text, "0.0") if inside else ("0.0", other.text)
                return replace(joined, text=f"vx.where({condition}, {a}, {b})", atom=True)
        return replace(joined, text=f"{x.wrapped} * {y.wrapped}")

    def _together(self, a: Axes, b: Axes) -> Axes:
        """One position of two operands: the same axes, or one of them has a single entry."""
        if a and b and a != b:
            mixed = {DIM, VDIM} <= {*a, *b}
            raise self.problem(
                f"the operands align {_show(a)} with {_show(b)}",
                "channels of keys and of values are different axes" if mixed else
                "operands must have the same axes, or a single entry",
            )  # fmt: skip
        return a or b

    def _joined(self, rows: Axes, cols: Axes, has: frozenset[Axis]) -> Tensor:
        names = [a.name for a in (*rows, *cols)]
        if len(set(names)) < len(names):
            raise self.problem(
                f"the result has an axis twice: {_show(rows)} by {_show(cols)}",
                "products of a tensor's axis with itself have no equivalent",
            )
        return Tensor("", rows, cols, has, atom=False)

    def _kron(self, x: Tensor, y: Tensor) -> Tensor:
        given = self.op.args["dim"]
        dims = given if isinstance(given, tuple) else (given,)
        rows = x.rows + y.rows if 1 in dims else self._together(x.rows, y.rows)
        cols = x.cols + y.cols if 2 in dims else self._together(x.cols, y.cols)
        joined = self._joined(rows, cols, x.has | y.has)
        return replace(joined, text=f"{x.wrapped} * {y.wrapped}")

    def _product(self, x: Tensor, y: Tensor) -> Tensor:
        """y x^T: contracts the cols; the result has the rows of both."""
        if x.cols != y.cols:
            self._together(x.cols, y.cols)
            raise self.problem("one operand has a single column")
        if self.op.kind == "GeMV" and (x.rows or y.rows):
            raise self.problem("operands of a GeMV have one row", "use GeMM")
        joined = self._joined(y.rows, x.rows, x.has | y.has)
        if any(axis not in joined.has for axis in x.cols):
            raise self.problem("both operands repeat along the contracted axis")
        if len(x.cols) == 1:
            name = x.cols[0].name
            return replace(joined, text=f'vx.dot({x.text}, {y.text}, "{name}")', atom=True,
                           has=joined.has - {*x.cols})  # fmt: skip
        return self._over(replace(joined, text=f"{x.wrapped} * {y.wrapped}"), x.cols, "sum")

    def _interleaved(self, x: Tensor, how: str) -> Tensor:
        """Each run of k neighbours becomes one entry."""
        first, k = self.op.args["dim"] == 1, int(self.op.number("k"))
        axes = x.rows if first else x.cols
        if len(axes) != 1 or k < 1:
            raise self.problem("one axis is needed, and a group of at least one entry")
        size = self.size(axes)
        if size is None:
            raise self.problem(f"the extent of '{axes[0].name}' is not known",
                               "give head_dim in the configuration")  # fmt: skip
        if size % k:
            raise self.problem(f"groups of {k} do not divide '{axes[0].name}', which has {size}",
                               "the block size comes from the configuration")  # fmt: skip
        if k == 1 and how != "norm":
            return x
        outer: Axes = ()
        inner = axes[0]
        if k < size:
            x, part, inner = self._cut(x, inner, size // k)
            outer = (part,)
        found = self._over(x, (inner,), how)
        return replace(found, rows=outer) if first else replace(found, cols=outer)

    def _cut(self, x: Tensor, axis: Axis, into: int) -> tuple[Tensor, Axis, Axis]:
        """``split``: the text, the axis that counts the parts, and what is left of the old one."""
        if axis.base == "head" or axis.outer or axis.parts > 1 or axis not in x.has:
            raise self.problem(f"'{axis.name}' cannot be cut here",
                               "token and dim can, once each")  # fmt: skip
        key = (axis.base, into)
        if key not in self.parts:
            stem = {"token": "sub", "dim": "band", "vdim": "vband"}[axis.base]
            self.parts[key] = named(stem, self.parts.values())
        outer = Axis(self.parts[key], axis.base, into, outer=True)
        inner = axis._replace(parts=into)
        call = f'split("{axis.name}", into={into}, name="{outer.name}")'
        return self._method(x, call, has=x.has - {axis} | {outer, inner}), outer, inner

    def _reshape(self, x: Tensor) -> Tensor:
        """Row-major: the first axes make the rows, one of them cut in two if need be."""
        lead, rows, cols = (int(self.op.number(n)) for n in ("batch_dim", "x2", "y2"))
        flat = [*x.rows, *x.cols]
        unknown = [a for a in flat if self.size((a,)) is None]
        known = self.size(tuple(a for a in flat if a not in unknown)) or 1
        if lead != -1 or rows < 1 or cols < 1 or len(unknown) > 1 or rows * cols % known:
            raise self.problem(f"{_show(tuple(flat))} cannot be seen as ({rows}, {cols})",
                               "give head_dim in the configuration")  # fmt: skip
        for axis in unknown:  # the flow itself states how wide the model is
            self.sizes[axis.base] = rows * cols // known * axis.parts
        first: list[Axis] = []
        last: list[Axis] = []
        for axis in flat:
            size = self.size((axis,)) or 1
            if rows == 1:
                last.append(axis)
            elif rows % size == 0:
                first.append(axis)
                rows //= size
            elif size % rows == 0:
                x, outer, inner = self._cut(x, axis, rows)
                first.append(outer)
                last.append(inner)
                rows = 1
            else:
                raise self.problem(f"'{axis.name}' of {size} entries does not divide like this")
        if rows != 1 or (self.size(tuple(last)) or 1) != cols:
            raise self.problem(f"{_show(tuple(flat))} has another number of entries")
        return replace(x, rows=tuple(first), cols=tuple(last), where=None)

    def _mask(self, x: Tensor) -> Tensor:
        """alpha on a run of positions, beta elsewhere; the operand's values do not matter."""
        axes = x.rows if self.op.args["dim"] == 1 else x.cols
        start, end = int(self.op.number("start")), int(self.op.number("end"))
        size = self.size(axes)
        if len(axes) != 1 or axes[0] not in x.has or not 0 <= start <= end:
            raise self.problem("one axis of the operand is needed, and 0 <= start <= end")
        if size is not None and end > size:
            raise self.problem(f"'{axes[0].name}' has {size} entries, not {end}")
        at = f'{x.wrapped}.positions("{axes[0].name}")'
        condition = f"({at} >= {start}) * ({at} < {end})" if start else f"{at} < {end}"
        inside, outside = self.op.number("alpha"), self.op.number("beta")
        text = f"vx.where({condition}, {_number(inside)}, {_number(outside)})"
        return Tensor(text, x.rows, x.cols, frozenset(axes), where=(condition, inside, outside))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _number(value: float) -> str:
    """A number as an operand."""
    text = repr(float(value))
    return f"({text})" if value < 0 else text


def _show(axes: Axes) -> str:
    return "[" + ", ".join(a.name for a in axes) + "]"
