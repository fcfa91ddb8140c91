"""Rewrites of the IR: binding knobs, canonical form for hashing, fusion for execution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from vortex.ir import Attr, Axis, Extent, KnobRef, Node, Program, digest, graph_text, walk
from vortex.knobs import KnobValue
from vortex.ops import OPS, make, rebuild

Rule = Callable[[Node], Node]


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

    Adding a constant is *not* removed: in float32 it can merge scores into ties.
    """
    if node.op != "top_k":
        return node
    score = node.inputs[0]
    while score.op == "mul":
        scale = next((c for c in map(_const, score.inputs) if c is not None), None)
        if scale is None or not _small_power_of_two(scale):
            break
        score = next(n for n in score.inputs if _const(n) is None)
    return rebuild(node, (score,), dict(node.attrs))


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
        return make("dot", a, b, axis=axis) if shared else node
    if inner.op in ("maximum", "minimum") and all(n.op == "mul" for n in inner.inputs):
        (q, a), (p, b) = inner.inputs[0].inputs, inner.inputs[1].inputs
        for x, y, u, w in ((q, a, p, b), (q, a, b, p), (a, q, p, b), (a, q, b, p)):
            if x == u and all(n.axis(str(axis)) is not None for n in (x, y, w)):
                high, low = make("maximum", y, w), make("minimum", y, w)
                if inner.op == "minimum":
                    high, low = low, high
                up = make("dot", make("relu", x), high, axis=axis)
                down = make("dot", make("relu", make("neg", x)), low, axis=axis)
                return make("sub", up, down)
    return node


def split_cached(roots: Sequence[Node]) -> tuple[dict[str, Node], tuple[Node, ...]]:
    """What a score computes from fields alone, to be computed once per page and kept.

    Only where nothing grows: the result's axes are those of a field, or fewer.

    Returns:
        The cached parts by the name of the field that now stands for each, and the new roots.
    """
    fields: dict[str, tuple[frozenset[Axis], ...]] = {}
    for node in walk(roots):
        known = [fields.get(n.key, ()) for n in node.inputs if n.op != "const"]
        axes = tuple(a for found in known for a in found)
        fits = any(frozenset(node.axes) <= a for a in axes) and all(known)
        page = any(value == "page" for _, value in node.attrs)
        if node.op == "field":
            fields[node.key] = (frozenset(node.axes),)
        elif fits and not page and OPS[node.op].kind in ("elementwise", "reduce", "shape"):
            fields[node.key] = axes
    kept: dict[str, Node] = {}

    def outermost(node: Node) -> Node:
        """Inputs that are cached become fields, unless this node is cached itself."""
        if node.key in fields:
            return node
        inputs = tuple(_cached_field(n, kept) if n.key in fields else n for n in node.inputs)
        return rebuild(node, inputs, dict(node.attrs)) if inputs != node.inputs else node

    done = rewrite(roots, outermost)
    return kept, tuple(_cached_field(n, kept) if n.key in fields else n for n in done)


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


def canonical_roots(fields: Mapping[str, Node], dtype: Attr, select: Node) -> Node:
    """The selector tree in canonical form: all that decides which pages are kept."""
    names = list(fields)
    plain = rewrite([fields[n] for n in names], canonical)
    content = dict(zip(names, plain, strict=True))
    roots = rewrite([select], _with_field_content(content, dtype))
    roots = rewrite(roots, canonical)
    roots = rewrite(roots, order_only)
    return rewrite(roots, canonical)[0]  # unions are ordered by what is now in them


def structure_hash(program: Program) -> str:
    """Identity of the algorithm with its knobs symbolic."""
    policies = (program.dense_first, program.dense_last, KnobRef("page_size"))
    before = (*program.roots(),)
    names = _numbered_knobs(before, (program.dtype, *policies))

    renamed = bind_knobs(names)
    fields = dict(zip(program.fields, rewrite(list(program.fields.values()), renamed), strict=True))
    select = rewrite([program.select], renamed)[0]
    dtype = names[program.dtype.knob] if isinstance(program.dtype, KnobRef) else program.dtype
    root = canonical_roots(fields, dtype, select)
    ends = [list(names[p.knob]) if isinstance(p, KnobRef) else p for p in policies]
    return digest(["structure", graph_text({"select": root}), ends])


def candidate_hash(
    fields: Mapping[str, Node], dtype: str, select: Node, page_size: int, dense: tuple[int, int]
) -> str:
    """Identity of the algorithm with its knobs bound."""
    root = canonical_roots(fields, dtype, select)
    return digest(["candidate", graph_text({"select": root}), page_size, dense])
