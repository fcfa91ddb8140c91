"""A search that ends before its budget is spent says why, and can be taken up again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from agent.cli import Commands, main
from agent.commands import search as commands
from agent.commands.search import drive
from agent.loop import Search
from agent.proposers.evolve import Evolve
from evals.result import Status
from runs.records import RunConfig
from runs.store import Store
from tests.fake_evaluator import CRASH

GPU = {"evaluations": 12, "rungs": (3, 4), "workers": 2, "device": "cuda:0"}
DIED = f"the worker ended with exit code 1: {CRASH}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers read there whether the machine was mended."""
    home = tmp_path / "cache"
    home.mkdir()
    monkeypatch.setenv("VORTEX_CACHE", str(home))
    monkeypatch.setattr(commands, "_make_ready", lambda config: None)
    return home


def judged_by(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = f"tests.fake_evaluator:{name}"
    monkeypatch.setattr(commands, "Search", functools.partial(Search, handler=handler))


def driven(store: Store) -> Result:
    """What ``start`` does once a run is made."""
    return CliRunner().invoke(Commands(commands={
        "drive": click.Command("drive", callback=lambda: drive(store))
    }), ["drive"])  # fmt: skip


def invoked(runs_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--runs-dir", str(runs_dir)])


def states(store: Store) -> dict[int, Status]:
    return {i: stages[-1].status for i, stages in store.stages().items()}


def test_where_every_candidate_crashes_it_says_so_and_resume_goes_on_once_that_is_mended(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by("DyingTimer", monkeypatch)
    store = Store.create(tmp_path / "runs", RunConfig.model_validate(GPU), {})
    done = driven(store)
    assert done.exit_code == 1, done.output
    lines = done.stderr.splitlines()
    (stopped,) = [x for x in lines if x.startswith("stopped: ")]
    assert "nothing is left to vary (7 of 12 evaluations were made; 7 crashed)" in stopped
    assert f"{CRASH}; mend it, then: vortex-search resume {store.name}" in stopped
    assert f"7 candidates crashed: {DIED}" in lines
    assert not any(x.startswith("done:") for x in lines)
    table = invoked(tmp_path / "runs", "leaderboard", store.name)
    assert f"7 candidates crashed: {DIED}" in table.stdout
    assert DIED in invoked(tmp_path / "runs", "show", store.name, "5").stdout

    sealed = invoked(tmp_path / "runs", "seal", store.name)
    assert sealed.exit_code == 1 and f"7 candidates crashed: {DIED}" in sealed.stderr
    assert "next: " not in sealed.stderr and "nothing to export yet" in sealed.stderr
    assert f"vortex-search resume {store.name}" in sealed.stderr

    (cache / "mended").touch()
    again = invoked(tmp_path / "runs", "resume", store.name)
    assert again.exit_code == 0, again.output
    assert "nothing stood: 7 that crashed or took too long are judged again" in again.stderr
    assert f"done: vortex-search leaderboard {store.name}" in again.stderr
    store = Store.open_to_read(store.folder)
    assert store.evaluated() >= 12 and set(states(store).values()) <= {Status.OK, Status.DUPLICATE}
    assert sum(kind == "again" and DIED in message for kind, message, _ in store.events()) == 7


def test_workers_that_fail_on_a_known_program_end_it_with_their_last_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by("DyingJudge", monkeypatch)
    config = RunConfig.model_validate({**GPU, "workers": 1})
    store = Store.create(tmp_path / "runs", config, {})
    done = driven(store)
    assert done.exit_code == 3, done.output
    (stopped,) = [x for x in done.stderr.splitlines() if x.startswith("stopped: ")]
    assert "no worker can judge a known program now (0 of 12 evaluations were made)" in stopped
    assert f"a known program fails too: {DIED}" in stopped
    store = Store.open_to_read(store.folder)
    assert not store.stages(), "the machine's fault is no verdict"
    faults = [m for kind, m, _ in store.events() if kind == "infra_error"]
    assert len(faults) == 4, "it is not asked for ever"

    (cache / "mended").touch()
    again = invoked(tmp_path / "runs", "resume", store.name)
    assert again.exit_code == 0 and "done:" in again.stderr, again.output


def test_without_controls_it_names_them(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by("DyingControls", monkeypatch)
    store = Store.create(tmp_path / "runs", RunConfig.model_validate(GPU), {})
    done = driven(store)
    assert done.exit_code == 3, done.output
    (stopped,) = [x for x in done.stderr.splitlines() if x.startswith("stopped: ")]
    assert "the controls could not be judged" in stopped and f"full: crashed: {DIED}" in stopped
    (cache / "mended").touch()
    again = invoked(tmp_path / "runs", "resume", store.name)
    assert again.exit_code == 0 and "done:" in again.stderr, again.output


@pytest.mark.parametrize(
    ("more", "why"),
    [({"minutes": 1e-9}, "1e-09 minutes are over (0 of 12"),
     ({}, "no proposer has a program that was not tried (7 of 12")],
)  # fmt: skip
def test_a_cap_or_a_lack_of_proposals_that_ends_it_is_named(
    more: dict[str, float], why: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by("FakeEvaluator", monkeypatch)
    monkeypatch.setattr(Evolve, "propose", lambda self, context, n: [])
    monkeypatch.setattr("agent.proposers.tune.Tune.propose", lambda self, context, n: [])
    store = Store.create(tmp_path / "runs", RunConfig.model_validate({**GPU, **more}), {})
    done = driven(store)
    (stopped,) = [x for x in done.stderr.splitlines() if x.startswith("stopped: ")]
    assert why in stopped and f"vortex-search resume {store.name}" in stopped
    assert done.exit_code == (1 if "minutes" in more else 0), "what was judged stands"


def test_a_verdict_is_kept_where_something_stands(tmp_path: Path) -> None:
    from agent.ending import retry
    from tests.runs.synthetic import evaluation, new_store, samples, stage

    store = new_store(tmp_path, rungs=(3,))
    names: Sequence[tuple[str, bool, float]] = (
        ("Full", True, 1.0), ("RandomPages", True, 9.0), ("Good", False, 2.0),
    )  # fmt: skip
    for name, control, loss in names:
        found, _ = store.add(text=name, knobs={}, proposer="x", control=control, name=name)
        both = (*samples([loss] * 3), *samples([loss] * 3, task="copy"))
        store.record(found, evaluation(stage(samples=both), digest=name), name=name)
    bad, _ = store.add(text="Bad", knobs={}, proposer="x", name="Bad")
    store.record(bad, evaluation(stage(status=Status.CRASHED, message="m"), digest="bad"))
    assert retry(store) == 0 and states(store)[bad] == Status.CRASHED
