import vortex as vx


class HShare(vx.Algorithm):
    """One choice for neighbouring layers and steps: max_h softmax(q_h . mean(k)) (HShare, ICLR
    2025). Approximated: fixed sharing; heads keep their own."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    reuse = vx.reuse(layers=2, steps=4)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
