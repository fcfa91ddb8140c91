"""Reads a submission file: its class, constants, op objects and configuration; runs nothing."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vortex.declarations import PAGE_SIZES
from vortex.errors import Diagnostic, ProgramError
from vortex.guards import nesting, syntax_problem
from vortex.importer.ops import NEEDED, OPS, Const, OpObject
from vortex.values import span_of

MAX_BYTES = 262_144
MAX_DEPTH = 80
BASES = ("vFlow", "vFlowMLA")
METHODS = {"create_cache": (3, 4), "forward_cache": (4,), "forward_indexer": (5,)}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_CALLS: Mapping[str, Callable[[float], float]] = {
    "math.sqrt": math.sqrt, "float": float, "int": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration beside a submission decides about the pages attended."""

    block_size: int = 16
    topk_val: int = 30
    topk_ratio: float = 0.0
    bos: int = 1
    eos: int = 1
    skip: tuple[int, ...] = ()
    layers: int = 0
    head_dim: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    module_name: str = ""


@dataclass
class Reader:
    """Complaints about one file, and the value of its constant expressions.

    Attributes:
        origins: imported name -> dotted origin.
        constants: module and class constants by the name they are read with.
    """

    source: str
    filename: str
    origins: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Const] = field(default_factory=dict)

    def error(
        self, code: str, message: str, tree: ast.AST | None, hint: str | None = None
    ) -> ProgramError:
        """The exception to raise for one construct."""
        span = span_of(tree) if tree is not None else None
        found = Diagnostic(code, message, span, hint)
        return ProgramError([found], source=self.source, filename=self.filename)

    def constant(self, tree: ast.expr, local: Mapping[str, Const] | None = None) -> Const:
        """The value of an expression that the file alone decides."""
        found = self._constant(tree, local or {})
        if isinstance(found, int | float) and not abs(found) < 1e30:
            raise self.error("E305", f"'{ast.unparse(tree)}' has no finite value", tree)
        return found

    def _constant(self, tree: ast.expr, local: Mapping[str, Const]) -> Const:
        match tree:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name(id=name) if name in local or name in self.constants:
                return local[name] if name in local else self.constants[name]
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (
                f"{owner}.{name}" in self.constants
            ):
                return self.constants[f"{owner}.{name}"]
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(self.constant(item, local) for item in items)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
                signed = self.constant(inner, local)
                if isinstance(signed, int | float):
                    return -signed if isinstance(sign, ast.USub) else signed
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self.constant(left, local), self.constant(right, local)
                if isinstance(a, int | float) and isinstance(b, int | float):
                    return self._arithmetic(tree, op, a, b)
            case ast.Call(func=func, args=[inner], keywords=[]) if ast.unparse(func) in _CALLS:
                number = self.constant(inner, local)
                if isinstance(number, int | float) and number >= 0:
                    return _CALLS[ast.unparse(func)](number)
        raise self.error(
            "E305", f"'{ast.unparse(tree)[:80]}' is not a constant that this file decides", tree,
            "write a number, or a constant of the class or module",
        )  # fmt: skip

    def _arithmetic(self, tree: ast.expr, op: ast.operator, a: float, b: float) -> float:
        try:
            if isinstance(op, ast.Pow) and abs(a) <= 1e6 and abs(b) <= 64:
                value = a**b
            else:
                value = _ARITHMETIC[type(op)](a, b)
        except (KeyError, ZeroDivisionError, OverflowError):
            value = math.nan
        if isinstance(value, int | float) and math.isfinite(value):
            return value
        raise self.error("E305", f"'{ast.unparse(tree)[:80]}' has no value here", tree)

    def origin(self, func: ast.expr) -> str:
        """Dotted origin of a called name, as far as the imports tell."""
        text = ast.unparse(func)
        head, _, rest = text.partition(".")
        origin = self.origins.get(head, head)
        return f"{origin}.{rest}" if rest else origin


@dataclass(frozen=True, slots=True)
class Submission:
    """A flow class: its methods, op objects and constants.

    Attributes:
        mla: it derives from ``vFlowMLA``: one latent per token instead of keys and values.
    """

    name: str
    mla: bool
    methods: Mapping[str, ast.FunctionDef]
    ops: Mapping[str, OpObject]
    reader: Reader

    def declared(
        self, key: str, known: Mapping[str, int], place: ast.AST
    ) -> tuple[int | None, int | None]:
        """Rows and cols that ``create_cache`` gives a field, as far as they are known.

        Args:
            known: the method's arguments that have a value.
        """
        method = self.methods["create_cache"]
        for tree in ast.walk(method):
            pairs = zip(tree.keys, tree.values, strict=True) if isinstance(tree, ast.Dict) else ()
            for name, shape in pairs:
                if not isinstance(name, ast.Constant) or name.value != key:
                    continue
                if isinstance(shape, ast.Tuple) and len(shape.elts) == 2:
                    rows, cols = (self._maybe(e, known) for e in shape.elts)
                    return rows, cols
        raise self.reader.error("E304", f"create_cache() declares no cache['{key}']", place,
                                "return {name: (rows, cols), ...}")  # fmt: skip

    def _maybe(self, tree: ast.expr, local: Mapping[str, int]) -> int | None:
        try:
            found = self.reader.constant(tree, local)
        except ProgramError:
            return None
        return found if isinstance(found, int) else None


