"""What a candidate runs on a device: its generated kernels, loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vortex.ir import Candidate
from vortex.plan import plan_of
from vortex.triton.arrays import Shapes
from vortex.triton.module import load_module
from vortex.triton.scoring import Scoring, scoring
from vortex.triton.summaries import Summaries, summaries
from vortex.triton.updates import Updates, updates

MOST_PAGES = 16384  # of a sequence: selection holds a row in one program


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a candidate runs on a device.

    Attributes:
        everything: full attention: nothing is routed.
        scoring, summaries, updates: generated kernels and their texts.
        route, append, summarise, update: the launches.
    """

    candidate: Candidate
    shapes: Shapes
    everything: bool
    scoring: Scoring | None
    summaries: Summaries | None
    updates: Updates | None = None
    route: Any = None
    append: Any = None
    summarise: Any = None
    update: Any = None

    @property
    def channels(self) -> int:
        """Float32 numbers per page of scratch memory."""
        return max(
            self.scoring.channels if self.scoring else 0,
            self.updates.channels if self.updates else 0,
        )


def kernels(candidate: Candidate, shapes: Shapes) -> Kernels:
    """Generate and load the kernels of a candidate.

    Raises:
        Unfused: E613, a part has no generated kernel.
    """
    everything = plan_of(candidate.select).everything
    made = None if everything else scoring(candidate, shapes)
    kept = summaries(candidate, shapes) if candidate.fields and not everything else None
    changed = updates(candidate, shapes) if made and made.states else None
    route = load_module(made.text).route if made else None
    module = load_module(kept.text) if kept else None
    return Kernels(
        candidate, shapes, everything, made, kept, changed, route,
        module.append if module else None, module.summarise if module else None,
        load_module(changed.text).update if changed else None,
    )  # fmt: skip
