"""Program text to Program: structure, knobs and the three methods. Nothing is ever executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from vortex.errors import ProgramError, Span
from vortex.expressions import Walker
from vortex.guards import MAX_NESTING, nesting, syntax_problem, too_large
from vortex.ir import Attr, KnobRef, Node, Program
from vortex.knobs import Choice, Integer, Knob, Real, knob_problem
from vortex.ops import OPS, make
from vortex.values import POISON, Outputs, PageFields, Poison, Value

PAGE_SIZES = (8, 16, 32, 64, 128)

_SIGNATURES = {
    "summarize": (("k", "v"),),
    "score": (("q", "page"),),
    "select": ((), ("score",), ("scores",)),
}
_SKELETON = "class Name(vx.Algorithm): ... def select(self, score): return vx.top_k(...)"


def _signature(name: str) -> str:
    """How a method's first line is written."""
    return f"def {name}(self, {', '.join(_SIGNATURES[name][-1])}):"


def parse(source: str, *, filename: str = "program", reserved: bool = False) -> Program:
    """Read a program.

    Args:
        source: text in the language, at most 16 KiB.
        filename: what messages call it.
        reserved: allow the selectors that only controls may use.

    Raises:
        ProgramError: the text is not a program; it carries every complaint.
    """
    problems = too_large(source)
    if problems:
        raise ProgramError(problems, source=source, filename=filename)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ProgramError([syntax_problem(error)], source=source, filename=filename) from None
    reader = Reader(source=source, reserved=reserved)
    program = reader.module(tree)
    if program is None or reader.walker.problems:
        found = sorted(reader.walker.problems, key=lambda d: d.span or Span(0, 0, 0, 0))
        raise ProgramError(list(dict.fromkeys(found)), source=source, filename=filename)
    return program


