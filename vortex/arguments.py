"""Arguments of an operation: which were given, of what kind, and the matrices that they name."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from vortex.ir import Attr, KnobRef, MatrixRef, Node
from vortex.ops import Op, Param
from vortex.storage import BITS
from vortex.values import Outputs, PageFields, Poison, Refused, Value

if TYPE_CHECKING:
    from vortex.expressions import Walker

_WANTS = {
    "axis": "an axis name", "new_axis": "a new axis name", "number": "a number or a knob",
    "offset": "a whole number or a knob",
    "matrix": "a matrix: vx.load(...) or vx.random_matrix(...)",
}  # fmt: skip


def arguments(
    walker: Walker, op: Op, tree: ast.Call, rest: list[ast.expr]
) -> tuple[dict[str, Attr], tuple[Node, ...]]:
    """The attributes of a call, and its budgets, which become inputs.

    Raises:
        Refused: something does not fit; the complaint is recorded.
    """
    given = _given(walker, op, tree, rest)
    attrs: dict[str, Attr] = {}
    budgets: list[Node] = []
    for param in op.params:
        if param.kind == "budget" and param.name in given:
            budgets.append(_budget(walker, op, param, given[param.name]))
        elif param.name in given:
            attrs[param.name] = _param(walker, op, param, given[param.name])
        elif param.default is not None:
            attrs[param.name] = param.default
        elif not param.optional:
            raise walker.complain(
                "E111", f"'{op.name}' needs '{param.name}'", tree, f"for example {op.example}"
            )
    return attrs, tuple(budgets)


def _given(walker: Walker, op: Op, tree: ast.Call, rest: list[ast.expr]) -> dict[str, ast.expr]:
    names = [p.name for p in op.params]
    given = dict(zip(names, rest, strict=False))
    for keyword in tree.keywords:
        if keyword.arg is None or keyword.arg not in names or keyword.arg in given:
            known = ", ".join(names) or "none"
            raise walker.complain(
                "E111", f"'{op.name}' has no argument '{keyword.arg}' to set here", keyword,
                f"arguments: {known}; for example {op.example}",
            )  # fmt: skip
        given[keyword.arg] = keyword.value
    if len(rest) > len(names):
        raise walker.complain(
            "E111", f"too many arguments for '{op.name}'", tree, f"for example {op.example}"
        )
    return given


def _budget(walker: Walker, op: Op, param: Param, tree: ast.expr) -> Node:
    node = walker.tensor(tree)
    if node.axes:
        raise walker.complain(
            "E111", f"'{param.name}' of '{op.name}' must be one number of tokens", tree,
            "numbers, knobs, vx.context and vx.depth may be joined by arithmetic",
        )  # fmt: skip
    return node


def _param(walker: Walker, op: Op, param: Param, tree: ast.expr) -> Attr:
    value = walker.read(tree)
    if not _fits(param, value):
        raise walker.complain(
            "E111", f"'{param.name}' of '{op.name}' must be "
            f"{_WANTS.get(param.kind, 'a whole number or a knob')}", tree,
            f"for example {op.example}",
        )  # fmt: skip
    assert not isinstance(value, Poison | PageFields | Outputs | Node)
    if param.kind == "number" and isinstance(value, int):
        return float(value)  # one spelling, whatever was written
    return value


def _fits(param: Param, value: Value) -> bool:
    text = isinstance(value, str) and value.isidentifier() and not value.startswith("_")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and number and abs(value) <= 2**31
    if param.kind in ("axis", "new_axis"):
        return text and isinstance(value, str) and len(value) <= 32
    if param.kind == "matrix":
        return isinstance(value, MatrixRef)
    if isinstance(value, KnobRef):
        return True
    if param.kind == "number":
        return number
    return whole and (param.kind == "offset" or (isinstance(value, int) and value >= 0))


def storage_type(walker: Walker, value: Value, tree: ast.keyword) -> Attr:
    """The storage type of a summary.

    Raises:
        Refused: there is no such type.
    """
    if isinstance(value, Poison):
        raise Refused
    if isinstance(value, KnobRef) or value in tuple(BITS):
        assert isinstance(value, KnobRef | str)
        return value
    raise walker.complain(
        "E111", f"fields are stored as {', '.join(BITS)}", tree, 'for example dtype="fp8"'
    )


def matrix(walker: Walker, tree: ast.Call, name: str) -> MatrixRef:
    """What ``vx.load`` or ``vx.random_matrix`` names.

    Raises:
        Refused: the arguments do not fit.
    """
    args = [walker.read(a) for a in tree.args]
    named = {k.arg: walker.read(k.value) for k in tree.keywords}
    if name == "random_matrix":
        seed = args[0] if args else named.get("seed", 0)
        plain = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31
        if len(args) <= 1 and named.keys() <= {"seed"} and plain and isinstance(seed, int):
            return MatrixRef(seed=seed)
    elif len(args) == 2 and named.keys() <= {"layer"}:
        file, tensor = args
        layer = named.get("layer", False)
        if (
            isinstance(file, str) and isinstance(tensor, str) and isinstance(layer, bool)
            and file.endswith(".safetensors") and "/" not in file and "\\" not in file
            and not file.startswith(".") and 0 < len(tensor) <= 200
        ):  # fmt: skip
            return MatrixRef(file, tensor, 0, layer)
    raise walker.complain(
        "E111", f"vx.{name} does not name numbers like this", tree,
        'vx.load("name.safetensors", "tensor", layer=True) of a file beside the program, or '
        "vx.random_matrix(seed=1)",
    )  # fmt: skip
