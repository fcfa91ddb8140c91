"""With --json an error is one object on standard output, with the exit code that it has without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.commands.outside import submitted
from agent.outside import judge_pending
from runs.records import RunConfig
from runs.store import Store
from vortex.errors import VortexError

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "search_spaces/block_topk/seeds/quest.py"
EXPECTED = ["--hypothesis", "x", "--compared-to", "4", "--expect-loss", "lower",
            "--expect-time", "same"]  # fmt: skip


def ran(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def error_of(done: Result) -> dict[str, Any]:
    """The error, where it is all that stands on standard output."""
    facts = json.loads(done.stdout)
    assert facts["ok"] is False and "Traceback" not in done.stderr
    assert '"error"' not in done.stderr and facts["error"]["message"] in done.stderr
    assert facts["error"].keys() == {"code", "message", "hint"}
    return dict(facts["error"])


@pytest.mark.parametrize(
    ("words", "code", "ends"),
    [
        (["check", "no-such.py"], "E192", 2),
        (["price", str(SEED), "--model", "no-such"], "E401", 2),
        (["evaluate", str(SEED), "--contexts", "0"], "E303", 2),
        (["leaderboard", "no-such"], "E606", 2),
        (["front", "no-such"], "E606", 2),
        (["show", "4", "--run", "no-such"], "E606", 2),
        (["compare", "4", "5"], "E606", 2),
        (["cost", "no-such"], "E606", 2),
        (["replay", "no-such"], "E606", 2),
        (["verify", "no-such"], "E801", 2),
        (["serve-eval", "no-such"], "E906", 2),
        (["submit", "no-such", str(SEED), *EXPECTED], "E606", 2),
    ],
)
def test_an_error_is_an_object_with_code_message_and_hint(
    words: list[str], code: str, ends: int
) -> None:
    plain, asked = ran(*words), ran(*words, "--json")
    assert plain.exit_code == asked.exit_code == ends
    assert error_of(asked)["code"] == code
    assert plain.stdout == "" and plain.stderr == asked.stderr


@pytest.mark.parametrize(
    "words",
    [["check"], ["check", "x", "--nonsense"], ["show", "four"], ["no-such-command"], ["start"]],
)
def test_what_the_command_line_refuses_is_one_too(words: list[str]) -> None:
    done = ran(*words, "--json")
    error = error_of(done)
    assert done.exit_code == 2 and error["code"] == "E303" and "--help" in error["hint"]
    assert "Usage:" in done.stderr


def test_json_behind_the_end_of_options_is_a_word_like_others() -> None:
    done = ran("check", "--", "--json")
    assert done.exit_code == 2 and done.stdout == "" and "E192" in done.stderr


def test_of_a_program_the_first_error_is_the_error_and_all_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(SEED.read_text().replace("k.min", "k.mn").replace("k.max", "k.mx"))
    done = ran("check", str(path), "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 2 and len(facts["errors"]) == 2
    assert {k: facts["errors"][0][k] for k in facts["error"]} == facts["error"]
    assert facts["errors"][0]["span"][0] > 1 and "bad.py" in done.stderr


def test_a_submission_that_the_machine_fails_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(evaluations=100, rungs=(3, 4), workers=1, throughput=False)
    store = Store.create(tmp_path, config, {})
    judge_pending(store, handler="tests.fake_evaluator:FakeEvaluator")
    text = SEED.read_text().replace("class Quest", "class Fresh").replace('.max("h', '.mean("h')
    handed = {"program": text, "hypothesis": "x", "compared_to": 4, "expected_loss": "lower",
              "expected_time": "same"}  # fmt: skip
    with pytest.raises(VortexError) as caught:
        submitted(store, handed, "outside", as_json=True,
                  handler="tests.fake_evaluator:BrokenEvaluator")  # fmt: skip
    store.close()
    assert caught.value.code == "E509" and "IndexError" in caught.value.message
    assert capsys.readouterr().out == "", "the error is the object that is printed"
