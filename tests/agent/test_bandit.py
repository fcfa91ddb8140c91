"""The bandit follows what reaches the front, forgets nobody, and depends on counts alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.bandit import agent_shares, all_shares, draw, proposer_rows, shares
from agent.standing import standings
from evals.result import Stage, Status
from runs.store import Store
from tests.runs.synthetic import evaluation, metric, new_store, samples, stage

FLOOR = 0.1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_sum_to_one_and_keep_the_floor(count: int) -> None:
    rng = random.Random(count)
    for _ in range(50):
        stats = {}
        for number in range(count):
            tried = rng.randrange(300)
            stats[f"p{number}"] = (tried, rng.randint(0, tried))
        got = shares(stats)
        assert got.keys() == stats.keys()
        assert sum(got.values()) == pytest.approx(1)
        assert min(got.values()) >= FLOOR


def test_more_successes_never_lower_a_share() -> None:
    got = [shares({"a": (50, hits), "b": (50, 10), "c": (50, 3)})["a"] for hits in range(51)]
    assert got == sorted(got) and got[-1] > got[0] + 0.3


def test_the_untried_are_tried_before_the_fruitless() -> None:
    got = shares({"fruitless": (60, 0), "new": (0, 0)})
    assert got["new"] > 0.7


def test_a_search_spends_most_on_the_productive_and_something_on_all() -> None:
    chances = {"evolve": 0.3, "tune": 0.02, "llm": 0.02}
    spent: dict[str, list[int]] = {name: [0, 0] for name in chances}
    rng = random.Random(4)
    for _ in range(400):
        name = draw(shares({n: (t, h) for n, (t, h) in spent.items()}), rng)
        spent[name][0] += 1
        spent[name][1] += rng.random() < chances[name]
    tried = {name: counts[0] / 400 for name, counts in spent.items()}
    assert max(tried, key=lambda n: tried[n]) == "evolve" and tried["evolve"] > 0.45
    assert min(tried.values()) > 0.08


def test_the_same_counts_and_seed_choose_alike() -> None:
    stats = {"a": (10, 3), "b": (4, 0), "c": (0, 0)}
    first, second = (
        [draw(shares(stats), rng) for _ in range(30)]
        for rng in (random.Random(9), random.Random(9))
    )
    assert first == second and set(first) == set(stats)


def test_many_proposers_leave_something_to_divide() -> None:
    got = shares({f"p{i}": (20, 20 if i == 0 else 0) for i in range(8)})
    assert sum(got.values()) == pytest.approx(1)
    assert min(got.values()) > 0.05 and got["p0"] > 2 * got["p1"]


def test_of_two_models_the_one_that_brings_more_per_cent_gets_more() -> None:
    got = agent_shares({"dear": (20, 10, 10.0), "cheap": (20, 8, 1.0)})
    assert got["cheap"] > 0.7 and got["dear"] >= 0.1
    assert sum(got.values()) == pytest.approx(1)
    alike = agent_shares({"a": (20, 10, 1.0), "b": (20, 5, 1.0)})
    assert alike["a"] > alike["b"]


def test_a_new_model_is_tried_beside_a_poor_one_and_not_drowned_by_a_good_one() -> None:
    assert agent_shares({"poor": (30, 0, 3.0), "new": (0, 0, 0.0)})["new"] > 0.7
    assert agent_shares({"good": (30, 20, 3.0), "new": (0, 0, 0.0)})["new"] > 0.3


def test_one_that_spends_without_a_candidate_falls_behind() -> None:
    got = agent_shares({"works": (10, 2, 1.0), "broken": (0, 0, 5.0)})
    assert 0.1 <= got["broken"] < 0.15


def test_a_free_model_is_preferred_but_not_without_bound() -> None:
    better = agent_shares({"free": (30, 1, 0.0), "paid": (30, 25, 3.0)})
    assert better["paid"] > 0.5 and better["free"] >= 0.1
    alike = agent_shares({"free": (30, 5, 0.0), "paid": (30, 5, 3.0)})
    assert alike["free"] > 0.7 and alike["paid"] >= 0.1
    assert agent_shares({"a": (30, 20, 0.0), "b": (30, 2, 0.0)})["a"] > 0.7


def test_models_divide_the_share_of_their_kind() -> None:
    kinds = {"evolve": (30, 3), "tune": (30, 3)}
    models = {"openai:a": (15, 5, 1.0), "anthropic:b": (15, 1, 1.0)}
    got = all_shares(kinds, models)
    whole = shares({**kinds, "llm": (30, 6)})
    assert sum(got.values()) == pytest.approx(1)
    assert got["openai:a"] + got["anthropic:b"] == pytest.approx(whole["llm"])
    assert got["openai:a"] > got["anthropic:b"] and got["evolve"] == pytest.approx(whole["evolve"])
    assert all_shares(kinds, {}) == shares(kinds)


def test_rows_say_what_each_brought_and_whose_share_is_what(tmp_path: Path) -> None:
    store = new_store(tmp_path, rungs=(3,), throughput=False)
    for name, loss in (("Full", 1.0), ("RandomPages", 9.0)):
        judged(store, name, "control", loss, 1.0)
    judged(store, "Seed", "seed", 5.0, 0.5)
    judged(store, "E", "evolve", 3.0, 0.4)
    judged(store, "M", "openai:m", 6.0, 0.5)
    bad, _ = store.add(text="bad", knobs={}, proposer="openai:m")
    store.record(bad, evaluation(stage(Stage.PARSE, Status.REJECTED), digest=None))
    twin, _ = store.add(text="twin", knobs={}, proposer="openai:m")
    store.record(twin, evaluation(stage(Stage.DEDUP, Status.DUPLICATE)))
    now = standings(store, store.config())
    rows = proposer_rows(now, ("evolve", "tune", "openai:m"), {"openai:m": 0.5})
    found = {r.proposer: r for r in rows}
    assert list(found) == ["evolve", "tune", "openai:m", "seed"]
    assert (found["evolve"].evaluated, found["evolve"].on_front) == (1, 1)
    model = found["openai:m"]
    assert (model.evaluated, model.valid, model.on_front, model.dollars) == (2, 1, 0, 0.5)
    assert found["seed"].share is None and found["tune"].evaluated == 0
    assert sum(r.share or 0 for r in rows) == pytest.approx(1)
    assert sum(r.evaluated for r in rows) == store.evaluated()


def judged(store: Store, name: str, proposer: str, loss: float, time: float) -> None:
    identity, _ = store.add(text=name, knobs={}, proposer=proposer, name=name,
                            control=proposer == "control")  # fmt: skip
    raw = (*samples([loss] * 3), *samples([loss] * 3, task="copy"))
    stages = (stage(Stage.PRICE, metrics=(metric(value=time),)), stage(samples=raw))
    store.record(identity, evaluation(*stages, digest=f"d-{name}"), name=name)
