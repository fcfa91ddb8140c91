"""What an expression of the language can be while a program is read, and how messages name it."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vortex.errors import Span
from vortex.ir import Attr, KnobRef, MatrixRef, Node
from vortex.ops import OPS, Op


class Poison:
    """The value of an expression that was already complained about."""


POISON = Poison()


@dataclass(frozen=True, slots=True)
class PageFields:
    """The ``page`` argument: its attributes are fields, some complained about, and states."""

    fields: Mapping[str, Node | Poison]
    states: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outputs:
    """Named outputs: ``vx.Summary(...)``, ``vx.Scores(...)``, ``vx.State(...)``."""

    kind: str
    values: Mapping[str, Value]
    dtype: Attr = "bf16"
    span: Span | None = None


Value = Node | KnobRef | MatrixRef | int | float | str | bool | Poison | PageFields | Outputs


class Refused(Exception):
    """Stops one expression; the diagnostic is already recorded."""


def span_of(tree: ast.AST) -> Span:
    """Where a syntax node stands. ``ast`` counts columns in UTF-8 bytes from 0."""
    place = tree if isinstance(tree, ast.expr | ast.stmt | ast.keyword | ast.arg) else None
    if place is None:
        return Span(1, 1, 1, 2)
    end_line = place.end_lineno or place.lineno
    return Span(place.lineno, place.col_offset + 1, end_line, (place.end_col_offset or 0) + 1)


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that looks most like the given one."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else None


def many_operands(tree: ast.AST) -> bool:
    """Whether a call joins several values: its second argument is no axis name."""
    return (
        isinstance(tree, ast.Call)
        and len(tree.args) > 1
        and not (isinstance(tree.args[1], ast.Constant) and isinstance(tree.args[1].value, str))
    )


def spelled(op: Op, tree: ast.AST) -> str:
    """The op as it would be called in place of another name, with the axis that was given."""
    if not op.method:
        return op.example
    match tree:
        case ast.Call(args=[ast.Constant(value=str(axis))]) if axis.isidentifier():
            return f'.{op.name}("{axis}")'
    return op.example


def folded_constant(op: str, a: float, b: float) -> float | None:
    """Arithmetic on two written numbers; None without a finite value below 1e30."""
    results: Mapping[str, Callable[[float, float], float]] = {
        "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
        "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le,
        "eq": operator.eq, "ne": operator.ne,
    }  # fmt: skip
    try:
        result = float(results[op](a, b))
    except (ZeroDivisionError, OverflowError):
        return None
    return result if abs(result) < 1e30 else None


def kind_of(value: Value) -> str:
    match value:
        case Node() if OPS[value.op].kind == "selector":
            return "a selection"
        case Node():
            return f"a tensor with axes [{', '.join(value.names)}]"
        case PageFields():
            return "the page itself (name a field: page.x)"
        case Outputs():
            return f"a {value.kind}"
        case KnobRef():
            return f"knob '{value.knob}'"
        case MatrixRef():
            return "a matrix"
        case str() | bool():
            return repr(value)
        case _:
            return "a number"


def describe(tree: ast.AST) -> str:
    return {
        "ListComp": "a comprehension", "GeneratorExp": "a generator", "Lambda": "lambda",
        "IfExp": "'if ... else' (use vx.where)", "BoolOp": "'and'/'or'", "JoinedStr": "an f-string",
        "Subscript": "indexing with []", "Starred": "*unpacking", "NamedExpr": "':='",
        "Await": "await", "Dict": "a dictionary", "List": "a list", "Set": "a set",
        "Tuple": "a tuple", "Compare": "this comparison",
    }.get(type(tree).__name__, f"'{type(tree).__name__}'")  # fmt: skip
