"""The bandit follows what reaches the front, forgets nobody, and depends on counts alone."""

from __future__ import annotations

import random

import pytest

from agent.bandit import choose, shares

FLOOR = 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_sum_to_one_and_keep_the_floor(count: int) -> None:
    rng = random.Random(count)
    for _ in range(50):
        stats = {}
        for number in range(count):
            tried = rng.randrange(300)
            stats[f"p{number}"] = (tried, rng.randint(0, tried))
        got = shares(stats)
        assert got.keys() == stats.keys()
        assert sum(got.values()) == pytest.approx(1)
        assert min(got.values()) >= FLOOR


def test_more_successes_never_lower_a_share() -> None:
    got = [shares({"a": (50, hits), "b": (50, 10), "c": (50, 3)})["a"] for hits in range(51)]
    assert got == sorted(got) and got[-1] > got[0] + 0.3


def test_the_untried_are_tried_before_the_fruitless() -> None:
    got = shares({"fruitless": (60, 0), "new": (0, 0)})
    assert got["new"] > 0.7


def test_a_search_spends_most_on_the_productive_and_something_on_all() -> None:
    chances = {"evolve": 0.3, "tune": 0.02, "llm": 0.02}
    spent: dict[str, list[int]] = {name: [0, 0] for name in chances}
    rng = random.Random(4)
    for _ in range(400):
        name = choose({n: (t, h) for n, (t, h) in spent.items()}, rng)
        spent[name][0] += 1
        spent[name][1] += rng.random() < chances[name]
    tried = {name: counts[0] / 400 for name, counts in spent.items()}
    assert max(tried, key=lambda n: tried[n]) == "evolve" and tried["evolve"] > 0.45
    assert min(tried.values()) > 0.08


def test_the_same_counts_and_seed_choose_alike() -> None:
    stats = {"a": (10, 3), "b": (4, 0), "c": (0, 0)}
    first, second = (
        [choose(stats, rng) for _ in range(30)] for rng in (random.Random(9), random.Random(9))
    )
    assert first == second and set(first) == set(stats)
