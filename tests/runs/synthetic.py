"""Made-up evaluations, runs and boards, so that what shows them can be tested without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.result import Evaluation, Metric, Sample, Stage, StageResult, Status
from runs.board import Board, Cell, Row
from runs.records import RunConfig
from runs.store import Store

HOSTILE = '<script>alert("x")</script>\x1b[31m|*_`[a](b)'


def metric(name: str = "step_seconds", value: float = 0.001) -> Metric:
    """A predicted number."""
    return Metric(
        name=name, value=value, stderr=None, n=1, unit="s", origin="predicted", device="h200",
        model="target", workload="batch 16",
    )  # fmt: skip


def samples(
    values: Sequence[float], *, task: str = "needle", metric: str = "nll", split: str = "search"
) -> tuple[Sample, ...]:
    """One sample per context."""
    return tuple(
        Sample(context=f"{split}-{i:03d}", task=task, metric=metric, value=v)
        for i, v in enumerate(values)
    )


def stage(kind: Stage = Stage.ACCURACY, status: Status = Status.OK, **more: Any) -> StageResult:
    """A stage that went well, unless told otherwise."""
    return StageResult(stage=kind, status=status, **more)


def evaluation(*stages: StageResult, digest: str | None = "d0") -> Evaluation:
    """What a worker says about a candidate."""
    return Evaluation(
        evaluator_version="test", structure_hash=digest and f"s-{digest}", candidate_hash=digest,
        stages=stages, environment={"processor": "test"},
    )  # fmt: skip


def new_store(runs_dir: Path, **config: Any) -> Store:
    """A run that has just begun."""
    return Store.create(runs_dir, RunConfig(**config), {"processor": "test"})


def row(identity: int, **more: Any) -> Row:
    """A candidate with every number present."""
    values: dict[str, Any] = {
        "id": identity, "name": f"Program{identity}", "proposer": "seed", "control": False,
        "on_front": False, "status": "ok", "knobs": {"page_size": 16, "budget": 2048, "other": 3},
        "kept_tokens": 256.0, "loss_gap": Cell(0.125, 0.0125, 24),
        "worst_gap": Cell(0.25, 0.02, 24),
        "worst_task": "copy", "needle_nll": Cell(3.5, 0.25, 24),
        "needle_exact": Cell(0.5, 0.06, 24), "copy_nll": Cell(2.5, 0.1, 24),
        "copy_top1": Cell(0.75, 0.03, 24), "single_exact": Cell(1.0, 0.0, 24),
        "kl": Cell(0.01, 0.001, 24), "sealed_gap": Cell(None), "cpu_speedup": Cell(1.625, 0.04, 8),
        "cpu_tokens_per_second": Cell(40.0, 1.0, 8), "step_seconds": 0.002, "step_speedup": 2.5,
        "index_bytes": 64.0, "parents": (), "note": "a note", "program": "class A: ...",
        "message": "",
    }  # fmt: skip
    return Row(**values | more)


def board(*rows: Row, **more: Any) -> Board:
    """A run's board."""
    values: dict[str, Any] = {
        "run": "2026-01-01-calm-elm-01", "target": "glm-4.7-flash",
        "accuracy_model": "smollm2-135m", "standin_note": "accuracy is that of smollm2-135m",
        "device": "h200", "workload": "batch 16, 32,768 tokens, bf16 KV",
        "budgets": "24 contexts of 2,048 tokens; a budget of 4,096 at 32,768 tokens is 256 there",
        "throughput_workload": "batch 4, 8,128 tokens", "rows": rows, "evaluated": len(rows),
        "statuses": {"ok": len(rows)}, "controls_problem": "", "config": {"seed": 0},
        "environment": {"processor": "a CPU"},
    }  # fmt: skip
    return Board(**values | more)


def losses(values: Sequence[float]) -> Mapping[str, float]:
    """A loss per context."""
    return {f"search-{i:03d}": v for i, v in enumerate(values)}
