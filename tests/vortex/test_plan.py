"""A budget that cannot be scaled to short contexts is told from one that can."""

from __future__ import annotations

import pytest

from vortex.compile import compile_text
from vortex.ir import Candidate
from vortex.plan import raised


def candidate(page: int, budget: int, select: str = "vx.sinks(1) | vx.recent(2)") -> Candidate:
    return compile_text(
        f"""import vortex as vx

class P(vx.Algorithm):
    page_size = {page}

    def summarize(self, k, v):
        return vx.Summary(mean=k.mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.mean, "dim").max("head")

    def select(self, score):
        return vx.top_k(score, tokens={budget}) | {select}
""",
        {},
    )


@pytest.mark.parametrize(("page", "budget"), [(16, 1024), (16, 1500), (8, 512), (32, 2048)])
def test_a_budget_that_scales_is_judged_as_it_is_priced(page: int, budget: int) -> None:
    assert raised(candidate(page, budget), 2048, 32768) == 0


@pytest.mark.parametrize(("page", "budget", "kept"), [(16, 681, 1024), (64, 2048, 4096)])
def test_a_budget_below_what_is_always_kept_is_not(page: int, budget: int, kept: int) -> None:
    assert raised(candidate(page, budget), 2048, 32768) == kept


def test_nothing_is_raised_at_the_workloads_own_context() -> None:
    assert raised(candidate(64, 512), 32768, 32768) == 0
