"""Sub-page centroids in the style of LServe (Yang et al., arXiv:2502.14866)."""

import vortex as vx


class SubCentroids(vx.Algorithm):
    """Score: max over heads and sub-pages of <q_h, mean key of the sub-page>.

    Approximated: LServe keeps an envelope per sub-page; here each keeps its mean.
    """

    page_size = vx.choice(16, 32, 64)
    parts = vx.choice(4, 2, 8)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        centers = k.split("token", into=self.parts, name="sub").mean("token")
        return vx.Summary(centers=centers)

    def score(self, q, page):
        return vx.dot(q, page.centers, "dim").max("sub").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
