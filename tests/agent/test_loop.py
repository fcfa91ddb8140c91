"""A search may be killed at any moment: nothing that finished is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.standing import standings
from runs.naming import list_runs
from runs.store import Store

ROOT = Path(__file__).resolve().parents[2]


def start(runs_dir: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"VORTEX_CACHE": str(runs_dir / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drive_search", str(runs_dir)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rows(runs_dir: Path) -> set[tuple[int, str, int]]:
    names = list_runs(runs_dir)
    if not names:
        return set()
    store = Store.open_to_read(runs_dir / names[0])
    found = {(i, s.stage.value, s.rung) for i, stages in store.stages().items() for s in stages}
    store.close()
    return found


def log(runs_dir: Path) -> list[tuple[str, str]]:
    path = runs_dir / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(kind, json.dumps(what, sort_keys=True)) for kind, what in map(json.loads, lines)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("wanted", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_double_nothing(wanted: int, tmp_path: Path) -> None:
    rng = random.Random(1)
    kept: set[tuple[int, str, int]] = set()
    kills = 0
    while kills < wanted:
        process = start(tmp_path)
        # Most of a process's life is its start: wait for work first, then a random moment.
        before, limit = len(log(tmp_path)), time.monotonic() + 60
        while len(log(tmp_path)) == before and time.monotonic() < limit:
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.25))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        after = rows(tmp_path)
        assert kept <= after, "a finished evaluation was lost"
        kept = after
    out, err = start(tmp_path).communicate(timeout=240)
    assert "finished" in out, err
    assert kills >= wanted // 2, "the run ended before it could be killed often enough"
    done: set[str] = set()
    for kind, what in log(tmp_path):
        assert kind == "kept" or what not in done, "a finished evaluation was asked for again"
        if kind == "kept":
            done.add(what)
    store = Store.open_to_read(tmp_path / list_runs(tmp_path)[0])
    now = standings(store, store.config())
    assert store.evaluated() >= 30 and now.front()
    assert kept <= rows(tmp_path)


def test_workers_do_not_outlive_a_killed_coordinator(tmp_path: Path) -> None:
    process = start(tmp_path)
    limit = time.monotonic() + 60
    workers: list[int] = []
    while not workers and time.monotonic() < limit:
        time.sleep(0.05)
        workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    assert not [pid for pid in workers if alive(pid)]


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
