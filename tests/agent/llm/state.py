"""Standings made by hand: seeds with losses and times, so that what is told can be read off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.standing import Standing, Standings
from evals.result import Metric, Sample, Stage, StageResult, Status
from runs.quality import scale_of
from runs.records import CandidateRecord, RunConfig
from search_spaces.block_topk import controls, library, seeds
from vortex import compile_text
from vortex.errors import VortexError
from vortex.knobs import KnobValue

CONFIG = RunConfig(rungs=(3, 6), throughput=False)
PROGRAM = """import vortex as vx


class Spread(vx.Algorithm):
    \"\"\"A docstring that nobody else should read.\"\"\"

    page_size = vx.choice(16, 32)
    budget = vx.integer(512, 16384, log=True, default=1024)
    weight = vx.real(0.1, 2.0, default=0.5)

    def summarize(self, k, v):
        mean = k.mean("token")
        return vx.Summary(mean=mean, spread=(k - mean).norm("dim").max("token"))

    def score(self, q, page):
        match = vx.dot(q, page.mean, "dim")
        return (match + self.weight * q.norm("dim") * page.spread).max("head")

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
"""


def text_of(name: str) -> str:
    """A known algorithm."""
    return next(s.text for s in (*controls(), *library()) if s.name == name)


def samples(loss: float, contexts: int) -> tuple[Sample, ...]:
    """A log loss in each context, a little different in each."""
    return tuple(
        Sample(context=f"search-{i:03d}", task=task, metric="nll", value=loss + 0.02 * i * loss)
        for i in range(contexts)
        for task in ("needle", "copy")
    )


def metric(name: str, value: float, error: float | None = None) -> Metric:
    """A number of some stage."""
    return Metric(
        name=name, value=value, stderr=error, n=2, unit="", origin="predicted", device="h200",
        model="m", workload="w",
    )  # fmt: skip


def candidate(
    number: int,
    text: str,
    *,
    loss: float | None = 2.0,
    seconds: float = 1e-3,
    proposer: str = "evolve",
    status: Status = Status.OK,
    message: str = "",
    note: str = "a note",
    name: str = "",
    knobs: Mapping[str, KnobValue] | None = None,
    control: bool = False,
    waiting: bool = False,
    parents: Sequence[int] = (),
) -> Standing:
    """One candidate; its losses follow when the standings are put together."""
    structure = digest = None
    values = dict(knobs or {})
    try:
        bound = compile_text(text, values, reserved=control)
        structure, digest, values = bound.structure_hash, bound.candidate_hash, dict(bound.knobs)
        name = name or bound.program.name
    except VortexError:
        pass
    record = CandidateRecord(
        id=number, name=name, text=text, knobs=values,
        structure_hash=None if waiting else structure,
        candidate_hash=None if waiting else digest, proposer=proposer, parents=tuple(parents),
        note=note, control=control,
    )  # fmt: skip
    if waiting:
        return Standing(record, (), (), 0, {}, float("inf"))
    if status != Status.OK:
        stage = StageResult(stage=Stage.FIDELITY, status=status, message=message)
        return Standing(record, (stage,), (), 0, {}, seconds)
    priced = StageResult(
        stage=Stage.FIDELITY, status=Status.OK,
        metrics=(metric("step_seconds", seconds), metric("recovered", 0.8123, 0.0214)),
    )  # fmt: skip
    accuracy = tuple(StageResult(stage=Stage.ACCURACY, rung=i, status=Status.OK) for i in (0, 1))
    raw = samples(loss or 1.0, 6)
    return Standing(record, (priced, *accuracy), raw, 2, {}, seconds)


def run(*members: Standing) -> Standings:
    """A run of controls and these candidates, losses on the controls' scale."""
    every = [
        candidate(1, text_of("full"), loss=1.0, seconds=4e-3, proposer="control", control=True),
        candidate(2, text_of("random_pages"), loss=9.0, proposer="control", control=True),
        candidate(3, text_of("oracle"), loss=1.2, proposer="control", control=True),
        *members,
    ]
    scale = scale_of(every[0].samples, every[1].samples)
    assert scale is not None
    placed = {
        s.record.id: Standing(
            s.record, s.stages, s.samples, s.rung, scale.loss(s.samples) if s.samples else {},
            s.seconds,
        )
        for s in every
    }  # fmt: skip
    return Standings(CONFIG, placed, scale, full_seconds=4e-3)


def seeded(*members: Standing) -> Standings:
    """The seeds as candidates 4 to 10 along a front, and these beside them."""
    known = [
        candidate(4 + i, s.text, loss=2.0 + 0.8 * i, seconds=(2.4 - 0.25 * i) * 1e-3,
                  proposer="seed")
        for i, s in enumerate(seeds())
    ]  # fmt: skip
    return run(*known, *members)
