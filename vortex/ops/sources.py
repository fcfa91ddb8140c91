"""Sources and selectors of the op table: what programs read, and how they keep pages."""

from __future__ import annotations

from vortex.ops.base import DIM, HEAD, PAGE, TOKEN, VDIM, Op, Param, fixed, no_axes

SOURCES = (
    Op("k", "source", 0, fixed(TOKEN, DIM), None, "Keys of one page, after RoPE.", "k",
       function=False),
    Op("v", "source", 0, fixed(TOKEN, VDIM), None, "Values of one page.", "v", function=False),
    Op("q", "source", 0, fixed(HEAD, DIM), None, "Queries of one KV head, after RoPE, unscaled.",
       "q", function=False),
    Op("field", "source", 0, no_axes, None, "A field that summarize() kept.", "page.name",
       params=(Param("name", "field"),), function=False),
    Op("state", "source", 0, fixed(PAGE), None, "A number per page, kept from step to step.",
       "page.name", params=(Param("name", "field"),), function=False),
    Op("mass", "source", 0, fixed(PAGE), None,
       "In update(): the attention mass of each page in this step, summed over the query heads; 0 "
       "where it was not attended.", "sum softmax(q k)", function=False),
    Op("page_index", "source", 0, fixed(PAGE), None, "Logical index of the page, from 0.", "i",
       "vx.page_index"),
    Op("page_age", "source", 0, fixed(PAGE), None,
       "Complete pages after this one; 0 for the newest.", "n - 1 - i", "vx.page_age"),
    Op("page_count", "source", 0, no_axes, None, "Complete pages of the sequence.", "n",
       "vx.page_count"),
    Op("scale", "source", 0, no_axes, None, "The model's softmax scale.", "s", "vx.scale"),
    Op("depth", "source", 0, no_axes, None, "Depth of the layer: 0 for the first, 1 for the last.",
       "layer / (layers - 1)", "vx.depth"),
    Op("context", "source", 0, no_axes, None,
       "In a budget: tokens of the sequence (as the workload would have them, on a stand-in).",
       "tokens", "vx.context"),
    Op("const", "scalar", 0, no_axes, None, "A number.", "c", params=(Param("value", "number"),),
       function=False),
    Op("knob", "scalar", 0, no_axes, None, "The value of a knob.", "self.name",
       params=(Param("value", "number"),), function=False),
)  # fmt: skip

_PAGES = (Param("pages", "count", 0), Param("tokens", "tokens", 0))
_TOKENS = (Param("tokens", "budget"),)

SELECTORS = (
    Op("top_k", "selector", 1, no_axes, None,
       "The best-scored pages within a budget of tokens, reserved pages included.",
       "k largest of score", "vx.top_k(score, tokens=self.budget)", _TOKENS),
    Op("top_p", "selector", 1, no_axes, None,
       "The fewest best-scored pages that together hold a share of the score's sum (negative "
       "scores count as 0), at most a budget.", "fewest pages with sum >= mass",
       "vx.top_p(score, mass=0.9, max_tokens=self.budget)",
       (Param("mass", "number"), Param("max_tokens", "budget"))),
    Op("threshold", "selector", 1, no_axes, None,
       "Pages that score at least a value, the best first, at most a budget.", "score >= above",
       "vx.threshold(score, above=0.0, max_tokens=self.budget)",
       (Param("above", "number"), Param("max_tokens", "budget"))),
    Op("refine", "selector", 2, no_axes, None,
       "What the second selection keeps among the pages that the first kept.", "fine of coarse",
       "vx.refine(vx.top_k(score, tokens=4 * self.budget), vx.top_k(score, tokens=self.budget))"),
    Op("sinks", "selector", 0, no_axes, None,
       "The first pages: reserved, never ranked. A count of pages, or a budget: "
       "`vx.sinks(tokens=512)`, recent pages included.",
       "i < pages", "vx.sinks(1)", _PAGES),
    Op("recent", "selector", 0, no_axes, None,
       "The newest pages, the partial one first: reserved, never ranked. A count of pages, or a "
       "budget: `vx.recent(tokens=2048)`, sinks included.", "i >= n - pages",
       "vx.recent(2)", _PAGES),
    Op("union", "selector", 2, no_axes, None, "Pages that either side keeps.", "a | b",
       "vx.top_k(score, tokens=self.budget) | vx.sinks(1)", function=False),
    Op("all", "selector", 0, no_axes, None, "Every page: full attention.", "all", "vx.all()",
       reserved=True),
    Op("random", "selector", 0, no_axes, None, "Random pages, drawn anew at each step.",
       "random", "vx.random(tokens=self.budget)", _TOKENS, reserved=True),
    Op("oracle", "selector", 0, no_axes, None,
       "The pages of largest true attention mass, summed over the query heads.",
       "k largest of sum softmax(q k)", "vx.oracle(tokens=self.budget)", _TOKENS, reserved=True),
)  # fmt: skip
