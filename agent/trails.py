"""What a run evaluated, as the comparison of runs wants it; and which runs cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from agent.standing import Standing, Standings
from evals.result import Status
from runs.contest import Attempt, Trail
from runs.quality import RANKED_TASKS
from vortex.errors import VortexError

# What decides a candidate's numbers, and which candidates racing lets see every context.
_ALIKE = {
    "model": "target", "accuracy_model": "model that accuracy is measured on",
    "price_for": "device that is priced", "context": "context", "batch": "batch",
    "kv_dtype": "type of keys and values", "context_tokens": "length of evaluation contexts",
    "rungs": "numbers of contexts", "keep": "share that racing keeps",
    "min_recovered": "recovered mass that is asked for",
}  # fmt: skip
_SAME_TEXT = 0.05  # nats by which full attention's loss may differ between machines
_FEWEST = 2


def trail_of(
    run: str, now: Standings, cost_by_candidate: Mapping[int, float] | None = None
) -> Trail:
    """A run's candidates with a verdict in the order proposed; controls and duplicates are apart.

    Args:
        cost_by_candidate: dollars by candidate; what one cost that is not listed here (a
            duplicate) counts with the next. None: not known.
    """
    attempts: list[Attempt] = []
    costs, owed = cost_by_candidate or {}, 0.0
    for identity, s in sorted(now.by_id.items()):
        owed += costs.get(identity, 0.0)
        if s.record.control or s.status in (None, Status.DUPLICATE):
            continue
        losses = s.losses if s.status == Status.OK else {}
        attempts.append(Attempt(_share(s, now), losses, owed))
        owed = 0.0
    if owed and attempts:
        last = attempts[-1]
        attempts[-1] = Attempt(last.time, last.losses, last.cost + owed)
    return Trail(run, tuple(attempts), cost_by_candidate is not None)


def _share(standing: Standing, now: Standings) -> float:
    known = math.isfinite(standing.seconds) and math.isfinite(now.full_seconds)
    return standing.seconds / now.full_seconds if known else math.inf


def shared_contexts(runs: Mapping[str, Standings]) -> tuple[str, ...]:
    """The contexts to compare on: those of the last rung that some candidate of every run saw.

    Raises:
        VortexError: E705, the runs cannot be compared; the message says why.
    """
    for (a, x), (b, y) in pairwise(runs.items()):
        _alike(a, x, b, y)
    known = [now.scale for now in runs.values() if now.scale is not None]
    if len(known) < len(runs):
        raise _refused("the controls of a run are not all judged yet", "vortex-search resume")
    names = sorted(set.intersection(*(set(s.full[t]) for s in known for t in RANKED_TASKS)))
    for first, second in pairwise(known):
        _same_text(first.full, second.full, names)
    trails = [trail_of(name, now) for name, now in runs.items()]
    for count in reversed(next(iter(runs.values())).config.rungs):
        contexts = tuple(names[:count])
        if len(contexts) >= _FEWEST and all(t.placed(contexts) for t in trails):
            return contexts
    raise _refused("a run has no candidate with a loss gap", "vortex-search resume goes on")


def _alike(a: str, x: Standings, b: str, y: Standings) -> None:
    mine, other = x.config, y.config
    for field, words in _ALIKE.items():
        p, q = getattr(mine, field), getattr(other, field)
        if p != q:
            raise _refused(f"{a} and {b} differ in their {words}: {p} and {q}")
    timed = [_timed_on(now) for now in (x, y)]
    if timed[0] != timed[1]:
        raise _refused(f"step times of {a} come from {timed[0]}, of {b} from {timed[1]}")


def _timed_on(now: Standings) -> str:
    if not (now.config.on_gpu and now.config.throughput):
        return "prediction"
    names = {m.device for s in now.by_id.values() if (m := s.metric("gpu_speedup"))}
    return ", ".join(sorted(names)) or "no measurement"


def _same_text(
    a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> None:
    for task in RANKED_TASKS:
        worst = max((abs(a[task][c] - b[task][c]) for c in names), default=0.0)
        if worst > _SAME_TEXT:
            raise _refused(
                f"full attention loses {worst:.2f} nats more or less on a context of the same "
                f"name ({task}): the contexts were made otherwise"
            )


def _refused(
    why: str, hint: str = "compare runs of one target, workload and device"
) -> VortexError:
    return VortexError(f"these runs cannot be compared: {why}", code="E705", hint=hint)
