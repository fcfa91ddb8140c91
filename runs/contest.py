"""Whether one search beats another: at equal evaluations and at equal cost, with errors.

A search is worth what it found: the share of the unit square of (loss gap, step time over full
attention's) that its candidates dominate, seen from (1, 1), which is random pages at full
attention's speed; and the smallest loss gap within a given step time.

Racing leaves most candidates with few contexts. A candidate judged on three may look best by luck,
so only those that saw every compared context have a place; the others count as evaluated, and bring
nothing. What is measured of a candidate later counts from the evaluation that it was.

The best of many is chosen by the numbers that it is then credited with, which flatters both sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = (0.2, 0.4, 0.6, 0.8)  # step time as a share of full attention's
STEPS = (0.25, 0.5, 0.75)  # of the evaluations that are compared
RESAMPLES = 2000
_MOST_SPLITS = 20_000
_MANY = 1 << 14  # resampled means held at once

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One evaluated candidate.

    Attributes:
        time: step time over full attention's; infinite where it is not known.
        losses: loss gap by context; empty for what failed.
        cost: dollars spent on it.
    """

    time: float
    losses: Mapping[str, float]
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Trail:
    """What a run evaluated, in the order proposed; ``priced``: whether its costs are known."""

    run: str
    attempts: tuple[Attempt, ...]
    priced: bool = False

    @property
    def cost(self) -> float:
        """Dollars of all attempts."""
        return sum(a.cost for a in self.attempts)

    def placed(self, contexts: Sequence[str]) -> int:
        """Attempts that saw all of these contexts."""
        return sum(_sees(a, contexts) for a in self.attempts)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of both sides: means over their runs.

    Attributes:
        error: standard error of the difference over contexts, by a bootstrap that resamples the
            same contexts for both sides; ``low`` and ``high``: its 95% interval.
        spread: standard error of the difference between repetitions of a search; None where a side
            has one run only. ``chance``: two-sided p of the permutation test of the runs.
    """

    name: str
    a: float
    b: float
    error: float
    low: float
    high: float
    spread: float | None = None
    chance: float | None = None

    @property
    def difference(self) -> float:
        """The first side's less the second's."""
        return self.a - self.b


@dataclass(frozen=True, slots=True)
class Bout:
    """A comparison after ``limit`` evaluations or dollars: ``measures[0]`` is the square's share
    dominated (more is better), the others the smallest loss gaps (less is better)."""

    limit: float
    measures: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """Two sides compared.

    Attributes:
        contexts: those that every run's controls and placed candidates saw.
        evaluations: at several numbers of evaluations, the last the most that all runs reached.
        cost: at the dollars that all runs spent; None where ``why_no_cost`` says why.
    """

    contexts: tuple[str, ...]
    evaluations: tuple[Bout, ...]
    cost: Bout | None
    why_no_cost: str


def contest(
    a: Sequence[Trail], b: Sequence[Trail], contexts: Sequence[str], *, seed: int = 0
) -> Contest:
    """Compare two sides, each of one or more runs of one kind of search.

    Args:
        contexts: evaluation contexts that all runs share, at least two.
    """
    names = tuple(sorted(contexts))
    draws = _draws(len(names), np.random.default_rng(seed))
    most = min(len(t.attempts) for t in (*a, *b))
    counts = sorted({max(1, round(most * s)) for s in STEPS} | {most}) if most else []
    bouts = tuple(
        Bout(k, _measures([_first(t, k) for t in a], [_first(t, k) for t in b], names, draws, seed))
        for k in counts
    )
    why = _why_no_cost(a, b)
    if why:
        return Contest(names, bouts, None, why)
    dollars = min(t.cost for t in (*a, *b))
    sides = [[_within(t, dollars) for t in side] for side in (a, b)]
    paid = Bout(dollars, _measures(sides[0], sides[1], names, draws, seed))
    return Contest(names, bouts, paid, "")


def volume(times: Floats, gaps: Floats) -> Floats:
    """Share of the unit square that points dominate.

    Args:
        times: [point], ascending, each below 1.
        gaps: [draw, point]; below 0 counts as 0, 1 and above as nothing.

    Returns:
        [draw].
    """
    if not len(times):
        return np.zeros(len(gaps))
    least = np.minimum.accumulate(np.clip(gaps, 0.0, 1.0), axis=1)
    widths = np.diff(np.append(times, 1.0))
    return np.asarray(((1.0 - least) * widths).sum(axis=1))


def permutation(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p: the share of ways to deal the values to the sides (all of them where few, else
    a seeded sample) whose means differ by at least as much."""
    values, n = np.array([*a, *b]), len(a)
    seen = abs(np.mean(a) - np.mean(b)) - 1e-12
    if math.comb(len(values), n) <= _MOST_SPLITS:
        chosen = [list(c) for c in itertools.combinations(range(len(values)), n)]
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        chosen = [list(rng.permutation(len(values))[:n]) for _ in range(_MOST_SPLITS)]
        extra = 1  # the deal that was seen is one of them
    total = values.sum()
    sums = np.array([values[c].sum() for c in chosen])
    gaps = np.abs(sums / n - (total - sums) / (len(values) - n))
    return float(((gaps >= seen).sum() + extra) / (len(chosen) + extra))


