"""Where every candidate of a run stands: derived from the store's rows, never kept apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.result import Metric, Sample, Stage, StageResult, Status
from runs.archive import Entry, front
from runs.ledger import Seen
from runs.quality import Scale, scale_of
from runs.records import CandidateRecord, RunConfig
from runs.store import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """One candidate.

    Attributes:
        rung: rungs of accuracy that it completed (0: none).
        losses: normalised loss by context; empty until the controls' scale is known.
        seconds: step time on the target; infinite before it is known. Predicted, or in a run on a
            GPU measured: the run's median for full attention over the candidate's paired speed-up.
    """

    record: CandidateRecord
    stages: tuple[StageResult, ...]
    samples: tuple[Sample, ...]
    rung: int
    losses: Mapping[str, float]
    seconds: float

    @property
    def status(self) -> Status | None:
        """The verdict so far; None if nothing was evaluated."""
        bad = next((s.status for s in self.stages if s.status != Status.OK), None)
        return bad or (Status.OK if self.stages else None)

    def metric(self, name: str) -> Metric | None:
        """A metric of any stage."""
        return next((m for s in self.stages for m in s.metrics if m.name == name), None)

    def entry(self, contexts: int | None = None) -> Entry:
        """Its place, on the first ``contexts`` contexts."""
        names = sorted(self.losses)[:contexts]
        return Entry(self.record.id, {n: self.losses[n] for n in names}, self.seconds)


@dataclass(frozen=True, slots=True)
class Standings:
    """All candidates of a run, by id; ``full_seconds``: full attention's step time."""

    config: RunConfig
    by_id: Mapping[int, Standing]
    scale: Scale | None
    full_seconds: float = math.inf

    def judged(self) -> list[Standing]:
        """Candidates (not controls) with losses that no stage has failed."""
        return [
            s
            for s in self.by_id.values()
            if s.losses and not s.record.control and s.status == Status.OK
        ]

    def at_rung(self, rung: int) -> list[Standing]:
        """Judged candidates that completed a rung, counted from 1."""
        return [s for s in self.judged() if s.rung >= rung]

    def front(self) -> list[Standing]:
        """Non-dominated candidates among those that completed the last rung reached by any."""
        for rung in range(len(self.config.rungs), 0, -1):
            members = self.at_rung(rung)
            # Full attention loses nothing: what is no faster has no place beside it.
            members = [m for m in members if m.seconds < self.full_seconds] or members
            if members:
                return [self.by_id[e.id] for e in front([m.entry() for m in members])]
        return []

    def control(self, name: str) -> Standing | None:
        """The control program of that class name."""
        return next(
            (s for s in self.by_id.values() if s.record.control and s.record.name == name), None
        )


def standings(store: Store, config: RunConfig, seen: Seen | None = None) -> Standings:
    """Read a run, as it is or as it was when its last rows were those of ``seen``.

    As it was, candidates without a verdict are left out: their rows have changed since.
    """
    if seen is None:
        stages, samples, records = store.stages(), store.samples(), store.candidates()
    else:
        stages = store.stages(seen.evaluation)
        samples = store.samples(upto=seen.sample)
        records = [r for r in store.candidates() if r.id in stages]
    scale = _scale(records, samples)
    full = _full_seconds(stages) if config.on_gpu and config.throughput else None
    found = {}
    for record in records:
        mine = tuple(stages.get(record.id, ()))
        raw = tuple(samples.get(record.id, ()))
        seconds = _seconds(mine, full)
        found[record.id] = Standing(
            record=record,
            stages=mine,
            samples=raw,
            rung=sum(s.stage == Stage.ACCURACY and s.status == Status.OK for s in mine),
            losses=scale.loss(raw) if scale else {},
            seconds=math.inf if seconds is None else seconds,
        )
    return Standings(config, found, scale, _of_full(found, full))


def _metrics(stages: Sequence[StageResult], name: str) -> list[float]:
    return [m.value for s in stages for m in s.metrics if m.name == name]


def _full_seconds(stages: Mapping[int, Sequence[StageResult]]) -> float:
    """Full attention's step time: the median over the candidates that it was timed beside."""
    times = [t for s in stages.values() for t in _metrics(s, "gpu_full_step_seconds")]
    return statistics.median(times) if times else math.nan


def _of_full(found: Mapping[int, Standing], measured: float | None) -> float:
    """Full attention's step time: measured beside the candidates, else as priced."""
    if measured is not None and math.isfinite(measured):
        return measured
    priced = [s.seconds for s in found.values() if s.record.control and s.record.name == "Full"]
    return priced[0] if priced and measured is None else math.inf


def _seconds(stages: Sequence[StageResult], full: float | None) -> float | None:
    """Step time of a candidate; ``full`` given: by its measured speed-up."""
    if full is None:
        return next(iter(_metrics(stages, "step_seconds")), None)
    return next((full / x for x in _metrics(stages, "gpu_speedup")), None)


def _scale(
    records: Sequence[CandidateRecord], samples: Mapping[int, Sequence[Sample]]
) -> Scale | None:
    ids = {r.name: r.id for r in records if r.control}
    full, random = (samples.get(ids.get(n, -1), ()) for n in ("Full", "RandomPages"))
    return scale_of(full, random) if full and random else None


def promotable(standings: Standings, rung: int, running: frozenset[int]) -> Standing | None:
    """A candidate that earned the rung after ``rung`` (asynchronous successive halving).

    Candidates of a rung are sorted into layers of non-dominated (loss, predicted time); the first
    ``keep`` share of them may go on.
    """
    contexts = standings.config.rungs[rung - 1]
    members = standings.at_rung(rung)
    allowed = math.ceil(len(members) * standings.config.keep) if len(members) > 1 else 0
    layers = _layers([m.entry(contexts) for m in members])
    for entry in layers[:allowed]:
        standing = standings.by_id[entry.id]
        if standing.rung == rung and entry.id not in running and standing.status == Status.OK:
            return standing
    return None


def _layers(entries: Sequence[Entry]) -> list[Entry]:
    """Entries by layer of non-domination in the plain means, both ends of a layer in turn."""
    left, ordered = list(entries), []
    while left:
        layer = [
            e
            for e in left
            if not any(o.loss <= e.loss and o.seconds < e.seconds for o in left)
            and not any(o.loss < e.loss and o.seconds <= e.seconds for o in left)
        ]
        ordered += _alternating(layer)
        taken = {e.id for e in layer}
        left = [e for e in left if e.id not in taken]
    return ordered


def _alternating(layer: Sequence[Entry]) -> list[Entry]:
    """The least lossy, the fastest, the next least lossy, ...: a rung keeps both ends."""
    by_loss = sorted(layer, key=lambda e: (e.loss, e.id))
    by_time = sorted(layer, key=lambda e: (e.seconds, e.id))
    both = [e for pair in zip(by_loss, by_time, strict=True) for e in pair]
    return list({e.id: e for e in both}.values())
