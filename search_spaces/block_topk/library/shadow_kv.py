import vortex as vx


class ShadowKV(vx.Algorithm):
    """Landmark means, and pages whose keys stray from their mean: top_k(max_h softmax(q_h .
    mean(k))) | top_k(max |k - mean|) (arXiv:2410.21465). Approximated: outliers chosen at every
    step; values are not offloaded."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    outliers = vx.integer(256, 1024, default=256)

    def summarize(self, k, v):
        center = k.mean("token")
        stray = (k - center).norm("dim").max("token")
        return vx.Summary(mean=center, stray=stray)

    def score(self, q, page):
        near = (vx.dot(q, page.mean, "dim") * vx.scale).softmax("page").max("head")
        return vx.Scores(near=near, stray=page.stray)

    def select(self, scores):
        near = vx.top_k(scores.near, tokens=self.budget)
        return near | vx.top_k(scores.stray, tokens=self.outliers) | vx.sinks(1) | vx.recent(2)
