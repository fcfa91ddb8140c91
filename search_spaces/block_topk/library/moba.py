import vortex as vx


class MoBA(vx.Algorithm):
    """Mean of the block against each query: max_h q_h . mean(k) (arXiv:2502.13189). Approximated:
    trained with the model there; one list per KV head here."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.recent(1)
