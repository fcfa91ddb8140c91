import vortex as vx


class Tactic(vx.Algorithm):
    """As many pages as the estimated mass needs: top_p(sum_h softmax(q_h . mean(k)))
    (arXiv:2502.12216). Approximated: pages for clusters; the tail is not fitted."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    mass = vx.real(0.5, 0.99, default=0.9)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").sum("head")

    def select(self, score):
        chosen = vx.top_p(score, mass=self.mass, max_tokens=self.budget)
        return chosen | vx.sinks(1) | vx.recent(2)
