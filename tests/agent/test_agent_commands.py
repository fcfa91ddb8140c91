"""The command line of a run with language models: refusals, cost, replay, what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import main
from agent.commands.replay import live
from agent.llm.prefix import prefix
from runs.store import Store
from search_spaces.grammar import program
from tests.agent.llm.driving import Guesser, config_for, run
from tests.agent.providers.wire import Wire

NEW_PROGRAM = program(4321)


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main.main(args=list(words), prog_name="vortex-search")
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one finished run."""
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    with Wire(Guesser()) as wire:
        run(tmp_path / "runs", config_for(f"openai:m@{wire.url}/v1", evaluations=14)).close()
    yield tmp_path / "runs"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--agent", "nobody"], "E702"),
        (["--agent", "openai:m@http://user:secret@127.0.0.1/v1"], "E702"),
        (["--agent", "openai:m", "--price", "m=1,2"], "E704"),
        (["--agent", "openai:unheard-of", "--max-cost", "1"], "E708"),
        (["--strategy", "independent"], "E303"),
        (["--agent", "openai:m@http://127.0.0.1:9/v1", "--max-tokens", "-1"], "E303"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_is_made(
    words: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("start", *words, "--device", "cpu", "--runs-dir", str(tmp_path / "r")) == 2
    error = capsys.readouterr().err
    assert f"error[{code}]" in error and "secret" not in error
    assert not (tmp_path / "r").exists()


def test_a_server_that_is_not_there_is_said_in_one_line_and_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.commands.search._make_ready", lambda config: None)
    words = ["start", "--agent", "openai:m@http://127.0.0.1:9/v1", "--device", "cpu"]
    assert command(*words, "--runs-dir", str(tmp_path / "r")) == 3
    error = capsys.readouterr().err
    assert "error[E701]" in error and "127.0.0.1:9" in error and "Traceback" not in error
    assert not list((tmp_path / "r").iterdir())
    command(*words, "--gpu-seconds", "9", "--runs-dir", str(tmp_path / "r"))
    assert "note: --gpu-seconds caps nothing" in capsys.readouterr().err.splitlines()[0]


def test_cost_is_shown_and_is_data(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("cost", "--runs-dir", str(runs)) == 0
    text = capsys.readouterr().out
    assert "programs (100% of its turns)" in text and "tokens sent per program" in text
    assert command("cost", "--json", "--runs-dir", str(runs)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["tokens"]["prompt"] == 100 * row["requests"]["answered"]
    assert row["dollars"] == 0


def test_a_replay_says_that_nothing_changed_or_what_did(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("replay", "--runs-dir", str(runs)) == 0
    assert "is what was recorded" in capsys.readouterr().out
    monkeypatch.setattr(
        "agent.commands.replay.prefix", lambda config: prefix(config) + "One more rule.\n"
    )
    assert command("replay", "--runs-dir", str(runs)) == 1
    shown = capsys.readouterr().out
    assert "system prompt changed" in shown and "+One more rule." in shown


def test_a_live_replay_judges_every_candidate_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.commands.replay.Search", quick_search())
    store = Store.open_to_read(next(runs.iterdir()))
    judged = live(store, handler="fake")
    assert len(judged) == len(store.candidates())
    assert [j for j in judged if j.before != j.after or j.worst] == []
    assert sum(j.samples for j in judged) > 0


def quick_search() -> object:
    from tests.agent.llm.driving import QuickSearch

    return QuickSearch


def test_a_candidate_is_shown_with_what_was_claimed_of_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open_to_read(next(runs.iterdir()))
    mine = [c for c in store.candidates() if c.proposer.startswith("openai")][-1]
    assert command("show", str(mine.id), "--runs-dir", str(runs)) == 0
    text = capsys.readouterr().out
    assert "claimed against 4: loss lower, time same" in text
    assert any(word in text for word in ("confirmed", "refuted", "unclear", "failed", "waiting"))


def test_a_capped_run_is_resumed_to_judge_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VORTEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("agent.commands.search._make_ready", lambda config: None)
    monkeypatch.setattr("agent.commands.search.Search", quick_search())
    with Wire(Guesser()) as wire:
        store = run(tmp_path / "runs", config_for(f"openai:m@{wire.url}/v1", evaluations=14))
        asked = len(wire.requests)
        text = NEW_PROGRAM
        candidate, _ = store.add(text=text, knobs={}, proposer=f"openai:m@{wire.url}/v1")
        store.close()
        words = ["resume", "--evaluations", "40", "--max-tokens", "100"]
        assert command(*words, "--runs-dir", str(tmp_path / "runs")) == 0
        assert len(wire.requests) == asked, "the cap leaves no room for a request"
    assert "what waits is judged" in capsys.readouterr().err
    reading = Store.open_to_read(store.folder)
    assert candidate in reading.stages()
    assert reading.evaluated() == 15, "nothing else was proposed"


def test_a_run_with_nothing_left_asks_nobody(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent.commands.search._make_ready", lambda config: None)
    monkeypatch.setattr("agent.commands.search.Search", quick_search())
    assert command("resume", "--runs-dir", str(runs)) == 0  # its server is gone: asking would fail
    assert "asking" not in capsys.readouterr().err


def test_a_control_is_not_exported(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", "--id", "1", "-o", str(tmp_path / "w"), "--runs-dir", str(runs)) == 2
    assert "E610" in capsys.readouterr().err and not (tmp_path / "w").exists()
