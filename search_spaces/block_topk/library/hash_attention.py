import vortex as vx


class HashAttention(vx.Algorithm):
    """Bit signatures of every token: max_token max_h sign(q R) . sign(k R) (arXiv:2412.14468).
    Approximated: random planes for learned ones; 4 bits store one."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        bits = k.project("dim", into=64, name="bit", matrix=vx.random_matrix(seed=3)).sign()
        return vx.Summary(bits=bits, dtype="int4")

    def score(self, q, page):
        mine = q.project("dim", into=64, name="bit", matrix=vx.random_matrix(seed=3)).sign()
        return vx.dot(mine, page.bits, "bit").max("token").max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
