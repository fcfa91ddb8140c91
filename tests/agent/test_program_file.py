"""Requests about one program run in a worker, each batch by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.commands import program_file
from runs.records import RunConfig
from search_spaces.block_topk import seeds
from tests.centroid import centroid
from vortex import compile_text
from vortex.errors import ExitCode, VortexError


def test_a_batch_that_fails_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(program_file, "HANDLER", "tests.fake_evaluator:FakeEvaluator")
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path))
    text = seeds()[0].text
    screen = {"kind": "screen", "text": text, "knobs": {}, "known": {}}
    twin = {**screen, "known": {compile_text(text).candidate_hash: 1}}
    batches = [[(twin, 60.0), (screen, 60.0)], [(screen, 60.0)]]
    found = program_file.in_worker(RunConfig(), 1, batches, tmp_path)
    statuses = [[a["evaluation"]["stages"][-1]["status"] for a in batch] for batch in found]
    assert statuses == [["duplicate"], ["ok"]]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("x = 1\n")
    (tmp_path / "odd.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VortexError, match=r"odd\.py: it is no UTF-8 text") as caught:
        seeds(tmp_path)
    assert caught.value.code == "E301"


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [('.max("head") / 0', "E125", "mine.py:12:16:"),
     ('.max("head")\n', "E209", "mine.py:6:5:")],
)  # fmt: skip
def test_check_refuses_what_divides_by_0_or_leaves_no_layer_sparse_at_its_place(
    wrong: str, code: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    more = "dense_layers = vx.layers(first=30)"
    path.write_text(centroid(4096, more=more).replace('.max("head")', wrong))
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == ExitCode.USAGE
    assert said in done.stderr and f"error[{code}]" in done.stderr and "^^^" in done.stderr
    deeper = CliRunner().invoke(main, ["check", str(path), "--model", "glm-4.7-flash"])
    assert deeper.exit_code == (ExitCode.OK if code == "E209" else ExitCode.USAGE), deeper.output
