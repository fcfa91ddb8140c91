import vortex as vx


class DSA(vx.Algorithm):
    """A light indexer on every token: max_token sum_h relu(q_h . k), keys in fp8
    (arXiv:2512.02556). Approximated: the model's own queries and keys for the trained indexer,
    projected; pages for tokens."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        low = k.project("dim", into=32, name="chan", matrix=vx.random_matrix(seed=2))
        return vx.Summary(low=low, dtype="fp8")

    def score(self, q, page):
        mine = q.project("dim", into=32, name="chan", matrix=vx.random_matrix(seed=2))
        return vx.dot(mine, page.low, "chan").relu().sum("head").max("token")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
