"""THE op table: for each op its axes, its meaning (a reference on named arrays), cost and help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from vortex.errors import Span
from vortex.ir import Attr, Axis, Extent, Node, canonical_axes
from vortex.named import Named, Run, contracted, elementwise, named, reduced

Kind = Literal["source", "scalar", "elementwise", "reduce", "shape", "selector"]
AxisRule = Callable[[tuple[Node, ...], Mapping[str, Attr]], tuple[Axis, ...]]
Meaning = Callable[[Run, tuple[Named, ...], Mapping[str, Attr]], Named]


class AxisError(Exception):
    """An axis rule refuses its inputs; the front end adds the place."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True, slots=True)
class Param:
    """An attribute of an op: its name, what it may be, and a default."""

    name: str
    kind: Literal["axis", "new_axis", "number", "count", "tokens", "field", "string"]
    default: Attr | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One entry of the table.

    Attributes:
        arity: tensor inputs.
        params: attributes after the inputs, in call order.
        method, function: spelled ``x.name(...)``, ``vx.name(...)``.
        flops: operations per element of the largest operand (for the cost model).
        commutes: operands may be swapped without changing a bit of the result.
        reserved: only controls may use it.
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
    flops: float = 1.0
    commutes: bool = False
    reserved: bool = False


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
                    "split both operands alike, or reduce the axis first "
                    "(k and v differ in 'dim' on MLA models)",
                )
    return canonical_axes(found.values())


