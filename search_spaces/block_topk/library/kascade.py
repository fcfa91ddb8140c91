import vortex as vx


class Kascade(vx.Algorithm):
    """Anchor layers rank by pooled probabilities, reuse layers follow: sum_h softmax(max_token q_h
    . k) (arXiv:2512.16391). Approximated: even anchors, and each head follows itself."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    reuse = vx.reuse(layers=5)

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        best = vx.dot(q, page.keys, "dim").max("token") * vx.scale
        return best.softmax("page").sum("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
