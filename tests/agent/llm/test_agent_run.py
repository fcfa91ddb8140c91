"""A search with a language model, over both wire formats, judged by the fake evaluator."""

from __future__ import annotations

import json
import random
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.llm.expenses import expenses, summary
from agent.llm.prefix import prefix
from agent.llm.replay import replay
from agent.llm.studio import Studio, tally
from agent.presentation import board_of
from agent.standing import standings
from runs.ledger import Ledger, State
from runs.store import Store
from tests.agent.llm.driving import Guesser, config_for, run, search_of, submission
from tests.agent.providers.wire import (
    Recorded,
    Scripted,
    Wire,
    empty,
    refusal,
    status,
    text,
    tool_calls,
    truncated,
)  # fmt: skip

FORMATS = ("openai", "anthropic")


def named(kind: str, wire: Wire) -> str:
    return f"{kind}:m@{wire.url}/v1" if kind == "openai" else f"{kind}:m@{wire.url}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key-of-anthropic-0123456789")
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-of-openai-0123456789")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_records_judges_and_replays_what_a_model_hands_in(kind: str, tmp_path: Path) -> None:
    with Wire(Guesser()) as wire:
        store = run(tmp_path, config_for(named(kind, wire), notes_every=4))
    config, ledger = store.config(), Ledger(store)
    now = standings(store, config)
    theirs = [s for s in now.by_id.values() if s.record.proposer == named(kind, wire)]
    assert store.evaluated() == 20 and len(theirs) >= 6
    assert all(s.stages for s in theirs)
    assert ledger.claims().keys() == {s.record.id for s in theirs}
    assert {t.purpose for t in ledger.turns()} == {"probe", "propose", "notes"}
    assert all(t.outcome for t in ledger.turns())
    found = replay(store, prefix(config))
    assert found.requests == sum(t.purpose != "probe" for t in ledger.turns())
    assert (found.partial, found.changes) == (0, ())
    (cost,) = expenses(store)
    assert cost.programs == len(theirs) and cost.prompt == 100 * cost.answered
    assert 0.5 < cost.repeated < 1 and cost.cached == 60 * cost.answered
    assert f"{len(theirs)} programs (100% valid)" in summary(store)[0]


def test_the_stable_prefix_is_the_same_bytes_in_every_request(tmp_path: Path) -> None:
    with Wire(Guesser()) as wire:
        run(tmp_path, config_for(named("openai", wire)))
        bodies = [r.body for r in wire.requests][1:]  # the first is the probe
    assert len(bodies) > 5
    assert len({b["messages"][0]["content"] for b in bodies}) == 1
    assert len({json.dumps(b["tools"]) for b in bodies if b.get("tools")}) == 1


def test_a_changed_prompt_is_shown_as_a_diff(tmp_path: Path) -> None:
    with Wire(Guesser()) as wire:
        store = run(tmp_path, config_for(named("openai", wire), evaluations=12))
    found = replay(store, prefix(store.config()) + "One more rule.\n")
    assert found.changes and {c.what for c in found.changes} == {"system prompt"}
    assert "+One more rule." in found.changes[0].diff


def test_a_weak_model_is_told_apart_and_evolution_goes_on(tmp_path: Path) -> None:
    rng = random.Random(0)

    def poor(request: Recorded) -> Scripted:
        bad = submission(1, program="class X: pass")
        return rng.choice(
            [text("hm"), empty(), refusal(), tool_calls(bad), tool_calls(("no_such_tool", {})),
             tool_calls(("submit_program", "not json")), tool_calls(("submit_program", [1]))]
        )  # fmt: skip

    said: list[str] = []
    with Wire(poor) as wire:
        store = run(tmp_path, config_for(named("openai", wire)), said=said)
    assert store.evaluated() == 20, "the budget is spent all the same"
    assert tally(Ledger(store)).valid == 0
    assert any("left alone" in line for line in said)
    assert "(0% valid)" in summary(store)[0]


@pytest.mark.parametrize("trouble", [status(500), status(529), truncated()])
def test_failures_that_pass_are_tried_again(trouble: Scripted, tmp_path: Path) -> None:
    guess, calls = Guesser(), [0]

    def shaky(request: Recorded) -> Scripted:
        calls[0] += 1
        return trouble if calls[0] % 3 == 2 else guess(request)

    with Wire(shaky) as wire:
        store = run(tmp_path, config_for(named("openai", wire), evaluations=14))
    assert store.evaluated() == 14
    states = {e.state for e in Ledger(store).entries()}
    assert State.ANSWERED in states and len(states) > 1
    assert not [t for t in Ledger(store).turns() if t.outcome == "failed"]


def test_a_provider_that_is_gone_ends_in_a_search_without_it(tmp_path: Path) -> None:
    calls = [0]

    def gone(request: Recorded) -> Scripted:
        calls[0] += 1
        return tool_calls(submission(1)) if calls[0] == 1 else status(401)

    said: list[str] = []
    with Wire(gone) as wire:
        store = run(tmp_path, config_for(named("openai", wire)), said=said)
    assert store.evaluated() == 20
    outcomes = [t.outcome for t in Ledger(store).turns()][1:]
    assert set(outcomes) == {"failed"} and 3 <= len(outcomes) <= 4  # two turns run at once
    assert any("left alone" in line for line in said)


