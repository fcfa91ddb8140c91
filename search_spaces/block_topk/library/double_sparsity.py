import vortex as vx


class DoubleSparsity(vx.Algorithm):
    """A few label channels of every token: max_token max_h q_C . k_C (arXiv:2408.07092).
    Approximated: every fourth channel for calibrated ones (vx.load names those); pages for
    tokens."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(label=k.take("dim", count=16, step=4), dtype="int8")

    def score(self, q, page):
        mine = q.take("dim", count=16, step=4)
        return vx.dot(mine, page.label, "dim").max("token").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
