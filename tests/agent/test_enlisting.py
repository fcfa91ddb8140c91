"""A run's budget holds: seeds are judged within it, controls beside it."""

from __future__ import annotations

import functools
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from agent.cli import Commands
from agent.commands import replay, search
from agent.enlisting import enlist
from agent.loop import Progress, Search
from agent.presentation import board_of
from agent.view import View
from runs.leaderboard import facts
from runs.store import Store
from search_spaces.block_topk import controls, seeds
from tests.runs.synthetic import new_store

FAKE = "tests.fake_evaluator:FakeEvaluator"


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "Search", functools.partial(Search, handler=FAKE))


def driven(store: Store) -> Result:
    command = click.Command("drive", callback=lambda: search.drive(store))
    return CliRunner().invoke(Commands(commands={"drive": command}), ["drive"])


def of_seeds(store: Store) -> list[str]:
    return [c.text for c in store.candidates() if c.proposer == "seed"]


@pytest.mark.parametrize("budget", [1, 6, 9])
def test_as_many_candidates_are_judged_as_the_budget_says(budget: int, tmp_path: Path) -> None:
    store = new_store(tmp_path, evaluations=budget, rungs=(3, 4), workers=2, throughput=False)
    done = driven(store)
    assert done.exit_code == 0, done.output
    store = Store.open_to_read(store.folder)
    assert store.evaluated() == budget
    assert sum(c.control for c in store.candidates()) == len(controls()) == 3
    known = [s.text for s in seeds()]
    assert of_seeds(store) == known[:budget]
    noun = "candidate" if budget == 1 else "candidates"
    said = f"{budget} of {budget} {noun} judged (+ 3 controls)"
    assert said in facts(board_of(store))[0]
    assert said in done.stderr.splitlines()
    short = len(known) - budget
    seeds_have = "1 seed has" if short == 1 else f"{short} seeds have"
    assert (f"note: {seeds_have} no room in {budget} eval" in done.stderr) == (short > 0)


def test_progress_counts_controls_beside_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    View()(Progress("search", 4, 6, 2, controls=3))
    View()(Progress("search", 0, 6, 2, controls=1))
    said = capsys.readouterr().err
    assert "search 4/6 (+ 3 controls), 2 running" in said
    assert "search 0/6 (+ 1 control), 2 running" in said


def test_a_larger_budget_judges_first_what_had_no_room(tmp_path: Path) -> None:
    store = new_store(tmp_path, evaluations=5, rungs=(3, 4), workers=2, throughput=False)
    driven(store)
    store = Store.open_to_write(store.folder)
    more = store.config().model_copy(update={"evaluations": 8})
    store.extend(more)
    assert enlist(store, more) == 0
    assert of_seeds(store) == [s.text for s in seeds()]
    again = store.candidates()
    assert enlist(store, more) == 0 and store.candidates() == again, "nothing is recorded twice"
    driven(store)
    assert Store.open_to_read(store.folder).evaluated() == 8


def test_what_is_judged_or_waits_has_a_claim_before_seeds(tmp_path: Path) -> None:
    store = new_store(tmp_path, evaluations=3)
    store.add(text="handed in", knobs={}, proposer="outside")
    assert enlist(store, store.config()) == len(seeds()) - 2
    swept = store.config().model_copy(update={"evaluations": 99, "sweep": (1024, 2048)})
    assert enlist(store, swept) == 0
    store.close()


def test_a_run_of_before_that_judged_more_than_its_budget_is_judged_again_whole(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path, evaluations=9, rungs=(3, 4), workers=1, throughput=False)
    Search(store, (), lambda p: None, lambda: False, handler=FAKE).run()
    store.extend(store.config().model_copy(update={"evaluations": 2}))
    found = replay.live(store, handler=FAKE)
    assert len(found) == 10 and all(j.before == j.after == "ok" for j in found)
    store.close()


def notes(store: Store) -> dict[str, str]:
    return {c.name: c.note for c in store.candidates()}


def test_a_user_s_own_seed_is_called_so_and_no_known_algorithm(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "first_try.py").write_text(seeds()[0].text)
    own = new_store(tmp_path, seeds_dir=str(mine))
    enlist(own, own.config())
    found = notes(own)
    assert found["first_try"] == "your seed first_try.py" and found["full"] == "control"
    for choice in (None, "library"):
        ours = new_store(tmp_path, seeds_dir=choice)
        enlist(ours, ours.config())
        assert notes(ours)["quest"] == "known algorithm"


def test_what_a_sweep_repeats_takes_no_room(tmp_path: Path) -> None:
    count = len(seeds())  # their own budget is 4,096
    store = new_store(
        tmp_path, evaluations=2 * count, sweep=(4096, 1024), rungs=(3, 4), workers=2,
        throughput=False,
    )  # fmt: skip
    assert enlist(store, store.config()) == 0
    budgets = [c.knobs.get("budget") for c in store.candidates() if c.proposer == "seed"]
    swept = sum("budget" in s.text for s in seeds())
    assert budgets.count(1024) == budgets.count(4096) == swept
