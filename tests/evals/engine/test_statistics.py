"""Statistics of samples, against brute force, and what must hold for any scores."""

from __future__ import annotations

import itertools
import math
import statistics as plain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.engine.statistics import (
    majority_at_k,
    mean,
    mean_at_k,
    paired_difference,
    pass_at_k,
    quantile,
    ratio,
    share,
)

BINARY = st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=6)
PROBLEMS = st.dictionaries(st.text(max_size=4), BINARY, min_size=1, max_size=6)


@given(PROBLEMS, st.integers(1, 3))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample(
    scores: dict[str, list[float]], k: int
) -> None:
    found = pass_at_k(scores, k)
    subsets = [[any(c) for c in itertools.combinations(s, k)] for s in scores.values()]
    expected = plain.fmean(plain.fmean(s) for s in subsets)
    assert found is not None and found.value == pytest.approx(expected)
    assert found.n == len(scores) and found.samples == sum(map(len, scores.values()))


@given(PROBLEMS)
def test_pass_at_1_is_the_mean_and_grows_with_k(scores: dict[str, list[float]]) -> None:
    means = mean_at_k(scores)
    passes = [pass_at_k(scores, k) for k in (1, 2, 3)]
    assert means and all(passes)
    values = [p.value for p in passes if p]
    assert values[0] == pytest.approx(means.value)
    assert values == sorted(values)


def test_pass_at_k_counts_wholly_right_samples_only_and_refuses_too_few() -> None:
    found = pass_at_k({"a": [0.9, 0.5], "b": [1.0, 0.0]}, 2)
    assert found is not None and found.value == 0.5
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k({"a": [1.0, 1.0]}, 3)


def test_the_error_is_clustered_by_problem() -> None:
    # Samples of a problem that all agree say no more than one of them.
    one = mean_at_k({"a": [1.0], "b": [0.0], "c": [1.0]})
    many = mean_at_k({"a": [1.0] * 50, "b": [0.0] * 50, "c": [1.0] * 50})
    assert one and many and one.error == pytest.approx(many.error)
    assert (one.n, many.n, many.samples) == (3, 3, 150)
    alone = mean_at_k({"a": [1.0, 0.0]})
    assert alone is not None and alone.error is None
    assert mean_at_k({}) is None


def test_the_clustered_error_is_that_of_drawing_problems_anew() -> None:
    rng = np.random.default_rng(0)
    everyone = rng.beta(0.5, 0.5, 5000)  # how easy a problem is
    errors, means = [], []
    for _ in range(300):
        chosen = rng.choice(everyone, 40)
        scores = {str(i): (rng.random(4) < p).astype(float).tolist() for i, p in enumerate(chosen)}
        found = mean_at_k(scores)
        assert found and found.error is not None
        errors.append(found.error)
        means.append(found.value)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_a_paired_difference_is_over_common_problems_and_surer_than_its_parts() -> None:
    full = {str(i): [float(i % 2)] * 2 for i in range(20)} | {"other": [1.0]}
    sparse = {str(i): [float(i % 2), 0.0] for i in range(20)}
    found = paired_difference(sparse, full, seed=1)
    assert found is not None and found.n == 20 and found.samples == 80
    assert found.value == pytest.approx(-0.25)
    each = [-0.5 * (i % 2) for i in range(20)]
    assert found.error == pytest.approx(plain.stdev(each) / math.sqrt(20))
    assert found.low is not None and found.high is not None
    assert found.low < -0.25 < found.high < 0


def test_the_bootstrap_is_the_same_for_a_seed_and_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    full = {str(i): [0.0] for i in range(30)}
    inside = 0
    for trial in range(200):
        sparse = {p: [x] for p, x in zip(full, rng.normal(0.2, 1.0, 30).tolist(), strict=True)}
        found = paired_difference(sparse, full, seed=trial, draws=400)
        again = paired_difference(sparse, full, seed=trial, draws=400)
        assert found == again and found is not None
        assert found.low is not None and found.high is not None
        inside += found.low <= 0.2 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


@given(PROBLEMS)
def test_a_difference_to_oneself_is_nothing(scores: dict[str, list[float]]) -> None:
    found = paired_difference(scores, scores, seed=0, draws=10)
    assert found is not None and found.value == 0.0 and found.error in (None, 0.0)


