"""Block centroid: mean query times mean key, as in the Vortex paper (arXiv:2606.06453)."""

import vortex as vx


class BlockCentroid(vx.Algorithm):
    """Score: <mean over heads of q, mean key of the page>."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q.mean("head"), page.center, "dim")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
