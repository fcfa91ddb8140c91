"""Programs of what the library and the grammar do not write, for tests of kernels."""

# Numbers alone: the same on every page, at every token of one.
KNOWN_NUMBERS = """import vortex as vx

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

# Cuts of values that were computed: their variables are picked, none is loaded.
CUT_VALUES = """import vortex as vx

class CutValues(vx.Algorithm):
    page_size = 8

    def summarize(self, k, v):
        return vx.Summary(what=k.take("dim", first=0, count=16))

    def score(self, q, page):
        logits = vx.dot(q.take("dim", first=0, count=16), page.what, "dim").max("head") * vx.scale
        late = logits.take("token", first=1, count=3, step=3).max("token")
        runs = logits.split("token", into=4, name="run").mean("token").max("run")
        every = logits.rename("token", "part").logsumexp("part")
        return vx.maximum(late + runs, every.shift(by=1) - 1.0)

    def select(self, score):
        return vx.top_k(score, tokens=48) | vx.sinks(1) | vx.recent(2)
"""

# Tokens of a page by rank.
CHOSEN_TOKENS = """import vortex as vx

class ChosenTokens(vx.Algorithm):
    page_size = 8

    def summarize(self, k, v):
        mean = k.mean("token")
        far = (k - mean).norm("dim").top_indices("token", count=2)
        near = k.max("dim").top_indices("token", count=1)
        return vx.Summary(mean=mean, far=k.gather(far, "token"), near=v.gather(near, "token"))

    def score(self, q, page):
        single = vx.dot(q, page.far, "dim").max("token") * vx.scale
        return (vx.dot(q, page.mean, "dim") * vx.scale + single + page.near.mean("dim").max("token")
                ).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=48) | vx.sinks(1) | vx.recent(2)
"""

PROGRAMS = {
    "known_numbers": KNOWN_NUMBERS, "cut_values": CUT_VALUES, "chosen_tokens": CHOSEN_TOKENS,
}  # fmt: skip
