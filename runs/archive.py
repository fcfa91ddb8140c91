"""The Pareto front of loss and predicted step time, dominance decided with the error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TIME_TOLERANCE = 0.01
_CERTAIN, _FEWEST = 1.64, 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate's place.

    Attributes:
        losses: loss in each context (lower is better), for pairing.
        seconds: predicted step time on the target (lower is better), without noise.
    """

    id: int
    losses: Mapping[str, float]
    seconds: float

    @property
    def loss(self) -> float:
        """Mean loss."""
        return sum(self.losses.values()) / len(self.losses) if self.losses else math.inf


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired mean difference a - b, its standard error, and over how many contexts."""

    value: float
    error: float
    n: int

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        if self.error > 0:
            return self.value / self.error
        return 0.0 if self.value == 0 else math.copysign(math.inf, self.value)


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """Mean of a - b over the contexts that both have; NaN if they share none."""
    shared = sorted(a.keys() & b.keys())
    gaps = [a[c] - b[c] for c in shared]
    n = len(gaps)
    if not n:
        return Difference(math.nan, math.nan, 0)
    mean = sum(gaps) / n
    if n == 1:
        return Difference(mean, math.inf, 1)
    variance = sum((g - mean) ** 2 for g in gaps) / (n - 1)
    return Difference(mean, math.sqrt(variance / n), n)


def dominates(a: Entry, b: Entry, *, certain: float = _CERTAIN) -> bool:
    """Whether a is surely better: no slower, and less lossy by more than ``certain`` standard
    errors of the paired difference; or clearly faster, and not shown to be lossier at all (mean
    no higher)."""
    gap = paired(a.losses, b.losses)
    if gap.n < _FEWEST:
        return False
    if a.seconds <= b.seconds * (1 + 1e-9) and gap.z < -certain:
        return True
    return a.seconds < b.seconds * (1 - _TIME_TOLERANCE) and gap.value <= 0


def front(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that no other dominates, fastest first; never empty if there are entries."""
    kept = [e for e in entries if not any(dominates(o, e) for o in entries if o.id != e.id)]
    if not kept and entries:
        kept = [min(entries, key=lambda e: (e.loss, e.seconds))]
    return sorted(kept, key=lambda e: (e.seconds, e.loss))
