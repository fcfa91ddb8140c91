import vortex as vx


class H2O(vx.Algorithm):
    """Attention received so far: sum over steps of sum_h mass (arXiv:2306.14048). Approximated:
    nothing is evicted; the prompt's own mass is not counted."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    heat = vx.state(init=0.0)

    def score(self, q, page):
        return page.heat

    def update(self, page, mass):
        return vx.State(heat=page.heat + mass)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
