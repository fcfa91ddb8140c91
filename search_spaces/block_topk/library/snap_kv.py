import vortex as vx


class SnapKV(vx.Algorithm):
    """Pooled attention of recent queries: smooth(m), m <- d m + mass (arXiv:2404.14469).
    Approximated: the window slides over the generation; nothing is evicted."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    heat = vx.state(init=0.0)

    def score(self, q, page):
        return page.heat.smooth(radius=2)

    def update(self, page, mass):
        return vx.State(heat=0.9 * page.heat + mass)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
