"""Losses are put on the scale that the run's own controls set, with errors over contexts."""

from __future__ import annotations

import math

import pytest

from evals.result import Sample
from runs.quality import by_context, estimate, order_problem, scale_of
from tests.runs.synthetic import samples


def both(needle: list[float], copy: list[float]) -> tuple[Sample, ...]:
    return samples(needle) + samples(copy, task="copy")


FULL = both([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
RANDOM = both([9.0, 10.0, 11.0], [2.5, 4.5, 6.5])


def test_full_attention_is_zero_and_random_pages_are_one() -> None:
    scale = scale_of(FULL, RANDOM)
    assert scale is not None
    assert list(scale.loss(FULL).values()) == [0.0, 0.0, 0.0]
    found = estimate(scale.loss(RANDOM))
    assert found is not None and found.value == pytest.approx(1.0)


def test_a_gap_is_the_share_of_the_room_in_its_own_context() -> None:
    scale = scale_of(FULL, RANDOM)
    assert scale is not None
    half = both([5.0, 6.0, 7.0], [0.5, 0.5, 0.5])
    assert scale.gaps(half, "needle") == {f"search-{i:03d}": 0.5 for i in range(3)}
    assert list(scale.loss(half).values()) == [0.25, 0.25, 0.25]


def test_only_contexts_with_every_ranked_task_are_compared() -> None:
    scale = scale_of(FULL, RANDOM)
    assert scale is not None
    assert list(scale.loss(both([1.0, 1.0, 1.0], [1.0]))) == ["search-000"]
    assert scale.loss(samples([1.0])) == {}


def test_contexts_that_full_attention_did_not_see_are_left_out() -> None:
    scale = scale_of(FULL, RANDOM)
    assert scale is not None
    assert len(scale.loss(both([1.0] * 5, [1.0] * 5))) == 3


@pytest.mark.parametrize(
    ("full", "random"),
    [((), RANDOM), (FULL, ()), (RANDOM, FULL), (samples([1.0]), samples([2.0]))],
    ids=["no full", "no random", "wrong way round", "a task is missing"],
)
def test_without_sound_controls_there_is_no_scale(
    full: tuple[Sample, ...], random: tuple[Sample, ...]
) -> None:
    assert scale_of(full, random) is None


def test_an_estimate_carries_the_standard_error_of_its_mean() -> None:
    found = estimate({"a": 1.0, "b": 2.0, "c": 3.0, "d": 6.0})
    assert found is not None
    assert (found.value, found.n) == (3.0, 4)
    assert found.error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert estimate({}) is None


def test_one_context_gives_no_standard_error() -> None:
    found = estimate({"a": 1.0})
    assert found is not None and math.isnan(found.error)


def test_values_are_told_apart_by_task_and_metric() -> None:
    mixed = samples([1.0]) + samples([2.0], task="copy") + samples([3.0], metric="exact")
    assert by_context(mixed, "needle", "nll") == {"search-000": 1.0}
    assert by_context(mixed, "needle", "exact") == {"search-000": 3.0}


def test_controls_in_order_are_no_problem() -> None:
    ordered = [
        ("random", samples([10.0, 9.0, 9.5])),
        ("recent", samples([9.0, 8.0, 8.8])),
        ("oracle", samples([2.1, 2.3, 2.0])),
        ("full", samples([2.0, 2.2, 2.1])),
    ]
    assert order_problem(ordered) == ""


def test_controls_out_of_order_are_named() -> None:
    ordered = [("random", samples([3.0, 3.1, 3.2])), ("full", samples([9.0, 9.1, 9.3]))]
    problem = order_problem(ordered)
    assert problem.startswith("full loses 6.0") and "nats more than random on" in problem


def test_controls_within_their_error_are_not_out_of_order() -> None:
    noisy = [("oracle", samples([2.0, 2.5, 1.5])), ("full", samples([2.6, 1.9, 1.8]))]
    assert order_problem(noisy) == ""