def _why_no_cost(a: Sequence[Trail], b: Sequence[Trail]) -> str:
    unknown = [t.run for t in (*a, *b) if not t.priced]
    if unknown:
        return f"no cost is recorded in {', '.join(unknown)}"
    free = [t.run for t in (*a, *b) if t.cost <= 0]
    return f"{', '.join(free)} cost nothing" if free else ""


def _first(trail: Trail, count: int) -> Sequence[Attempt]:
    return trail.attempts[:count]


def _within(trail: Trail, dollars: float) -> Sequence[Attempt]:
    """Attempts up to the one whose cost goes beyond."""
    spent = itertools.accumulate(a.cost for a in trail.attempts)
    return [a for a, s in zip(trail.attempts, spent, strict=True) if s <= dollars * (1 + 1e-9)]


def _sees(attempt: Attempt, contexts: Sequence[str]) -> bool:
    return bool(attempt.losses) and all(c in attempt.losses for c in contexts)


def _draws(contexts: int, rng: np.random.Generator) -> Floats:
    """Weights of the contexts: [1 + draw, context]; the first row is the contexts as they are."""
    drawn = rng.multinomial(contexts, np.full(contexts, 1 / contexts), size=RESAMPLES)
    return np.vstack([np.ones(contexts), drawn]) / contexts


def _values(attempts: Sequence[Attempt], contexts: Sequence[str], draws: Floats) -> Floats:
    """[measure, 1 + draw]: the dominated share, then the smallest loss gap within each level; NaN
    where nothing is that fast."""
    placed = sorted(
        (a for a in attempts if a.time < 1 and _sees(a, contexts)), key=lambda a: a.time
    )
    times = np.array([a.time for a in placed])
    losses = np.array([[a.losses[c] for c in contexts] for a in placed])
    found = np.full((1 + len(LEVELS), len(draws)), np.nan)
    rows = max(1, _MANY // max(1, len(placed)))
    for start in range(0, len(draws), rows):
        part = slice(start, start + rows)
        gaps = draws[part] @ losses.T if placed else np.zeros((len(draws[part]), 0))
        found[0, part] = volume(times, gaps)
        for i, level in enumerate(LEVELS):
            fast = int(np.searchsorted(times, level, side="right"))
            if fast:
                found[1 + i, part] = gaps[:, :fast].min(axis=1)
    return found


def _measures(
    a: Sequence[Sequence[Attempt]],
    b: Sequence[Sequence[Attempt]],
    contexts: Sequence[str],
    draws: Floats,
    seed: int,
) -> tuple[Measure, ...]:
    left, right = (np.array([_values(r, contexts, draws) for r in side]) for side in (a, b))
    names = ("dominated share", *(f"loss gap within {level:.0%} of the time" for level in LEVELS))
    return tuple(
        _measure(name, left[:, i], right[:, i], seed)
        for i, name in enumerate(names)
        if not (np.isnan(left[:, i]).all() and np.isnan(right[:, i]).all())
    )


def _measure(name: str, left: Floats, right: Floats, seed: int) -> Measure:
    """From [run, 1 + draw] of each side; NaN where a run of a side found nothing."""
    drawn = left.mean(axis=0) - right.mean(axis=0)
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    a, b = left[:, 0], right[:, 0]
    many = len(a) > 1 and len(b) > 1 and not np.isnan(drawn[0])
    return Measure(
        name=name,
        a=float(a.mean()),
        b=float(b.mean()),
        error=float(drawn[1:].std(ddof=1)),
        low=float(low),
        high=float(high),
        spread=math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) if many else None,
        chance=permutation(list(a), list(b), seed=seed) if many else None,
    )
