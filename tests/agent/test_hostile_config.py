"""Options and files of a user who errs: one message, never a traceback, never a cap that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.commands.configure import make_config
from runs.records import RunConfig
from runs.store import Store
from vortex.errors import VortexError

LINES = (
    "contexts = [1]", 'contexts = "many"', "contexts = nan", "sweep = 5", 'sweep = ["a"]',
    "sweep = [[1]]", "model = 3", "model = [1]", "device = 3", "device = [1]", "price_for = 3",
    "agents = 3", "agents = [[1]]", "agent = true", 'agents = {a = "b"}', "prices = 3",
    "prices = [3]", 'prices = {m = "x"}', "prices = {m = [1, 2]}", "prices = {m = [-1, 0, 0, 0]}",
    "prices = {m = [nan, 0, 0, 0]}", "prices = {m = [inf, 0, 0, 0]}", "max_cost = nan",
    "max_cost = inf", "max_cost = -1", "max_tokens = 1.5", "max_tokens = 0", "fill = nan",
    "fill = 2", "timeout = inf", "minutes = inf", "minutes = nan", "gpu_seconds = nan",
    "parallel_turns = 0", "strategy = 3", "seeds_dir = 3", "nonsense = 1", "workers = 1979-05-27",
    "evaluations = 9223372036854775807000", "min_recovered = nan",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_value_in_a_file_is_refused_with_a_message(line: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(line + "\n")
    with pytest.raises(VortexError) as found:
        make_config(path, {"device": "cpu"} if "device" not in line else {})
    assert found.value.code in ("E303", "E401", "E404", "E402", "E702", "E704")


@pytest.mark.parametrize("words", [("--max-cost", "nan"), ("--max-cost", "inf"),
                                   ("--minutes", "inf"), ("--fill", "nan")])  # fmt: skip
def test_a_cap_that_is_no_number_is_refused(
    words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.commands.search._make_ready", lambda config: pytest.fail("begun"))
    done = CliRunner().invoke(main, ["start", *words, "--runs-dir", str(tmp_path)])
    assert done.exit_code == 2 and "E303" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--max-cost", "inf"), ("--minutes", "inf")])
def test_a_run_is_not_taken_up_with_a_cap_that_is_no_number(
    words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path, RunConfig(), {})
    store.close()
    monkeypatch.setattr("agent.commands.search._make_ready", lambda config: pytest.fail("begun"))
    done = CliRunner().invoke(main, ["resume", *words, "--runs-dir", str(tmp_path)])
    assert done.exit_code == 2 and "E303" in done.stderr


def test_a_change_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    config = RunConfig(agents=("openai:m@https://example.invalid/v1",))
    store = Store.create(tmp_path, config, {})
    store.close()
    done = CliRunner().invoke(main, ["resume", "--max-cost", "5", "--runs-dir", str(tmp_path)])
    assert done.exit_code != 0 and "E708" in done.stderr
    assert Store.open_to_read(store.folder).config().max_cost is None
