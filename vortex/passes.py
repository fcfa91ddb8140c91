"""Rewrites of the IR: binding knobs, canonical form for hashing, fusion for execution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

from vortex.ir import (
    Attr,
    Axis,
    Candidate,
    Extent,
    KnobRef,
    MatrixRef,
    Node,
    Program,
    digest,
    graph_text,
    walk,
)
from vortex.knobs import KnobValue
from vortex.ops import OPS, make, rebuild

Rule = Callable[[Node], Node]
_COMPUTED = ("elementwise", "reduce", "shape")


def rewrite(roots: Sequence[Node], rule: Rule) -> tuple[Node, ...]:
    """Apply ``rule`` to every node bottom-up, once; shared nodes are rewritten once."""
    done: dict[str, Node] = {}
    for node in walk(roots):
        inputs = tuple(done[n.key] for n in node.inputs)
        same = all(new is old for new, old in zip(inputs, node.inputs, strict=True))
        fresh = node if same else rebuild(node, inputs, dict(node.attrs))
        done[node.key] = rule(fresh)
    return tuple(done[root.key] for root in roots)


def bind_knobs(values: Mapping[str, KnobValue | KnobRef]) -> Rule:
    """Rule: replace every knob by its value (or by another name); axes follow."""

    def value_of(value: Attr) -> Attr:
        return values[value.knob] if isinstance(value, KnobRef) else value

    def bound(node: Node) -> Node:
        attrs = {name: value_of(value) for name, value in node.attrs}
        if node.op == "knob" and not isinstance(attrs["value"], KnobRef):
            return make("const", span=node.span, value=_number(attrs["value"]))
        if node.op == "field":
            axes = tuple(
                Axis(
                    a.name, Extent(a.extent.base, tuple(_part(value_of(p)) for p in a.extent.parts))
                )
                for a in node.axes
            )
            return Node("field", (), node.attrs, axes, node.span)
        return rebuild(node, node.inputs, attrs) if attrs != dict(node.attrs) else node

    return bound


def _number(value: Attr) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _part(value: Attr) -> int | KnobRef:
    assert isinstance(value, int | KnobRef)
    return value


def _const(node: Node) -> float | None:
    if node.op != "const":
        return None
    return _number(node.attr("value"))


def canonical(node: Node) -> Node:
    """Rule: one spelling for values that are equal bit for bit in float32.

    Only identities that hold exactly: neutral elements, double negation, commuted operands,
    nested maxima and minima in name order. Reassociating sums is not exact and is not done.
    """
    a, b = (_const(n) for n in (*node.inputs, node, node)[:2])
    match node.op:
        case "neg" if node.inputs[0].op == "neg":
            return node.inputs[0].inputs[0]
        case "neg" if a is not None:
            return make("const", value=-a)
        case "mul" | "div" if b == 1.0:
            return node.inputs[0]
        case "mul" if a == 1.0:
            return node.inputs[1]
        case "add" | "sub" if b == 0.0:
            return node.inputs[0]
        case "add" if a == 0.0:
            return node.inputs[1]
        case "maximum" | "minimum" if node.inputs[0] == node.inputs[1]:
            return node.inputs[0]
        case "square":
            return make("mul", node.inputs[0], node.inputs[0])
        case "dot":
            return make("sum", canonical(make("mul", *node.inputs)), axis=node.attr("axis"))
        case "max" | "min":
            return _ordered_extrema(node)
        case "union":
            return _ordered_union(node)
    if OPS[node.op].commutes and node.inputs[0].key > node.inputs[1].key:
        return rebuild(node, node.inputs[::-1], dict(node.attrs))
    return node


def _ordered_extrema(node: Node) -> Node:
    """A chain of max over several axes in the order of their names."""
    chain, inner = [str(node.attr("axis"))], node.inputs[0]
    while inner.op == node.op:
        chain.append(str(inner.attr("axis")))
        inner = inner.inputs[0]
    for axis in sorted(chain):
        inner = make(node.op, inner, axis=axis)
    return inner


def _ordered_union(node: Node) -> Node:
    """A union as a left-deep chain of distinct parts in order of their keys."""
    parts: dict[str, Node] = {}
    stack = [node]
    while stack:
        part = stack.pop()
        if part.op == "union":
            stack.extend(part.inputs)
        else:
            parts[part.key] = part
    first, *rest = (parts[key] for key in sorted(parts))
    for part in rest:
        first = Node("union", (first, part), (), (), None)
    return first


def order_only(node: Node) -> Node:
    """Rule: what a selector ranks may be scaled by a power of two without changing the order.

    Adding a constant is *not* removed: in float32 it can merge scores into ties. top_p is
    unmoved by a positive factor too (shares stay); a threshold is not.
    """
    if node.op not in ("top_k", "top_p"):
        return node
    score = node.inputs[0]
    while score.op == "mul":
        scale = next((c for c in map(_const, score.inputs) if c is not None), None)
        if scale is None or not _small_power_of_two(scale):
            break
        score = next(n for n in score.inputs if _const(n) is None)
    return rebuild(node, (score, *node.inputs[1:]), dict(node.attrs))


def _small_power_of_two(value: float) -> bool:
    mantissa, exponent = math.frexp(value)
    return mantissa == 0.5 and abs(exponent) <= 8


def fuse(node: Node) -> Node:
    """Rule for execution: products that are summed become contractions, never materialised.

    ``sum(max(q a, q b)) = relu(q) . max(a, b) - relu(-q) . min(a, b)`` holds for every q, a, b,
    since the larger product takes the larger factor where q >= 0 and the smaller where q < 0.
    """
    if node.op != "sum" or len(node.inputs[0].inputs) != 2:
        return node
    inner, axis = node.inputs[0], node.attr("axis")
    if inner.op == "mul":
        a, b = inner.inputs
        shared = a.axis(str(axis)) is not None and b.axis(str(axis)) is not None
        return make("dot", a, b, span=node.span, axis=axis) if shared else node
    if inner.op in ("maximum", "minimum") and all(n.op == "mul" for n in inner.inputs):
        (q, a), (p, b) = inner.inputs[0].inputs, inner.inputs[1].inputs
        for x, y, u, w in ((q, a, p, b), (q, a, b, p), (a, q, p, b), (a, q, b, p)):
            if x == u and all(n.axis(str(axis)) is not None for n in (x, y, w)):
                high, low = (make(op, y, w, span=inner.span) for op in ("maximum", "minimum"))
                if inner.op == "minimum":
                    high, low = low, high
                up = make("dot", make("relu", x), high, span=node.span, axis=axis)
                down = make("dot", make("relu", make("neg", x)), low, span=node.span, axis=axis)
                return make("sub", up, down, span=node.span)
    return node


def split_cached(roots: Sequence[Node]) -> tuple[dict[str, Node], tuple[Node, ...]]:
    """What a score computes from fields alone, to be computed once per page and kept.

    Only where nothing grows: the result's axes are those of a field, or fewer.

    Returns:
        The cached parts by the name of the field that now stands for each, and the new roots.
    """
    known_axes: dict[str, tuple[frozenset[Axis], ...]] = {}
    for node in walk(roots):
        known = [known_axes.get(n.key, ()) for n in node.inputs if n.op != "const"]
        axes = tuple(a for found in known for a in found)
        fits = any(frozenset(node.axes) <= a for a in axes) and all(known)
        page = any(value == "page" for _, value in node.attrs)
        if node.op == "field":
            known_axes[node.key] = (frozenset(node.axes),)
        elif fits and not page and not OPS[node.op].along_page and OPS[node.op].kind in _COMPUTED:
            known_axes[node.key] = axes
    kept: dict[str, Node] = {}

    def outermost(node: Node) -> Node:
        """Inputs that are cached become fields, unless this node is cached itself."""
        if node.key in known_axes:
            return node
        inputs = tuple(_cached_field(n, kept) if n.key in known_axes else n for n in node.inputs)
        return rebuild(node, inputs, dict(node.attrs)) if inputs != node.inputs else node

    done = rewrite(roots, outermost)
    return kept, tuple(_cached_field(n, kept) if n.key in known_axes else n for n in done)


def _cached_field(node: Node, kept: dict[str, Node]) -> Node:
    if node.op == "field":
        return node
    name = next((n for n, other in kept.items() if other == node), f"cached {len(kept)}")
    kept[name] = node
    return Node("field", (), (("name", name),), node.axes, None)


def _with_field_content(fields: Mapping[str, Node], dtype: Attr) -> Rule:
    """Rule: name a field by what it holds, so that the author's names do not matter."""

    def renamed(node: Node) -> Node:
        if node.op != "field":
            return node
        content = fields[str(node.attr("name"))]
        stored = list(dtype) if isinstance(dtype, KnobRef) else dtype
        name = digest([graph_text({"field": content}), stored])
        return Node("field", (), (("name", name),), node.axes, None)

    return renamed