def _drop(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    axes = union_axes(inputs, attrs)
    name = attrs["axis"]
    if all(a.name != name for a in axes):
        raise AxisError(
            "E103",
            f"there is no axis '{name}' to reduce in {show_axes(axes)}",
            f"its axes are {', '.join(a.name for a in axes) or 'none'}",
        )
    return tuple(a for a in axes if a.name != name)


def _keep(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    _drop(inputs, attrs)
    return inputs[0].axes


def _split_axes(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    _drop(inputs, attrs)
    old, name, into = str(attrs["axis"]), str(attrs["name"]), attrs["into"]
    axes = inputs[0].axes
    if any(a.name == name for a in axes):
        raise AxisError("E104", f"axis '{name}' exists already", "give the new axis another name")
    if old in ("page", "head"):
        raise AxisError("E103", f"'{old}' cannot be split", "split 'token' or 'dim'")
    assert not isinstance(into, str | float | bool)
    kept = [
        Axis(a.name, Extent(a.extent.base, (*a.extent.parts, into))) if a.name == old else a
        for a in axes
    ]
    return canonical_axes([*kept, Axis(name, Extent("one", (into,)))])


def _no_axes(inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> tuple[Axis, ...]:
    return ()


def _fixed(*axes: Axis) -> AxisRule:
    return lambda inputs, attrs: axes


def _pure(function: Callable[..., torch.Tensor]) -> Meaning:
    return lambda run, xs, attrs: elementwise(function, *xs)


def _reduce(function: Callable[[torch.Tensor, int], torch.Tensor], neutral: float) -> Meaning:
    def meaning(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
        axis = str(attrs["axis"])
        return reduced(run.filled(xs[0], axis, neutral), axis, function)

    return meaning


def _mean(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
    axis = str(attrs["axis"])
    total = reduced(run.filled(xs[0], axis, 0.0), axis, lambda x, d: x.sum(d))
    return elementwise(torch.div, total, run.count(xs[0], axis))


def _softmax(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
    axis = str(attrs["axis"])
    x = run.filled(xs[0], axis, float("-inf"))
    return Named(torch.softmax(x.data, x.dim(axis)), x.names)


def _dot(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
    axis = str(attrs["axis"])
    a, b = xs
    if axis in a.names and axis in b.names and axis != "page":
        return contracted(a, b, axis)
    product = elementwise(torch.mul, a, b)
    return reduced(run.filled(product, axis, 0.0), axis, lambda x, d: x.sum(d))


def _clip(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
    low, high = attrs["low"], attrs["high"]
    assert isinstance(low, int | float) and isinstance(high, int | float)
    return elementwise(lambda x: x.clamp(low, high), xs[0])


def _split(run: Run, xs: tuple[Named, ...], attrs: Mapping[str, Attr]) -> Named:
    x, axis, into = xs[0], str(attrs["axis"]), attrs["into"]
    assert isinstance(into, int)
    at = x.dim(axis)
    shape = x.data.shape
    data = x.data.reshape(*shape[:at], into, shape[at] // into, *shape[at + 1 :])
    return named(data, *x.names[:at], str(attrs["name"]), *x.names[at:])


PAGE = Axis("page", Extent("page"))
HEAD = Axis("head", Extent("head"))
TOKEN = Axis("token", Extent("token"))
DIM = Axis("dim", Extent("dim"))
VDIM = Axis("dim", Extent("vdim"))

_AXIS = (Param("axis", "axis"),)


def _unary(name: str, function: Callable[[torch.Tensor], torch.Tensor], formula: str) -> Op:
    return Op(
        name, "elementwise", 1, union_axes, _pure(function), f"Elementwise {formula}.", formula,
        f"page.mean.{name}()", method=True, flops=1.0 if name in ("neg", "abs", "relu") else 4.0,
    )  # fmt: skip


def _binary(
    name: str,
    function: Callable[..., torch.Tensor],
    formula: str,
    *,
    commutes: bool = False,
    spelled: bool = False,
) -> Op:
    return Op(
        name, "elementwise", 2, union_axes, _pure(function), f"Elementwise {formula}.", formula,
        f"vx.{name}(q, page.mean)" if spelled else f"q {formula.split()[1]} page.mean",
        function=spelled, commutes=commutes,
    )  # fmt: skip


def _compare(name: str, sign: str, function: Callable[..., torch.Tensor]) -> Op:
    def meaning(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return function(a, b).to(a.dtype if a.is_floating_point() else torch.float32)

    return _binary(name, meaning, f"a {sign} b as 1 or 0", commutes=name in ("eq", "ne"))


def _reduction(name: str, meaning: Meaning, formula: str, flops: float = 1.0) -> Op:
    return Op(
        name, "reduce", 1, _drop, meaning, f"{formula} over a named axis.", formula,
        f'page.mean.{name}("dim")', _AXIS, method=True, function=False, flops=flops,
    )  # fmt: skip


_TENSOR_OPS = (
    _unary("neg", torch.neg, "-x"),
    _unary("abs", torch.abs, "|x|"),
    _unary("exp", torch.exp, "e^x"),
    _unary("log", torch.log, "ln x"),
    _unary("sqrt", torch.sqrt, "square root of x"),
    _unary("square", torch.square, "x * x"),
    _unary("relu", torch.relu, "max(x, 0)"),
    _unary("sigmoid", torch.sigmoid, "1 / (1 + e^-x)"),
    _unary("silu", torch.nn.functional.silu, "x * sigmoid(x)"),
    _binary("add", torch.add, "a + b", commutes=True),
    _binary("sub", torch.sub, "a - b"),
    _binary("mul", torch.mul, "a * b", commutes=True),
    _binary("div", torch.div, "a / b"),
    _binary("maximum", torch.maximum, "larger of a and b", commutes=True, spelled=True),
    _binary("minimum", torch.minimum, "smaller of a and b", commutes=True, spelled=True),
    _compare("gt", ">", torch.gt),
    _compare("ge", ">=", torch.ge),
    _compare("lt", "<", torch.lt),
    _compare("le", "<=", torch.le),
    _compare("eq", "==", torch.eq),
    _compare("ne", "!=", torch.ne),
    Op(
        "where", "elementwise", 3, union_axes, _pure(lambda c, a, b: torch.where(c != 0, a, b)),
        "Pick from a where the condition holds, else from b.", "c ? a : b",
        "vx.where(page.mean > 0, page.mean, 0.0)",
    ),
    Op(
        "clip", "elementwise", 1, union_axes, _clip, "Limit to a closed range.",
        "min(max(x, low), high)", "page.mean.clip(-1.0, 1.0)",
        (Param("low", "number"), Param("high", "number")), method=True, flops=2.0,
    ),
    _reduction("sum", _reduce(lambda x, d: x.sum(d), 0.0), "sum"),
    _reduction("mean", _mean, "mean"),
    _reduction("max", _reduce(lambda x, d: x.amax(d), float("-inf")), "maximum"),
    _reduction("min", _reduce(lambda x, d: x.amin(d), float("inf")), "minimum"),
    _reduction("norm", _reduce(lambda x, d: x.square().sum(d).sqrt(), 0.0), "L2 norm", 2.0),
    _reduction("logsumexp", _reduce(torch.logsumexp, float("-inf")), "log of sum of e^x", 5.0),
    Op(
        "softmax", "reduce", 1, _keep, _softmax, "e^x over its sum along a named axis.",
        "e^x / sum e^x", '(q * page.mean).sum("dim").softmax("page")', _AXIS,
        method=True, function=False, flops=8.0,
    ),
    Op(
        "dot", "reduce", 2, _drop, _dot, "Sum of products along a named axis.",
        "sum(a * b)", 'vx.dot(q, page.mean, "dim")', _AXIS, flops=2.0, commutes=True,
    ),
    Op(
        "split", "shape", 1, _split_axes, _split,
        "Cut an axis into equal runs: the new axis counts the runs, the old keeps the inner "
        "extent.", "x[i * n + j] -> x[i, j]",
        'k.split("token", into=4, name="sub").mean("token")',
        (Param("axis", "axis"), Param("into", "count"), Param("name", "new_axis")),
        method=True, function=False, flops=0.0,
    ),
)  # fmt: skip

_SOURCES = (
    Op("k", "source", 0, _fixed(TOKEN, DIM), None, "Keys of one page, after RoPE.", "k",
       function=False),
    Op("v", "source", 0, _fixed(TOKEN, VDIM), None, "Values of one page.", "v", function=False),
    Op("q", "source", 0, _fixed(HEAD, DIM), None, "Queries of one KV head, after RoPE, unscaled.",
       "q", function=False),
    Op("field", "source", 0, _no_axes, None, "A field that summarize() kept.", "page.name",
       params=(Param("name", "field"),), function=False),
    Op("page_index", "source", 0, _fixed(PAGE), None, "Logical index of the page, from 0.", "i",
       "vx.page_index"),
    Op("page_age", "source", 0, _fixed(PAGE), None,
       "Complete pages after this one; 0 for the newest.", "n - 1 - i", "vx.page_age"),
    Op("page_count", "source", 0, _no_axes, None, "Complete pages of the sequence.", "n",
       "vx.page_count"),
    Op("scale", "source", 0, _no_axes, None, "The model's softmax scale.", "s", "vx.scale"),
    Op("const", "scalar", 0, _no_axes, None, "A number.", "c", params=(Param("value", "number"),),
       function=False),
    Op("knob", "scalar", 0, _no_axes, None, "The value of a knob.", "self.name",
       params=(Param("value", "number"),), function=False),
)  # fmt: skip

_PAGES = (Param("pages", "count", 0), Param("tokens", "tokens", 0))

_SELECTORS = (
    Op("top_k", "selector", 1, _no_axes, None,
       "The best-scored pages within a budget of tokens, reserved pages included.",
       "k largest of score", "vx.top_k(score, tokens=self.budget)", (Param("tokens", "tokens"),)),
    Op("sinks", "selector", 0, _no_axes, None, "The first pages: reserved, never ranked.",
       "i < pages", "vx.sinks(1)", _PAGES),
    Op("recent", "selector", 0, _no_axes, None,
       "The newest pages, the partial one first: reserved, never ranked.", "i >= n - pages",
       "vx.recent(2)", _PAGES),
    Op("union", "selector", 2, _no_axes, None, "Pages that either side keeps.", "a | b",
       function=False),
    Op("all", "selector", 0, _no_axes, None, "Every page: full attention.", "all", "vx.all()",
       reserved=True),
    Op("random", "selector", 0, _no_axes, None, "Random pages, drawn anew at each step.",
       "random", "vx.random(tokens=self.budget)", (Param("tokens", "tokens"),), reserved=True),
    Op("oracle", "selector", 0, _no_axes, None,
       "The pages of largest true attention mass, summed over the query heads.",
       "k largest of sum softmax(q k)", "vx.oracle(tokens=self.budget)",
       (Param("tokens", "tokens"),), reserved=True),
)  # fmt: skip

OPS: Mapping[str, Op] = {op.name: op for op in (*_TENSOR_OPS, *_SOURCES, *_SELECTORS)}


def make(op: str, *inputs: Node, span: Span | None = None, **attrs: Attr) -> Node:
    """A node of the table's op, its axes derived by the op's rule.

    Raises:
        AxisError: the inputs' axes do not fit.
    """
    entry = OPS[op]
    return Node(op, inputs, tuple(sorted(attrs.items())), entry.axes(inputs, attrs), span)


def make_field(name: str, content: Node, span: Span | None = None) -> Node:
    """The node that reads field ``name`` of every page: axes ``page`` and the field's own."""
    return Node("field", (), (("name", name),), canonical_axes((PAGE, *content.axes)), span)


def rebuild(node: Node, inputs: tuple[Node, ...], attrs: Mapping[str, Attr]) -> Node:
    """The same op on other inputs or attributes; sources keep their axes."""
    entry = OPS[node.op]
    axes = node.axes if entry.kind == "source" else entry.axes(inputs, attrs)
    return Node(node.op, inputs, tuple(sorted(attrs.items())), axes, node.span)
