"""Typed changes of a draft: each keeps it a program, and says what it did."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent.proposers.draft import Draft, NoChange, adopt, with_fields
from vortex.ir import KnobRef, Node, walk
from vortex.knobs import Choice
from vortex.ops import make, rebuild
from vortex.passes import rewrite

_HEAD = ("max", "mean", "logsumexp")
_SUB = ("max", "logsumexp", "mean")
_TOKEN = ("mean", "max", "min")


def _pick(draft: Draft, rng: random.Random, fits: Callable[[Node], bool]) -> Node:
    found = [n for n in walk([draft.score]) if fits(n)]
    if not found:
        raise NoChange
    return rng.choice(found)


def _swap(target: Node, new: Node) -> Callable[[Node], Node]:
    return lambda node: new if node == target else node


def _over(node: Node, axis: str) -> bool:
    return dict(node.attrs).get("axis") == axis


def head_reduction(draft: Draft, rng: random.Random) -> str:
    """Another way to join the query heads of a group."""
    old = _pick(draft, rng, lambda n: n.op in _HEAD and _over(n, "head"))
    op = rng.choice([o for o in _HEAD if o != old.op])
    draft.replace_in_score(_swap(old, make(op, old.inputs[0], axis="head")))
    return f"join heads by {op} instead of {old.op}"


def softmax_pages(draft: Draft, rng: random.Random) -> str:
    """Normalise each head over the pages before heads are joined, or no longer."""
    old = _pick(draft, rng, lambda n: n.op in _HEAD and _over(n, "head"))
    inner = old.inputs[0]
    if inner.op == "softmax":
        draft.replace_in_score(_swap(old, make(old.op, inner.inputs[0], axis="head")))
        return "no softmax over pages before heads are joined"
    if "page" not in inner.names:
        raise NoChange
    normal = make("softmax", make("mul", inner, make("scale")), axis="page")
    draft.replace_in_score(_swap(old, make(old.op, normal, axis="head")))
    return "softmax over pages in each head before heads are joined"


def sub_pages(draft: Draft, rng: random.Random) -> str:
    """Summarise parts of a page instead of the page; the best part counts."""
    knob = next((n for n in draft.knobs if n == "parts"), None)
    if knob is not None:
        op = rng.choice(_SUB)
        old = _pick(draft, rng, lambda n: n.op in _SUB and n.op != op and _over(n, "sub"))
        draft.replace_in_score(_swap(old, make(op, old.inputs[0], axis="sub")))
        return f"join sub-pages by {op} instead of {old.op}"
    contents = {}
    into = KnobRef("parts")

    def split(node: Node) -> Node:
        if node.op not in (*_TOKEN, "norm") or not _over(node, "token"):
            return node
        inner = node.inputs[0]
        if inner.axis("dim") is None or inner.axis("sub") is not None:
            return node
        cut = make("split", inner, axis="token", into=into, name="sub")
        return make(node.op, cut, axis="token")

    for name, content in draft.fields.items():
        changed = _rewritten(content, split)
        if changed != content:
            contents[name] = changed
    if not contents:
        raise NoChange
    draft.knobs["parts"] = Choice((4, 2, 8), 4)
    draft.values["parts"] = rng.choice((2, 4, 8))
    with_fields(draft, contents)
    return "summarise parts of a page and let the best part count"


def _rewritten(content: Node, rule: Callable[[Node], Node]) -> Node:
    return rewrite([content], rule)[0]


def token_reduction(draft: Draft, rng: random.Random) -> str:
    """Another statistic of the page's tokens in one field."""
    name = rng.choice(list(draft.fields))
    found = [n for n in walk([draft.fields[name]]) if n.op in _TOKEN and _over(n, "token")]
    if not found:
        raise NoChange
    old = rng.choice(found)
    op = rng.choice([o for o in _TOKEN if o != old.op])
    new = _rewritten(draft.fields[name], _swap(old, make(op, old.inputs[0], axis="token")))
    with_fields(draft, {name: new})
    return f"field {name}: {op} over tokens instead of {old.op}"


