"""Replies that are meant to break a run: it ends in order, and within its bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.crew import Crew, MachineFault
from agent.llm.prefix import prefix
from agent.llm.replay import replay
from runs.ledger import Ledger
from runs.records import RunConfig
from runs.store import Store
from search_spaces.grammar import program
from tests.agent.llm.driving import QuickSearch, ThreadCrew, config_for, run, search_of, submission
from tests.agent.providers.wire import Recorded, Scripted, Wire, text, tool_calls

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key-of-anthropic-0123456789")
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-of-openai-0123456789")


def replies(script: Callable[[int], Scripted]) -> Callable[[Recorded], Scripted]:
    """A script by the number of the request."""
    calls = [0]

    def answer(request: Recorded) -> Scripted:
        calls[0] += 1
        return script(calls[0])

    return answer


def deep(levels: int) -> str:
    return '{"program": ' + "[" * levels + "]" * levels + "}"


def agent_of(kind: str, wire: Wire) -> str:
    return f"{kind}:m@{wire.url}" + ("/v1" if kind == "openai" else "")


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_no_reply_ends_the_run(kind: str, tmp_path: Path) -> None:
    rude = [
        text(". Here it is:\n```\nx\n```"),
        text(". " + program(3)),
        tool_calls(*[("check_program", deep(n)) for n in range(40, 990, 30)]),
        tool_calls(*[("check_program", json.loads(deep(n))) for n in range(40, 300, 30)]),
        tool_calls(("look_up_op", {"name": "(" * 9000})),
        tool_calls(("read_candidate", {"id": 1e300})),
        tool_calls(("read_candidate", '{"id": 1e999}')),
        tool_calls(("submit_program", {"program": "\ud800\x00", "knobs": {"": 1e308}})),
        tool_calls(("x" * 100_000, {})),
    ]
    with Wire(replies(lambda n: rude[n % len(rude)])) as wire:
        store = run(tmp_path, config_for(agent_of(kind, wire), evaluations=16))
        assert len(wire.requests) > len(rude)
    assert store.evaluated() == 16
    assert replay(store, prefix(store.config())).changes == ()


@pytest.mark.parametrize("reply", [
    tool_calls(*[("read_candidate", {"id": 4})] * 5000), text("x" * 3_000_000),
    tool_calls(("check_program", {"program": "x" * 3_000_000})),
])  # fmt: skip
def test_a_reply_without_measure_is_not_sent_back(reply: Scripted, tmp_path: Path) -> None:
    with Wire(lambda request: reply) as wire:
        config = config_for(agent_of("openai", wire), evaluations=12, max_tokens=4_000_000)
        store = run(tmp_path, config)
        assert max(len(json.dumps(r.body)) for r in wire.requests) < 200_000
    assert store.evaluated() == 12, "one reply must not pass a cap for all"
    assert {t.outcome for t in Ledger(store).turns()[1:]} == {"refused"}
    assert sum(p.stat().st_size for p in store.folder.iterdir()) < 100_000_000


def test_a_model_that_only_repeats_itself_is_left_alone(tmp_path: Path) -> None:
    with Wire(lambda request: tool_calls(submission(1))) as wire:
        config = config_for(agent_of("openai", wire), strategy="independent", evaluations=40)
        store = run(tmp_path, config, proposers=())
        assert len(wire.requests) < 25
    assert None not in {t.outcome for t in Ledger(store).turns()}


def test_the_same_program_in_other_words_is_nothing_new(tmp_path: Path) -> None:
    def reworded(number: int) -> Scripted:
        return tool_calls(submission(1, program=f"{program(1)}\n# {number}\n"))

    with Wire(replies(reworded)) as wire:
        config = config_for(agent_of("openai", wire), strategy="independent", evaluations=40)
        run(tmp_path, config, proposers=())
        assert len(wire.requests) < 25


class FragileCrew(ThreadCrew):
    """Workers that break at whatever a model wrote."""

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if "class G" in str(request.get("text")):
            raise MachineFault("ValueError: a bug of ours")
        return super()._ask(request, seconds)


class FragileSearch(QuickSearch):
    def _crew(self, config: RunConfig, size: int, *, prefilling: bool = False) -> Crew:
        return FragileCrew(config, size)


def test_programs_that_break_workers_are_not_free(tmp_path: Path) -> None:
    with Wire(replies(lambda n: tool_calls(submission(n)))) as wire:
        config = config_for(agent_of("openai", wire), strategy="independent", evaluations=14)
        store = Store.create(tmp_path, config, {})
        search = search_of(store, proposers=())
        fragile = FragileSearch(store, (), search.report, search.interrupted)
        fragile.studio = search.studio
        fragile.run()
        assert len(wire.requests) < 25
        handed = [c for c in store.candidates() if c.proposer.startswith("openai")]
        assert store.evaluated() + len(handed) == 14


def test_a_server_that_sends_the_key_back_finds_it_in_no_record(tmp_path: Path) -> None:
    key = "planted-key-of-openai-0123456789"

    def telltale(number: int) -> Scripted:
        said = submission(number, hypothesis=f"Because {key} says so.")
        return tool_calls(said, ("look_up_op", {"name": key}), text=f"Your key is {key}.")

    with Wire(replies(telltale)) as wire:
        store = run(tmp_path, config_for(agent_of("openai", wire), evaluations=12))
        assert any("Because [redacted] says" in c.note for c in store.candidates())
        assert not any(key in json.dumps(r.body) for r in wire.requests)
    assert replay(store, prefix(store.config())).changes == ()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(key.encode() in p.read_bytes() for p in files)


@pytest.mark.parametrize("usage", [
    {"prompt": 0, "completion": 7}, {"prompt": 9, "completion": 0},
    {"prompt": -5, "completion": True}, {"prompt": 1.5, "completion": 7}, None,
])  # fmt: skip
def test_a_count_of_nothing_is_booked_at_the_bound(usage: Any, tmp_path: Path) -> None:
    with Wire(replies(lambda n: replace(tool_calls(submission(n)), usage=usage))) as wire:
        config = config_for(agent_of("openai", wire), evaluations=9, prices={"m": (1, 1, 1, 1)})
        store = run(tmp_path, config)
    counts = [e.count for e in Ledger(store).entries()]
    assert counts and all(c.estimated and c.prompt > 0 and c.completion > 0 for c in counts)
    assert all((c.dollars or 0.0) > 0 for c in counts)


def test_more_cannot_be_cached_than_was_sent(tmp_path: Path) -> None:
    usage = {"prompt": 10, "cached": 1 << 39, "written": 1 << 39, "completion": 1}
    with Wire(replies(lambda n: replace(tool_calls(submission(n)), usage=usage))) as wire:
        store = run(tmp_path, config_for(agent_of("openai", wire), evaluations=9))
    for count in (e.count for e in Ledger(store).entries()):
        assert count.cached + count.written <= count.prompt
