"""Means, pass@k, majorities and paired differences, with errors by problem: pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

Scores = Mapping[str, Sequence[float]]  # of each problem's samples
DRAWS = 2000

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its error.

    Attributes:
        error: standard error; None where fewer than two independent units are behind it.
        n: independent units: problems, pairs or requests.
        samples: measurements behind them.
        low, high: a 95% interval, where there is one: Wilson's for shares, else by bootstrap.
    """

    value: float
    error: float | None
    n: int
    samples: int
    low: float | None = None
    high: float | None = None


def mean_at_k(scores: Scores) -> Estimate | None:
    """The mean over problems of each problem's mean; its error is clustered by problem.

    Samples of one problem are not independent: what counts is how problems differ.

    Returns:
        None without problems.
    """
    means = [math.fsum(s) / len(s) for s in scores.values() if s]
    return _share(_of_units(means, sum(map(len, scores.values()))))


def pass_at_k(scores: Scores, k: int) -> Estimate | None:
    """The chance that one of ``k`` samples is wholly right (score 1), unbiased, mean over problems.

    For a problem with c right of n samples: 1 - C(n - c, k) / C(n, k).

    Returns:
        None without problems.

    Raises:
        ValueError: a problem has fewer than ``k`` samples, or k is below 1.
    """
    if k < 1 or any(len(s) < k for s in scores.values()):
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem")
    chances = []
    for problem in scores.values():
        n, right = len(problem), sum(s >= 1.0 for s in problem)
        chances.append(1.0 - math.comb(n - right, k) / math.comb(n, k))
    return _share(_of_units(chances, sum(map(len, scores.values()))))


def majority_at_k(votes: Mapping[str, Sequence[tuple[str | None, float]]]) -> Estimate | None:
    """The share of problems whose most frequent answer is right.

    Args:
        votes: of each problem, (stated answer, score) of each sample. None is no vote. A tie
            counts by the mean of what is tied.

    Returns:
        None without problems.
    """
    found = []
    for samples in votes.values():
        counts = Counter(answer for answer, _ in samples if answer is not None)
        worth = {answer: score for answer, score in samples if answer is not None}
        most = max(counts.values(), default=0)
        tied = [worth[a] >= 1.0 for a, count in counts.items() if count == most]
        found.append(sum(tied) / len(tied) if tied else 0.0)
    return _share(_of_units(found, sum(map(len, votes.values()))))


def paired_difference(
    one: Scores, two: Scores, *, seed: int, draws: int = DRAWS
) -> Estimate | None:
    """Mean of ``one`` less mean of ``two`` over the problems that both have.

    Standard error over problems; the interval is a cluster bootstrap: problems are drawn with all
    their samples. Where every problem differs alike (mostly: not at all) nothing can be drawn: the
    interval then allows for as many others as n problems may not show, 1 - 0.05^(1/n) of them.

    Returns:
        None without a common problem.
    """
    shared = [p for p in one if one[p] and two.get(p)]
    gaps = [math.fsum(one[p]) / len(one[p]) - math.fsum(two[p]) / len(two[p]) for p in shared]
    found = _of_units(gaps, sum(len(one[p]) + len(two[p]) for p in shared))
    if found is None or found.n < 2:
        return found
    if found.error == 0.0:
        unseen = 1.0 - 0.05 ** (1.0 / found.n)
        low, high = max(-1.0, found.value - unseen), min(1.0, found.value + unseen)
        return replace(found, low=low, high=high)
    means = _resampled(np.array(gaps), seed, draws).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return replace(found, low=float(low), high=float(high))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate | None:
    """Geometric mean of the ratios of pairs; the error is that of the mean logarithm, scaled.

    Returns:
        None without pairs.

    Raises:
        ValueError: lengths differ, or a number is not above 0.
    """
    if len(above) != len(below) or any(not x > 0 for x in (*above, *below)):
        raise ValueError("ratios need pairs of numbers above 0")
    found = _of_units([math.log(a / b) for a, b in zip(above, below, strict=True)], len(above))
    if found is None:
        return None
    value = math.exp(found.value)
    error = None if found.error is None else value * found.error
    return Estimate(value, error, found.n, found.samples)


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean of independent measurements; None without any."""
    return _of_units(list(values), len(values))


def share(values: Sequence[float]) -> Estimate | None:
    """The share of independent units that are 1; None without any."""
    return _share(mean(values))


def quantile(
    groups: Sequence[Sequence[float]], q: float, *, seed: int, draws: int = 400
) -> Estimate | None:
    """A quantile of all measurements; its error is a bootstrap over groups (requests).

    Returns:
        None without measurements.
    """
    kept = [np.asarray(g, float) for g in groups if len(g)]
    if not kept:
        return None
    values, count = np.concatenate(kept), len(kept)
    value = float(np.quantile(values, q))
    if count < 2:
        return Estimate(value, None, count, len(values))
    order = np.argsort(values)
    values, of_group = values[order], np.repeat(np.arange(count), [len(g) for g in kept])[order]
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, count, count), minlength=count)[of_group]
        below = np.cumsum(times)
        found.append(float(values[np.searchsorted(below, max(1, q * below[-1]))]))
    low, high = np.quantile(found, (0.025, 0.975))
    error = float(np.std(found, ddof=1))
    return Estimate(value, error, count, len(values), float(low), float(high))


def _share(found: Estimate | None) -> Estimate | None:
    """With Wilson's interval, for as many independent problems as the clustered error stands for.

    Four of four right have a standard error of 0, and yet say little.
    """
    if found is None:
        return None
    p, z = min(1.0, max(0.0, found.value)), 1.96
    n = p * (1.0 - p) / found.error**2 if found.error else float(found.n)
    middle, scale = p + z * z / (2 * n), 1.0 + z * z / n
    half = z * math.sqrt(p * (1.0 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / scale, (middle + half) / scale
    return replace(found, low=max(0.0, low), high=min(1.0, high))


def _of_units(values: list[float], samples: int) -> Estimate | None:
    """Mean and standard error over independent units."""
    n = len(values)
    if not n:
        return None
    middle = math.fsum(values) / n
    if n == 1:
        return Estimate(middle, None, 1, samples)
    variance = math.fsum((v - middle) ** 2 for v in values) / (n - 1)
    if max(values) - min(values) <= _ROUNDING * max(1.0, abs(middle)):
        variance = 0.0  # the same number each time, but for the last bit of their mean
    return Estimate(middle, math.sqrt(variance / n), n, samples)


def _resampled(values: np.ndarray, seed: int, draws: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(values[rng.integers(0, len(values), (draws, len(values)))])
