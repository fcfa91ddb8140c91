"""An engine's report as the result of a stage: its figures by names that no other stage has."""

from __future__ import annotations

from collections.abc import Mapping

from evals.engine.engine import OWN
from evals.engine.report import EngineReport, Figure
from evals.engine.serving_throughput import Agreement
from evals.result import Metric, Stage, StageResult, Status

ENGINE, LOCAL = "engine_", "local_"
SPEEDUP = f"{ENGINE}decode_speedup"


def result_of(report: EngineReport, *, rung: int = 0, seconds: float = 0.0) -> StageResult | None:
    """What a report says of its program; None where nothing was measured.

    Names begin with ``engine_``, or with ``local_`` where our own executor answered; full
    attention's numbers have ``full_`` after that. A load that could not be measured is in the
    message, and no verdict. Tokens that are not full attention's where the budget covers all are.
    """
    wrong = _disagreement(report)
    if not report.figures and not wrong:
        return None
    prefix = LOCAL if is_local(report) else ENGINE
    return StageResult(
        stage=Stage.ENGINE, rung=rung, status=Status.MISMATCH if wrong else Status.OK,
        message=wrong or "; ".join(report.failures), seconds=seconds,
        metrics=tuple(_metric(f, prefix) for f in report.figures),
    )  # fmt: skip


def is_local(report: EngineReport) -> bool:
    """Whether our own executor answered in an engine's place."""
    return any(_is_own(facts) for facts in report.engines.values())


def place_of(report: EngineReport) -> str:
    """The engine in words: name, version, weights, and full attention's where it has its own."""
    full, sparse = (report.engines.get(mode, {}) for mode in ("full", "sparse"))
    facts = sparse or full
    parts = [facts.get("engine", "unknown engine")]
    if facts.get("weights") == "random":
        parts.append("random weights")
    rival = full.get("attention_backend", "")
    if rival and rival != sparse.get("attention_backend", rival):
        parts.append(f"full attention by {rival} in an engine of its own")
    elif facts.get("inner_backend"):
        parts.append(f"full attention by {facts['inner_backend']}")
    return ", ".join(parts)


def _is_own(facts: Mapping[str, str]) -> bool:
    return facts.get("engine", "").endswith(OWN)


def _disagreement(report: EngineReport) -> str:
    found = report.agreement
    if found is None:
        return ""
    return Agreement(
        int(found["requests"]), int(found["equal"]), found["prefix"], found["full_against_itself"]
    ).problem


def _metric(figure: Figure, prefix: str) -> Metric:
    of_full = "full_" if figure.mode == "full" else ""
    m = figure.metric
    work = m.workload if m.workload.startswith(figure.where) else f"{figure.where}, {m.workload}"
    known = figure.low is not None and figure.high is not None
    return m.model_copy(update={
        "name": f"{prefix}{of_full}{m.name}", "workload": work,
        "interval": (figure.low, figure.high) if known else None,
    })  # fmt: skip
