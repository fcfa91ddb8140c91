import vortex as vx


class Loki(vx.Algorithm):
    """Low-rank keys: max_token max_h (q P) . (k P) (arXiv:2406.02542). Approximated: a random P for
    principal components (vx.load names those); pages for tokens."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        low = k.project("dim", into=16, name="chan", matrix=vx.random_matrix(seed=1))
        return vx.Summary(low=low, dtype="int8")

    def score(self, q, page):
        mine = q.project("dim", into=16, name="chan", matrix=vx.random_matrix(seed=1))
        return vx.dot(mine, page.low, "chan").max("token").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
