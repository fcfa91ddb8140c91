import vortex as vx


class RatioBudget(vx.Algorithm):
    """A fixed budget and a share of the context, whichever is more, by mean_h q_h . mean(k)
    (arXiv:2606.06453)."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    share = vx.real(0.01, 0.25, default=0.05)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").mean("head")

    def select(self, score):
        tokens = vx.maximum(self.budget, self.share * vx.context)
        return vx.top_k(score, tokens=tokens) | vx.sinks(1) | vx.recent(2)
