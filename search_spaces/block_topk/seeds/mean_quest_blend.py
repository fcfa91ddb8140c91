"""Blend of a page's mean match and its Quest bound, as in the Vortex paper (arXiv:2606.06453)."""

import vortex as vx


class MeanQuestBlend(vx.Algorithm):
    """Score: max over heads of weight * <q_h, mean key> + (1 - weight) * Quest bound."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)
    weight = vx.real(0.0, 1.0, default=0.5)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"), lo=k.min("token"), hi=k.max("token"))

    def score(self, q, page):
        match = vx.dot(q, page.center, "dim")
        bound = vx.maximum(q * page.lo, q * page.hi).sum("dim")
        return (match * self.weight + bound * (1 - self.weight)).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
