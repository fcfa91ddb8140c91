"""A report of an engine as the result of a stage: names, places, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.engine.engine import Sampling
from evals.engine.outcome import SPEEDUP, place_of, result_of
from evals.engine.report import EngineReport
from evals.engine.serving_throughput import Plan, Point
from evals.engine.session import Wanted, evaluate_in
from evals.result import Status
from tests.evals.engine.fake import FakeEngine


def report(tmp_path: Path, **more: Any) -> EngineReport:
    wanted = Wanted(
        program="Mine", candidate_hash="h", points=[Point(2, 16)], plan=Plan(vocab=99, pairs=2),
        problems=lambda engine: (), sampling=Sampling(8), covered=512,
    )  # fmt: skip
    engine = FakeEngine(**more)
    return evaluate_in([lambda: [engine]], wanted, tmp_path / "a.jsonl", lambda text: None)


def test_numbers_of_both_modes_have_names_of_their_own(tmp_path: Path) -> None:
    result = result_of(report(tmp_path), rung=3, seconds=1.5)
    assert result is not None and (result.rung, result.seconds) == (3, 1.5)
    assert (result.status, result.message) == (Status.OK, "")
    values = {m.name: m.value for m in result.metrics}
    assert len(values) == len(result.metrics)
    rate = "decode_tokens_per_second"
    assert values[f"engine_{rate}"] / values[f"engine_full_{rate}"] == values[SPEEDUP]
    assert all(name.startswith("engine_") for name in values)


def test_other_tokens_where_the_budget_covers_all_are_a_mismatch_without_a_speed(
    tmp_path: Path,
) -> None:
    found = report(tmp_path, reply=lambda r, mode, n: mode)
    result = result_of(found)
    assert result is not None and result.status == Status.MISMATCH
    assert "full attention keeps to its own for 100%" in result.message and not result.metrics


def test_a_load_that_was_not_measured_is_no_result(tmp_path: Path) -> None:
    found = report(tmp_path, tokens=lambda asked: 1, weights="random")
    assert found.failures and result_of(found) is None


def test_a_load_that_was_not_measured_beside_one_that_was_is_in_the_message(
    tmp_path: Path,
) -> None:
    found = report(tmp_path).model_copy(update={"failures": ("4 x 16: it did not fit",)})
    result = result_of(found)
    assert result is not None and result.status == Status.OK and result.metrics
    assert result.message == "4 x 16: it did not fit"


def test_the_place_says_versions_weights_and_which_full_attention(tmp_path: Path) -> None:
    found = report(tmp_path, weights="random")
    assert place_of(found) == "fake 1, random weights"
    own = {"engine": "e 2", "weights": "real", "attention_backend": "vortex"}
    for full, said in (
        (own, "e 2"),
        ({**own, "attention_backend": "fa3"}, "e 2, full attention by fa3 in an engine of its own"),
    ):
        other = found.model_copy(update={"engines": {"full": full, "sparse": own}})
        assert place_of(other) == said
    inner = {**own, "inner_backend": "triton"}
    other = found.model_copy(update={"engines": {"full": inner, "sparse": inner}})
    assert place_of(other) == "e 2, full attention by triton"
