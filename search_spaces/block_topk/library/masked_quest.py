import vortex as vx


class MaskedQuest(vx.Algorithm):
    """Quest without the first eight channels: max_h sum_(d >= 8) max(q lo, q hi) (vortex_torch)."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(lo=k.min("token"), hi=k.max("token"))

    def score(self, q, page):
        mine = vx.where(q.positions("dim") < 8, 0.0, q)
        return vx.maximum(mine * page.lo, mine * page.hi).sum("dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
