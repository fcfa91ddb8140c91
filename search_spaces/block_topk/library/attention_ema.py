import vortex as vx


class AttentionEMA(vx.Algorithm):
    """Recent attention beside the centroid: softmax(max_h q_h . mean(k)) + w m, m <- d m + mass
    (after arXiv:2606.30389). Approximated: no repair of a wrong guess."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    heat = vx.state(init=0.0)
    decay = vx.real(0.1, 0.99, default=0.7)
    weight = vx.real(0.01, 1.0, log=True, default=0.1)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        match = (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")
        return match + self.weight * page.heat

    def update(self, page, mass):
        return vx.State(heat=self.decay * page.heat + mass)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
