"""What a run knows of an engine's numbers: the latest of each setting, one setting a column."""

from __future__ import annotations

from pathlib import Path

from evals.engine.outcome import SPEEDUP
from evals.result import Evaluation, Metric, Stage, Status
from runs.engine import PLACE, SETTINGS, EngineFigure, column, engine_results, figure_lines, latest
from runs.store import Store
from tests.runs.synthetic import new_store, stage


def measured(value: float, *, workload: str = "2 x 32", name: str = SPEEDUP) -> Metric:
    return Metric(name=name, value=value, stderr=0.1, n=4, unit="1", origin="measured",
                  device="gpu", model="m", workload=workload)  # fmt: skip


def keep(store: Store, candidate: int, rung: int, *metrics: Metric, message: str = "") -> None:
    result = stage(Stage.ENGINE, rung=rung, metrics=metrics, message=message)
    store.record(candidate, Evaluation(
        evaluator_version="1", stages=(result,), environment={SETTINGS: "s", PLACE: "e 1"},
    ))  # fmt: skip


def figure(name: str, value: float, workload: str = "2 x 32") -> EngineFigure:
    return EngineFigure(name, value, 0.5, 4, "1", "measured", "gpu", "m", workload, "e 1")


def test_the_latest_of_a_setting_stands_and_others_stay_beside_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    identity, _ = store.add(text="t", knobs={}, proposer="seed")
    store.record(identity, Evaluation(evaluator_version="1", stages=(stage(Stage.PRICE),)))
    keep(store, identity, 0, measured(2.0), measured(3.0, workload="4 x 32"), message="8 x 32: no")
    keep(store, identity, 1, measured(2.5))
    results = engine_results(store)[identity]
    assert [(r.rung, r.complete, r.settings) for r in results] == [(0, False, "s"), (1, True, "s")]
    assert {f.workload: f.value for f in latest(results)} == {"2 x 32": 2.5, "4 x 32": 3.0}
    assert [s.status for s in store.stages()[identity]] == [Status.OK] * 3


def test_a_run_without_the_stage_has_none(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert engine_results(store) == {} and column({}) is None


def test_a_column_is_of_the_setting_that_most_candidates_have() -> None:
    one, other = figure(SPEEDUP, 2.0), figure(SPEEDUP, 9.0, "64 x 32")
    chosen = column({1: [one, other], 2: [one], 3: [figure("local_mean@1", 1.0, "9 x 9")]})
    assert chosen == one.setting


def test_lines_put_full_attention_beside_the_program() -> None:
    lines = figure_lines([figure("engine_full_goodput", 1.0), figure("engine_goodput", 2.0),
                          figure("engine_full_mean@1", 0.5, "needle")])  # fmt: skip
    assert lines == [
        "measured in e 1 on gpu, m, 2 x 32:", "  goodput 2 ± 0.5; full attention 1 ± 0.5 (n = 4)",
        "measured in e 1 on gpu, m, needle:", "  full_mean@1 0.5 ± 0.5 (n = 4)",
    ]  # fmt: skip
