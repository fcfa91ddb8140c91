"""Programs that use each part of the language: one per op from its own example, one per policy."""

from __future__ import annotations

import re

from vortex.errors import ProgramError
from vortex.frontend import parse
from vortex.ops import OPS

HEAD = """import vortex as vx


class Example(vx.Algorithm):
    page_size = 16
    budget = vx.integer(512, 8192, default=4096)
"""
SELECT = """
    def select(self, score):
        return {} | vx.sinks(1) | vx.recent(2)
"""
TOP_K = "vx.top_k(score, tokens=self.budget)"
SCORED = [
    op.name
    for op in OPS.values()
    if op.kind != "selector" and op.example and "context" not in op.example
]
SELECTORS = [o.name for o in OPS.values() if o.kind == "selector" and not o.reserved]


def _score(example: str) -> str:
    """A score that holds the example; axes that are left are reduced, pages are added."""
    summarized = bool(re.match(r"[kv]\b", example))
    field = example if summarized else 'k.mean("token")'
    text = "page.mean" if summarized else example
    for _ in range(6):
        source = (
            HEAD
            + f"\n    def summarize(self, k, v):\n        return vx.Summary(mean={field})\n"
            + f"\n    def score(self, q, page):\n        return {text}\n"
            + SELECT.format(TOP_K)
        )
        try:
            parse(source)
        except ProgramError as error:
            found = error.diagnostics[0]
            if found.code == "E122":
                text = f"({text}) + 0.01 * page.mean.max('dim')"
                continue
            if found.code != "E101":
                raise
            axes = found.message.split("[")[-1].strip("]").split(", ")
            if "page" not in axes:
                text = f"({text}) + 0.01 * page.mean.max('dim')"
            else:
                text = f"({text}).max('{next(a for a in axes if a != 'page')}')"
        else:
            return source
    raise AssertionError(text)


def program_of(name: str) -> str:
    """A program around the example of an op."""
    op = OPS[name]
    if op.kind != "selector":
        return _score(op.example)
    summary = '\n    def summarize(self, k, v):\n        return vx.Summary(mean=k.mean("token"))\n'
    score = (
        "\n    def score(self, q, page):\n"
        '        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")\n'
    )
    chosen = op.example if "score" in op.example else f"{TOP_K} | {op.example}"
    return HEAD + summary + score + SELECT.format(chosen)


BLEND = """import vortex as vx


class Blend(vx.Algorithm):
    page_size = 16
    budget = vx.integer(512, 8192, default=4096)
    POLICY

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"), hi=k.max("token"))

    def score(self, q, page):
        near = vx.dot(q, page.mean, "dim").max("head")
        far = vx.dot(q, page.hi, "dim").max("head")
        return vx.Scores(near=near, far=far)

    def select(self, scores):
        near = vx.top_k(scores.near, tokens=self.budget * (1 - 0.5 * vx.depth))
        far = vx.top_k(scores.far, tokens=0.1 * vx.context)
        return near | far | vx.recent(2)
"""
STATE = """import vortex as vx


class Heat(vx.Algorithm):
    page_size = 16
    budget = vx.integer(512, 8192, default=4096)
    heat = vx.state(init=1.0)
    POLICY

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head") + 4 * page.heat

    def update(self, page, mass):
        return vx.State(heat=0.5 * page.heat + mass * (1 + page.mean.max("dim")))

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.recent(1)
"""
REUSE = "reuse = vx.reuse(layers=2, steps=3)"
POLICIES = {
    "plain": BLEND.replace("    POLICY\n", ""),
    "reuse": BLEND.replace("POLICY", REUSE),
    "shared mean": BLEND.replace("POLICY", 'per_head = vx.shared("mean")'),
    "shared max": BLEND.replace("POLICY", "per_head = vx.shared('max')"),
    "state": STATE.replace("    POLICY\n", ""),
    "state and reuse": STATE.replace("POLICY", REUSE),
}
