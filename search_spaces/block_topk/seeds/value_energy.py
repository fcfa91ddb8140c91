"""Centroid gated by value energy, as in the Vortex paper (arXiv:2606.06453)."""

import vortex as vx


class ValueEnergy(vx.Algorithm):
    """Score: max over heads of softmax over pages of <q_h, mean key>, times the mean |v|.

    Approximated: the paper multiplies the raw product, whose sign flips the gate; here the
    softmax makes the gated quantity positive.
    """

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"), energy=v.norm("dim").mean("token"))

    def score(self, q, page):
        logits = vx.dot(q, page.center, "dim") * vx.scale
        return logits.softmax("page").max("head") * page.energy

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