def _numbered_knobs(roots: Sequence[Node], first: Sequence[Attr]) -> Mapping[str, KnobRef]:
    """Knob names in order of first use, so that the author's names do not matter."""
    order: dict[str, KnobRef] = {}
    uses = [*first, *(v for n in walk(roots) for _, v in n.attrs)]
    for value in uses:
        if isinstance(value, KnobRef) and value.knob not in order:
            order[value.knob] = KnobRef(f"k{len(order)}")
    return order


def canonical_roots(program: Program | Candidate, rule: Rule | None = None) -> tuple[Node, ...]:
    """The selector tree and the updates of states in canonical form: all that decides which pages
    are kept.

    Args:
        rule: applied first (renames knobs).
    """
    rule = rule or (lambda node: node)
    names = list(program.fields)
    contents = rewrite(rewrite(list(program.fields.values()), rule), canonical)
    dtype = program.dtype
    renamed = _with_field_content(dict(zip(names, contents, strict=True)), dtype)
    roots = rewrite([program.select, *program.updates.values()], rule)
    roots = rewrite(roots, _with_state_order(list(program.states)))
    for step in (renamed, canonical, order_only, canonical):  # unions are ordered at last
        roots = rewrite(roots, step)
    return roots


def _with_state_order(names: list[str]) -> Rule:
    """Rule: states by number, so that the author's names do not matter."""

    def renamed(node: Node) -> Node:
        if node.op != "state":
            return node
        return make("state", name=f"s{names.index(str(node.attr('name')))}")

    return renamed


