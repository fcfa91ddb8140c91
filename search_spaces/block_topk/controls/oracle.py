"""Control: the pages of largest true attention mass, the most that page selection can know."""

import vortex as vx


class Oracle(vx.Algorithm):
    """Rank pages by the attention mass that they really receive, summed over query heads."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def select(self):
        return vx.oracle(tokens=self.budget) | vx.sinks(1) | vx.recent(2)
