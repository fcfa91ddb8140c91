"""Centroid per query head with softmax over pages, as in the Vortex paper (arXiv:2606.06453)."""

import vortex as vx


class CentroidSoftmax(vx.Algorithm):
    """Score: max over heads of softmax over pages of <q_h, mean key> * scale."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"))

    def score(self, q, page):
        logits = vx.dot(q, page.center, "dim") * vx.scale
        return logits.softmax("page").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
