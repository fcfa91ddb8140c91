"""What evaluate shows of the ladder's answers, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.commands import evaluate
from evals.result import Evaluation, Sample, Stage, StageResult, Status
from runs.records import RunConfig
from tests.centroid import centroid
from vortex.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "search_spaces/block_topk/seeds/quest.py"
LOSSES = {"": 4.0, "Full": 2.0, "RandomPages": 10.0}


def answer(*stages: StageResult) -> dict[str, Any]:
    return {"evaluation": Evaluation(evaluator_version="", stages=stages).model_dump(mode="json")}


def accuracy(loss: float, contexts: list[int]) -> StageResult:
    samples = tuple(
        Sample(context=f"search-{i}", task=task, metric="nll", value=loss + i)
        for i in contexts
        for task in ("needle", "copy")
    )
    return StageResult(stage=Stage.ACCURACY, status=Status.OK, samples=samples)


def run(monkeypatch: pytest.MonkeyPatch, screened: Status, *words: str) -> Result:
    """The command with a worker that answers by a formula."""

    def in_worker(config: RunConfig, contexts: int, batches: list[Any], files: Path) -> list[Any]:
        answers = [answer(StageResult(stage=Stage.PARITY, status=screened, message="so it is"))]
        for request, _ in batches[0][1:] if screened == Status.OK else ():
            name = next((n for n in LOSSES if n and f"class {n}(" in request["text"]), "")
            answers.append(answer(accuracy(LOSSES[name], request["contexts"])))
        return [answers]

    monkeypatch.setattr(evaluate, "in_worker", in_worker)
    return CliRunner().invoke(main, ["evaluate", str(SEED), "--no-throughput", *words])


def test_a_stage_that_says_no_ends_with_1_and_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, Status.REJECTED)
    assert done.exit_code == 1 and "so it is" in done.stdout


def test_losses_stand_beside_full_attention_and_random_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run(monkeypatch, Status.OK)
    row = next(line for line in done.stdout.splitlines() if "needle.nll" in line).split()
    assert done.exit_code == 0 and [row[at] for at in (1, 4, 7)] == ["5", "3", "11"]
    gap = next(line for line in done.stdout.splitlines() if "loss gap  " in line).split()
    assert gap[2] == "0.25" and gap[-2:] == ["0", "1"]


def test_one_context_gives_no_error_rather_than_none_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run(monkeypatch, Status.OK, "--contexts", "1")
    assert done.exit_code == 0 and "nan" not in done.stdout and "±" not in done.stdout


def test_target_stand_in_and_scaled_budget_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []  # fitting a stand-in takes minutes, and is tested with the real weights
    monkeypatch.setattr(evaluate, "obtain", lambda name, say: asked.append(name))
    own = run(monkeypatch, Status.OK).stdout
    assert "priced for    smollm2-135m" in own and "the target itself" in own
    assert "4,096 tokens of 32,768; scaled for the measurement: 256 of 2,048" in own
    other = run(monkeypatch, Status.OK, "--model", "glm-4.7-flash").stdout
    assert "priced for    glm-4.7-flash" in other and "a stand-in" in other and "note " in other
    assert asked == ["smollm2-135m-mla"]


def test_the_data_holds_what_the_table_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads(run(monkeypatch, Status.OK, "--json").stdout)
    assert facts["loss_gap"]["value"] == pytest.approx(0.25)
    assert facts["evaluation_attended_tokens"] == 256 and facts["references"].keys() == {
        "Full",
        "RandomPages",
    }


def test_what_leaves_no_layer_of_the_target_sparse_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(centroid(4096, more="dense_layers = vx.layers(first=99)"))
    monkeypatch.setattr(evaluate, "in_worker", lambda *_: pytest.fail("it ran"))
    done = CliRunner().invoke(main, ["evaluate", str(path)])
    assert done.exit_code == ExitCode.USAGE
    assert "mine.py:6:5: error[E209]" in done.stderr and "has 30" in done.stderr
