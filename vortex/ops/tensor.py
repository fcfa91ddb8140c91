"""Elementwise operations and reductions of the op table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from vortex.ir import Attr
from vortex.named import Named, Run, contracted, elementwise, reduced
from vortex.ops.base import AXIS, Meaning, Op, Param, drop_axis, keep_axes, pure, union_axes


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


def _unary(
    name: str, function: Callable[[torch.Tensor], torch.Tensor], formula: str, kernel: str
) -> Op:
    cheap = ("neg", "abs", "relu", "sign", "square")
    return Op(
        name, "elementwise", 1, union_axes, pure(function), f"Elementwise {formula}.", formula,
        f"page.mean.{name}()", method=True, kernel=kernel, flops=1.0 if name in cheap else 4.0,
    )  # fmt: skip


def _binary(
    name: str,
    function: Callable[..., torch.Tensor],
    formula: str,
    kernel: str,
    *,
    commutes: bool = False,
    spelled: bool = False,
    aliases: tuple[str, ...] = (),
) -> Op:
    return Op(
        name, "elementwise", 2, union_axes, pure(function), f"Elementwise {formula}.", formula,
        f"vx.{name}(q, page.mean)" if spelled else f"q {formula.split()[1]} page.mean",
        function=spelled, commutes=commutes, kernel=kernel, aliases=aliases,
    )  # fmt: skip


def _compare(name: str, sign: str, function: Callable[..., torch.Tensor]) -> Op:
    def meaning(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return function(a, b).to(a.dtype if a.is_floating_point() else torch.float32)

    kernel = f"tl.where({{0}} {sign} {{1}}, 1.0, 0.0)"
    return _binary(name, meaning, f"a {sign} b as 1 or 0", kernel, commutes=name in ("eq", "ne"))


def _reduction(
    name: str, meaning: Meaning, formula: str, flops: float = 1.0, aliases: tuple[str, ...] = ()
) -> Op:
    return Op(
        name, "reduce", 1, drop_axis, meaning, f"{formula} over a named axis.".capitalize(),
        formula, f'page.mean.{name}("dim")', AXIS, method=True, function=False, flops=flops,
        aliases=aliases,
    )  # fmt: skip


TENSOR_OPS = (
    _unary("neg", torch.neg, "-x", "-{0}"),
    _unary("abs", torch.abs, "|x|", "tl.abs({0})"),
    _unary("sign", torch.sign, "-1, 0 or 1", "sign({0})"),
    _unary("exp", torch.exp, "e^x", "tl.exp({0})"),
    _unary("log", torch.log, "ln x", "tl.log({0})"),
    _unary("sqrt", torch.sqrt, "square root of x", "tl.sqrt({0})"),
    _unary("square", torch.square, "x * x", "{0} * {0}"),
    _unary("relu", torch.relu, "max(x, 0)", "larger({0}, 0.0)"),
    _unary("sigmoid", torch.sigmoid, "1 / (1 + e^-x)", "tl.sigmoid({0})"),
    _unary("silu", torch.nn.functional.silu, "x * sigmoid(x)", "{0} * tl.sigmoid({0})"),
    _unary("tanh", torch.tanh, "hyperbolic tangent of x", "tanh({0})"),
    _binary("add", torch.add, "a + b", "{0} + {1}", commutes=True),
    _binary("sub", torch.sub, "a - b", "{0} - {1}"),
    _binary("mul", torch.mul, "a * b", "{0} * {1}", commutes=True),
    _binary("div", torch.div, "a / b", "{0} / {1}"),
    _binary("maximum", torch.maximum, "larger of a and b", "larger({0}, {1})",
            commutes=True, spelled=True, aliases=("max", "fmax")),
    _binary("minimum", torch.minimum, "smaller of a and b", "smaller({0}, {1})",
            commutes=True, spelled=True, aliases=("min", "fmin")),
    _compare("gt", ">", torch.gt),
    _compare("ge", ">=", torch.ge),
    _compare("lt", "<", torch.lt),
    _compare("le", "<=", torch.le),
    _compare("eq", "==", torch.eq),
    _compare("ne", "!=", torch.ne),
    Op(
        "where", "elementwise", 3, union_axes, pure(lambda c, a, b: torch.where(c != 0, a, b)),
        "Pick from a where the condition holds, else from b.", "c ? a : b",
        "vx.where(page.mean > 0, page.mean, 0.0)", kernel="tl.where({0} != 0, {1}, {2})",
    ),
    Op(
        "clip", "elementwise", 1, union_axes, _clip, "Limit to a closed range.",
        "min(max(x, low), high)", "page.mean.clip(-1.0, 1.0)",
        (Param("low", "number"), Param("high", "number")), method=True, flops=2.0,
        kernel="smaller(larger({0}, {low}), {high})",
    ),
    _reduction("sum", _reduce(lambda x, d: x.sum(d), 0.0), "sum", aliases=("total", "add")),
    _reduction("mean", _mean, "mean", aliases=("average", "avg")),
    _reduction("max", _reduce(lambda x, d: x.amax(d), float("-inf")), "maximum",
               aliases=("maximum", "amax", "largest")),
    _reduction("min", _reduce(lambda x, d: x.amin(d), float("inf")), "minimum",
               aliases=("minimum", "amin", "smallest")),
    _reduction("norm", _reduce(lambda x, d: x.square().sum(d).sqrt(), 0.0), "Euclidean norm", 2.0,
               aliases=("l2", "l2norm", "magnitude", "length")),
    _reduction("logsumexp", _reduce(torch.logsumexp, float("-inf")), "log of sum of e^x", 5.0,
               aliases=("lse",)),
    Op(
        "softmax", "reduce", 1, keep_axes, _softmax, "e^x over its sum along a named axis.",
        "e^x / sum e^x", '(q * page.mean).sum("dim").softmax("page")', AXIS,
        method=True, function=False, flops=8.0,
    ),
    Op(
        "dot", "reduce", 2, drop_axis, _dot, "Sum of products along a named axis.",
        "sum(a * b)", 'vx.dot(q, page.mean, "dim")', AXIS, flops=2.0, commutes=True,
    ),
)  # fmt: skip
