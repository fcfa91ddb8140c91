"""Program text to Program: structure, knobs and the three methods. Nothing is ever executed."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vortex.declarations import Declarations
from vortex.errors import Diagnostic, ProgramError, Span
from vortex.expressions import Walker
from vortex.guards import MAX_NESTING, nesting, syntax_problem, too_large
from vortex.ir import Attr, Node, Program, walk
from vortex.knobs import Knob
from vortex.ops import OPS, make
from vortex.values import POISON, Outputs, PageFields, Poison, Value

_SIGNATURES = {
    "summarize": (("k", "v"),),
    "score": (("q", "page"),),
    "update": (("page", "mass"),),
    "select": ((), ("score",), ("scores",)),
}
_SCORE_SOURCES = frozenset({"scale", "page_index", "page_age", "page_count", "depth"})
_PARSING = threading.RLock()
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
        # Python 3.11 counts the depth of a tree for all threads together, and fails where two
        # build one at once; what is warned of is set for all of them, too.
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ProgramError([syntax_problem(error)], source=source, filename=filename) from None
    reader = Reader(source=source, reserved=reserved, filename=filename)
    program = reader.module(tree)
    if program is None or reader.walker.problems:
        found = sorted(reader.walker.problems, key=lambda d: d.span or Span(0, 0, 0, 0))
        raise ProgramError(list(dict.fromkeys(found)), source=source, filename=filename)
    return program


@dataclass
class Reader:
    """Reads the module, its class and its methods; complaints gather in ``walker``.

    Attributes:
        refused: methods whose first line was complained about: what follows from that is silent.
    """

    source: str
    reserved: bool
    filename: str = "program"
    refused: set[str] = field(default_factory=set)
    knobs: dict[str, Knob] = field(default_factory=dict)
    walker: Walker = field(init=False)
    declared: Declarations = field(init=False)

    def __post_init__(self) -> None:
        self.walker = Walker(self.knobs, reserved_allowed=self.reserved)
        self.declared = Declarations(self.walker, self.knobs)

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
                    self.declared.declaration(name, statement, tuple(_SIGNATURES))
                case ast.FunctionDef():
                    self.method(statement, methods)
                case _:
                    self.refuse("E105", "a class holds knobs and methods only", statement)
        if "page_size" not in self.knobs and "page_size" not in self.walker.broken:
            self.refuse("E113", "page_size is not declared", tree, "page_size = vx.choice(16, 32)")
        if "select" not in methods:
            if "select" not in self.refused:
                self.refuse("E112", "there is no select()", tree, _SKELETON)
            return None
        return self.program(tree, methods)

    def method(self, tree: ast.FunctionDef, methods: dict[str, ast.FunctionDef]) -> None:
        """Check a method's head and remember it."""
        if tree.name not in methods:
            self.refused.add(tree.name)
        a = tree.args
        plain = not (a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults)
        bare = all(arg.annotation is None for arg in a.args) and tree.returns is None
        if tree.name not in _SIGNATURES:
            self.refuse("E105", f"unknown method '{tree.name}'", tree,
                        "methods are summarize, score, select and update")  # fmt: skip
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
            self.refused.discard(tree.name)

    def program(self, tree: ast.ClassDef, methods: Mapping[str, ast.FunctionDef]) -> Program | None:
        """Read the three methods in order: each sees what the one before returned."""
        fields: Mapping[str, Node | Poison] | None = {}
        dtype: Attr = "bf16"
        if "summarize" in methods:
            scope: dict[str, Value] = {"k": make("k"), "v": make("v")}
            summary = self.body(methods["summarize"], scope, frozenset())
            fields, dtype = self.summary(summary, methods["summarize"])
        elif "summarize" in self.refused:
            fields = None
        scores: Value = POISON
        if "score" in methods:
            scope = {"q": make("q"), "page": self.page(fields)}
            scores = self.body(methods["score"], scope, _SCORE_SOURCES)
            scores = self.check_scores(scores, methods["score"])
        head = methods["select"].args.args[1:]
        if head and "score" not in methods and "score" not in self.refused:
            self.refuse(
                "E112", "select() ranks a score, but there is no score()", methods["select"]
            )
            return None
        scope = {head[0].arg: scores} if head else {}
        allowed = frozenset({"selectors", "context", "depth"})
        select = self.body(methods["select"], scope, allowed)
        updates = self.updates(methods.get("update"), fields, tree)
        program = self.assemble(tree, dtype, select, methods["select"])
        if program is None:
            return None
        outputs = scores.values if isinstance(scores, Outputs) else {"score": scores}
        program = replace(
            program,
            fields={n: v for n, v in (fields or {}).items() if isinstance(v, Node)},
            scores={n: v for n, v in outputs.items() if isinstance(v, Node)},
            updates=updates,
        )
        self.check_all_is_read(program, methods)
        return program

    def page(self, fields: Mapping[str, Node | Poison] | None) -> PageFields | Poison:
        """The ``page`` argument: fields and states; nothing is known of it without a summary."""
        return POISON if fields is None else PageFields(fields, frozenset(self.declared.states))

    def updates(
        self,
        tree: ast.FunctionDef | None,
        fields: Mapping[str, Node | Poison] | None,
        place: ast.AST,
    ) -> Mapping[str, Node]:
        """What update() returns: the next value of every state, one number per page."""
        states = self.declared.states
        both = sorted(states.keys() & (fields or {}).keys())
        if both:
            self.refuse("E123", f"'{both[0]}' is a field and a state", place, "rename one")
        if tree is None:
            if states and "update" not in self.refused:
                self.refuse("E123", f"state '{next(iter(states))}' is never updated", place,
                            "def update(self, page, mass): return vx.State(name=...)")  # fmt: skip
            return {}
        scope: dict[str, Value] = {"page": self.page(fields), "mass": make("mass")}
        value = self.body(tree, scope, _SCORE_SOURCES)
        if isinstance(value, Poison):
            return {}
        if not isinstance(value, Outputs) or value.kind != "State":
            self.refuse("E123", "update() must return vx.State(name=...)", tree)
            return {}
        if value.values.keys() - self.walker.broken != states.keys():
            known = ", ".join(states) or "none"
            self.refuse("E123", "update() must give every state once, and nothing else", tree,
                        f"states: {known}")  # fmt: skip
        for name, node in value.values.items():
            if not isinstance(node, Poison) and (
                not isinstance(node, Node) or set(node.names) - {"page"}
            ):
                self.refuse("E123", f"state '{name}' must be one number per page", tree,
                            "reduce its other axes")  # fmt: skip
        return {n: v for n, v in value.values.items() if isinstance(v, Node)}

    def check_all_is_read(self, program: Program, methods: Mapping[str, ast.FunctionDef]) -> None:
        """A field that nothing reads costs memory for nothing, a knob evaluations."""
        if self.walker.problems:
            return
        used = program.knobs_read()
        for name in (n for n in program.knobs if n not in used):
            self.walker.problems.append(
                Diagnostic("E124", f"knob '{name}' changes nothing: nothing reads it",
                           program.places[name], f"use self.{name}, or leave it out")
            )  # fmt: skip
        roots = (*program.scores.values(), *program.updates.values())
        read = {n.attr("name") for n in walk(roots) if n.op == "field"}
        for name in program.fields:
            if name not in read:
                self.refuse("E122", f"field '{name}' is never read", methods["summarize"],
                            f"use page.{name} in score(), or leave it out")  # fmt: skip

    def assemble(
        self, tree: ast.ClassDef, dtype: Attr, select: Value, method: ast.FunctionDef
    ) -> Program | None:
        """The program without its graphs, if select() gave a selection."""
        if isinstance(select, Poison):
            return None
        if not isinstance(select, Node) or OPS[select.op].kind != "selector":
            self.refuse("E118", "select() must return a selection of pages", method,
                        "return vx.top_k(score, tokens=self.budget) | vx.recent(2)")  # fmt: skip
            return None
        return Program(
            name=tree.name,
            doc=ast.get_docstring(tree) or "",
            knobs=dict(self.knobs),
            fields={},
            dtype=dtype,
            scores={},
            select=select,
            policies=self.declared.policies,
            states=dict(self.declared.states),
            source=self.source,
            filename=self.filename,
            places=dict(self.declared.places),
        )

    def summary(
        self, value: Value, tree: ast.FunctionDef
    ) -> tuple[Mapping[str, Node | Poison] | None, Attr]:
        """The fields of a summary, each checked to be a tensor; None: they are not known."""
        if isinstance(value, Poison):
            return None, "bf16"
        if not isinstance(value, Outputs) or value.kind != "Summary" or not value.values:
            self.refuse("E112", "summarize() must return vx.Summary(name=...)", tree,
                        'return vx.Summary(mean=k.mean("token"))')  # fmt: skip
            return None, "bf16"
        fields: dict[str, Node | Poison] = {}
        for name, field_value in value.values.items():
            if isinstance(field_value, Node | Poison):
                fields[name] = field_value
            else:
                fields[name] = POISON
                self.refuse("E120", f"field '{name}' is not a tensor", tree)
        return fields, value.dtype

    def check_scores(self, value: Value, tree: ast.FunctionDef) -> Value:
        """Every output of score() is one number per page; what is not becomes poison."""
        if not isinstance(value, Outputs):
            return self.check_score(value, tree)
        checked = {name: self.check_score(v, tree) for name, v in value.values.items()}
        return replace(value, values=checked)

    def check_score(self, output: Value, tree: ast.FunctionDef) -> Value:
        """One output of score(), or poison after a complaint."""
        names = output.names if isinstance(output, Node) else ()
        if not isinstance(output, Poison) and names != ("page",):
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
            return POISON
        return output

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
