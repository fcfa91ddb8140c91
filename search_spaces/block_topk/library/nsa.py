import vortex as vx


class NSA(vx.Algorithm):
    """Probabilities of compressed attention, summed over the group, with a window: sum_h
    softmax(q_h . mean(k)) (arXiv:2502.11089). Approximated: means for the learned compression; no
    compressed branch."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").sum("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(tokens=512)
