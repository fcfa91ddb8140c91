"""The language's reference as Markdown, written from the op table.

``python -m vortex.handbook > docs/language.md`` renews the document; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator

from vortex.declarations import PAGE_SIZES
from vortex.expressions import MAX_NODES
from vortex.guards import MAX_BYTES, MAX_NESTING
from vortex.ops import OPS, Op
from vortex.storage import BITS

_LIMITS = f"""A program is one class; its text
is parsed, never executed. At most {MAX_BYTES:,} bytes, {MAX_NODES} operations, {MAX_NESTING} levels of
brackets."""

# What a method sees, and what it returns.
_METHODS = (
    ("`summarize(self, k, v)`", "one page: `k [token, dim]`, `v [token, dim]`; runs once, is kept", '`vx.Summary(name=..., dtype="bf16")`'),
    ("`score(self, q, page)`", "`q [head, dim]` of one KV head, `page.name [page, ...]`, every step", "one number per page, or `vx.Scores(name=...)`"),
    ("`select(self, score)`", "what `score` returned", "a selection of pages"),
    ("`update(self, page, mass)`", "fields and states, `mass [page]`", "`vx.State(name=...)`, one number per page"),
)  # fmt: skip

_FIELDS = f"""Fields are stored as {", ".join(f"`{d}`" for d in BITS)}. All but bf16 carry one float32 scale per page and
field, the field's largest magnitude over the type's largest number, so that a program never scales by
hand; the rounding is part of its meaning."""

_ATTRIBUTES = (
    ("`page_size = vx.choice(16, 32)`", f"tokens of a page: {', '.join(map(str, PAGE_SIZES))}"),
    ("`name = vx.choice(a, b)`, `vx.integer(low, high, log=True, default=d)`, `vx.real(low, high, default=d)`", "a knob, read as `self.name`"),
    ("`dense_layers = vx.layers(first=2, last=0)`", "layers that run full attention: accuracy for time, as each costs what the baseline's does; on a stand-in of other depth the counts scale"),
    ("`reuse = vx.reuse(layers=2, steps=4)`", "one ranking serves so many sparse layers and steps, which read no fields of their own; reserved pages are renewed every step"),
    ('`per_head = vx.shared("mean")`', "one list for all KV heads: scores joined by `mean`, `max` or `sum`"),
    ("`name = vx.state(init=0.0)`", "a number per complete page, kept from step to step"),
)  # fmt: skip

_MEANING = """Axes align by name: `[head, dim] * [page, dim]` is `[page, head, dim]`. A budget is a number of tokens,
reserved pages and the partial page included: numbers, knobs, `vx.context` and `vx.depth`, joined by
arithmetic. It is evaluated as a real number at the workload's context, scaled to the length at hand where
that is shorter, and floored, to tokens and then to whole pages: with pages of 16, `tokens=1000.7` keeps 62.
It is never below the reserved pages and one more; a plain number below that is an error, what arithmetic
gives is raised. Ties fall by a fixed hash of the page; scores that are not finite rank last."""

_SECTIONS = (
    ("Sources", ("source",), "What programs read."),
    ("Elementwise", ("elementwise",), "The result has the union of the operands' axes."),
    ("Reductions", ("reduce",), "Over `page`: all complete pages, reserved ones included."),
    ("Axes", ("shape",), "Cutting, picking, joining and projecting axes; looking along pages."),
    ("Selectors", ("selector",), "Only in `select`; `a | b` is their union."),
)
_HIDDEN = ("field", "union")


def reference() -> str:
    """The whole document."""
    parts = [_intro()]
    for title, ops, text in _sections():
        parts.append(f"## {title}\n\n{text}\n\n" + _table(ops))
    names = ", ".join(f"`{o.name}`" for o in OPS.values() if o.reserved)
    parts.append(f"Reserved for controls: {names}.\n")
    return "\n".join(parts)


def terse() -> str:
    """The same for a reader who pays for every word: one line an entry, no tables."""
    parts = [
        _unwrapped(_LIMITS), "Methods and class attributes:", *declarations(),
        _unwrapped(_FIELDS), _unwrapped(_MEANING),
        "Operations, as name: meaning; example {operations per element where more than one}:",
    ]  # fmt: skip
    for title, ops, text in _sections():
        parts += [f"{title}. {text}", *map(entry, ops)]
    return "\n".join(parts).replace("`", "") + "\n"


def entry(op: Op) -> str:
    """One line about an op, with no Markdown."""
    meaning = op.formula if op.kind == "elementwise" else op.doc.rstrip(".")
    example = f"; e.g. {op.example}" if op.example else ""
    cost = f" {{{op.flops:g}}}" if op.flops > 1 and (op.arity or op.variadic) else ""
    return f"{op.name}: {meaning.replace('`', '')}{example}{cost}"


def declarations() -> tuple[str, ...]:
    """One line about each class attribute and method, with no Markdown."""
    methods = (f"{name}: sees {sees}; returns {gives}" for name, sees, gives in _METHODS)
    attributes = (f"{name}: {meaning}" for name, meaning in _ATTRIBUTES)
    return tuple(line.replace("`", "") for line in (*methods, *attributes))


def _sections() -> Iterator[tuple[str, list[Op], str]]:
    """Title, ops and a sentence of each kind of op."""
    for title, kinds, text in _SECTIONS:
        ops = [o for o in OPS.values() if o.kind in kinds and o.name not in _HIDDEN]
        yield title, [o for o in ops if not o.reserved], text


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def _intro() -> str:
    methods = "\n".join(f"| {' | '.join(row)} |" for row in _METHODS)
    attributes = "\n".join(f"| {' | '.join(row)} |" for row in _ATTRIBUTES)
    return f"""# The Vortex language

This page is written from the op table (`python -m vortex.handbook`). {_LIMITS}

| part | sees | returns |
|---|---|---|
{methods}

{_FIELDS}

| class attribute | meaning |
|---|---|
{attributes}

{_MEANING}
"""


def _table(ops: list[Op]) -> str:
    lines = ["| op | meaning | formula | cost | example |", "|---|---|---|---|---|"]
    for op in ops:
        cost = f"{op.flops:g} per element" if op.arity or op.variadic else "–"
        cells = (
            _cell(op.name),
            op.doc.replace("|", "\\|"),
            _cell(op.formula),
            cost,
            _cell(op.example),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else "–"


if __name__ == "__main__":
    print(reference(), end="")
