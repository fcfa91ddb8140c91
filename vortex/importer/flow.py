"""Follows the methods of a flow statement by statement; nothing is executed."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace

from vortex.errors import ProgramError
from vortex.importer.ops import DIM, HEAD, OPS, PAGE, TOKEN, VDIM, Algebra, OpObject, Tensor, named
from vortex.importer.submission import Settings, Submission

_TORCH = {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min"}
_TAKEN = ("self", "vx", "q", "k", "v", "page")
_FINAL = ("Save", "Union", "TopK", "topK", "approxTopK")


@dataclass(frozen=True, slots=True)
class Cache:
    """The ``cache`` argument; with a name, one entry of it that ``forward_cache`` may write."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """Pages chosen by a score.

    Attributes:
        pages: how many by rank, the reserved ones not counted.
        own: ``TopK(k)``: the count is the op's, and the configured ratio does not apply.
    """

    score: Tensor
    pages: int
    own: bool


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A score that a softmax overwrote in place, in some releases."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """``o``, ``loc``, ``ctx`` and None: nothing to compute with."""


Value = Tensor | Cache | Selected | Spoiled | Opaque


@dataclass
class Flow:
    """Follows ``forward_cache`` and then ``forward_indexer``; the results gather here.

    Attributes:
        fields: what ``forward_cache`` writes, by cache key; ``names`` are their names here.
        lines: assignments, in order, as (name, text), of the method being read.
        ranked: the selections that the flow ends in.
    """

    submission: Submission
    settings: Settings
    algebra: Algebra
    fields: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    summary: list[tuple[str, str]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    ranked: list[Selected] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    env: dict[str, Value] = field(default_factory=dict)
    in_cache: bool = True

    def refuse(
        self, code: str, message: str, tree: ast.AST, hint: str | None = None
    ) -> ProgramError:
        return self.submission.reader.error(code, message, tree, hint)

    def run(self) -> None:
        """Read both methods.

        Raises:
            ProgramError: E304 to E307, E309: a construct that cannot be carried over.
        """
        s = self.settings
        width = s.kv_lora_rank + s.qk_rope_head_dim if self.submission.mla else s.head_dim
        self.algebra.sizes = {"token": s.block_size, "dim": width, "vdim": width}
        method = self.submission.methods["forward_cache"]
        cache, loc, ctx = (a.arg for a in method.args.args[1:])
        self.body(method, {cache: Cache(), loc: Opaque(), ctx: Opaque()})
        self.summary, self.lines, self.in_cache = self.lines, [], False
        method = self.submission.methods["forward_indexer"]
        q, o, cache, ctx = (a.arg for a in method.args.args[1:])
        query = Tensor("q", (HEAD,), (DIM,), frozenset({HEAD, DIM}))
        self.body(method, {q: query, o: Opaque(), cache: Cache(), ctx: Opaque()})
        if not self.ranked:
            raise self.refuse("E304", "forward_indexer() never ends in topK or Union", method,
                              "self.output_func(score, o, ctx=ctx)")  # fmt: skip

    def body(self, method: ast.FunctionDef, env: dict[str, Value]) -> None:
        """Follow a method's statements, which may only assign and call."""
        self.env = env
        for statement in method.body:
            match statement:
                case ast.Expr(value=ast.Constant()) | ast.Assert() | ast.Pass():
                    pass
                case ast.Return(value=None) | ast.Return(value=ast.Constant(value=None)):
                    return
                case ast.Expr(value=ast.Call() as call):
                    self.discarded(call)
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self.assign(name, value)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Call() as value):
                    found = self.value(value)
                    if not isinstance(found, Selected):
                        raise self.refuse("E305", "only TopK(k) gives a pair", statement)
                    self.env |= {ast.unparse(t): found for t in targets}
                case _:
                    raise self.refuse(
                        "E305", f"'{type(statement).__name__}' in {method.name}() cannot be read",
                        statement, "a flow is straight-line: x = self.op(...), self.op(...)",
                    )  # fmt: skip

    def assign(self, name: str, tree: ast.expr) -> None:
        """Bind a result; names of the program are used once only."""
        before, found = self._overwritten(tree), self.value(tree)
        self.env |= dict.fromkeys(before, Spoiled())
        self.env[name] = self._kept(name, found) if isinstance(found, Tensor) else found

    def discarded(self, tree: ast.Call) -> None:
        """A call for its effect: a field, a selection, or a softmax in place."""
        before, found = self._overwritten(tree), self.value(tree)
        if before and isinstance(found, Tensor):
            self.env |= dict.fromkeys(before, self._kept(before[0], found))

    def _kept(self, name: str, found: Tensor) -> Tensor:
        if found.where or found.constant or re.fullmatch(r"\w+(\.\w+)?", found.text):
            return found
        fresh = named(name, [*_TAKEN, *(n for n, _ in self.lines)])
        self.lines.append((fresh, found.text))
        return replace(found, text=fresh, atom=True)

    def _overwritten(self, tree: ast.expr) -> list[str]:
        """Names of the tensor that a softmax works on in place."""
        match tree:
            case ast.Call(func=func, args=[ast.Name(id=name), *_]):
                op, target = self._op(func), self.env.get(name)
                if op is not None and op.kind == "Softmax" and isinstance(target, Tensor):
                    return [n for n, value in self.env.items() if value is target]
        return []

    def _op(self, func: ast.expr) -> OpObject | None:
        match func:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self.submission.ops.get(name)
        return None

    def value(self, tree: ast.expr) -> Value:
        """What an expression stands for."""
        match tree:
            case ast.Constant(value=None):
                return Opaque()
            case ast.Name(id=name) if name in self.env:
                if isinstance(self.env[name], Spoiled):
                    raise self.refuse(
                        "E309", f"'{name}' was overwritten by a softmax in place", tree,
                        "releases differ in what it holds now: use the softmax's result",
                    )  # fmt: skip
                return self.env[name]
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as key)) if (
                isinstance(self.env.get(name), Cache)
            ):
                return self.cached(key, tree)
            case ast.Call():
                return self.call(tree)
        raise self.refuse("E305", f"'{ast.unparse(tree)[:80]}' cannot be read", tree,
                          "flows use names, cache[...] and calls of their ops")  # fmt: skip

    def cached(self, key: str, tree: ast.expr) -> Value:
        """An entry of the cache, or the keys and values themselves."""
        if key in (("latent",) if self.submission.mla else ("k", "v")):
            if not self.in_cache:
                raise self.refuse("E309", f"cache['{key}'] is read per token in forward_indexer()",
                                  tree, "summarize it in forward_cache() first")  # fmt: skip
            last = VDIM if key == "v" else DIM
            text = "v" if key == "v" else "k"
            return Tensor(text, (TOKEN,), (last,), frozenset({TOKEN, last}))
        if self.in_cache:
            return Cache(key)
        if key not in self.fields:
            raise self.refuse(
                "E309", f"cache['{key}'] is never written by forward_cache()", tree,
                "scores are not kept from step to step: vx.state follows the attention mass",
            )  # fmt: skip
        stored = self.fields[key]
        if stored.constant:
            return stored
        has = stored.has | {PAGE}
        return replace(stored, text=f"page.{self.names[key]}", has=has, atom=True, where=None)

    def call(self, tree: ast.Call) -> Value:
        """The result of a call: of an op object, or of a tensor's own reduction."""
        op = self._op(tree.func)
        if op is None:
            return self._torch(tree)
        attr = ast.unparse(tree.func)
        if attr in self.used:
            raise self.refuse("E306", f"op object '{attr}' is called twice", tree,
                              "the reference keeps one buffer per op: make two ops")  # fmt: skip
        self.used.add(attr)
        if op.side != ("cache" if self.in_cache else "indexer"):
            raise self.refuse("E306", f"'{op.kind}' of the {op.side} side is called here", tree,
                              "import it from the side that uses it")  # fmt: skip
        given = list(tree.args)
        words = {k.arg: k.value for k in tree.keywords}
        given += [words[n] for n in ("x", "y", "output", "o") if n in words]
        if op.kind == "Fill":
            return self._fill(op, given, tree)
        if op.kind in _FINAL:
            return self._final(op, given, tree)
        count = OPS[op.kind][1]
        if len(given) < count:
            raise self.refuse("E307", f"'{op.kind}' takes {count} tensor(s)", tree)
        result = self.algebra.apply(op, [self.tensor(t) for t in given[:count]], tree)
        if self.in_cache and len(given) > count:
            self._write(given[count], result, tree)
        return result

    def tensor(self, tree: ast.expr) -> Tensor:
        """An operand."""
        found = self.value(tree)
        if isinstance(found, Cache) and found.name in self.fields:
            return self.fields[found.name]
        if not isinstance(found, Tensor):
            raise self.refuse("E305", f"'{ast.unparse(tree)[:80]}' is no tensor here", tree,
                              "forward_cache() reads keys, values and what it wrote")  # fmt: skip
        return found

    def _write(self, tree: ast.expr, content: Tensor, call: ast.Call) -> None:
        """Keep a result as a field, if it has the shape that ``create_cache`` declares."""
        target = self.value(tree)
        if isinstance(target, Opaque):
            return
        if not isinstance(target, Cache) or not target.name:
            raise self.refuse("E305", "the output must be cache[...] or None", tree)
        key, sizes = target.name, self.algebra.sizes
        shape = self.submission.declared(key, self._arguments(), tree)
        for axes, declared in zip((content.rows, content.cols), shape, strict=True):
            size = self.algebra.size(axes)
            if size is None and len(axes) == 1 and declared is not None:
                sizes[axes[0].base] = size = declared * axes[0].parts
            elif declared is not None and size != declared:
                raise self.refuse("E307", f"cache['{key}'] is declared with another shape", call,
                                  f"create_cache() says {declared}, this gives {size}")  # fmt: skip
        self.fields[key] = content
        if key not in self.names:
            taken = ("dtype", "nope", "rope", *self.names.values())
            self.names[key] = named(key, taken)

    def _arguments(self) -> dict[str, int]:
        """Arguments of ``create_cache`` that are known."""
        s = self.settings
        names = [a.arg for a in self.submission.methods["create_cache"].args.args[1:]]
        values = [s.block_size, self.algebra.sizes["dim"]]
        if self.submission.mla:
            values = [s.block_size, s.kv_lora_rank, s.qk_rope_head_dim]
        return {name: value for name, value in zip(names, values, strict=False) if value}

    def _fill(self, op: OpObject, given: list[ast.expr], tree: ast.Call) -> Value:
        """A field of one number that never changes is that number."""
        target = self.value(given[0]) if given else Opaque()
        number = repr(float(op.number("alpha")))
        if isinstance(target, Cache) and target.name:
            shape = self.submission.declared(target.name, self._arguments(), tree)
            if shape == (1, 1) and target.name not in self.fields:
                self.fields[target.name] = content = Tensor(number, constant=True)
                return content
        raise self.refuse("E307", "Fill carries over for a field of shape (1, 1) of its own", tree)

    def _torch(self, tree: ast.Call) -> Tensor:
        """``q.mean(dim=1, keepdim=True)`` and its like, called on the tensor itself."""
        match tree.func:
            case ast.Attribute(value=owner, attr=name) if name in _TORCH:
                words = {k.arg: k.value for k in tree.keywords}
                dim = words.get("dim", tree.args[0] if tree.args else None)
                keep = words.get("keepdim")
                if dim is not None and isinstance(keep, ast.Constant) and keep.value is True:
                    self.algebra.tree = tree
                    args = {"dim": self.submission.reader.constant(dim)}
                    self.algebra.op = OpObject(name, "indexer", args)
                    return self.algebra.reduced(self.tensor(owner), _TORCH[name])
        raise self.refuse(
            "E306", f"'{ast.unparse(tree.func)[:80]}' is no op made in __init__", tree,
            "make it there; of torch itself, x.mean(dim=1, keepdim=True) and its like carry over",
        )  # fmt: skip

    def _final(self, op: OpObject, given: list[ast.expr], tree: ast.Call) -> Value:
        """The ops that end a flow, or keep something for the next step."""
        if op.kind == "Save":
            raise self.refuse(
                "E309", "Save keeps a score for the next step", tree,
                "state here follows the attention mass: vx.state and update(self, page, mass)",
            )  # fmt: skip
        if op.kind == "Union":
            for item in given[:2]:
                part = item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item
                found = self.value(part)
                if not isinstance(found, Selected):
                    raise self.refuse("E307", "Union joins what two TopK(k) give", item)
                self.ranked.append(found)
            return Opaque()
        score = self.tensor(given[0]) if given else Tensor("")
        if score.rows or score.cols or PAGE not in score.has:
            extra = ", ".join(a.name for a in (*score.rows, *score.cols)) or "no page"
            raise self.refuse("E307", f"{op.kind} ranks one number per page, this has {extra}",
                              tree, "reduce the score to [S, 1, 1]")  # fmt: skip
        if op.kind == "TopK":
            return Selected(score, int(op.number("k")), own=True)
        if op.kind == "approxTopK":
            self.algebra.note("the approximate top-k is an exact one here.")
        self.ranked.append(Selected(score, self.settings.topk_val, own=False))
        return Opaque()
