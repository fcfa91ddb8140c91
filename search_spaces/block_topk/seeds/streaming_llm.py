"""StreamingLLM (Xiao et al., arXiv:2309.17453): attention sinks and a recent window."""

import vortex as vx


class StreamingLLM(vx.Algorithm):
    """Keep the first page and the newest pages. Score: none.

    Approximated: the paper evicts tokens and re-rotates positions; here the cache stays whole.
    """

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def select(self):
        return vx.sinks(1) | vx.recent(tokens=self.budget)
