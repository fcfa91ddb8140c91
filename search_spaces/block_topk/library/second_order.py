import vortex as vx


class SecondOrder(vx.Algorithm):
    """Mean and variance of a page's logits: max_h q_h . mean(k) + s / 2 (q_h^2 . var(k)), the
    logarithm of the mean of e^x to second order."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        center = k.mean("token")
        return vx.Summary(mean=center, var=(k - center).square().mean("token"))

    def score(self, q, page):
        spread = vx.dot(q.square(), page.var, "dim") * vx.scale
        return (vx.dot(q, page.mean, "dim") + 0.5 * spread).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
