import vortex as vx


class Delta(vx.Algorithm):
    """Selection layers whose choice the next layers follow, heads joined: mean over KV heads of
    max_h softmax(max_token q_h . k) (arXiv:2510.09883). Approximated: int8 keys for exact
    scores."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    dense_layers = vx.layers(first=2)
    reuse = vx.reuse(layers=4)
    per_head = vx.shared("mean")

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        best = vx.dot(q, page.keys, "dim").max("token") * vx.scale
        return best.softmax("page").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
