"""The body of a program's class: knobs, policies and states."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vortex.errors import Span
from vortex.expressions import Walker
from vortex.ir import Attr, KnobRef, Policies
from vortex.knobs import Choice, Integer, Knob, Real, knob_problem
from vortex.values import POISON, Poison, nearest, span_of

PAGE_SIZES = (8, 16, 32, 64, 128)
_SHARED = ("mean", "max", "sum")
_POLICIES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "dense_layers": ("layers", {"first": "dense_first", "last": "dense_last"}),
    "reuse": ("reuse", {"layers": "reuse_layers", "steps": "reuse_steps"}),
}
_KNOBS = {
    "choice": "vx.choice(16, 32)",
    "integer": "vx.integer(1, 8, default=2)",
    "real": "vx.real(0.1, 10, log=True, default=1.0)",
}
_EXAMPLES = {
    "dense_layers": "dense_layers = vx.layers(first=2)",
    "reuse": "reuse = vx.reuse(layers=2, steps=4)",
    "per_head": 'per_head = vx.shared("mean")',
}


@dataclass
class Declarations:
    """Reads the class body; complaints gather in the walker.

    Attributes:
        walker: shares ``knobs`` with this.
        places: where each knob is declared.
    """

    walker: Walker
    knobs: dict[str, Knob]
    policies: Policies = field(default_factory=Policies)
    states: dict[str, Attr] = field(default_factory=dict)
    places: dict[str, Span] = field(default_factory=dict)

    def declaration(self, name: str, tree: ast.Assign, methods: tuple[str, ...]) -> None:
        """One assignment."""
        taken = name in self.knobs or name in self.states
        if taken or name.startswith("_") or name in methods:
            self.walker.complain("E121", f"'{name}' cannot be declared here, or not twice", tree)
            return
        value = tree.value
        before = len(self.walker.problems)
        self.places[name] = span_of(tree)
        match value:
            case _ if name in _EXAMPLES:
                self.policy(name, value)
            case ast.Constant(value=int() | float() | str() as plain) if not isinstance(
                plain, bool
            ):
                self.keep(name, Choice((plain,), plain), value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=self.walker.alias), attr="state")):
                self.state(name, value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=self.walker.alias), attr=kind)):
                self.keep(name, self.knob(kind, value), value)
            case _:
                self.walker.complain("E113", f"'{name}' is not a knob", value,
                                     "use vx.choice, vx.integer, vx.real or a number")  # fmt: skip
        if len(self.walker.problems) > before:
            self.walker.broken.add(name)

    def keep(self, name: str, knob: Knob | None, tree: ast.expr) -> None:
        """Remember a knob that makes sense."""
        if knob is None:
            return
        problem = knob_problem(knob)
        if name == "page_size" and problem is None:
            values = knob.options if isinstance(knob, Choice) else ()
            if not values or any(v not in PAGE_SIZES for v in values):
                problem = f"page sizes are {', '.join(map(str, PAGE_SIZES))}"
        if problem:
            self.walker.complain("E113", problem, tree)
        else:
            self.knobs[name] = knob

    def knob(self, kind: str, tree: ast.Call) -> Knob | None:
        """A knob declaration; None if it was complained about."""
        args = [self.literal(a) for a in tree.args]
        named = {k.arg or "**": self.literal(k.value) for k in tree.keywords}
        if any(isinstance(v, Poison) for v in (*args, *named.values())):
            return None
        extra = named.keys() - {"default", "log"}
        if kind == "choice" and not extra and "log" not in named:
            options = tuple(args)
            default = named.get("default", options[0] if options else 0)
            if all(isinstance(o, int | float | str) for o in (*options, default)):
                return Choice(options, default)  # type: ignore[arg-type]
        elif kind in ("integer", "real") and not extra and len(args) == 2:
            low, high = args
            log = named.get("log", False)
            default = named.get("default", low)
            kinds = int if kind == "integer" else (int, float)
            numbers = all(
                isinstance(x, kinds) and not isinstance(x, bool) for x in (low, high, default)
            )
            if numbers and isinstance(log, bool):
                if kind == "integer":
                    return Integer(int(low), int(high), log, int(default))  # type: ignore[arg-type]
                return Real(float(low), float(high), log, float(default))  # type: ignore[arg-type]
        if kind in _KNOBS:
            message, near = f"'{kind}' does not declare a knob like this", kind
        else:
            message, near = f"there is no knob vx.{kind}", nearest(kind, list(_KNOBS)) or ""
        self.walker.complain("E113", message, tree, _KNOBS.get(near, ", ".join(_KNOBS.values())))
        return None

    def literal(self, tree: ast.expr) -> int | float | str | bool | Poison:
        """A constant, possibly signed."""
        value = self.walker.value(tree)
        if isinstance(value, int | float | str | bool):
            return value
        if not isinstance(value, Poison):
            self.walker.complain("E113", "only constants may stand in a declaration", tree)
        return POISON

    def state(self, name: str, tree: ast.Call) -> None:
        """A number that every page keeps from step to step."""
        named = {k.arg: self.number(k.value) for k in tree.keywords}
        first = named.get("init", 0.0)
        if tree.args or named.keys() - {"init"} or first is None:
            self.walker.complain("E123", "a state is declared by its first value", tree,
                                 f"{name} = vx.state(init=0.0)")  # fmt: skip
        else:
            self.states[name] = first

    def number(self, tree: ast.expr) -> Attr | None:
        """A number, or a knob named."""
        if isinstance(tree, ast.Name) and tree.id in self.knobs:
            return KnobRef(tree.id)
        value = self.walker.value(tree)
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if plain and isinstance(value, int | float) else None

    def policy(self, name: str, tree: ast.expr) -> None:
        """One of the class attributes with a meaning of their own."""
        if any(isinstance(n, ast.Name) and n.id in self.walker.broken for n in ast.walk(tree)):
            return
        changed = self._shared(tree) if name == "per_head" else self._counts(name, tree)
        if changed is None:
            self.walker.complain("E119", f"'{name}' does not say this", tree, _EXAMPLES[name])
        else:
            self.policies = changed

    def _shared(self, tree: ast.expr) -> Policies | None:
        match tree:
            case ast.Constant(value=True):
                return replace(self.policies, shared="")
            case ast.Constant(value=False):
                return replace(self.policies, shared="mean")
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=self.walker.alias), attr="shared"),
                args=[ast.Constant(value=str() as by)], keywords=[],
            ) if by in _SHARED:  # fmt: skip
                return replace(self.policies, shared=by)
        return None

    def _counts(self, name: str, tree: ast.expr) -> Policies | None:
        function, fields = _POLICIES[name]
        match tree:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=self.walker.alias), attr=called), args=[]
            ) if called == function:
                pass
            case _:
                return None
        least = 0 if name == "dense_layers" else 1
        found: dict[str, Attr] = {}
        for keyword in tree.keywords:
            value = self._count(keyword.value, least)
            if keyword.arg is None or keyword.arg not in fields or value is None:
                return None
            found[fields[keyword.arg]] = value
        return replace(self.policies, **found)  # type: ignore[arg-type]

    def _count(self, tree: ast.expr, least: int) -> Attr | None:
        if isinstance(tree, ast.Name) and tree.id in self.knobs:
            return KnobRef(tree.id)
        value = self.walker.value(tree)
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value < 1000
        return value if whole else None  # type: ignore[return-value]
