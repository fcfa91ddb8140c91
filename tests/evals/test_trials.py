"""A foreign library that ends its process is found out in a process of its own, once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from evals.device import baselines, trials
from evals.device.baselines import Other, loaded, unusable
from evals.device.throughput import named_by
from evals.device.trials import Rows, tried
from evals.worker import WorkerProcess
from tests.evals import fake_baselines as fakes
from tests.evals.fake_baselines import KILLS, ROWS
from vortex.geometry import geometry
from vortex.triton.arrays import Shapes
from vortex.workload import Workload

DIED = f"it ended its process with exit code 1: {KILLS}"


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes that try leave a line each."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "trials"


def trials_in(path: Path) -> int:
    """Processes that tried."""
    return len({x.split()[0] for x in path.read_text().splitlines()}) if path.exists() else 0


def test_what_ends_its_process_is_left_out_with_how_it_ended_and_tried_once(
    tmp_path: Path, counts: Path
) -> None:
    for _ in range(3):
        why = tried(fakes.ends_the_process, ROWS, package="torch", folder=tmp_path / "kept")
        assert why == DIED
    assert trials_in(counts) == 1
    (kept,) = [json.loads(p.read_text()) for p in (tmp_path / "kept").glob("*.json")]
    assert kept["reason"] == DIED and kept["versions"][:2] == ["torch", str(torch.__version__)]


def test_what_works_is_tried_once_for_a_shape_and_again_for_another(
    tmp_path: Path, counts: Path
) -> None:
    for _ in range(2):
        assert tried(fakes.works, ROWS, package="torch", folder=tmp_path / "kept") == ""
    assert trials_in(counts) == 1
    assert [x.split()[1] for x in counts.read_text().splitlines()] == ["16", "32"]
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


def test_a_damaged_record_of_a_trial_is_no_record(tmp_path: Path, counts: Path) -> None:
    kept = tmp_path / "kept"
    assert tried(fakes.works, ROWS, package="torch", folder=kept) == ""
    (path,) = kept.glob("*.json")
    damaged = ("", "null", '{"created": "x"}')
    for text in damaged:
        path.write_text(text)
        assert tried(fakes.works, ROWS, package="torch", folder=kept) == ""
        assert json.loads(path.read_text())["reason"] == ""
    assert trials_in(counts) == 1 + len(damaged)


def test_rows_share_pages_so_that_a_long_context_costs_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "_MOST_BYTES", 1e5)
    pool, _, q = trials._bed(dataclasses.replace(ROWS, batch=64), 16)
    assert pool.caches[0].k.shape == (12, 2, 16, 64) and pool.table.shape == (64, 3)
    assert int(pool.table.max()) == 11 and q.shape == (64, 4, 64)


@pytest.mark.parametrize("name", ["smollm2-135m", "glm-4.7-flash"])
def test_a_target_is_tried_in_the_shape_that_its_step_has(name: str) -> None:
    target = geometry(name)
    rows = Rows.of(target, Workload(batch=2, context=70), torch.device("cpu"))
    pool, setting, q = trials._bed(rows, 64)
    cache, wanted = pool.caches[0], Shapes.of(target)
    assert cache.latent == (target.kind == "mla") and pool.kv_heads == target.kv_heads
    assert (cache.k.shape[3], cache.v.shape[3]) == (target.dim, target.vdim)
    assert (setting.shapes.group, setting.shapes.vdim) == (wanted.group, wanted.vdim)
    assert q.shape == (2, target.heads, target.dim)


def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up libraries in place of the real ones."""
    monkeypatch.setattr(baselines, "OTHERS", {
        "Kills": Other("torch", fakes.ends_the_process, lambda *cache: True),
        "Good": Other("torch", fakes.works, lambda *cache: True),
        "Odd": Other("torch", fakes.differs, lambda *cache: True),
        "Latent only": Other("torch", fakes.ends_the_process, lambda latent, *more: latent),
        "Absent": Other("no_such_package", fakes.ends_the_process, lambda *cache: True),
    })  # fmt: skip


def test_candidates_are_timed_beside_the_others_that_work(
    tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others(monkeypatch)
    for _ in range(2):
        bad = unusable(ROWS, tmp_path / "kept")
    assert bad == {"Kills": DIED} and trials_in(counts) == 3
    monkeypatch.delitem(baselines.OTHERS, "Absent")  # by its name only it would be run here
    pool, setting, q = trials._bed(ROWS, 16)
    ours = fakes.works(pool, setting)(0, q)
    found, left_out = loaded(pool, setting, q, ours, left_out=bad)
    assert list(found) == ["Good"] and torch.equal(found["Good"](0, q), ours)
    assert left_out.keys() == {"Kills", "Odd"} and left_out["Kills"] == DIED
    assert left_out["Odd"].startswith("its outputs differ from ours by ")
    assert named_by("Good", {"Kills": DIED}) == f"Good; Kills left out: {DIED}"


def test_a_worker_tries_before_it_is_confined_and_the_next_reads_what_came_of_it(
    tmp_path: Path,
) -> None:
    config = {"folder": str(tmp_path / "baselines")}
    made = []
    for _ in range(2):
        worker = WorkerProcess("tests.evals.fake_baselines:Trying", config)
        try:
            assert worker.call({}, 60)["reasons"] == [DIED, ""]
        finally:
            worker.close()
        kept = (tmp_path / "baselines").glob("*.json")
        made.append(sorted((p.name, p.stat().st_mtime_ns) for p in kept))
    assert made[0] == made[1] and len(made[0]) == 2
