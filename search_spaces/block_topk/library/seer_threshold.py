import vortex as vx


class SeerThreshold(vx.Algorithm):
    """Every page above a probability: max_h softmax(q_h . mean(k)) >= t (arXiv:2506.08889, its
    threshold). Approximated: means for the distilled gate."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    above = vx.real(0.0001, 0.1, log=True, default=0.002)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")

    def select(self, score):
        chosen = vx.threshold(score, above=self.above, max_tokens=self.budget)
        return chosen | vx.sinks(1) | vx.recent(2)
