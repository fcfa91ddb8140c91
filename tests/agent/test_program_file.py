"""Requests about one program run in a worker, each batch by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.commands import program_file
from runs.records import RunConfig
from search_spaces.block_topk import seeds
from vortex import compile_text
from vortex.errors import VortexError


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
