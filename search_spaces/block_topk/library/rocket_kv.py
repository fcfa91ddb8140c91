import vortex as vx


class RocketKV(vx.Algorithm):
    """Quest on a part of the channels: max_h sum_(d even) max(q lo, q hi) (arXiv:2502.14051, second
    stage). Approximated: fixed channels; nothing is evicted."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        part = k.take("dim", count=32, step=2)
        return vx.Summary(lo=part.min("token"), hi=part.max("token"))

    def score(self, q, page):
        mine = q.take("dim", count=32, step=2)
        return vx.maximum(mine * page.lo, mine * page.hi).sum("dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
