import vortex as vx


class HISA(vx.Algorithm):
    """Blocks by their mean, then tokens inside: top_k(max_token sum_h relu(q_h . k)) of top_k(sum_h
    q_h . mean(k)) (arXiv:2603.28458). Approximated: as dsa.py."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"), keys=k, dtype="fp8")

    def score(self, q, page):
        coarse = vx.dot(q, page.mean, "dim").sum("head")
        fine = vx.dot(q, page.keys, "dim").relu().sum("head").max("token")
        return vx.Scores(coarse=coarse, fine=fine)

    def select(self, scores):
        coarse = vx.top_k(scores.coarse, tokens=3 * self.budget)
        fine = vx.top_k(scores.fine, tokens=self.budget)
        return vx.refine(coarse, fine) | vx.sinks(1) | vx.recent(2)
