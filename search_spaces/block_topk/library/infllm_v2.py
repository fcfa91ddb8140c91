import vortex as vx


class InfLLMv2(vx.Algorithm):
    """Overlapping mean kernels, softmax, sum over the group, max over the block: max_sub sum_h
    softmax(q_h . mean_sub(k)) (arXiv:2509.24663). Approximated: kernels within a page do not
    overlap; neighbours enter by dilation."""

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def summarize(self, k, v):
        return vx.Summary(mean=k.split("token", into=2, name="sub").mean("token"))

    def score(self, q, page):
        return (
            (vx.dot(q, page.mean, "dim") * vx.scale)
            .softmax("page")
            .sum("head")
            .max("sub")
            .dilate(radius=1)
        )

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
