import vortex as vx


class KeyNorm(vx.Algorithm):
    """Small keys draw attention: -mean_token |k| (arXiv:2406.11430). Approximated: pages for
    tokens; nothing is evicted."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(size=k.norm("dim").mean("token"))

    def score(self, q, page):
        return -page.size

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
