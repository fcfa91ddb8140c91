"""Quest (Tang et al., arXiv:2406.10774): an upper bound of each page's best match."""

import vortex as vx


class Quest(vx.Algorithm):
    """Score: max over heads of sum_d max(q_d * min_d, q_d * max_d) over the page's keys.

    Approximated: the paper runs the first two layers densely; set dense_layers for that.
    """

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(lo=k.min("token"), hi=k.max("token"))

    def score(self, q, page):
        bound = vx.maximum(q * page.lo, q * page.hi).sum("dim")
        return bound.max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