def read_submission(source: str, filename: str, module_name: str) -> Submission:
    """The flow class of a file.

    Raises:
        ProgramError: E304 (no such class or method), E305 and E306 (see the package).
    """
    reader = Reader(source, filename)
    classes = _module(reader, _parsed(reader))
    tree = _chosen(reader, classes, module_name)
    chain, mla = _chain(reader, classes, tree)
    methods: dict[str, ast.FunctionDef] = {}
    for part in reversed(chain):  # the base first: derived classes override it
        for statement in part.body:
            if isinstance(statement, ast.FunctionDef):
                methods[statement.name] = statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                _remember(reader, statement, ("self.", f"{part.name}.", f"{tree.name}."))
    for name, counts in METHODS.items():
        if name not in methods:
            raise reader.error("E304", f"class {tree.name} has no method {name}()", tree)
        a = methods[name].args
        if len(a.args) not in counts or a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs:
            raise reader.error("E304", f"unexpected arguments of {name}()", methods[name])
    ops: dict[str, OpObject] = {}
    _constructor(reader, chain, ops)
    return Submission(tree.name, mla, methods, ops, reader)


def _parsed(reader: Reader) -> ast.Module:
    if len(reader.source.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise reader.error("E304", f"a submission has at most {MAX_BYTES:,} bytes", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(reader.source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        found = syntax_problem(error)
        changed = Diagnostic("E304", found.message, found.span, found.hint)
        raise ProgramError([changed], source=reader.source, filename=reader.filename) from None
    if nesting(tree) > MAX_DEPTH:
        raise reader.error("E304", "the submission is nested too deeply", None, "name the parts")
    return tree


def _module(reader: Reader, tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Imports and constants of the module go to the reader; its classes come back."""
    classes: dict[str, ast.ClassDef] = {}
    for statement in tree.body:
        match statement:
            case ast.Import(names=names):
                for alias in names:
                    head = alias.name.partition(".")[0]
                    reader.origins[alias.asname or head] = alias.name if alias.asname else head
            case ast.ImportFrom(module=module, names=names):
                for alias in names:
                    reader.origins[alias.asname or alias.name] = f"{module or ''}.{alias.name}"
            case ast.ClassDef():
                classes[statement.name] = statement
            case ast.Assign() | ast.AnnAssign():
                _remember(reader, statement, ("",))
    return classes


def _remember(
    reader: Reader, statement: ast.Assign | ast.AnnAssign, prefixes: Sequence[str]
) -> None:
    """Keep a constant; one that is none is refused where it is used."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) != 1 or statement.value is None:
        return
    try:
        value = reader.constant(statement.value)
    except ProgramError:
        return
    for prefix in prefixes:
        reader.constants[f"{prefix}{ast.unparse(targets[0])}"] = value


def _chosen(reader: Reader, classes: Mapping[str, ast.ClassDef], wanted: str) -> ast.ClassDef:
    """The class registered under a name, or the only public flow of the file."""
    flows = [c for c in classes.values() if _chain_or_none(reader, classes, c)]
    named = [
        c for c in flows
        if any(isinstance(d, ast.Call) and d.args and isinstance(d.args[0], ast.Constant)
               and d.args[0].value == wanted for d in c.decorator_list)
    ]  # fmt: skip
    public = [c for c in flows if not c.name.startswith("_")]
    for found in (named, public, flows):
        if len(found) == 1:
            return found[0]
    if not flows:
        raise reader.error("E304", "no class here derives from vFlow or vFlowMLA", None,
                           "class Name(vFlow): ...")  # fmt: skip
    raise reader.error("E304", f"{len(flows)} flows in one file", flows[1],
                       "name one by vortex_module_name in the configuration")  # fmt: skip


def _chain_or_none(
    reader: Reader, classes: Mapping[str, ast.ClassDef], tree: ast.ClassDef
) -> tuple[list[ast.ClassDef], bool] | None:
    chain = [tree]
    while len(chain) <= len(classes):
        if len(chain[-1].bases) != 1:
            return None
        origin = reader.origin(chain[-1].bases[0])
        if origin in classes:
            chain.append(classes[origin])
            continue
        name = origin.rpartition(".")[2]
        known = origin.startswith("vortex_torch.") and name in BASES
        return (chain, name == "vFlowMLA") if known else None
    return None


def _chain(
    reader: Reader, classes: Mapping[str, ast.ClassDef], tree: ast.ClassDef
) -> tuple[list[ast.ClassDef], bool]:
    found = _chain_or_none(reader, classes, tree)
    assert found is not None
    return found


def _constructor(reader: Reader, chain: list[ast.ClassDef], ops: dict[str, OpObject]) -> None:
    """Run ``__init__`` symbolically: it may make ops and constants, and call its base."""
    for at, part in enumerate(chain):
        method = next((s for s in part.body if isinstance(s, ast.FunctionDef)
                       and s.name == "__init__"), None)  # fmt: skip
        if method is None:
            continue
        for statement in method.body:
            match statement:
                case ast.Expr(value=ast.Constant()) | ast.Assert() | ast.Pass():
                    pass
                case ast.Expr(value=ast.Call(func=func)) if "super()" in ast.unparse(func):
                    _constructor(reader, chain[at + 1 :], ops)
                case (
                    ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)],
                               value=value)
                    | ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name),
                                    value=ast.expr() as value)
                ):  # fmt: skip
                    made = _op_object(reader, value)
                    if made is None:
                        reader.constants[f"self.{name}"] = reader.constant(value)
                    else:
                        ops[name] = made
                case _:
                    raise reader.error(
                        "E305", f"'{type(statement).__name__}' in __init__ cannot be read",
                        statement, "make each op as self.name = Op(...)",
                    )  # fmt: skip
        return


