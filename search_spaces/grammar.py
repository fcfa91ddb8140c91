"""A grammar of the language: draws well-typed programs of bounded cost, words from the op table.

Every production says which axes its result has, so that what is drawn always parses; the cost is
bounded by the productions themselves: at most three comparisons, and fields of at most one key's
size per token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from vortex.ops import OPS

# From the table: maps of a tensor to one of the same axes, and reductions of one axis.
MAPS = tuple(o.name for o in OPS.values() if o.kind == "elementwise" and o.arity == 1 and o.method
             and not o.params and o.name not in ("exp", "log"))  # fmt: skip
JOINS = tuple(o.name for o in OPS.values() if o.kind == "reduce" and o.arity == 1
              and o.name not in ("softmax", "min"))  # fmt: skip
NEIGHBOURS = tuple(o.name for o in OPS.values() if o.along_page and o.name != "shift")
DTYPES = ("bf16", "fp8", "int8", "int4")
_MAX_MATCHES = 3


@dataclass
class Draft:
    """What was drawn so far.

    Attributes:
        cut: whether fields keep parts of a page (axis ``sub``).
        fields: expressions of summarize() by name.
        heat: whether the program has a state.
        matches: comparisons of the query with a field so far.
    """

    rng: random.Random
    cut: bool
    heat: bool
    fields: dict[str, str] = field(default_factory=dict)
    matches: int = 0

    def keep(self, name: str, expression: str) -> str:
        """A field that holds the expression, under a name of its own."""
        for known, other in self.fields.items():
            if other == expression:
                return f"page.{known}"
        name = f"{name}{len(self.fields)}"
        self.fields[name] = expression
        return f"page.{name}"

    def tokens(self, source: str) -> str:
        """The tokens of a page, or of its parts."""
        return f'{source}.split("token", into=4, name="sub")' if self.cut else source


def program(seed: int) -> str:
    """The text of a program, the same for the same seed."""
    rng = random.Random(f"grammar/{seed}")
    draft = Draft(rng, cut=rng.random() < 0.3, heat=rng.random() < 0.1)
    several = rng.random() < 0.25
    names = ("coarse", "fine") if several else ("score",)
    scores = {name: _score(draft) for name in names}
    lines = ["import vortex as vx", "", "", f"class G{seed}(vx.Algorithm):"]
    lines += ['    """Drawn from the grammar."""', ""]
    lines += ["    page_size = vx.choice(16, 32)"]
    lines += ["    budget = vx.integer(512, 16384, log=True, default=4096)"]
    lines += _policies(rng)
    if draft.heat:
        lines += ["    heat = vx.state(init=0.0)"]
    kept = ", ".join(f"{n}={e}" for n, e in draft.fields.items())
    if draft.fields:
        lines += ["", "    def summarize(self, k, v):"]
        lines += [f'        return vx.Summary({kept}, dtype="{rng.choice(DTYPES)}")']
    lines += ["", "    def score(self, q, page):"]
    if several:
        lines += [f"        return vx.Scores({', '.join(f'{n}={e}' for n, e in scores.items())})"]
    else:
        lines += [f"        return {scores['score']}"]
    if draft.heat:
        lines += ["", "    def update(self, page, mass):"]
        lines += ["        return vx.State(heat=0.8 * page.heat + mass)"]
    lines += ["", f"    def select(self, {'scores' if several else 'score'}):"]
    lines += [f"        return {_select(rng, several)}"]
    return "\n".join(lines) + "\n"


def _policies(rng: random.Random) -> list[str]:
    lines = []
    if rng.random() < 0.2:
        lines.append(f"    dense_layers = vx.layers(first={rng.choice((1, 2))})")
    if rng.random() < 0.2:
        lines.append(
            f"    reuse = vx.reuse(layers={rng.choice((1, 2))}, steps={rng.choice((2, 4))})"
        )
    if rng.random() < 0.15:
        lines.append(f'    per_head = vx.shared("{rng.choice(("mean", "max", "sum"))}")')
    return lines


def _score(draft: Draft) -> str:
    """One number per page."""
    rng = draft.rng
    text = _joined(draft)
    if draft.matches < _MAX_MATCHES and rng.random() < 0.35:
        other = _joined(draft)
        text = rng.choice((
            f"{text} + {_weight(rng)} * {other}", f"vx.maximum({text}, {other})",
            f"vx.where({other} > 0, {text}, 0.5 * {text})",
        ))  # fmt: skip
        text = f"({text})"
    if rng.random() < 0.3:
        text = f"({text} + {_weight(rng)} * {_term(draft)})"
    if rng.random() < 0.15:
        text = f"{text}.{rng.choice(NEIGHBOURS)}(radius={rng.choice((1, 2))})"
    return text


def _joined(draft: Draft) -> str:
    """A comparison of query and page with its heads and parts joined."""
    rng = draft.rng
    text, cut = _match(draft)
    if rng.random() < 0.4:
        text = f'({text} * vx.scale).softmax("page")'
    elif rng.random() < 0.2:
        text = f"({text}).{rng.choice(MAPS)}()"
    axes = ["head", *(["sub"] if cut else [])]
    rng.shuffle(axes)
    for axis in axes:
        text = f'({text}).{rng.choice(JOINS)}("{axis}")'
    return text


def _match(draft: Draft) -> tuple[str, bool]:
    """A comparison over ``page``, ``head`` and perhaps ``sub``, and whether it has the latter."""
    draft.matches += 1
    rng, k = draft.rng, draft.tokens("k")
    kind = rng.choice(("centre", "envelope", "ball", "channels", "low", "best token", "indices"))
    if kind == "centre":
        stat = rng.choice(("mean", "max", "min"))
        return f'vx.dot(q, {draft.keep("c", f"{k}.{stat}({TOKEN})")}, "dim")', draft.cut
    if kind == "envelope":
        lo, hi = (draft.keep(n, f"{k}.{s}({TOKEN})") for n, s in (("lo", "min"), ("hi", "max")))
        return f'vx.maximum(q * {lo}, q * {hi}).sum("dim")', draft.cut
    if kind == "ball":
        mean = draft.keep("c", f"{k}.mean({TOKEN})")
        spread = draft.keep("r", f'({k} - {k}.mean({TOKEN})).norm("dim").max({TOKEN})')
        return f'(vx.dot(q, {mean}, "dim") + {_weight(rng)} * q.norm("dim") * {spread})', draft.cut
    if kind == "channels":
        part = f'take("dim", first={rng.choice((0, 1))}, count=4, step=2)'
        held = draft.keep("p", f"{k}.{part}.mean({TOKEN})")
        return f'vx.dot(q.{part}, {held}, "dim")', draft.cut
    if kind == "low":
        low = (
            f'project("dim", into=4, name="chan", matrix=vx.random_matrix(seed={rng.randrange(4)}))'
        )
        return f'vx.dot(q.{low}, {draft.keep("l", f"{k}.{low}.mean({TOKEN})")}, "chan")', draft.cut
    if kind == "indices":
        mean = draft.keep("c", f"{k}.mean({TOKEN})")
        best = 'q.abs().sum("head").top_indices("dim", count=4)'
        return f'vx.dot(q.gather({best}, "dim"), {mean}.gather({best}, "dim"), "dim")', draft.cut
    return f'vx.dot(q, {draft.keep("k", "k")}, "dim").max("token")', False


TOKEN = '"token"'


def _term(draft: Draft) -> str:
    """A number per page that does not depend on the query."""
    kinds = ["recency", "value", "size", *(["heat"] if draft.heat else [])]
    kind = draft.rng.choice(kinds)
    if kind == "recency":
        return "(1 / (1 + vx.page_age))"
    if kind == "heat":
        return "page.heat"
    source = "v" if kind == "value" else "k"
    return draft.keep(kind[0], f'{source}.norm("dim").{draft.rng.choice(("mean", "max"))}("token")')


def _weight(rng: random.Random) -> str:
    return f"{rng.uniform(0.05, 2.0):.2f}"


def _select(rng: random.Random, several: bool) -> str:
    tokens = rng.choice((
        "self.budget", "vx.maximum(self.budget, 0.05 * vx.context)",
        "self.budget * (1.5 - vx.depth)",
    ))  # fmt: skip
    first = "scores.fine" if several else "score"
    chosen = rng.choice((
        f"vx.top_k({first}, tokens={tokens})", f"vx.top_k({first}, tokens={tokens})",
        f"vx.top_p({first}, mass={rng.uniform(0.5, 0.95):.2f}, max_tokens={tokens})",
        f"vx.threshold({first}, above={rng.uniform(0, 1):.2f}, max_tokens={tokens})",
    ))  # fmt: skip
    if several:
        other = "vx.top_k(scores.coarse, tokens=2 * self.budget)"
        chosen = rng.choice((f"vx.refine({other}, {chosen})", f"{chosen} | {other}"))
    return f"{chosen} | vx.sinks(1) | vx.recent({rng.choice((1, 2, 4))})"