def structure_hash(program: Program) -> str:
    """Identity of the algorithm with its knobs symbolic."""
    p = program.policies
    first = (program.dtype, p.dense_first, p.dense_last, p.reuse_layers, p.reuse_steps)
    known = (*first, KnobRef("page_size"), *program.states.values())
    names = _numbered_knobs(program.roots(), known)

    def plain(value: Attr) -> object:
        return list(names[value.knob]) if isinstance(value, KnobRef) else value

    dtype = names[program.dtype.knob] if isinstance(program.dtype, KnobRef) else program.dtype
    roots = canonical_roots(replace(program, dtype=dtype), bind_knobs(names))
    graph = graph_text({str(i): root for i, root in enumerate(roots)})
    rest = [plain(v) for v in known[1:]]
    return digest(["structure", graph, rest, p.shared])


def candidate_hash(candidate: Candidate) -> str:
    """Identity of the algorithm with its knobs bound."""
    graph = graph_text({str(i): n for i, n in enumerate(canonical_roots(candidate))})
    policies = [getattr(candidate.policies, f.name) for f in fields(candidate.policies)]
    return digest(
        ["candidate", graph, candidate.page_size, policies, list(candidate.states.values())]
    )


def load_matrices(loaded: Mapping[MatrixRef, MatrixRef]) -> Rule:
    """Rule: stored numbers are known by what they are, not by where they lie."""

    def bound(node: Node) -> Node:
        changed = {n: loaded[v] for n, v in node.attrs if isinstance(v, MatrixRef) and v in loaded}
        return rebuild(node, node.inputs, dict(node.attrs) | changed) if changed else node

    return bound