@pytest.mark.parametrize("cap", ["max_tokens", "max_cost"])
def test_caps_hold_with_four_turns_at_once_and_end_the_run_in_order(
    cap: str, tmp_path: Path
) -> None:
    limit: dict[str, Any] = {"max_tokens": 400_000} if cap == "max_tokens" else {"max_cost": 0.6}
    usage = {"prompt": 9000, "cached": 0, "written": 0, "completion": 3000}
    guess = Guesser()

    def dear(request: Recorded) -> Scripted:
        return replace(guess(request), usage=usage)

    with Wire(dear) as wire:
        config = config_for(
            named("openai", wire), evaluations=500, parallel_turns=4, workers=4,
            prices={"m": (1.0, 1.0, 1.0, 5.0)}, **limit,
        )  # fmt: skip
        store = run(tmp_path, config)
    spent = Ledger(store).spent()
    assert spent.tokens <= config.max_tokens if config.max_tokens else True
    assert spent.dollars <= config.max_cost if config.max_cost else True
    outcomes = [t.outcome for t in Ledger(store).turns()]
    assert "budget" in outcomes and None not in outcomes
    waiting = [s for s in standings(store, config).by_id.values() if not s.stages]
    assert not waiting, "what was paid for is judged"


def test_two_agents_share_a_run(tmp_path: Path) -> None:
    with Wire(Guesser()) as one, Wire(Guesser(5000)) as two:
        agents = (named("openai", one), named("anthropic", two))
        store = run(tmp_path, config_for(*agents, evaluations=30))
    rows = {r.proposer: r for r in board_of(store).proposers}
    assert all(rows[a].evaluated > 0 for a in agents)
    shares = [r.share for r in rows.values() if r.share is not None]
    assert sum(shares) == pytest.approx(1.0)


def test_independent_samples_see_nothing_of_the_run(tmp_path: Path) -> None:
    with Wire(Guesser()) as wire:
        config = config_for(named("openai", wire), strategy="independent", evaluations=16)
        store = run(tmp_path, config, proposers=())
        openings = {r.body["messages"][1]["content"] for r in wire.requests[1:]}
    assert len(openings) == 1
    assert {s.record.proposer for s in standings(store, config).judged()} == {
        "seed", named("openai", wire)
    }  # fmt: skip


def test_keys_are_written_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    echo = status(400, {"error": {"message": "bad planted-key-of-openai-0123456789"}})
    guess, calls = Guesser(), [0]

    def leaky(request: Recorded) -> Scripted:
        calls[0] += 1
        return echo if calls[0] % 4 == 0 else guess(request)

    said: list[str] = []
    with Wire(leaky) as wire:
        run(tmp_path, config_for(named("openai", wire), evaluations=12), said=said)
    out = capsys.readouterr()
    texts = ["\n".join(said), caplog.text, out.out, out.err]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.name == "run.db" for p in files)
    held = b"".join(p.read_bytes() for p in files) + "".join(texts).encode()
    assert b"planted-key" not in held


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    stopped = [False]
    guess = Guesser()

    def stopping(request: Recorded) -> Scripted:
        stopped[0] = len(seen) == 6
        seen.append(request)
        return tool_calls(("look_up_op", {"name": "k"})) if len(seen) == 7 else guess(request)

    seen: list[Recorded] = []
    with Wire(stopping) as wire:
        config = config_for(named("openai", wire), parallel_turns=1)
        store = Store.create(tmp_path, config, {})
        search_of(store, stop=lambda: stopped[0]).run()
        open_turns = [t.id for t in Ledger(store).turns() if t.outcome is None]
        assert len(open_turns) == 1, "the turn was cut between two of its requests"
        sent = len(wire.requests)
        stopped[0] = False
        search_of(store).run()
        assert store.evaluated() == 20
        turn = next(t for t in Ledger(store).turns() if t.id == open_turns[0])
        assert turn.outcome == "submitted"
        steps = [e.step for e in Ledger(store).entries(turn.id)]
        assert steps == [0, 1], "the reply that had come was not asked for again"
        assert len(wire.requests) > sent


def test_a_turn_that_ends_while_the_loop_looks_elsewhere_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a turn before its end is looked for, the loop never sees it run."""
    futures = Studio.futures

    def late(self: Studio) -> set[Future[None]]:
        wait(futures.fget(self), timeout=20)  # type: ignore[misc]
        self.collect()
        return futures.fget(self)  # type: ignore[misc,no-any-return]

    monkeypatch.setattr(Studio, "futures", property(late))
    monkeypatch.setattr("agent.llm.studio.MOST_FRUITLESS", 40)  # so many that the seeds are done
    with Wire(lambda request: text("hm")) as wire:
        store = run(tmp_path, config_for(named("openai", wire), evaluations=16, fill=0.0))
    assert store.evaluated() == 16
