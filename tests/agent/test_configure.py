"""Options of a run: all that is wrong is said, the first given first, and nothing is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.commands.configure import make_config
from runs.records import RunConfig
from runs.store import Store
from vortex.errors import VortexError


def started(tmp_path: Path, *words: str) -> str:
    """What is said about options with which no run can be made."""
    done = CliRunner().invoke(main, ["start", *words, "--runs-dir", str(tmp_path / "r")])
    assert done.exit_code == 2 and not (tmp_path / "r").exists(), done.output
    return done.stderr.splitlines()[0]


def test_several_wrong_options_are_said_together_in_their_order(tmp_path: Path) -> None:
    wrong = ["--batch", "-1", "--contexts", "2", "--device", "abacus", "--model", "none",
             "--sweep", "1,x", "--max-tokens", "0", "--price-for", "sundial"]  # fmt: skip
    said = started(tmp_path, *wrong)
    order = [said.index(word) for word in ("batch:", "3 contexts", "'abacus'", "'none' [E401]",
                                           "sweep:", "max_tokens:", "'sundial'")]  # fmt: skip
    assert said.startswith("error[E303]: batch:") and order == sorted(order)
    turned = started(tmp_path, "--model", "none", "--batch", "-1")
    assert turned.startswith("error[E401]: unknown model 'none'; batch:")


def test_one_wrong_option_keeps_its_own_hint() -> None:
    with pytest.raises(VortexError) as caught:
        make_config(None, {"device": "cpu", "contexts": 2})
    assert (caught.value.code, caught.value.hint) == ("E303", "--contexts 12")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max-cost", "5"], "--max-cost"),
        (["--max-tokens", "1000"], "--max-tokens"),
        (["--price", "m=1,2,3,4"], "--price"),
        (["--strategy", "independent"], "--strategy independent"),
        (["--parallel-turns", "3"], "--parallel-turns"),
        (["--fill", "0"], "--fill"),
        (["--fill", "0", "--max-cost", "5"], "--max-cost, --fill"),
    ],
)
def test_what_only_language_models_read_is_refused_without_one(
    words: list[str], named: str, tmp_path: Path
) -> None:
    said = started(tmp_path, *words, "--device", "cpu")
    assert said == f"error[E303]: {named}: for language models, and no --agent is named"


def test_a_file_is_held_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("max_cost = 5\nbatch = 0\n")
    with pytest.raises(VortexError) as caught:
        make_config(path, {"device": "cpu"})
    assert "batch:" in caught.value.message and "--max-cost: for lang" in caught.value.message


def test_an_option_that_is_wrong_in_itself_is_said_once() -> None:
    with pytest.raises(VortexError) as caught:
        make_config(None, {"device": "cpu", "max_cost": float("nan")})
    assert caught.value.message.count("max") == 1


@pytest.mark.parametrize("sweep", ["1024,-5", "0", "1e3", "1024,,x"])
def test_budgets_that_are_none_are_refused(sweep: str) -> None:
    with pytest.raises(VortexError) as caught:
        make_config(None, {"device": "cpu", "sweep": sweep})
    assert caught.value.code == "E303" and "sweep" in caught.value.message


def test_a_run_without_language_models_is_not_taken_up_with_a_cap_for_them(tmp_path: Path) -> None:
    Store.create(tmp_path, RunConfig(), {}).close()
    done = CliRunner().invoke(main, ["resume", "--max-tokens", "5", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 2 and "--max-tokens: for language models" in done.stderr


def test_seeds_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(VortexError) as caught:
        make_config(None, {"device": "cpu", "seeds_dir": str(tmp_path)})
    assert caught.value.code == "E301" and "UTF-8" in caught.value.message


def test_more_contexts_than_any_machine_gets_through_are_refused() -> None:
    for command in (["start"], ["evaluate", "x.py"], ["minimise", "x.py"], ["seal"]):
        done = CliRunner().invoke(main, [*command, "--contexts", "99999999999"])
        assert done.exit_code == 2 and "E303" in done.stderr and "too many" in done.stderr, command


def test_wrong_caps_of_a_run_that_goes_on_are_named_and_said_together(tmp_path: Path) -> None:
    store = Store.create(tmp_path, RunConfig(), {})
    store.close()
    words = ["resume", "--workers", "0", "--minutes", "nan", "--max-cost", "3"]
    done = CliRunner().invoke(main, [*words, "--runs-dir", str(tmp_path)])
    said = done.stderr.splitlines()[0]
    assert done.exit_code == 2
    assert said.index("workers:") < said.index("minutes:") < said.index("--max-cost: for")
    assert Store.open_to_read(store.folder).config() == RunConfig()


@pytest.mark.parametrize("option", ["workers", "batch", "context"])
def test_sizes_that_no_machine_has_are_refused(option: str) -> None:
    with pytest.raises(VortexError) as caught:
        make_config(None, {"device": "cpu", option: 10**11})
    assert caught.value.code in ("E302", "E303") and option in caught.value.message