def _tokens(draft: Draft) -> Node:
    """Keys of a page, cut into parts if the draft has them."""
    k = make("k")
    if "parts" in draft.knobs:
        return make("split", k, axis="token", into=KnobRef("parts"), name="sub")
    return k


def _match(draft: Draft, rng: random.Random) -> Node:
    """A node that compares q with a field along dim."""
    return _pick(
        draft, rng, lambda n: n.op in ("dot", "sum") and _over(n, "dim") and "page" in n.names
    )


def _compare(draft: Draft, rng: random.Random, old: Node) -> Node:
    """A fresh way to compare q with what a page holds: axes page, head and perhaps sub."""
    keys, q = _tokens(draft), make("q")
    mean = make("mean", keys, axis="token")
    high, low = (make(op, keys, axis="token") for op in ("max", "min"))
    kind = rng.choice(("centroid", "envelope", "radius", "deviation", "cumulant"))
    if kind == "centroid":
        return make("dot", q, draft.field("center", mean), axis="dim")
    if kind == "envelope":
        lo, hi = draft.field("lo", low), draft.field("hi", high)
        bound = make("maximum", make("mul", q, lo), make("mul", q, hi))
        return make("sum", bound, axis="dim")
    match = make("dot", q, draft.field("center", mean), axis="dim")
    if kind == "radius":
        spread = make("mul", make("sub", high, low), make("const", value=0.5))
        extra = make("dot", make("abs", q), draft.field("radius", spread), axis="dim")
        return make("add", match, make("mul", extra, draft.weight(rng)))
    square = make("mean", make("square", keys), axis="token")
    variance = make("relu", make("sub", square, make("square", mean)))
    if kind == "deviation":
        dev = draft.field("deviation", make("sqrt", variance))
        extra = make("dot", make("abs", q), dev, axis="dim")
        return make("add", match, make("mul", extra, draft.weight(rng, 0.02, 2.0)))
    held = draft.field("variance", variance)
    spread = make("mul", make("dot", make("square", q), held, axis="dim"), make("scale"))
    return make("add", match, make("mul", spread, draft.weight(rng, 0.02, 2.0)))


def comparison(draft: Draft, rng: random.Random) -> str:
    """Compare the query with another summary: centroid, envelope, radius, deviation, variance."""
    old = _match(draft, rng)
    draft.replace_in_score(_swap(old, _compare(draft, rng, old)))
    return "another comparison of the query with the page's keys"


def blend_comparison(draft: Draft, rng: random.Random) -> str:
    """Add a second, weighted comparison to the first."""
    old = _match(draft, rng)
    new = make("mul", _compare(draft, rng, old), draft.weight(rng))
    draft.replace_in_score(_swap(old, make("add", old, new)))
    return "a second comparison, weighted, added to the first"


def _page_term(draft: Draft, rng: random.Random) -> tuple[Node, str]:
    v, k = make("v"), make("k")
    kind = rng.choice(("value energy", "value peak", "key norm", "recency"))
    if kind == "recency":
        age = make("add", make("page_age"), make("const", value=1.0))
        return make("div", make("const", value=1.0), age), kind
    source = k if kind == "key norm" else v
    op = "mean" if kind == "value energy" else "max"
    content = make(op, make("norm", source, axis="dim"), axis="token")
    return draft.field(kind.split()[1], content), kind


def page_term(draft: Draft, rng: random.Random) -> str:
    """Add a term that does not depend on the query."""
    term, kind = _page_term(draft, rng)
    draft.score = make("add", draft.score, make("mul", term, draft.weight(rng)))
    return f"add {kind}, weighted"


