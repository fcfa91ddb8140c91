import vortex as vx


class PyramidKV(vx.Algorithm):
    """More pages in early layers: budget (1.5 - depth), ranked by max_h softmax(q_h . mean(k))
    (arXiv:2406.02069). Approximated: centroids for attention received."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")

    def select(self, score):
        chosen = vx.top_k(score, tokens=self.budget * (1.5 - vx.depth))
        return chosen | vx.sinks(1) | vx.recent(2)
