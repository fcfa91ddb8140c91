"""Shares the evaluations among proposers by what each brought to the front."""

from __future__ import annotations

import random
from collections.abc import Mapping


def shares(stats: Mapping[str, tuple[int, int]], *, floor: float = 0.15) -> dict[str, float]:
    """Share of each proposer: its posterior mean of reaching the front, with a floor for all.

    Args:
        stats: (evaluated, on the front) by proposer; the prior is one of two, Laplace's rule.
    """
    rates = {name: (hits + 1) / (tried + 2) for name, (tried, hits) in stats.items()}
    total = sum(rates.values())
    free = 1 - floor * len(rates)
    return {name: floor + free * rate / total for name, rate in rates.items()}


def choose(stats: Mapping[str, tuple[int, int]], rng: random.Random) -> str:
    """A proposer drawn by its share."""
    wanted = shares(stats)
    return rng.choices(list(wanted), weights=list(wanted.values()))[0]