def test_all_right_of_a_few_is_not_sure() -> None:
    few, many = mean_at_k({str(i): [1.0] for i in range(4)}), mean_at_k({"a": [1.0]} | {
        str(i): [1.0] for i in range(99)})  # fmt: skip
    assert few and many and few.low is not None and many.low is not None
    assert few.error == 0 and few.low == pytest.approx(0.51, abs=0.01) and few.high == 1
    assert many.low == pytest.approx(0.963, abs=0.002)
    half = mean_at_k({str(i): [float(i % 2)] for i in range(100)})
    assert half and half.low is not None and half.high is not None
    assert (half.low, half.high) == pytest.approx((0.404, 0.596), abs=0.002)
    same = paired_difference({str(i): [1.0] for i in range(4)}, {str(i): [1.0] for i in range(4)},
                             seed=0)  # fmt: skip
    assert same and (same.value, same.error) == (0.0, 0.0)
    assert same.low is not None and same.low == pytest.approx(-(1 - 0.05**0.25))


@given(PROBLEMS)
def test_a_share_lies_within_its_interval(scores: dict[str, list[float]]) -> None:
    found = mean_at_k(scores)
    assert found and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1


def test_a_majority_is_by_stated_answer_and_a_tie_counts_by_half() -> None:
    right, wrong = ("4", 1.0), ("5", 0.0)
    found = majority_at_k({
        "most": [right, right, wrong], "tie": [right, wrong], "few": [wrong, wrong, right],
        "silent": [(None, 0.0), (None, 0.0), right], "nothing": [(None, 0.0)],
    })  # fmt: skip
    assert found is not None and found.value == pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
def test_ratios_of_pairs_turn_round(values: list[float]) -> None:
    ones = [1.0] * len(values)
    up, down = ratio(values, ones), ratio(ones, values)
    assert up and down and up.value == pytest.approx(1 / down.value)
    assert (up.error is None) == (len(values) == 1)


def test_ratios_refuse_what_is_no_pair() -> None:
    with pytest.raises(ValueError, match="pairs"):
        ratio([1.0], [])
    with pytest.raises(ValueError, match="pairs"):
        ratio([1.0], [0.0])


def test_a_quantile_is_of_all_and_its_error_is_by_request() -> None:
    rng = np.random.default_rng(0)
    groups = [(rng.normal(0, 0.01, 200) + shift).tolist() for shift in rng.normal(1.0, 0.3, 30)]
    found = quantile(groups, 0.5, seed=0)
    assert found is not None and found.n == 30 and found.samples == 6000
    assert found.value == pytest.approx(np.median(np.concatenate(groups)))
    assert found.error is not None and 0.02 < found.error < 0.2  # not the 0.001 of 6000 samples
    assert quantile([[], []], 0.5, seed=0) is None
    lone = quantile([[1.0, 2.0]], 0.5, seed=0)
    assert lone is not None and lone.error is None


def test_the_error_of_a_tail_is_of_all_measurements_of_a_request() -> None:
    """One stall in a hundred gaps lies beyond the 95th percentile, however few are looked at."""
    stalls = [[0.004 + 0.0001 * (i % 7)] * 135 + [0.5] for i in range(256)]
    found = quantile(stalls, 0.95, seed=0)
    assert found is not None and found.low is not None and found.high is not None
    assert 0.004 < found.low <= found.value <= found.high < 0.005
    assert found.error is not None and found.error < 0.001


@pytest.mark.parametrize("each", [0.7, 1 / 3, 0.1])
def test_the_same_share_everywhere_is_no_certainty(each: float) -> None:
    """Also where the mean of equal numbers is off by its last bit."""
    found = mean_at_k({str(i): [each] for i in range(3)})
    assert found is not None and found.error == 0.0
    assert found.low is not None and found.high is not None and found.high - found.low > 0.2
    one, two = ({str(i): [x] for i in range(6)} for x in (1.0, 1.0 - each))
    gap = paired_difference(two, one, seed=0)
    assert gap is not None and gap.low is not None and gap.high is not None
    assert gap.high - gap.low > 0.2
    good = share([1.0] * 32)
    assert good is not None and good.low is not None and 0.8 < good.low < 1.0


def test_a_mean_of_one_has_no_error() -> None:
    assert mean([]) is None
    one = mean([2.0])
    assert one is not None and (one.value, one.error) == (2.0, None)
