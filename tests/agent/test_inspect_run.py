"""Runs are found and named alike by every command that looks at one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.commands import inspect_run
from agent.loop import Search
from agent.presentation import board_of
from agent.sealing import Sealing
from runs.naming import find_run
from runs.store import Store
from tests.runs.synthetic import new_store
from vortex.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FAKE = "tests.fake_evaluator:FakeEvaluator"


def vortex(runs_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--runs-dir", str(runs_dir)])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a finished run, and a newer one that was stopped before anything was judged."""
    folder = tmp_path_factory.mktemp("runs")
    store = new_store(folder, evaluations=8, rungs=(3, 4), workers=1, throughput=False)
    Search(store, (), lambda p: None, lambda: False, handler=FAKE).run()
    store.close()
    aborted = new_store(folder)
    aborted.close()
    database = aborted.folder / "run.db"
    later = (store.folder / "run.db").stat().st_mtime + 10
    os.utime(database, (later, later))
    return folder, store.name


@pytest.mark.parametrize(
    "words",
    [["leaderboard"], ["leaderboard", "latest"], ["front"], ["cost"], ["show", "5"],
     ["compare", "5", "6"]],
)  # fmt: skip
def test_without_a_name_the_latest_run_with_a_judged_candidate_is_meant_and_said(
    words: list[str], searched: tuple[Path, str]
) -> None:
    runs_dir, name = searched
    aborted = find_run(runs_dir, None).name
    assert aborted != name
    done = vortex(runs_dir, *words)
    assert done.exit_code == 0, done.output
    assert done.stderr == f"run {name}; {aborted} is newer and has no judged candidate\n"


def test_a_run_that_is_named_is_meant_though_nothing_was_judged(
    searched: tuple[Path, str],
) -> None:
    runs_dir, _ = searched
    aborted = find_run(runs_dir, None).name
    done = vortex(runs_dir, "leaderboard", aborted)
    assert f"run {aborted}: 0 of 60 candidates judged" in done.stdout and not done.stderr


def test_where_nothing_was_judged_the_latest_run_is_meant(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.close()
    done = vortex(tmp_path, "leaderboard")
    assert f"run {store.name}: 0 of 60 candidates judged" in done.stdout and not done.stderr


def test_a_run_that_cannot_be_read_is_passed_over_among_older_ones(
    searched: tuple[Path, str], tmp_path: Path
) -> None:
    damaged = tmp_path / "2026-01-01-dull-fir-01"
    damaged.mkdir()
    (damaged / "run.db").write_bytes(b"nothing of a database" * 100)
    store = new_store(tmp_path)
    store.close()
    done = vortex(tmp_path, "leaderboard")
    assert done.exit_code == 0 and f"run {store.name}:" in done.stdout and not done.stderr


@pytest.mark.parametrize("form", [["{run}", "5"], ["5", "--run", "{run}"], ["5"]])
def test_a_candidate_is_shown_by_its_number_after_its_run_or_alone(
    form: list[str], searched: tuple[Path, str]
) -> None:
    runs_dir, name = searched
    done = vortex(runs_dir, "show", *(w.format(run=name) for w in form), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["id"] == 5


@pytest.mark.parametrize(
    "form", [[], ["{run}"], ["5", "{run}"], ["{run}", "5", "--run", "{run}"], ["9" * 5000]]
)
def test_another_form_is_refused_with_the_right_one(
    form: list[str], searched: tuple[Path, str]
) -> None:
    runs_dir, name = searched
    done = vortex(runs_dir, "show", *(w.format(run=name) for w in form))
    assert done.exit_code == 2
    assert "vortex-search show 12, or vortex-search show RUN 12" in done.stderr


def test_seal_ends_with_both_gaps_of_what_it_sealed_and_the_next_command(
    searched: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_dir, name = searched
    monkeypatch.setattr(inspect_run, "Sealing", functools.partial(Sealing, handler=FAKE))
    done = vortex(runs_dir, "seal", name, "--contexts", "3", "--workers", "1")
    assert done.exit_code == 0, done.output
    store = Store.open_to_read(runs_dir / name)
    sealed = {r.id: r for r in board_of(store).rows if r.sealed_gap.value is not None}
    shown = {int(x[3:7]): x for x in done.stdout.splitlines()[1:]}
    assert shown.keys() == {i for i, r in sealed.items() if not r.control} and shown
    for i, line in shown.items():
        for gap in (sealed[i].loss_gap, sealed[i].sealed_gap):
            assert f"{gap.value:.3f} ± {gap.error:.3f}" in line
    assert done.stderr.splitlines()[-1] == f"next: vortex-search export {name} --best -o winner"


def test_a_budget_that_was_spent_before_is_refused(searched: tuple[Path, str]) -> None:
    runs_dir, name = searched
    done = vortex(runs_dir, "resume", name, "--evaluations", "3")
    assert done.exit_code == ExitCode.USAGE
    assert "--evaluations 3: 7 candidates were judged already" in done.stderr


@pytest.mark.parametrize("words", [[], ["--wide"]])
def test_on_a_terminal_the_leaderboard_is_as_wide_as_it(
    words: list[str], searched: tuple[Path, str]
) -> None:
    runs_dir, name = searched
    ours, its = os.openpty()
    command = [sys.executable, "-m", "agent", "leaderboard", name, "--runs-dir", str(runs_dir)]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, stdout=its, stderr=subprocess.PIPE, check=False,
        env=os.environ | {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(its)
    text = ""
    with contextlib.suppress(OSError):  # how a terminal's end is told
        while part := os.read(ours, 1 << 16).decode():
            text += part
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert (max(map(len, text.splitlines())) <= 80) == ("--wide" not in words)
    assert ("left out, for want of room:" in text) == ("--wide" not in words)


def test_where_it_is_no_terminal_the_leaderboard_is_whole(searched: tuple[Path, str]) -> None:
    runs_dir, name = searched
    text = vortex(runs_dir, "leaderboard", name).stdout
    assert "index B/token" in text and "knobs" in text and "left out" not in text
