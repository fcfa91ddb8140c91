"""Control: random pages, what a rule is worth if it knows nothing."""

import vortex as vx


class RandomPages(vx.Algorithm):
    """Draw pages at random at every step, beside a sink and the two newest."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)

    def select(self):
        return vx.random(tokens=self.budget) | vx.sinks(1) | vx.recent(2)
