import vortex as vx


class ArkVale(vx.Algorithm):
    """Bounding ball of a page: max_h q_h . c + |q_h| r, c the mean, r the largest distance from it
    (ArkVale, NeurIPS 2024). Approximated: no recall from the host."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        center = k.mean("token")
        return vx.Summary(mean=center, radius=(k - center).norm("dim").max("token"))

    def score(self, q, page):
        bound = vx.dot(q, page.mean, "dim") + q.norm("dim") * page.radius
        return bound.max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