def _op_object(reader: Reader, tree: ast.expr) -> OpObject | None:
    """The op that a call makes; None if the expression makes no object."""
    if not isinstance(tree, ast.Call) or ast.unparse(tree.func) in _CALLS:
        return None
    origin = reader.origin(tree.func)
    package, _, kind = origin.rpartition(".")
    side = next((s for s in ("indexer", "cache") if f".{s}" in f"{package}."), "")
    if not origin.startswith("vortex_torch.") or not side or kind not in OPS:
        raise reader.error(
            "E306", f"'{ast.unparse(tree.func)}' has no equivalent in the language", tree,
            f"ops that carry over: {', '.join(sorted(OPS))}",
        )  # fmt: skip
    params = OPS[kind][0]
    given: dict[str, ast.expr] = dict(zip(params, tree.args, strict=False))
    given |= {k.arg: k.value for k in tree.keywords if k.arg}
    missing = [n for n, default in params.items() if default is NEEDED and n not in given]
    if len(tree.args) > len(params) or set(given) - set(params) or missing:
        raise reader.error("E307", f"unexpected arguments of '{kind}'", tree,
                           f"it takes {', '.join(params) or 'none'}")  # fmt: skip
    args = {n: reader.constant(t) for n, t in given.items()}
    defaults = {n: d for n, d in params.items() if isinstance(d, int | float | tuple)}
    return OpObject(kind, side, {**defaults, **args})


_COUNTS = {
    "block_size": "block_size", "topk_val": "topk_val", "block_reserved_bos": "bos",
    "block_reserved_eos": "eos", "page_reserved_bos": "bos", "page_reserved_eos": "eos",
    "num_hidden_layers": "layers", "head_dim": "head_dim", "kv_lora_rank": "kv_lora_rank",
    "qk_rope_head_dim": "qk_rope_head_dim",
}  # fmt: skip
# How the reference runs a flow, not what the flow selects.
_IGNORED = frozenset({
    "max_topk_val", "max_seq_lens", "workload_chunk_size", "module_path", "attention_backend",
    "compilation_cache_dir", "impl_backend", "use_tensor_core",
})  # fmt: skip


def read_settings(config: Mapping[str, object], reader: Reader) -> Settings:
    """The configuration beside a submission; keys may carry the prefix ``vortex_``.

    Raises:
        ProgramError: E308, a value that makes no sense or that has no equivalent.
    """
    found: dict[str, object] = {}
    for key, value in config.items():
        name = key.removeprefix("vortex_")
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 24
        if name in _COUNTS:
            found[_COUNTS[name]], good = value, whole
        elif name == "topk_ratio":
            good = isinstance(value, int | float) and 0 <= value <= 1
            found["topk_ratio"] = float(value) if isinstance(value, int | float) else 0.0
        elif name == "layers_skip":
            items = list(value) if isinstance(value, list | tuple) else []
            good = value is None or isinstance(value, list | tuple)
            good = good and all(isinstance(i, int) and 0 <= i < 1000 for i in items)
            found["skip"] = tuple(sorted(set(items)))
        elif name == "module_name":
            found["module_name"], good = str(value), isinstance(value, str)
        elif name == "dtype":
            good = value in ("bfloat16", "auto")
        else:  # keys of the serving engine pass; unknown ones of the flow do not
            good = key == name != "schedule_policy" or name in _IGNORED or value in (None, False)
        if not good:
            raise reader.error("E308", f"configuration '{key}' = {value!r} cannot be carried over",
                               None, "remove it if it decides nothing attended")  # fmt: skip
    settings = Settings(**found)  # type: ignore[arg-type]
    if settings.block_size not in PAGE_SIZES:
        raise reader.error("E308", f"block size {settings.block_size} is no page size", None,
                           f"page sizes are {', '.join(map(str, PAGE_SIZES))}")  # fmt: skip
    return settings
