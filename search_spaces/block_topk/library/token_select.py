import vortex as vx


class TokenSelect(vx.Algorithm):
    """Soft votes of all heads for one list per layer: sum_h softmax(max_token q_h . k)
    (arXiv:2411.02886). Approximated: votes for pages by their best token."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    per_head = vx.shared("sum")

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        best = vx.dot(q, page.keys, "dim").max("token") * vx.scale
        return best.softmax("page").sum("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