@dataclass
class Reader:
    """Reads the module, its class and its methods; complaints gather in ``walker``."""

    source: str
    reserved: bool
    knobs: dict[str, Knob] = field(default_factory=dict)
    dense: tuple[Attr, Attr] = (0, 0)
    walker: Walker = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(self.knobs, reserved_allowed=self.reserved)

    def refuse(self, code: str, message: str, tree: ast.AST, hint: str | None = None) -> None:
        """Record a complaint and go on."""
        self.walker.complain(code, message, tree, hint)

    def module(self, tree: ast.Module) -> Program | None:
        """The program of a module: an import and one class."""
        if nesting(tree) > 2 * MAX_NESTING:
            self.refuse("E108", "the program is nested too deeply", tree, "name the parts")
            return None
        found: list[ast.ClassDef] = []
        for statement in tree.body:
            match statement:
                case ast.Import(names=[ast.alias(name="vortex", asname=alias)]):
                    self.walker.alias = alias or "vortex"
                case ast.Import() | ast.ImportFrom():
                    self.refuse("E115", "only 'import vortex as vx' may be imported", statement)
                case ast.ClassDef():
                    found.append(statement)
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case _:
                    self.refuse("E105", "a program holds one import and one class", statement)
        if len(found) != 1:
            place = found[1] if found else tree
            self.refuse("E112", f"expected one class, found {len(found)}", place, _SKELETON)
            return None
        return self.algorithm(found[0])

    def algorithm(self, tree: ast.ClassDef) -> Program | None:
        """The program of a class."""
        match tree.bases:
            case [ast.Attribute(value=ast.Name(id=self.walker.alias), attr="Algorithm")]:
                pass
            case _:
                self.refuse("E112", "the class must derive from vx.Algorithm", tree, _SKELETON)
        if tree.decorator_list or tree.keywords or getattr(tree, "type_params", None):
            self.refuse("E105", "decorators and class arguments are not part of the language", tree)
        methods: dict[str, ast.FunctionDef] = {}
        for statement in tree.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str())) | ast.Pass():
                    pass
                case ast.Assign(targets=[ast.Name(id=name)]):
                    self.declaration(name, statement)
                case ast.FunctionDef():
                    self.method(statement, methods)
                case _:
                    self.refuse("E105", "a class holds knobs and methods only", statement)
        if "page_size" not in self.knobs:
            self.refuse("E113", "page_size is not declared", tree, "page_size = vx.choice(16, 32)")
        if "select" not in methods:
            self.refuse("E112", "there is no select()", tree, _SKELETON)
            return None
        return self.program(tree, methods)

    def method(self, tree: ast.FunctionDef, methods: dict[str, ast.FunctionDef]) -> None:
        """Check a method's head and remember it."""
        a = tree.args
        plain = not (a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults)
        bare = all(arg.annotation is None for arg in a.args) and tree.returns is None
        if tree.name not in _SIGNATURES:
            self.refuse("E105", f"unknown method '{tree.name}'", tree,
                        "methods are summarize, score and select")  # fmt: skip
        elif tree.name in methods:
            self.refuse("E121", f"'{tree.name}' is defined twice", tree)
        elif tree.decorator_list or getattr(tree, "type_params", None) or not (plain and bare):
            self.refuse("E105", "no decorators, defaults or annotations on methods", tree,
                        _signature(tree.name))  # fmt: skip
        elif tuple(arg.arg for arg in a.args) not in {
            ("self", *names) for names in _SIGNATURES[tree.name]
        }:
            self.refuse("E111", f"wrong arguments of {tree.name}()", tree,
                        _signature(tree.name))  # fmt: skip
        else:
            methods[tree.name] = tree

    def declaration(self, name: str, tree: ast.Assign) -> None:
        """A knob or a policy in the class body."""
        if name in self.knobs or name.startswith("_") or name in _SIGNATURES:
            self.refuse("E121", f"'{name}' cannot be declared here, or not twice", tree)
            return
        match tree.value:
            case ast.Constant(value=int() | float() | str() as value) if not isinstance(
                value, bool
            ):
                knob: Knob | None = Choice((value,), value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=self.walker.alias), attr=kind)):
                if kind == "layers" and name == "dense_layers":
                    self.layers(tree.value)
                    return
                knob = self.knob(kind, tree.value)
            case _:
                self.refuse("E113", f"'{name}' is not a knob", tree.value,
                            "use vx.choice, vx.integer, vx.real or a number")  # fmt: skip
                return
        if knob is None:
            return
        problem = knob_problem(knob)
        if name == "page_size" and problem is None:
            values = knob.options if isinstance(knob, Choice) else ()
            if not values or any(v not in PAGE_SIZES for v in values):
                problem = f"page sizes are {', '.join(map(str, PAGE_SIZES))}"
        if problem:
            self.refuse("E113", problem, tree.value)
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
        self.refuse("E113", f"'{kind}' does not declare a knob like this", tree,
                    "vx.choice(16, 32), vx.integer(1, 8, default=2), vx.real(0.1, 10, log=True, "
                    "default=1.0)")  # fmt: skip
        return None

    def literal(self, tree: ast.expr) -> int | float | str | bool | Poison:
        """A constant, possibly signed."""
        value = self.walker.value(tree)
        if isinstance(value, int | float | str | bool):
            return value
        if not isinstance(value, Poison):
            self.refuse("E113", "only constants may stand in a declaration", tree)
        return POISON

    def layers(self, tree: ast.Call) -> None:
        """The dense_layers policy."""
        ends: dict[str, Attr] = {"first": 0, "last": 0}
        for keyword in tree.keywords:
            value = self._layer_count(keyword.value)
            if keyword.arg not in ends or value is None:
                self.refuse("E119", "vx.layers takes first= and last=, whole numbers or knobs",
                            keyword, "dense_layers = vx.layers(first=2)")  # fmt: skip
                return
            ends[keyword.arg] = value
        if tree.args:
            self.refuse("E119", "vx.layers takes keywords only", tree)
        self.dense = (ends["first"], ends["last"])

    def _layer_count(self, tree: ast.expr) -> Attr | None:
        if isinstance(tree, ast.Name) and tree.id in self.knobs:
            return KnobRef(tree.id)
        value = self.walker.value(tree)
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1000
        return value if whole else None  # type: ignore[return-value]

    def program(self, tree: ast.ClassDef, methods: Mapping[str, ast.FunctionDef]) -> Program | None:
        """Read the three methods in order: each sees what the one before returned."""
        fields: Mapping[str, Node | Poison] = {}
        dtype: Attr = "bf16"
        if "summarize" in methods:
            scope: dict[str, Value] = {"k": make("k"), "v": make("v")}
            summary = self.body(methods["summarize"], scope, frozenset())
            fields, dtype = self.summary(summary, methods["summarize"])
        scores: Value = POISON
        if "score" in methods:
            scope = {"q": make("q"), "page": PageFields(fields)}
            sources = frozenset(n for n, op in OPS.items() if op.kind == "source")
            scores = self.body(methods["score"], scope, sources)
            self.check_scores(scores, methods["score"])
        head = methods["select"].args.args[1:]
        if head and "score" not in methods:
            self.refuse(
                "E112", "select() ranks a score, but there is no score()", methods["select"]
            )
            return None
        scope = {head[0].arg: scores} if head else {}
        select = self.body(methods["select"], scope, frozenset({"selectors"}))
        return self.assemble(tree, fields, dtype, scores, select, methods["select"])

    def assemble(
        self,
        tree: ast.ClassDef,
        fields: Mapping[str, Node | Poison],
        dtype: Attr,
        scores: Value,
        select: Value,
        method: ast.FunctionDef,
    ) -> Program | None:
        """Put the parts together, if select() gave a selection."""
        if isinstance(select, Poison):
            return None
        if not isinstance(select, Node) or OPS[select.op].kind != "selector":
            self.refuse("E118", "select() must return a selection of pages", method,
                        "return vx.top_k(score, tokens=self.budget) | vx.recent(2)")  # fmt: skip
            return None
        outputs = scores.values if isinstance(scores, Outputs) else {"score": scores}
        return Program(
            name=tree.name,
            doc=ast.get_docstring(tree) or "",
            knobs=dict(self.knobs),
            fields={n: v for n, v in fields.items() if isinstance(v, Node)},
            dtype=dtype,
            scores={n: v for n, v in outputs.items() if isinstance(v, Node)},
            select=select,
            dense_first=self.dense[0],
            dense_last=self.dense[1],
            source=self.source,
        )

    def summary(
        self, value: Value, tree: ast.FunctionDef
    ) -> tuple[Mapping[str, Node | Poison], Attr]:
        """The fields of a summary, each checked to be a tensor without 'page'."""
        if isinstance(value, Poison):
            return {}, "bf16"
        if not isinstance(value, Outputs) or value.kind != "Summary" or not value.values:
            self.refuse("E112", "summarize() must return vx.Summary(name=...)", tree,
                        'return vx.Summary(mean=k.mean("token"))')  # fmt: skip
            return {}, "bf16"
        fields: dict[str, Node | Poison] = {}
        for name, field_value in value.values.items():
            if isinstance(field_value, Node | Poison):
                fields[name] = field_value
            else:
                fields[name] = POISON
                self.refuse("E120", f"field '{name}' is not a tensor", tree)
        return fields, value.dtype

    def check_scores(self, value: Value, tree: ast.FunctionDef) -> None:
        """Every output of score() is one number per page."""
        outputs = value.values if isinstance(value, Outputs) else {"score": value}
        for output in outputs.values():
            if isinstance(output, Poison):
                continue
            names = output.names if isinstance(output, Node) else ()
            if isinstance(output, Node) and names == ("page",):
                continue
            place = next((s for s in reversed(tree.body) if isinstance(s, ast.Return)), tree)
            extra = [n for n in names if n != "page"]
            hint = (
                f"reduce '{extra[0]}', e.g. .max('{extra[0]}')"
                if extra
                else "use a field of the page, e.g. vx.dot(q, page.mean, 'dim').max('head')"
            )
            found = f"[{', '.join(names)}]" if isinstance(output, Node) else "no tensor"
            target = place.value if isinstance(place, ast.Return) and place.value else place
            self.refuse("E101", f"score() must give one number per page, got {found}", target, hint)

    def body(
        self, tree: ast.FunctionDef, scope: dict[str, Value], allowed: frozenset[str]
    ) -> Value:
        """Run a method's statements symbolically; the value that it returns."""
        self.walker.scope, self.walker.allowed = scope, allowed
        for at, statement in enumerate(tree.body):
            match statement:
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case ast.Return(value=value) if value is not None:
                    if at + 1 < len(tree.body):
                        self.refuse("E105", "nothing may follow return", tree.body[at + 1])
                    return self.walker.value(value)
                case ast.Assign(targets=[target], value=value):
                    self.assign(target, value)
                case ast.AugAssign(target=ast.Name() as name, op=op, value=value):
                    load = ast.copy_location(ast.Name(name.id, ast.Load()), name)
                    both = ast.copy_location(ast.BinOp(load, op, value), statement)
                    self.assign(name, both)
                case _:
                    self.refuse("E105", f"'{type(statement).__name__}' statements are not part of "
                                "the language", statement, "assign names, then return")  # fmt: skip
        self.refuse("E112", f"{tree.name}() returns nothing", tree)
        return POISON

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        """Bind a name, or several from a tuple of as many values."""
        match target, value:
            case ast.Name(id=name), _:
                if name.startswith("_") or name in ("self", self.walker.alias):
                    self.refuse("E109", f"'{name}' cannot be assigned", target)
                    return
                self.walker.scope[name] = self.walker.value(value)
            case ast.Tuple(elts=names), ast.Tuple(elts=values) if len(names) == len(values):
                found = [self.walker.value(v) for v in values]
                for name_tree, item in zip(names, found, strict=True):
                    if isinstance(name_tree, ast.Name) and not name_tree.id.startswith("_"):
                        self.walker.scope[name_tree.id] = item
                    else:
                        self.refuse("E105", "only plain names can be assigned", name_tree)
            case _:
                self.refuse("E105", "only plain names can be assigned", target)
