import vortex as vx


class CenteredCentroid(vx.Algorithm):
    """Centroid match above the sequence's own mean: max_h (s_h - mean_page s_h), s = q . mean(k)
    (vortex_torch)."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        match = vx.dot(q, page.mean, "dim")
        return (match - match.mean("page")).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
