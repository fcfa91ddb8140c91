import vortex as vx


class TidalDecode(vx.Algorithm):
    """Few layers score every token, the rest follow: max_token max_h q_h . k (arXiv:2410.05076).
    Approximated: pages for tokens; int8 keys for full attention in the scoring layers."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)
    dense_layers = vx.layers(first=2)
    reuse = vx.reuse(layers=13)

    def summarize(self, k, v):
        return vx.Summary(keys=k, dtype="int8")

    def score(self, q, page):
        return vx.dot(q, page.keys, "dim").max("token").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
