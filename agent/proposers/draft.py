"""A program under change: parts that mutations replace, then put together and printed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vortex.compile import bind, parse
from vortex.ir import Attr, KnobRef, Node, Policies, Program, walk
from vortex.knobs import Knob, KnobValue, Real
from vortex.ops import make, make_field
from vortex.passes import bind_knobs, rewrite
from vortex.plan import RANKED
from vortex.printer import print_program

MAX_NODES, MAX_KNOBS = 60, 8
BUDGET = make("knob", value=KnobRef("budget"))


class NoChange(Exception):
    """A mutation does not apply to this draft."""


@dataclass
class Draft:
    """The parts of a program with one score.

    Attributes:
        values: knob values of the parent; knobs that are new take their default.
    """

    fields: dict[str, Node]
    score: Node
    knobs: dict[str, Knob]
    values: dict[str, KnobValue]
    dtype: Attr
    sinks: int
    recent: int
    dense: tuple[Attr, Attr]

    def field(self, hint: str, content: Node) -> Node:
        """The node that reads a field with this content, added if no field has it yet."""
        for name, node in self.fields.items():
            if node == content:
                return make_field(name, node)
        name = fresh(hint, self.fields)
        self.fields[name] = content
        return make_field(name, content)

    def weight(self, rng: random.Random, low: float = 0.05, high: float = 4.0) -> Node:
        """A new real knob on a log scale, as a node."""
        if len(self.knobs) >= MAX_KNOBS:
            raise NoChange
        name = fresh("w", self.knobs)
        knob = Real(low, high, True, round(rng.uniform(0.3, 1.5), 2))
        self.knobs[name] = knob
        self.values[name] = knob.default
        return make("knob", value=KnobRef(name))

    def replace_in_score(self, rule: Callable[[Node], Node]) -> None:
        """Rewrite the score; what its axes then have beyond 'page' is reduced by max."""
        score = rewrite([self.score], rule)[0]
        for name in score.names:
            if name != "page":
                score = make("max", score, axis=name)
        if score == self.score:
            raise NoChange
        self.score = score


def fresh(hint: str, taken: Mapping[str, object]) -> str:
    """A name that is not taken."""
    number = 2
    name = hint
    while name in taken:
        name, number = f"{hint}{number}", number + 1
    return name


def draft_of(text: str, values: Mapping[str, KnobValue]) -> Draft:
    """The draft of a parent.

    Raises:
        NoChange: the parent has no single ranked score to work on.
    """
    program = parse(text)
    parts = [n for n in walk([program.select]) if n.op in RANKED or n.op == "refine"]
    if len(parts) != 1 or parts[0].op != "top_k":
        raise NoChange

    def count(op: str, default: int) -> int:
        found = [n.attr("pages") for n in walk([program.select]) if n.op == op]
        return next((c for c in found if isinstance(c, int)), default)

    knobs = dict(program.knobs)
    plain = replace(program.policies, dense_first=0, dense_last=0) == Policies()
    if parts[0].inputs[1] != BUDGET or program.states or not plain:
        raise NoChange
    return Draft(
        fields=dict(program.fields),
        score=parts[0].inputs[0],
        knobs=knobs,
        values={k: v for k, v in values.items() if k in knobs},
        dtype=program.dtype,
        sinks=count("sinks", 0),
        recent=count("recent", 0),
        dense=(program.policies.dense_first, program.policies.dense_last),
    )


def adopt(draft: Draft, other: Draft) -> Node:
    """The other draft's score with its fields and knobs brought into this one."""
    names: dict[str, KnobRef] = {}
    for name, knob in other.knobs.items():
        kept = name if draft.knobs.get(name, knob) == knob else fresh(name, draft.knobs)
        if name in ("page_size", "budget"):
            kept = name
        elif kept not in draft.knobs:
            draft.knobs[kept] = knob
            draft.values[kept] = other.values.get(name, knob.default)
        names[name] = KnobRef(kept)
    rule = bind_knobs(names)
    contents = dict(zip(other.fields, rewrite(list(other.fields.values()), rule), strict=True))

    def moved(node: Node) -> Node:
        if node.op == "field":
            name = str(node.attr("name"))
            return draft.field(name, contents[name])
        return rule(node)

    if len(draft.knobs) > MAX_KNOBS:
        raise NoChange
    return rewrite([other.score], moved)[0]


def with_fields(draft: Draft, contents: Mapping[str, Node]) -> None:
    """Change what fields hold; the score follows, new axes reduced by max."""
    draft.fields.update(contents)

    def reread(node: Node) -> Node:
        name = node.attr("name") if node.op == "field" else None
        return make_field(str(name), contents[str(name)]) if name in contents else node

    score = rewrite([draft.score], reread)[0]
    for name in score.names:
        if name != "page":
            score = make("max", score, axis=name)
    draft.score = score


def finished(draft: Draft, name: str, doc: str) -> tuple[str, dict[str, KnobValue], str]:
    """(text, knob values, candidate hash) of the draft.

    Raises:
        NoChange: it is too large, or its parts do not fit.
        VortexError: it is not a program after all.
    """
    used = {str(n.attr("name")) for n in walk([draft.score]) if n.op == "field"}
    fields = {n: v for n, v in draft.fields.items() if n in used}
    select = make("top_k", draft.score, BUDGET)
    for op, pages in (("sinks", draft.sinks), ("recent", draft.recent)):
        if pages:
            part = make(op, pages=pages, tokens=0)
            select = Node("union", (select, part), (), (), None)
    if not fields or draft.score.names != ("page",):
        raise NoChange
    roots = [*fields.values(), draft.score]
    if sum(1 for _ in walk(roots)) > MAX_NODES:
        raise NoChange
    program = Program(
        name=name, doc=doc, knobs=draft.knobs, fields=fields, dtype=draft.dtype,
        scores={"score": draft.score}, select=select, policies=Policies(*draft.dense),
    )  # fmt: skip
    read = program.knobs_read()
    knobs = {n: k for n, k in draft.knobs.items() if n in read}
    text = print_program(replace(program, knobs=knobs))
    values = {n: draft.values.get(n, k.default) for n, k in knobs.items()}
    candidate = bind(parse(text), values)
    return text, dict(candidate.knobs), candidate.candidate_hash
