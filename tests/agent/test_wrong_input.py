"""What a user may get wrong at the commands ends in one message that names the repair."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.loop import controls_problem
from agent.outside import judge_pending
from agent.standing import standings
from runs.records import RunConfig
from runs.store import Store

ROOT = Path(__file__).resolve().parents[2]
SEED = str(ROOT / "search_spaces/block_topk/seeds/quest.py")
RUNS = ["--runs-dir", str(ROOT / "docs" / "runs")]


def ran(*words: str) -> Result:
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.mark.parametrize("top", ["0", "-3"])
def test_a_leaderboard_of_no_candidates_is_refused(top: str) -> None:
    done = ran("leaderboard", *RUNS, "--top", top)
    assert done.exit_code == 2 and "--top" in done.stderr and not done.stdout


@pytest.mark.parametrize("form", ["--json", "--csv", "--markdown"])
def test_every_form_of_the_leaderboard_shows_as_many_as_asked_for(form: str) -> None:
    shown, few = ran("leaderboard", *RUNS, form), ran("leaderboard", *RUNS, form, "--top", "3")
    assert len(few.stdout) < len(shown.stdout)
    if form == "--json":
        assert [r["control"] for r in json.loads(few.stdout)["rows"]].count(False) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["check", SEED, "--context", "9" * 24], "E302", "at most"),
        (["price", SEED, "--batch", "9" * 30], "E302", "at most"),
        (["check", "."], "E192", "cannot read .: Is a directory"),
        (["minimise", SEED, "--tolerance", "nan"], "E303", "share"),
        (["minimise", SEED, "--tolerance", "-1"], "E303", "share"),
        (["minimise", SEED, "--knob", "x=1"], "E201", "its knobs are"),
        (["minimise", "/dev/null"], "E112", "expected one class"),
        (["import", SEED, "--config", str(ROOT / "LICENSE")], "E308", "a JSON object"),
        (["compare", "4", "agent-smollm2", *RUNS], "E606", "two numbers are candidates"),
        (["verify", "/dev/null"], "E801", "there is no program"),
        (["verify", "no-such"], "E801", "there is no program"),
        (["export", "--best", "-o", str(ROOT / "LICENSE"), *RUNS], "E607", "is a file"),
        (["serve-eval", "x", "--throughput", "1x" + "9" * 20], "E907", "16x32768"),
        (["serve-eval", "x", "--temperature", "nan"], "E907", "of 0 or more"),
    ],
)
def test_wrong_input_is_one_message(words: list[str], code: str, said: str) -> None:
    done = ran(*words)
    assert done.exit_code == 2 and f"error[{code}]" in done.stderr and said in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "a", "b", "--seed", "-1"],
        ["verify", "x", "--context", "0"],
        ["seal", "--workers", "0"],
        ["submit", "r", SEED, "--hypothesis", "x", "--compared-to", "9" * 30],
    ],
)
def test_numbers_out_of_range_are_refused_by_their_option(words: list[str]) -> None:
    done = ran(*words)
    assert done.exit_code == 2 and "is not in the range" in done.stderr


@pytest.mark.parametrize("url", ["http://[::", "http://127.0.0.1:99999", "http://127.0.0.1:0"])
def test_a_url_that_is_none_is_said(url: str, tmp_path: Path) -> None:
    program = tmp_path / "p.py"
    program.write_text(Path(SEED).read_text())
    done = ran("serve-eval", str(program), "--url", url, "--throughput", "1x5", "-o",
               str(tmp_path / "o"))  # fmt: skip
    assert done.exit_code == 2 and "E906" in done.stderr and "no URL of a server" in done.stderr


def test_a_manifest_with_names_that_no_file_has_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {"a\0b": "x"}}))
    done = ran("verify", str(tmp_path))
    assert done.exit_code == 2 and "E802" in done.stderr


def test_an_exported_file_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {"program.py": "x"}}))
    (tmp_path / "program.py").write_text("x")

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    done = ran("verify", str(tmp_path))
    assert done.exit_code == 2 and "E801" in done.stderr and "Permission denied" in done.stderr


def test_a_cache_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX_CACHE", "/dev/null/x")
    done = ran("evaluate", SEED, "--contexts", "1", "--device", "cpu")
    assert done.exit_code == 3 and "E604" in done.stderr and "VORTEX_CACHE" in done.stderr
    assert "/dev/null is a file where a folder is needed" in done.stderr


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    done = ran("runs", "--runs-dir", str(tmp_path / "none"))
    assert done.exit_code == 0 and not done.stdout and "there is no run in" in done.stderr


def test_a_runs_folder_that_cannot_be_made_names_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ran("report", *RUNS, "-o", str(tmp_path / "file" / "below" / "r.html"))
    assert done.exit_code == 3 and f"{tmp_path / 'file'} is a file where a folder" in done.stderr
    done = ran("report", *RUNS, "-o", str(tmp_path))
    assert done.exit_code == 3 and f"{tmp_path} is a folder" in done.stderr


def test_candidates_that_were_not_judged_are_compared_without_infinity(tmp_path: Path) -> None:
    store = Store.create(tmp_path, RunConfig(), {})
    for name in ("A", "B"):
        store.add(text=f"class {name}: ...", knobs={}, proposer="user", name=name)
    store.close()
    words = ["compare", "1", "2", "--runs-dir", str(tmp_path)]
    assert json.loads(ran(*words, "--json").stdout)["predicted_step_seconds"] == [None, None]
    shown = ran(*words)
    assert shown.exit_code == 0 and "step         – against –" in shown.stdout
    assert "Infinity" not in ran(*words, "--json").stdout and "inf" not in shown.stdout


def test_a_run_without_candidates_says_so(tmp_path: Path) -> None:
    Store.create(tmp_path, RunConfig(), {}).close()
    done = ran("show", "1", "--runs-dir", str(tmp_path))
    assert done.exit_code == 2 and "hint: it has none yet" in done.stderr


def test_export_says_what_it_chose_and_by_which_rule(tmp_path: Path) -> None:
    shown = " ".join(ran("export", "--help").stdout.split())
    assert "whose loss gap plus 1.64 standard errors is at most 0.25; if none is, the one with " \
           "the smallest loss gap" in shown  # fmt: skip
    done = ran("export", "--best", "-o", str(tmp_path / "w"), *RUNS)
    chosen = done.stderr.splitlines()[0]
    number = json.loads((tmp_path / "w" / "metrics.json").read_text())["candidate"]
    assert chosen.startswith(f"chose candidate {number} ") and " plus 1.64 standard" in chosen
    named = ran("export", "--id", str(number), "-o", str(tmp_path / "v"), *RUNS)
    assert "chose candidate" not in named.stderr, "the user did"


def test_controls_out_of_order_are_called_as_everywhere_else(tmp_path: Path) -> None:
    config = RunConfig(evaluations=100, rungs=(3,), workers=1, throughput=False)
    store = Store.create(tmp_path, config, {})
    judge_pending(store, handler="tests.fake_evaluator:FakeEvaluator")
    now = standings(store, config)
    store.close()
    assert controls_problem(now) == ""
    random, oracle = (now.control(name) for name in ("RandomPages", "Oracle"))
    assert random is not None and oracle is not None
    swapped = {
        **now.by_id, random.record.id: dataclasses.replace(random, samples=oracle.samples),
        oracle.record.id: dataclasses.replace(oracle, samples=random.samples),
    }  # fmt: skip
    problem = controls_problem(dataclasses.replace(now, by_id=swapped))
    assert "nats more than random pages on the needle task" in problem
    assert "RandomPages" not in problem
