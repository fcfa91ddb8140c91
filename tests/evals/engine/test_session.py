"""A whole evaluation with a scripted engine, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.engine.engine import Engine, Sampling
from evals.engine.problems import Problem
from evals.engine.report import EngineReport, Figure, render_markdown
from evals.engine.serving_throughput import Plan, Point
from evals.engine.session import Wanted, evaluate_in
from tests.evals.engine.fake import FakeEngine
from vortex.errors import VortexError

PROBLEMS = [
    Problem(id=f"p{i}", prompt=f"{i}", answer=("42",), scorer="number", group="ab"[i % 2])
    for i in range(8)
]  # fmt: skip


def wanted(**more: Any) -> Wanted:
    facts: dict[str, Any] = {
        "program": "Mine", "candidate_hash": "f" * 64, "points": [Point(2, 64)],
        "plan": Plan(500, few=2, many=12), "problems": lambda engine: PROBLEMS,
        "sampling": Sampling(8, 0.6), "samples": 2, "covered": 300,
    }  # fmt: skip
    return Wanted(**facts | more)


def evaluated(tmp_path: Path, *engines: Engine, **more: Any) -> EngineReport:
    rounds = [lambda e=e: [e] for e in engines]
    return evaluate_in(rounds, wanted(**more), tmp_path / "log", lambda text: None)


def figure(report: EngineReport, name: str, mode: str, where: str) -> Figure:
    found = [f for f in report.figures if (f.metric.name, f.mode, f.where) == (name, mode, where)]
    assert len(found) == 1
    return found[0]


def sparse_errs(request: Any, mode: str, call: int) -> str:
    return "42" if mode == "full" or request.prompt in ("1", "2", "3") else "no 41"


def test_a_report_has_speeds_answers_and_differences_with_their_errors(tmp_path: Path) -> None:
    engine = FakeEngine(reply=sparse_errs)
    report = evaluated(tmp_path, engine, covered=0)
    assert engine.closed == 1 and report.answers == 32
    assert figure(report, "decode_speedup", "sparse / full", "2 x 64").metric.value > 1.9
    gap = figure(report, "mean@2_difference", "sparse - full", "all")
    assert gap.metric.value == pytest.approx(3 / 8 - 1) and gap.metric.n == 8
    assert gap.low is not None and gap.high is not None and gap.low < gap.metric.value < gap.high
    assert figure(report, "pass@2", "full", "a").metric.value == 1
    assert figure(report, "cut_off", "full", "a").metric.value == 1
    assert figure(report, "reply_tokens", "sparse", "all").metric.value == 8
    assert figure(report, "majority@2", "sparse", "b").metric.value == pytest.approx(0.5)
    for f in report.figures:
        assert f.metric.origin == "measured" and f.metric.device == "clock" and f.metric.n >= 1
    assert EngineReport.model_validate_json(report.model_dump_json()) == report
    json.dumps(report.model_dump(mode="json"), allow_nan=False)


def test_random_weights_give_timing_only_and_the_report_says_so(tmp_path: Path) -> None:
    engine = FakeEngine(weights="random", reply=sparse_errs)
    report = evaluated(tmp_path, engine)
    assert report.answers == 0 and report.agreement is None
    assert any("weights are random" in note for note in report.notes)
    assert any("random weights make" in note for note in report.notes)
    assert {f.metric.unit for f in report.figures} <= {"tokens/s", "s", "requests/s", "share", "1"}
    assert not any("mean@" in f.metric.name for f in report.figures)


def test_no_speed_is_reported_for_a_program_that_disagrees_within_its_budget(
    tmp_path: Path,
) -> None:
    report = evaluated(tmp_path, FakeEngine(reply=sparse_errs))
    assert report.agreement is not None and report.agreement["equal"] == 0
    assert "keeps to full attention's tokens" in report.failures[0]
    assert not any("decode" in f.metric.name for f in report.figures)
    assert "NOT MEASURED: 2 x 64" in render_markdown(report)


def test_engines_one_after_the_other_make_one_report(tmp_path: Path) -> None:
    full, sparse = FakeEngine(modes=("full",)), FakeEngine(modes=("sparse",))
    report = evaluated(tmp_path, full, sparse)
    assert figure(report, "decode_speedup", "sparse / full", "2 x 64").metric.value > 1.9
    assert figure(report, "mean@2_difference", "sparse - full", "all").metric.value == 0
    assert any("one after the other" in note for note in report.notes)
    assert set(report.engines) == {"full", "sparse"} and full.closed == sparse.closed == 1


def test_one_mode_alone_compares_nothing_and_says_so(tmp_path: Path) -> None:
    report = evaluated(tmp_path, FakeEngine(modes=("sparse",)))
    assert not any("/" in f.mode or "-" in f.mode for f in report.figures)
    assert any("Only sparse attention was run" in note for note in report.notes)


def test_nothing_to_do_is_an_error_and_engines_are_closed(tmp_path: Path) -> None:
    engine = FakeEngine(weights="random")
    with pytest.raises(VortexError) as caught:
        evaluated(tmp_path, engine, points=[])
    assert caught.value.code == "E906" and engine.closed == 1
    broken = FakeEngine(breaks=3)
    with pytest.raises(RuntimeError):
        evaluated(tmp_path, broken)
    assert broken.closed == 1


def test_the_markdown_is_one_table_that_nothing_can_break_out_of(tmp_path: Path) -> None:
    nasty = [p.model_copy(update={"group": "a|b\n<script>"}) for p in PROBLEMS]
    report = evaluated(tmp_path, FakeEngine(), problems=lambda engine: nasty, program="X\n# Y<b>")
    text = render_markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {8}
    assert "<script>" not in text and "<b>" not in text and "\n# Y" not in text
    assert "±" in text and "Device: clock" in text
    assert " in an engine\n" in text and "Engine of sparse: fake 1, device clock" in text
