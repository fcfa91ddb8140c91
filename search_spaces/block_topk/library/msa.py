import vortex as vx


class MSA(vx.Algorithm):
    """One index query for the group against every token, the best one counts: max_token mean_h(q) .
    k (MiniMax-M3). Approximated: mean query for the trained one."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        return vx.dot(q.mean("head"), page.keys, "dim").max("token")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
