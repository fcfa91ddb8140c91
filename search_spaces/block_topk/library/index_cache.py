import vortex as vx


class IndexCache(vx.Algorithm):
    """The indexer of DSA, its choice shared by four layers: max_token sum_h relu(q_h . k)
    (arXiv:2603.12201). Approximated: as dsa.py; every fourth layer for a searched set."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    reuse = vx.reuse(layers=4)

    def summarize(self, k, v):
        low = k.project("dim", into=32, name="chan", matrix=vx.random_matrix(seed=2))
        return vx.Summary(low=low, dtype="fp8")

    def score(self, q, page):
        mine = q.project("dim", into=32, name="chan", matrix=vx.random_matrix(seed=2))
        return vx.dot(mine, page.low, "chan").relu().sum("head").max("token")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
