"""Control: full attention, the baseline that every number is paired with."""

import vortex as vx


class Full(vx.Algorithm):
    """Attend to every token."""

    page_size = vx.choice(16, 32, 64)

    def select(self):
        return vx.all()
