import vortex as vx


class SparQ(vx.Algorithm):
    """Channels where the query is large: max_token max_h sum_(i in top_r |q|) q_i k_i
    (arXiv:2312.04985). Approximated: pages for tokens; no mean-value compensation."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        best = q.abs().sum("head").top_indices("dim", count=16)
        match = vx.dot(q.gather(best, "dim"), page.keys.gather(best, "dim"), "dim")
        return match.max("token").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
