"""Text of one small program that many tests need: pages by their mean key."""

from __future__ import annotations

_TEXT = """import vortex as vx


class Mine(vx.Algorithm):
    page_size = {page}
    {more}

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens={budget}) | vx.sinks(1) | vx.recent({recent})
"""


def centroid(budget: int = 512, *, page: int = 16, more: str = "", recent: int = 1) -> str:
    """The program.

    Args:
        budget: tokens attended; page: tokens of a page; recent: pages kept besides.
        more: lines of the class: knobs, policies, states.
    """
    return _TEXT.format(budget=budget, page=page, more=more, recent=recent)
