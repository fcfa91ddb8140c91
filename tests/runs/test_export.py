"""An export is complete, checkable, honest about what it is, and replaces nothing unasked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from runs.board import Cell
from runs.export import best_of, export
from tests.runs.synthetic import HOSTILE, board, row
from vortex.errors import ExitCode, VortexError

ROW = row(4, on_front=True, program="class A: ...\n", note="why it is so")
BOARD = board(ROW)
CANONICAL = {"format": 1, "candidate_hash": "abc"}


def test_an_export_holds_what_its_manifest_says(tmp_path: Path) -> None:
    out = tmp_path / "new" / "winner"
    export(ROW, BOARD, CANONICAL, out, force=False)
    sums = json.loads((out / "manifest.json").read_text())["sha256"]
    assert sums == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.iterdir() if p.name != "manifest.json"
    }  # fmt: skip
    assert set(sums) == {"program.py", "program.json", "metrics.json", "README.md"}
    assert (out / "program.py").read_text() == ROW.program
    assert json.loads((out / "program.json").read_text()) == CANONICAL
    assert list(out.parent.iterdir()) == [out], "something was left beside it"


def test_each_exported_number_says_where_it_comes_from(tmp_path: Path) -> None:
    export(ROW, BOARD, CANONICAL, tmp_path / "out", force=False)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    gap, step = found["loss_gap"], found["step_ms"]
    assert (gap["value"], gap["error"], gap["n"]) == (0.125, 0.0125, 24)
    assert (gap["origin"], gap["device"], gap["model"]) == ("measured", "a CPU", "smollm2-135m")
    assert (step["origin"], step["device"], step["model"]) == ("predicted", "h200", "glm-4.7-flash")


def test_the_readme_says_what_was_not_verified(tmp_path: Path) -> None:
    export(ROW, BOARD, CANONICAL, tmp_path / "out", force=False)
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("Not verified", "STAND-IN", "0.125 ± 0.013", "why it is so", "budget = 2048"):
        assert part in text


def test_the_readme_and_the_numbers_say_whether_a_gpu_timed_it(tmp_path: Path) -> None:
    timed = row(5, on_front=True, gpu_attention=Cell(7.06, 0.01, 15), gpu_step_ms=Cell(5.5, 0.1, 9))
    measured = board(timed, row(6), gpu="a GPU (full attention by X)")
    texts = []
    for one, on in ((ROW, BOARD), (measured.rows[1], measured), (timed, measured)):
        export(one, on, CANONICAL, tmp_path / f"{len(texts)}", force=False)
        texts.append((tmp_path / f"{len(texts)}" / "README.md").read_text())
    assert ["did not time it on a GPU" in t for t in texts] == [True, True, False]
    assert "The run timed it on a GPU (full attention by X)." in texts[2]
    assert all("not been served in an inference engine" in t for t in texts)
    found = json.loads((tmp_path / "2" / "metrics.json").read_text())["metrics"]
    attention = found["gpu_attention"]
    assert attention["device"] == "a GPU (full attention by X)"
    assert attention["model"] == "glm-4.7-flash"
    assert found["loss_gap"]["device"] == "a CPU"


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    export(ROW, BOARD, CANONICAL, tmp_path / "out", force=False)
    changed = row(5, program="class B: ...\n")
    with pytest.raises(VortexError) as caught:
        export(changed, BOARD, CANONICAL, tmp_path / "out", force=False)
    assert caught.value.code == "E607"
    assert (tmp_path / "out" / "program.py").read_text() == ROW.program
    export(changed, BOARD, CANONICAL, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "program.py").read_text() == changed.program


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(ROW, BOARD, CANONICAL, tmp_path / "out", force=False)
    assert (tmp_path / "out" / "program.py").is_file()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VortexError) as caught:
        export(ROW, BOARD, CANONICAL, tmp_path / "file" / "out", force=False)
    assert (caught.value.code, caught.value.exit_code) == ("E604", ExitCode.ENVIRONMENT)


def test_the_best_is_the_fastest_that_is_surely_tolerable() -> None:
    exact = row(1, on_front=True, loss_gap=Cell(0.01, 0.01, 24), step_seconds=0.004)
    quick = row(2, on_front=True, loss_gap=Cell(0.20, 0.02, 24), step_seconds=0.002)
    unsure = row(3, on_front=True, loss_gap=Cell(0.20, 0.05, 24), step_seconds=0.001)
    aside = row(4, on_front=False, loss_gap=Cell(0.0, 0.0, 24), step_seconds=0.0001)
    control = row(5, on_front=True, control=True, loss_gap=Cell(0.0, 0.0, 24), step_seconds=0.0001)
    best, why = best_of(board(exact, quick, unsure, aside, control))
    assert best.id == 2
    assert why == ("its loss gap 0.200 ± 0.020 plus 1.64 standard errors is at most 0.25, and the "
                   "fastest of 2 such on the front")  # fmt: skip


def test_if_none_is_tolerable_the_best_loses_least() -> None:
    bad = row(1, on_front=True, loss_gap=Cell(0.9, 0.02, 24), step_seconds=0.001)
    less = row(2, on_front=True, loss_gap=Cell(0.5, 0.02, 24), step_seconds=0.002)
    best, why = best_of(board(bad, less))
    assert best.id == 2 and "0.500 ± 0.020 is the smallest of the 2 on the front" in why
    assert "none is at most 0.25 with 1.64 standard errors added" in why


def test_without_a_front_there_is_no_best() -> None:
    with pytest.raises(VortexError) as caught:
        best_of(board(row(1)))
    assert (caught.value.code, caught.value.exit_code) == ("E609", ExitCode.FAILED)


def test_a_perfect_candidate_is_the_best_when_none_is_tolerable() -> None:
    perfect = row(1, on_front=True, loss_gap=Cell(0.0, None), step_seconds=0.0)
    other = row(2, on_front=True, loss_gap=Cell(0.6, 0.1))
    assert best_of(board(other, perfect))[0].id == 1
    certain = row(3, on_front=True, loss_gap=Cell(0.0, 0.0), step_seconds=0.0)
    assert best_of(board(row(4, on_front=True), certain))[0].id == 3


def test_metrics_are_strict_json_with_units_and_workloads(tmp_path: Path) -> None:
    odd = row(1, loss_gap=Cell(float("nan"), float("inf"), 2))
    export(odd, BOARD, CANONICAL, tmp_path / "out", force=False)
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    found = json.loads(text)["metrics"]
    assert found["loss_gap"]["value"] is None
    assert found["step_ms"]["unit"] == "ms"
    assert found["cpu_speedup"]["workload"] == BOARD.throughput_workload
    assert {"copy_nll", "single_exact", "kl", "kept_tokens"} <= found.keys()


def test_the_readme_takes_no_orders_from_a_program(tmp_path: Path) -> None:
    hostile = row(1, name=HOSTILE, note=HOSTILE, proposer=HOSTILE, knobs={"page_size": HOSTILE})
    export(hostile, BOARD, CANONICAL, tmp_path / "out", force=False)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "<script" not in text and "\x1b" not in text and "[a](b)" not in text


def test_a_failed_export_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(VortexError) as caught:
        export(ROW, BOARD, CANONICAL, tmp_path / "out", force=False)
    assert caught.value.code == "E604"
    assert list(tmp_path.iterdir()) == []
