import vortex as vx


class Twilight(vx.Algorithm):
    """Quest, then the fewest of its pages that hold most of the estimated mass: top_p(sum_h
    softmax(logsumexp_token q_h . k4)) of top_k(Quest) (arXiv:2502.02770). Approximated: pages for
    tokens; one list per KV head."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    mass = vx.real(0.5, 0.99, default=0.9)

    def summarize(self, k, v):
        return vx.Summary(lo=k.min("token"), hi=k.max("token"), keys=k, dtype="int4")

    def score(self, q, page):
        bound = vx.maximum(q * page.lo, q * page.hi).sum("dim").max("head")
        logits = (vx.dot(q, page.keys, "dim") * vx.scale).logsumexp("token")
        return vx.Scores(bound=bound, mass=logits.softmax("page").sum("head"))

    def select(self, scores):
        coarse = vx.top_k(scores.bound, tokens=2 * self.budget)
        fine = vx.top_p(scores.mass, mass=self.mass, max_tokens=self.budget)
        return vx.refine(coarse, fine) | vx.sinks(1) | vx.recent(2)
