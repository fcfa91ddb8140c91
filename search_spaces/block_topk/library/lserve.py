import vortex as vx


class LServe(vx.Algorithm):
    """Quest on logical sub-pages, the best one counts, one choice serves four steps: max_sub max_h
    sum_d max(q lo, q hi) (arXiv:2502.14866). Approximated: no streaming heads."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    reuse = vx.reuse(steps=4)

    def summarize(self, k, v):
        parts = k.split("token", into=2, name="sub")
        return vx.Summary(lo=parts.min("token"), hi=parts.max("token"))

    def score(self, q, page):
        bound = vx.maximum(q * page.lo, q * page.hi).sum("dim")
        return bound.max("head").max("sub")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