def gate(draft: Draft, rng: random.Random) -> str:
    """Multiply a non-negative score by a term that does not depend on the query."""
    term, kind = _page_term(draft, rng)
    if not any(n.op == "softmax" for n in walk([draft.score])):
        raise NoChange
    draft.score = make("mul", draft.score, term)
    return f"gate by {kind}"


def drop_term(draft: Draft, rng: random.Random) -> str:
    """Leave one side of a sum out; a divisor's stays, as it may be what keeps it off zero."""
    divisors = {n.inputs[1] for n in walk([draft.score]) if n.op == "div"}
    old = _pick(draft, rng, lambda n: n.op in ("add", "sub") and "page" in n.names
                and n not in divisors)  # fmt: skip
    kept = rng.choice([n for n in old.inputs if "page" in n.names] or [old.inputs[0]])
    draft.replace_in_score(_swap(old, kept))
    return "one term left out"


def storage(draft: Draft, rng: random.Random) -> str:
    """Store the fields in another type."""
    draft.dtype = rng.choice([d for d in ("bf16", "fp8", "int8") if d != draft.dtype])
    return f"fields stored as {draft.dtype}"


def knob_value(draft: Draft, rng: random.Random) -> str:
    """Move one knob, to a neighbour or anywhere."""
    names = [
        n for n, k in draft.knobs.items() if not (isinstance(k, Choice) and len(k.options) < 2)
    ]
    name = rng.choice(names)
    knob = draft.knobs[name]
    here = draft.values.get(name, knob.default)
    near = knob.neighbours(here) if knob.check(here) is not None else ()
    value = rng.choice(near) if near and rng.random() < 0.7 else knob.sample(rng)
    if isinstance(value, float):
        value = float(f"{value:.3g}")
    if knob.check(value) is None or value == here:
        raise NoChange
    draft.values[name] = value
    return f"{name} = {value}"


def reserved(draft: Draft, rng: random.Random) -> str:
    """Other numbers of sink and recent pages."""
    draft.sinks, draft.recent = rng.choice((1, 1, 2)), rng.choice((1, 2, 3, 4))
    return f"{draft.sinks} sink and {draft.recent} recent pages"


def dense(draft: Draft, rng: random.Random) -> str:
    """Full attention in the first layers."""
    draft.dense = (rng.choice((0, 1, 2)), 0)
    return f"{draft.dense[0]} dense layers first"


def factor(draft: Draft, rng: random.Random) -> str:
    """A tunable weight on one side of a sum."""
    old = _pick(draft, rng, lambda n: n.op == "add" and "page" in n.names)
    left, right = old.inputs
    draft.replace_in_score(
        _swap(old, rebuild(old, (left, make("mul", right, draft.weight(rng))), {}))
    )
    return "one term weighted by a knob"


def _normalised(score: Node) -> Node:
    """A score that sums to about one over the pages, so that two of them can be added."""
    if any(n.op == "softmax" for n in walk([score])):
        return score
    return make("softmax", make("mul", score, make("scale")), axis="page")


def crossover(draft: Draft, other: Draft, rng: random.Random) -> str:
    """Blend two scores, or take the other's score with this one's policies."""
    theirs = adopt(draft, other)
    if rng.random() < 0.3:
        draft.score = theirs
        return "the second parent's score under the first's policies"
    mine = draft.score
    soft = [_normalised(score) for score in (mine, theirs)]
    draft.score = make("add", soft[0], make("mul", soft[1], draft.weight(rng)))
    return "the two parents' scores blended after softmax over pages"


WEIGHTED: tuple[tuple[Callable[[Draft, random.Random], str], float], ...] = (
    (knob_value, 4.0), (storage, 2.5), (head_reduction, 2.0), (softmax_pages, 2.0),
    (sub_pages, 2.5), (token_reduction, 0.7), (comparison, 3.0), (blend_comparison, 1.5),
    (page_term, 1.0), (gate, 1.0), (drop_term, 1.0), (reserved, 0.7), (dense, 0.7), (factor, 0.5),
)  # fmt: skip
