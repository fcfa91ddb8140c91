import vortex as vx


class LessIsMore(vx.Algorithm):
    """One list for all heads and a stable recent window: sum over KV heads of sum_h
    softmax(max_token q_h . k) (arXiv:2508.07101). Approximated: a quarter of the budget is
    recent."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    dense_layers = vx.layers(first=2)
    reuse = vx.reuse(layers=8)
    per_head = vx.shared("sum")

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        best = vx.dot(q, page.keys, "dim").max("token") * vx.scale
        return best.softmax("page").sum("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(tokens=1024)
