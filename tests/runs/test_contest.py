"""One search against another: the right one wins, luck does not, and errors are paired."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from runs.contest import LEVELS, Attempt, Trail, contest, permutation, volume
from tests.runs.synthetic import losses

NAMES = tuple(losses([0.0] * 12))


def trail(points: list[tuple[float, float]], *, run: str = "r", noise: float = 0.0,
          cost: float | None = None) -> Trail:  # fmt: skip
    """A run of (time, loss gap); contexts differ alike for every candidate, and by noise."""
    rng = random.Random(run)
    return Trail(
        run,
        tuple(
            Attempt(t, losses([g + 0.1 * math.sin(i) + rng.gauss(0, noise) for i in range(12)]),
                    cost or 0.0)
            for t, g in points
        ),
        cost is not None,
    )  # fmt: skip


def test_the_dominated_share_is_the_area_of_the_steps() -> None:
    times, gaps = np.array([0.2, 0.5]), np.array([[0.6, 0.1]])
    assert volume(times, gaps)[0] == pytest.approx(0.3 * 0.4 + 0.5 * 0.9)
    dominated = volume(np.array([0.2, 0.4, 0.5]), np.array([[0.6, 0.9, 0.1]]))
    assert dominated[0] == pytest.approx(0.3 * 0.4 + 0.5 * 0.9)
    assert volume(np.array([]), np.zeros((3, 0))).tolist() == [0, 0, 0]
    assert volume(np.array([0.0]), np.array([[-0.5]]))[0] == 1.0


def test_volume_agrees_with_counting_points_of_a_grid() -> None:
    rng = np.random.default_rng(1)
    times, gaps = np.sort(rng.random(9)), rng.random((1, 9)) * 1.3 - 0.15
    x, y = np.meshgrid((np.arange(600) + 0.5) / 600, (np.arange(600) + 0.5) / 600)
    covered = np.zeros_like(x, dtype=bool)
    for t, g in zip(times, gaps[0], strict=True):
        covered |= (x > t) & (y > g)
    assert volume(times, gaps)[0] == pytest.approx(covered.mean(), abs=0.01)


def test_a_run_that_finds_better_candidates_wins_at_equal_evaluations() -> None:
    good = trail([(0.5, 0.6), (0.3, 0.3)], run="good", noise=0.02)
    poor = trail([(0.5, 0.6), (0.5, 0.55), (0.1, 0.1)], run="poor", noise=0.02)
    last = contest([good], [poor], NAMES).evaluations[-1]
    share = last.measures[0]
    assert last.limit == 2, "the third of the longer run is beyond what both reached"
    assert share.low > 0.1 and share.difference == pytest.approx(share.a - share.b)
    within = {m.name: m for m in last.measures}["loss gap within 60% of the time"]
    assert within.high < 0, "a smaller loss gap is a negative difference"


def test_errors_are_paired_so_what_all_contexts_share_cancels() -> None:
    a = contest([trail([(0.5, 0.4)], run="a")], [trail([(0.5, 0.5)], run="b")], NAMES)
    one = a.evaluations[-1].measures[0]
    assert one.error < 1e-9 and one.low > 0.04
    noisy = [trail([(0.5, g)], run=n, noise=0.2) for n, g in (("a", 0.4), ("b", 0.41))]
    share = contest([noisy[0]], [noisy[1]], NAMES).evaluations[-1].measures[0]
    assert share.low < 0 < share.high and 0.01 < share.error < 0.1


def test_the_bootstrap_s_error_is_that_of_a_mean() -> None:
    """With one candidate a side, the share is linear in the mean gap: its error is known."""
    rng = random.Random(3)
    gaps = [0.4 + rng.gauss(0, 0.1) for _ in NAMES]
    a = Trail("a", (Attempt(0.5, losses(gaps)),))
    b = Trail("b", (Attempt(0.5, losses([0.4] * 12)),))
    share = contest([a], [b], NAMES).evaluations[-1].measures[0]
    expected = 0.5 * float(np.std(gaps)) / math.sqrt(12)
    assert share.error == pytest.approx(expected, rel=0.08)


def test_what_racing_stopped_early_has_no_place_but_counts() -> None:
    lucky = Attempt(0.1, losses([0.0] * 3))
    failed = Attempt(0.1, {})
    full = trail([(0.5, 0.5)], run="full")
    a = Trail("a", (lucky, failed, *full.attempts))
    assert a.placed(NAMES) == 1
    found = contest([a], [Trail("b", full.attempts * 3)], NAMES)
    assert found.evaluations[-1].limit == 3
    assert found.evaluations[-1].measures[0].difference == pytest.approx(0)
    assert found.evaluations[0].measures[0].a == 0, "after one evaluation nothing was proven"


def test_what_is_no_faster_than_full_attention_brings_nothing() -> None:
    slow = trail([(1.0, 0.0), (1.4, 0.0), (math.inf, 0.0)], run="slow")
    found = contest([slow], [trail([(0.9, 0.9)] * 3, run="b")], NAMES)
    assert found.evaluations[-1].measures[0].a == 0


def test_a_level_that_one_side_does_not_reach_is_unknown() -> None:
    slow, fast = trail([(0.7, 0.5)], run="slow"), trail([(0.1, 0.5)], run="fast")
    names = {m.name: m for m in contest([slow], [fast], NAMES).evaluations[-1].measures}
    assert math.isnan(names["loss gap within 20% of the time"].a)
    assert names["loss gap within 20% of the time"].b == pytest.approx(0.5, abs=0.1)
    assert len(names) == 1 + len(LEVELS)


def test_equal_cost_stops_each_run_where_its_money_would_run_out() -> None:
    dear = trail([(0.5, 0.5), (0.5, 0.1)], run="dear", cost=1.0)
    cheap = trail([(0.5, 0.3)] * 4, run="cheap", cost=0.25)
    found = contest([dear], [cheap], NAMES)
    assert found.cost is not None and found.cost.limit == 1.0
    assert found.cost.measures[0].a < found.cost.measures[0].b
    assert found.evaluations[-1].measures[0].a > found.evaluations[-1].measures[0].b


@pytest.mark.parametrize(("cost", "why"), [(None, "no cost"), (0.0, "nothing")])
def test_without_costs_on_both_sides_equal_cost_is_not_shown(cost: float | None, why: str) -> None:
    a, b = trail([(0.5, 0.5)], run="a", cost=1.0), trail([(0.5, 0.5)], run="b", cost=cost)
    found = contest([a], [b], NAMES)
    assert found.cost is None and why in found.why_no_cost and "b" in found.why_no_cost


def test_the_spread_between_repetitions_is_apart_from_the_error_over_contexts() -> None:
    a = [trail([(0.5, g)], run=f"a{g}") for g in (0.2, 0.4, 0.6)]
    b = [trail([(0.5, g)], run=f"b{g}") for g in (0.3, 0.5, 0.7)]
    share = contest(a, b, NAMES).evaluations[-1].measures[0]
    assert share.spread is not None and share.chance is not None
    assert share.error < 1e-9 < share.spread and share.chance > 0.3
    assert share.spread == pytest.approx(math.sqrt(2 * 0.01 / 3), rel=1e-6)
    assert contest(a[:1], b, NAMES).evaluations[-1].measures[0].spread is None


def test_the_permutation_test_counts_every_deal() -> None:
    assert permutation([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert permutation([1, 1], [1, 1]) == 1
    many = permutation([float(i) for i in range(20)], [float(i) + 40 for i in range(20)])
    assert 0 < many < 1e-3, "a sampled p is never 0"


def test_the_same_seed_gives_the_same_numbers_and_sides_can_be_exchanged() -> None:
    a, b = trail([(0.5, 0.4)], run="a", noise=0.1), trail([(0.4, 0.6)], run="b", noise=0.1)
    first, again = contest([a], [b], NAMES, seed=4), contest([a], [b], NAMES, seed=4)
    assert repr(first) == repr(again) != repr(contest([a], [b], NAMES, seed=5))
    back = contest([b], [a], NAMES, seed=4).evaluations[-1].measures[0]
    one = first.evaluations[-1].measures[0]
    assert (back.difference, back.error) == (
        pytest.approx(-one.difference),
        pytest.approx(one.error),
    )
