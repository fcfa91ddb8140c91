"""A program that computes with numbers alone: the same on every page, at every token of one."""

PROGRAM = """import vortex as vx

class KnownNumbers(vx.Algorithm):
    page_size = 8

    def summarize(self, k, v):
        return vx.Summary(what=k.take("dim", first=0, count=16))

    def score(self, q, page):
        logits = vx.dot(q.take("dim", first=0, count=16), page.what, "dim") * vx.scale
        at = logits.positions("token")
        late = vx.where(at >= 4, logits, -30.0).logsumexp("token")
        weight = vx.minimum(1.0 / at, 3.0) + (at - 2.0).sign() * 0.25 + (at == 5.0)
        spread = (at * 0.5).exp().sum("token").log() + at.softmax("token").max("token")
        return (late + (logits * weight).sum("token") / spread).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=48) | vx.sinks(1) | vx.recent(2)
"""
