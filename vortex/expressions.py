"""Expressions of the language: a restricted walk of the syntax tree that builds IR nodes."""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vortex.arguments import arguments, matrix, storage_type
from vortex.constants import divides_by_zero, number_of
from vortex.errors import Diagnostic
from vortex.ir import Attr, KnobRef, Node
from vortex.knobs import Knob
from vortex.ops import OPS, AxisError, Op, make, make_field
from vortex.values import (
    POISON,
    Outputs,
    PageFields,
    Poison,
    Refused,
    Value,
    describe,
    folded_constant,
    kind_of,
    many_operands,
    nearest,
    span_of,
    spelled,
)

MAX_NODES = 512

_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div",
    ast.Gt: "gt", ast.GtE: "ge", ast.Lt: "lt", ast.LtE: "le", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip
_VALUES = ("scale", "page_index", "page_age", "page_count", "depth", "context")


@dataclass
class Walker:
    """Evaluates expressions to values; complaints gather in ``problems``.

    Attributes:
        scope: local names of the function being read.
        allowed: names of source ops that this function may use.
        broken: knobs and states whose declaration was complained about.
        numbers: what nodes come to that are made of numbers alone, by key.
    """

    knobs: Mapping[str, Knob]
    alias: str = "vx"
    reserved_allowed: bool = False
    problems: list[Diagnostic] = field(default_factory=list)
    scope: dict[str, Value] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    nodes: set[str] = field(default_factory=set)
    numbers: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def complain(self, code: str, message: str, tree: ast.AST, hint: str | None = None) -> Refused:
        """Record a diagnostic; returns the exception to raise."""
        self.problems.append(Diagnostic(code, message, span_of(tree), hint))
        return Refused()

    def value(self, tree: ast.expr) -> Value:
        """The value of an expression; POISON if it, or a part of it, was complained about."""
        try:
            return self.read(tree)
        except Refused:
            return POISON

    def read(self, tree: ast.expr) -> Value:
        match tree:
            case ast.Constant():
                return self._constant(tree)
            case ast.Name():
                return self._name(tree)
            case ast.BinOp():
                return self._binary(tree)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._signed(tree)
            case ast.Compare(ops=[sign]) if type(sign) in _BINARY:
                return self._node(_BINARY[type(sign)], tree, (tree.left, tree.comparators[0]))
            case ast.Attribute():
                return self._attribute(tree)
            case ast.Call():
                return self._call(tree)
        raise self.complain(
            "E105",
            f"{describe(tree)} is not part of the language",
            tree,
            "use arithmetic, comparisons, x.method(...), vx.function(...), self.KNOB, page.FIELD",
        )

    def _constant(self, tree: ast.Constant) -> Value:
        value = tree.value
        if isinstance(value, bool | str):
            return value
        if isinstance(value, int | float):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number) and abs(number) < 1e30:
                return value
        raise self.complain(
            "E105", "only finite numbers below 1e30, strings and booleans may be written here", tree
        )

    def _name(self, tree: ast.Name) -> Value:
        if tree.id in self.scope:
            return self.scope[tree.id]
        near = nearest(tree.id, list(self.scope))
        hint = f"did you mean '{near}'?" if near else f"known here: {', '.join(self.scope)}"
        raise self.complain("E109", f"unknown name '{tree.id}'", tree, hint)

    def _signed(self, tree: ast.UnaryOp) -> Value:
        inner = self.read(tree.operand)
        if isinstance(tree.op, ast.UAdd):
            return inner
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner
        return self._node("neg", tree, (tree.operand,))

    def _binary(self, tree: ast.BinOp) -> Value:
        if isinstance(tree.op, ast.BitOr):
            parts = self._each(self._selector, (tree.left, tree.right))
            return self._made("union", tree, parts, {})
        if isinstance(tree.op, ast.Pow):
            if isinstance(tree.right, ast.Constant) and tree.right.value == 2:
                return self._node("square", tree, (tree.left,))
            raise self.complain("E105", "the only power is ** 2", tree, "write x * x * x, or exp()")
        op = _BINARY.get(type(tree.op))
        if op is None:
            raise self.complain("E105", f"operator {describe(tree.op)} is not known here", tree)
        left, right = self.read(tree.left), self.read(tree.right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            folded = folded_constant(op, float(left), float(right))
            if folded is not None:
                return folded
            if op == "div" and right == 0:
                raise self._division(tree)
            raise self.complain("E111", "this constant has no value below 1e30", tree)
        return self._node(op, tree, (tree.left, tree.right))

    def _keep_number(self, node: Node) -> Node:
        number = number_of(node, self.numbers)
        if number is not None:
            self.numbers[node.key] = number
        return node

    def _division(self, tree: ast.expr) -> Refused:
        return self.complain("E125", "this divides by 0", tree, "divide by another number")

    def _attribute(self, tree: ast.Attribute) -> Value:
        if isinstance(tree.value, ast.Name):
            base = tree.value.id
            if base == "self" and "self" not in self.scope:
                return self._knob(tree)
            if base == self.alias and base not in self.scope:
                return self._constant_of_language(tree)
        owner = self.read(tree.value)
        if isinstance(owner, PageFields):
            return self._field(owner, tree)
        if isinstance(owner, Node) and tree.attr in ("nope", "rope"):
            return self._made("part", tree, (owner,), {"part": tree.attr})
        if isinstance(owner, Outputs):
            return self._field_of_outputs(owner, tree)
        if isinstance(owner, Poison):
            raise Refused
        raise self.complain(
            "E110", f"there is no attribute '{tree.attr}' here", tree, "methods need brackets: ()"
        )

    def _knob(self, tree: ast.Attribute) -> Value:
        if tree.attr in self.knobs:
            return KnobRef(tree.attr)
        if tree.attr in self.broken:
            raise Refused
        near = nearest(tree.attr, list(self.knobs))
        hint = f"did you mean 'self.{near}'?" if near else f"knobs: {', '.join(self.knobs)}"
        raise self.complain("E109", f"there is no knob '{tree.attr}'", tree, hint)

    def _constant_of_language(self, tree: ast.Attribute) -> Value:
        if tree.attr in _VALUES:
            if tree.attr not in self.allowed:
                where = "a budget in select()" if tree.attr == "context" else "score()"
                raise self.complain(
                    "E109", f"'{tree.attr}' is only known in {where}", tree,
                    "summaries see one page and nothing of its position",
                )  # fmt: skip
            return self._made(tree.attr, tree, (), {})
        if tree.attr in OPS:
            raise self.complain(
                "E111",
                f"'{tree.attr}' is a function",
                tree,
                f"for example {OPS[tree.attr].example}",
            )
        raise self._unknown_op(tree.attr, tree, method=False)

    def _field(self, page: PageFields, tree: ast.Attribute) -> Value:
        fields = page.fields
        if tree.attr in page.states:
            return self._made("state", tree, (), {"name": tree.attr})
        if tree.attr in fields:
            content = fields[tree.attr]
            if isinstance(content, Poison):
                raise Refused
            return make_field(tree.attr, content, span_of(tree))
        if tree.attr in self.broken:
            raise Refused
        near = nearest(tree.attr, [*fields, *page.states])
        hint = f"did you mean 'page.{near}'?" if near else "summarize() returns it by keyword"
        raise self.complain("E110", f"summarize() keeps no field '{tree.attr}'", tree, hint)

    def _field_of_outputs(self, outputs: Outputs, tree: ast.Attribute) -> Value:
        if tree.attr in outputs.values:
            return outputs.values[tree.attr]
        raise self.complain(
            "E110", f"score() returns no output '{tree.attr}'", tree,
            f"it returns {', '.join(outputs.values)}",
        )  # fmt: skip

    def _call(self, tree: ast.Call) -> Value:
        match tree.func:
            case ast.Attribute(value=ast.Name(id=base)) if (
                base == self.alias and base not in self.scope
            ):
                return self._function(tree, tree.func.attr)
            case ast.Attribute():
                return self._method(tree, tree.func)
        raise self.complain(
            "E105", "only vx.function(...) and x.method(...) can be called", tree,
            "Python's own functions are not part of the language",
        )  # fmt: skip

    def _function(self, tree: ast.Call, name: str) -> Value:
        if name in ("Summary", "Scores", "State"):
            return self._outputs(tree, name)
        if name in ("load", "random_matrix"):
            return matrix(self, tree, name)
        op = OPS.get(name)
        if op is None or not op.function or op.kind == "source":
            raise self._unknown_op(name, tree, method=False)
        if op.reserved and not self.reserved_allowed:
            raise self.complain(
                "E114", f"selector '{name}' is reserved for controls", tree,
                "a candidate ranks pages with top_k(score, tokens=...)",
            )  # fmt: skip
        if op.kind == "selector" and "selectors" not in self.allowed:
            raise self.complain("E118", f"'{name}' selects pages: only select() may", tree)
        operands = len(tree.args) if op.variadic else op.arity
        return self._apply(op, tree, tree.args[:operands], tree.args[operands:])

    def _method(self, tree: ast.Call, func: ast.Attribute) -> Value:
        op = OPS.get(func.attr)
        if op is None or not op.method:
            raise self._unknown_op(func.attr, tree, method=True)
        return self._apply(op, tree, [func.value, *tree.args[: op.arity - 1]],
                           tree.args[op.arity - 1 :])  # fmt: skip

    def _unknown_op(self, name: str, tree: ast.AST, *, method: bool) -> Refused:
        forms = [o for o in OPS.values() if (o.method if method else o.function)]
        same = next((o for o in forms if name in o.aliases), None)
        near = nearest(name, [o.name for o in forms])
        other = OPS.get(name)
        hint = f"did you mean '{near}'?" if near else None
        if same is not None and (method or many_operands(tree)):
            hint = f"did you mean {spelled(same, tree)}?"
        elif other is not None and (other.method or other.function) and other.kind != "source":
            hint = f"it is spelled like this: {other.example}"
        form = "x.{}(...)" if method else "vx.{}(...)"
        return self.complain("E102", f"unknown operation {form.format(name)}", tree, hint)

    def _outputs(self, tree: ast.Call, kind: str) -> Outputs:
        if tree.args:
            raise self.complain(
                "E111", f"{kind} takes keywords only", tree, f"vx.{kind}(name=value)"
            )
        dtype: Attr = "bf16"
        values: dict[str, Value] = {}
        for keyword in tree.keywords:
            if keyword.arg is None or keyword.arg.startswith("_") or keyword.arg in values:
                raise self.complain("E111", "every output needs a name of its own", keyword)
            value = self.value(keyword.value)
            if kind == "Summary" and keyword.arg == "dtype":
                with contextlib.suppress(Refused):  # the fields are known all the same
                    dtype = storage_type(self, value, keyword)
            else:
                values[keyword.arg] = value
        return Outputs(kind, values, dtype, span_of(tree))

    def _apply(
        self, op: Op, tree: ast.Call, operands: list[ast.expr], rest: list[ast.expr]
    ) -> Value:
        if len(operands) < (2 if op.variadic else op.arity):
            raise self.complain(
                "E111",
                f"'{op.name}' needs {op.arity or 'more'} operand(s)",
                tree,
                f"for example {op.example}",
            )
        attrs, budgets = arguments(self, op, tree, rest)
        reader = self.tensor
        if op.kind == "selector":
            reader = self._selector if op.name == "refine" else self._score
        return self._made(op.name, tree, (*self._each(reader, operands), *budgets), attrs)

    def _node(self, op: str, tree: ast.expr, operands: tuple[ast.expr, ...]) -> Node:
        return self._made(op, tree, self._each(self.tensor, operands), {})

    def _each(
        self, read: Callable[[ast.expr], Node], trees: Sequence[ast.expr]
    ) -> tuple[Node, ...]:
        """All operands; each may complain before the expression is given up."""
        found: list[Node] = []
        for tree in trees:
            with contextlib.suppress(Refused):
                found.append(read(tree))
        if len(found) < len(trees):
            raise Refused
        return tuple(found)

    def tensor(self, tree: ast.expr) -> Node:
        value = self.read(tree)
        if isinstance(value, Poison):
            raise Refused
        if isinstance(value, KnobRef):
            if not isinstance(self.knobs[value.knob].default, int | float):
                raise self.complain("E120", f"knob '{value.knob}' is not a number", tree)
            return make("knob", span=span_of(tree), value=value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._keep_number(make("const", span=span_of(tree), value=float(value)))
        if isinstance(value, Node) and OPS[value.op].kind != "selector":
            return value
        raise self.complain("E120", f"a tensor is needed here, not {kind_of(value)}", tree)

    def _score(self, tree: ast.expr) -> Node:
        value = self.read(tree)
        if isinstance(value, Outputs) and value.kind == "Scores":
            raise self.complain(
                "E118", "score() returns several outputs: name the one to rank", tree,
                f"for example .{next(iter(value.values), 'name')}",
            )  # fmt: skip
        if isinstance(value, Poison):
            raise Refused
        if (
            isinstance(value, Node)
            and OPS[value.op].kind != "selector"
            and value.names == ("page",)
        ):
            return value
        raise self.complain("E118", f"a score is needed here, not {kind_of(value)}", tree)

    def _selector(self, tree: ast.expr) -> Node:
        value = self.read(tree)
        if isinstance(value, Poison):
            raise Refused
        if isinstance(value, Node) and OPS[value.op].kind == "selector":
            return value
        raise self.complain(
            "E118", f"'|' joins selections of pages, not {kind_of(value)}", tree,
            "for example vx.top_k(score, tokens=self.budget) | vx.sinks(1)",
        )  # fmt: skip

    def _made(
        self, op: str, tree: ast.expr, inputs: tuple[Node, ...], attrs: Mapping[str, Attr]
    ) -> Node:
        try:
            node = make(op, *inputs, span=span_of(tree), **attrs)
        except AxisError as error:
            raise self.complain(error.code, error.message, tree, error.hint) from None
        if divides_by_zero(node, self.numbers):
            raise self._division(tree)
        self._keep_number(node)
        self.nodes.add(node.key)
        if len(self.nodes) > MAX_NODES:
            raise self.complain("E107", f"more than {MAX_NODES} operations", tree, "simplify")
        return node
