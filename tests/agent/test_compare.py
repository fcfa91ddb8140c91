"""Runs are compared by name with every caveat said; what cannot be compared is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.standing import Standings, standings
from agent.trails import shared_contexts, trail_of
from evals.result import Stage, Status
from runs.store import Store
from tests.runs.synthetic import evaluation, metric, new_store, samples, stage
from vortex.errors import VortexError

RUNGS = (3, 6)


def made(folder: Path, gaps: list[tuple[float, float, int]], *, full: float = 1.0,
         **config: Any) -> Store:  # fmt: skip
    """A run whose candidates have (step time as a share, loss gap, contexts seen)."""
    values: dict[str, Any] = {"rungs": RUNGS, "throughput": False, **config}
    store = new_store(folder, **values)
    count = values["rungs"][-1]
    _judge(store, "Full", "control", 1.0, full, count)
    _judge(store, "RandomPages", "control", 0.5, full + 8, count)
    for i, (time, gap, seen) in enumerate(gaps):
        _judge(store, f"P{i}", "evolve", time, full + 8 * gap, seen)
    return store


def _judge(store: Store, name: str, proposer: str, time: float, loss: float, seen: int) -> int:
    identity, _ = store.add(text=name, knobs={}, proposer=proposer, name=name,
                            control=proposer == "control")  # fmt: skip
    rungs = store.config().rungs
    values = [loss + 0.1 * i for i in range(seen)]
    stages = [stage(Stage.PRICE, metrics=(metric("step_seconds", time * 1e-3),))]
    for rung, (a, b) in enumerate(zip((0, *rungs), rungs, strict=False)):
        if seen >= b:
            raw = [*samples(values, task="needle")[a:b], *samples(values, task="copy")[a:b]]
            stages.append(stage(rung=rung, samples=tuple(raw)))
    store.record(identity, evaluation(*stages, digest=f"d-{name}"), name=name)
    return identity


def read(*stores: Store) -> dict[str, Standings]:
    return {s.name: standings(s, s.config()) for s in stores}


def run(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(main, ["compare", *words, "--runs-dir", str(folder)])


def test_two_runs_are_compared_at_equal_evaluations(tmp_path: Path) -> None:
    a = made(tmp_path, [(0.5, 0.6, 6), (0.4, 0.2, 6)])
    b = made(tmp_path, [(0.5, 0.6, 6), (0.1, 0.0, 3), (0.1, 0.1, 6)])
    done = run(tmp_path, a.name, b.name)
    assert done.exit_code == 0, done.output
    assert "after 2 evaluations each" in done.output and "the first is better" in done.output
    assert "says nothing of how another repetition" in done.output
    assert "3 evaluated, 2 placed" in done.output
    assert "not compared at equal cost: no cost is recorded" in done.output
    data = json.loads(run(tmp_path, a.name, b.name, "--json").output)
    share = data["equal_evaluations"][-1]["measures"][0]
    assert share["verdict"] == "first" and share["low"] <= share["difference"] <= share["high"]
    assert data["b"][0]["placed"] == 2 and data["contexts"] == 6 and data["equal_cost"] is None


def test_several_runs_a_side_show_the_spread_between_them(tmp_path: Path) -> None:
    names = [
        ",".join(made(tmp_path, [(0.5, g, 6)]).name for g in gaps)
        for gaps in ((0.2, 0.3, 0.25), (0.6, 0.7, 0.65))
    ]
    done = run(tmp_path, *names)
    assert "between runs ±" in done.output and "(p = 0.1)" in done.output
    assert "cannot reach p = 0.05" in done.output
    assert "is better" not in done.output, "p of 0.1 shows nothing"


def test_candidates_are_still_compared_by_number(tmp_path: Path) -> None:
    made(tmp_path, [(0.5, 0.6, 6), (0.4, 0.2, 6)])
    assert "minus 4 P1" in run(tmp_path, "3", "4").output


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"model": "glm-4.7-flash"}, "target"),
        ({"context": 8192}, "context"),
        ({"price_for": "h100"}, "device"),
        ({"kv_dtype": "fp8"}, "keys and values"),
        ({"rungs": (3, 5)}, "numbers of contexts"),
        ({"full": 1.5}, "made otherwise"),
    ],
)
def test_runs_that_measured_something_else_are_refused(
    changed: dict[str, Any], word: str, tmp_path: Path
) -> None:
    a, b = made(tmp_path, [(0.5, 0.5, 5)]), made(tmp_path, [(0.5, 0.5, 5)], **changed)
    with pytest.raises(VortexError, match=word) as found:
        shared_contexts(read(a, b))
    assert found.value.code == "E705"


def test_a_run_against_itself_and_no_run_at_all_are_refused(tmp_path: Path) -> None:
    name = made(tmp_path, [(0.5, 0.5, 6)]).name
    for words, code in (((name, name), "E705"), ((name, ","), "E705"), ((name, "x"), "E606"),
                        ((name, name, "--run", name), "E303")):  # fmt: skip
        done = run(tmp_path, *words)
        assert isinstance(done.exception, SystemExit) and done.exit_code == 2
        assert code in done.stderr


def test_a_run_without_controls_is_refused(tmp_path: Path) -> None:
    a, b = made(tmp_path, [(0.5, 0.5, 6)]), new_store(tmp_path, rungs=RUNGS, throughput=False)
    with pytest.raises(VortexError, match="controls") as found:
        shared_contexts(read(a, b))
    assert found.value.code == "E705"


def test_where_nothing_saw_all_contexts_fewer_are_compared_and_it_is_said(tmp_path: Path) -> None:
    a, b = made(tmp_path, [(0.5, 0.2, 6)]), made(tmp_path, [(0.5, 0.6, 3)])
    assert len(shared_contexts(read(a, b))) == 3
    assert "compared on fewer" in run(tmp_path, a.name, b.name).output


def test_duplicates_and_controls_are_no_evaluations_but_their_cost_counts(tmp_path: Path) -> None:
    store = made(tmp_path, [(0.5, 0.5, 6)])
    twin, _ = store.add(text="twin", knobs={}, proposer="evolve")
    store.record(twin, evaluation(stage(Stage.DEDUP, Status.DUPLICATE), digest="d-P0"))
    bad, _ = store.add(text="bad", knobs={}, proposer="evolve")
    store.record(bad, evaluation(stage(Stage.PARSE, Status.REJECTED), digest=None))
    store.add(text="waiting", knobs={}, proposer="evolve")
    now = standings(store, store.config())
    trail = trail_of("r", now, {3: 0.5, twin: 0.25, bad: 0.125, bad + 1: 1.0})
    assert [a.cost for a in trail.attempts] == [0.5, 1.375]
    assert len(trail.attempts) == store.evaluated() and not trail.attempts[1].losses
    assert trail.priced and not trail_of("r", now).priced
