"""From raw samples to what is compared: losses per context, normalised by the run's controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evals.result import Sample

RANKED_TASKS = ("needle", "copy")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over contexts with its standard error."""

    value: float
    error: float
    n: int


def by_context(samples: Sequence[Sample], task: str, metric: str) -> dict[str, float]:
    """One value per context."""
    return {s.context: s.value for s in samples if s.task == task and s.metric == metric}


def estimate(values: Mapping[str, float]) -> Estimate | None:
    """Mean and standard error over contexts; None without values."""
    n = len(values)
    if not n:
        return None
    mean = sum(values.values()) / n
    variance = sum((v - mean) ** 2 for v in values.values()) / (n - 1) if n > 1 else math.nan
    return Estimate(mean, math.sqrt(variance / n), n)


@dataclass(frozen=True, slots=True)
class Scale:
    """Log losses of the controls on every context of a run, by task and context.

    A task's gap is (loss - full) / (mean random - mean full): 0 is full attention, 1 is random
    pages at the reference budget.
    """

    full: Mapping[str, Mapping[str, float]]
    room: Mapping[str, float]

    def gaps(self, samples: Sequence[Sample], task: str) -> dict[str, float]:
        """The task's gap in each context."""
        mine, full = by_context(samples, task, "nll"), self.full[task]
        return {c: (v - full[c]) / self.room[task] for c, v in mine.items() if c in full}

    def loss(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The mean gap of the ranked tasks in each context that has them all."""
        parts = [self.gaps(samples, task) for task in RANKED_TASKS]
        shared = set.intersection(*(set(p) for p in parts))
        return {c: sum(p[c] for p in parts) / len(parts) for c in sorted(shared)}


def scale_of(full: Sequence[Sample], random: Sequence[Sample]) -> Scale | None:
    """The scale from the controls' samples; None while they are missing or the wrong way round."""
    losses, room = {}, {}
    for task in RANKED_TASKS:
        a, b = by_context(full, task, "nll"), by_context(random, task, "nll")
        shared = a.keys() & b.keys()
        if not shared:
            return None
        losses[task] = a
        room[task] = sum(b[c] - a[c] for c in shared) / len(shared)
        if room[task] <= 0:
            return None
    return Scale(losses, room)


def order_problem(ordered: Sequence[tuple[str, Sequence[Sample]]]) -> str:
    """Complaint if controls, named from worst to best, come out of order on the needle's log loss
    by more than two standard errors of the paired difference; else ''."""
    for (worse, a), (better, b) in pairwise(ordered):
        x, y = by_context(a, "needle", "nll"), by_context(b, "needle", "nll")
        gaps = {c: y[c] - x[c] for c in x.keys() & y.keys()}
        found = estimate(gaps)
        if found is not None and found.n > 1 and found.value > 2 * found.error:
            return (
                f"{better} loses {found.value:.2f} ± {found.error:.2f} nats more than {worse} "
                "on the needle task"
            )
    return ""
