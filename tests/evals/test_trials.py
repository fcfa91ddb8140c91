"""A foreign library that ends its process is found out in a process of its own, once."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from evals.device import baselines, trials
from evals.device.baselines import Other, loaded
from evals.device.throughput import named_by
from evals.device.trials import Rows, tried
from evals.worker import WorkerProcess
from tests.evals import fake_baselines as fakes
from tests.evals.fake_baselines import KILLS, ROWS

DIED = f"it ended its process with exit code 1: {KILLS}"


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes that try leave a line each."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "trials"


def trials_in(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_what_ends_its_process_is_left_out_with_how_it_ended_and_tried_once(
    tmp_path: Path, counts: Path
) -> None:
    for _ in range(3):
        why = tried(fakes.ends_the_process, ROWS, package="torch", folder=tmp_path / "kept")
        assert why == DIED
    assert trials_in(counts) == 1
    (kept,) = [json.loads(p.read_text()) for p in (tmp_path / "kept").iterdir()]
    assert kept["reason"] == DIED and kept["versions"][:2] == ["torch", str(torch.__version__)]


def test_what_works_is_tried_once_for_a_shape_and_again_for_another(
    tmp_path: Path, counts: Path
) -> None:
    for _ in range(2):
        assert tried(fakes.works, ROWS, package="torch", folder=tmp_path / "kept") == ""
    assert trials_in(counts) == 1
    more = dataclasses.replace(ROWS, dim=32, vdim=32)
    assert tried(fakes.works, more, package="torch", folder=tmp_path / "kept") == ""
    assert trials_in(counts) == 2


def test_what_raises_or_hangs_is_left_out_with_a_reason(tmp_path: Path) -> None:
    said = tried(fakes.raises, ROWS, package="torch", folder=tmp_path)
    assert said == "RuntimeError: head dim 64 is not built"
    said = tried(fakes.hangs, ROWS, package="torch", folder=tmp_path, seconds=2)
    assert said == "a trial did not end within 2 s"


def test_a_failure_is_believed_for_a_while_and_a_success_for_good(
    tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = fakes.ends_the_process, fakes.works
    for make in makes:
        tried(make, ROWS, package="torch", folder=tmp_path / "kept")
    monkeypatch.setattr(trials, "_FAILURE_SECONDS", -1.0)
    for make in makes:
        tried(make, ROWS, package="torch", folder=tmp_path / "kept")
    assert trials_in(counts) == 3


@pytest.mark.parametrize("text", ["", "[]", "null", '{"reason": ""}', '{"created": "x"}'])
def test_a_damaged_record_of_a_trial_is_no_record(text: str, tmp_path: Path, counts: Path) -> None:
    kept = tmp_path / "kept"
    assert tried(fakes.works, ROWS, package="torch", folder=kept) == ""
    (path,) = kept.iterdir()
    path.write_text(text)
    assert tried(fakes.works, ROWS, package="torch", folder=kept) == ""
    assert trials_in(counts) == 2 and json.loads(path.read_text())["reason"] == ""


def test_rows_share_pages_so_that_a_long_context_costs_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "_MOST_BYTES", 1e5)
    rows = dataclasses.replace(ROWS, batch=64)
    pool, setting, q = trials._bed(rows)
    assert pool.caches[0].k.shape == (12, 2, 16, 64) and pool.table.shape == (64, 3)
    assert Rows.of(pool, setting, heads=q.shape[1]) == rows


def test_a_latent_cache_is_tried_as_one() -> None:
    rows = dataclasses.replace(ROWS, latent=True, kv_heads=1, vdim=48)
    pool, setting, q = trials._bed(rows)
    assert Rows.of(pool, setting, heads=q.shape[1]) == rows


def test_candidates_are_timed_beside_the_others_that_work(
    tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "OTHERS", {
        "Kills": Other("torch", fakes.ends_the_process, lambda cache: True),
        "Good": Other("torch", fakes.works, lambda cache: True),
        "Odd": Other("torch", fakes.differs, lambda cache: True),
        "Latent only": Other("torch", fakes.works, lambda cache: cache.latent),
        "Absent": Other("no_such_package", fakes.works, lambda cache: True),
    })  # fmt: skip
    pool, setting, q = trials._bed(ROWS)
    ours = fakes.works(pool, setting)(0, q)
    before = trials_in(counts)
    for _ in range(2):
        found, left_out = loaded(pool, setting, q, ours, folder=tmp_path / "kept")
    assert list(found) == ["Good"] and torch.equal(found["Good"](0, q), ours)
    assert left_out.keys() == {"Kills", "Odd"} and left_out["Kills"] == DIED
    assert left_out["Odd"].startswith("its outputs differ from ours by ")
    lines = counts.read_text().splitlines()[before:]
    assert sum(not line.startswith(f"{os.getpid()} ") for line in lines) == 3  # one trial for each
    assert named_by("Good", {"Kills": DIED}) == f"Good; Kills left out: {DIED}"


def test_a_confined_worker_tries_and_keeps_the_outcome_for_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    config = {"folder": str(folder / "baselines")}
    for _ in range(2):
        worker = WorkerProcess("tests.evals.fake_baselines:Trying", config, writable=(folder,))
        try:
            assert worker.call({"what": "ends"}, 60)["reason"] == DIED
            assert worker.call({"what": "works"}, 60)["reason"] == ""
        finally:
            worker.close()
    assert len(list((folder / "baselines").iterdir())) == 2
