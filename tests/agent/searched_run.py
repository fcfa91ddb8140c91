"""A run whose candidates can be served: a centroid of several budgets, and two controls."""

from __future__ import annotations

from pathlib import Path

from evals.result import Stage
from runs.store import Store
from tests.centroid import centroid
from tests.runs.synthetic import evaluation, metric, new_store, samples, stage
from vortex.compile import compile_text

PROGRAM = centroid(0, more="budget = vx.choice(512, 1024, 2048, 4096)").replace(
    "tokens=0", "tokens=self.budget"
)


def searched_run(folder: Path) -> Path:
    """Put a run there, on whose front are three budgets: the faster, the lossier."""
    store = new_store(folder, rungs=(4,), workers=1, throughput=False)
    judged(store, "Full", "the control", {}, loss=1.0, seconds=9e-3)
    judged(store, "RandomPages", "another", {}, loss=10.0, seconds=1e-3)
    for budget, loss in ((512, 3.0), (1024, 2.0), (2048, 1.5)):
        judged(store, "Mine", PROGRAM, {"budget": budget}, loss=loss, seconds=1e-6 * budget)
    judged(store, "Mine", PROGRAM, {"budget": 4096}, loss=5.0, seconds=4e-3)
    store.close()
    return folder


def judged(
    store: Store, name: str, text: str, knobs: dict[str, int | float | str], *, loss: float,
    seconds: float,
) -> None:  # fmt: skip
    """Add a candidate with a price and losses."""
    control = text != PROGRAM
    i, _ = store.add(text=text, knobs=knobs, proposer="seed", control=control, name=name)
    seen = [loss + 0.01 * context for context in range(4)]
    stages = (
        stage(Stage.PRICE, metrics=(metric(value=seconds),)),
        stage(samples=samples(seen) + samples(seen, task="copy")),
    )
    digest = name if control else compile_text(text, knobs).candidate_hash
    store.record(i, evaluation(*stages, digest=digest), name=name)
