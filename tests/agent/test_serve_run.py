"""serve-eval of a run: what an engine measured is in the record, and wherever that is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.presentation import board_of
from agent.standing import standings
from evals.engine import sglang_engine
from evals.models.write_folder import gguf_to_folder
from evals.result import Stage, Status
from runs.engine import engine_results
from runs.store import Store
from tests.agent.searched_run import PROGRAM, searched_run
from tests.agent.test_serve_eval import CONFIG
from tests.evals.engine.fake import FakeEngine
from tests.evals.test_write_folder import small_gguf
from tests.runs.synthetic import new_store
from vortex.compile import compile_text
from vortex.exported import read_exported

WRONG = ("0?", "2?", "3?")
POINT = ("--throughput", "2x32", "--pairs", "2")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run to serve from."""
    return searched_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs_dir(tmp_path: Path, searched: Path) -> Path:
    """A copy of it that a test may write to."""
    return Path(shutil.copytree(searched, tmp_path / "runs"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's configuration, and weights in name."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "model.safetensors").write_text("")
    return made


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Four problems, whose answer is 42."""
    path = tmp_path / "p.jsonl"
    lines = [{"id": f"{i}", "prompt": f"{i}?", "answer": "42", "scorer": "exact"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


Engines = list[Any]
Making = Callable[..., Engines]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Making:
    """Scripted engines in SGLang's place; returns those that were started."""

    def made(**script: Any) -> Engines:
        found: Engines = []

        class Here(FakeEngine):
            def __init__(self, setup: Any) -> None:
                found.append(self)
                self.hash = read_exported(setup.export).candidate.candidate_hash
                super().__init__(weights="real" if setup.weights else "random", **script)

        monkeypatch.setattr(sglang_engine, "SGLangEngine", Here)
        return found

    return made


def vortex(runs_dir: Path, *words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--runs-dir", str(runs_dir)])


def code(result: Result) -> str:
    found = re.findall(r"error\[(E\d+)\]", result.stderr)
    assert result.exit_code in (1, 2, 3) and len(found) == 1, result.output
    return str(found[0])


def read(runs_dir: Path) -> Store:
    (folder,) = (p for p in runs_dir.iterdir() if p.is_dir())
    return Store.open_to_read(folder)


def front_of(runs_dir: Path) -> list[int]:
    store = read(runs_dir)
    return [s.record.id for s in standings(store, store.config()).front()]


def test_the_front_is_measured_each_in_an_engine_of_its_own_and_recorded(
    runs_dir: Path, model: Path, problems: Path, engines: Making
) -> None:
    started = engines(reply=lambda r, mode, n: "7" if mode == "sparse" and r.prompt in WRONG
                      else "42")  # fmt: skip
    front = front_of(runs_dir)
    assert front == [3, 4, 5]
    done = vortex(runs_dir, "serve-eval", "latest", "--weights", model, *POINT,
                  "--problems", problems)  # fmt: skip
    assert done.exit_code == 0, done.output
    store = read(runs_dir)
    hashes = {c.id: c.candidate_hash for c in store.candidates()}
    assert [e.hash for e in started] == [hashes[i] for i in front]
    assert all(e.closed for e in started)
    stages = {i: [s for s in found if s.stage == Stage.ENGINE]
              for i, found in store.stages().items()}  # fmt: skip
    assert {i for i, found in stages.items() if found} == set(front)
    (result,) = stages[front[0]]
    metrics = {(m.name, m.workload.partition(",")[0]): m for m in result.metrics}
    speedup = metrics["engine_decode_speedup", "2 x 32 tokens"]
    assert speedup.value == pytest.approx(2.0) and speedup.n == 2 and speedup.stderr is not None
    assert (speedup.unit, speedup.origin, speedup.device, speedup.model) == (
        "1", "measured", "clock", "none",
    )  # fmt: skip
    sparse, full = (metrics[f"engine_{side}decode_tokens_per_second", "2 x 32 tokens"].value
                    for side in ("", "full_"))  # fmt: skip
    assert sparse == pytest.approx(2 * full)
    gap = metrics["engine_mean@1_difference", "problems"]
    assert (gap.value, gap.n, gap.unit) == (-0.75, 4, "share") and gap.interval is not None
    assert gap.interval[0] <= gap.value <= gap.interval[1]
    assert front_of(runs_dir) == front, "a measurement is no verdict"
    assert f"  {front[0]} " in done.stdout and "decode_speedup 2" in done.stdout


def test_what_has_results_of_the_same_settings_is_left_out(
    runs_dir: Path, model: Path, engines: Making
) -> None:
    started, front = engines(), front_of(runs_dir)
    base = ("serve-eval", read(runs_dir).name, "--weights", model)
    assert vortex(runs_dir, *base, *POINT, "--id", front[0]).exit_code == 0
    assert len(started) == 1
    done = vortex(runs_dir, *base, *POINT, "--json")
    assert done.exit_code == 0, done.output
    assert [e.hash for e in started] == [
        c.candidate_hash for i in front for c in read(runs_dir).candidates() if c.id == i
    ]
    states = {c["id"]: c["state"] for c in json.loads(done.stdout)["candidates"]}
    assert states == {i: "kept" if i == front[0] else "measured" for i in front}
    vortex(runs_dir, *base, *POINT)
    assert len(started) == len(front)
    vortex(runs_dir, *base, "--throughput", "2x48", "--pairs", "2", "--id", front[0])
    vortex(runs_dir, *base, *POINT, "--id", front[0], "--again")
    assert len(started) == len(front) + 2
    assert [r.rung for r in engine_results(read(runs_dir))[front[0]]] == [0, 1, 2]


def test_a_kill_loses_no_candidate_that_was_measured_and_no_answer(
    runs_dir: Path, model: Path, problems: Path, engines: Making
) -> None:
    front = front_of(runs_dir)
    base = ("serve-eval", "latest", "--weights", model, "--problems", problems, "--at-once", 2)
    started = engines()
    assert vortex(runs_dir, *base, "--id", front[0]).exit_code == 0
    engines(breaks=1)
    killed = vortex(runs_dir, *base)
    assert isinstance(killed.exception, RuntimeError)
    assert [i for i in front if i in engine_results(read(runs_dir))] == [front[0]]
    started = engines()
    assert vortex(runs_dir, *base).exit_code == 0
    assert len(started) == len(front) - 1
    asked = [mode for mode, requests in started[0].calls for _ in requests]
    assert asked.count("full") == 0, "the first candidate's engine has asked these"
    assert asked.count("sparse") == 2, "two were answered before the kill"


def test_the_leaderboard_show_and_front_say_what_the_engine_measured(
    runs_dir: Path, model: Path, engines: Making
) -> None:
    engines()
    before = vortex(runs_dir, "leaderboard")
    assert "engine" not in before.stdout
    front = front_of(runs_dir)
    assert vortex(runs_dir, "serve-eval", "latest", "--weights", model, *POINT).exit_code == 0
    text = vortex(runs_dir, "leaderboard").stdout
    assert "engine speed-up" in text and "2.00 ± " in text
    assert "measured in fake 1 on clock, none, 2 x 32 tokens, 128 decoded" in text
    head = vortex(runs_dir, "leaderboard", "--markdown").stdout
    assert "engine speed-up (measured)" in head and "speed-up (predicted)" in head
    data = json.loads(vortex(runs_dir, "leaderboard", "--json").stdout)
    cells = {r["id"]: r["engine_speedup"]["value"] for r in data["rows"]}
    assert {i for i, value in cells.items() if value is not None} == set(front)
    assert data["origins"]["engine_speedup"] == "measured"
    assert "measured_engine_speedup" in vortex(runs_dir, "leaderboard", "--csv").stdout
    said = vortex(runs_dir, "show", front[0]).stdout
    assert re.search(r"decode_tokens_per_second 200 ± .*; full attention 100 ± .*\(n = 2\)", said)
    assert "measured in fake 1 on clock, none" in said
    assert "2.00x full attention in an engine (measured)" in vortex(runs_dir, "front").stdout
    report = vortex(runs_dir, "report")
    assert "engine speed-up" in Path(report.stdout.strip()).read_text()


def test_one_column_holds_one_setting(runs_dir: Path, model: Path, engines: Making) -> None:
    first, second = front_of(runs_dir)[:2]
    base = ("serve-eval", "latest", "--weights", model)
    engines()
    vortex(runs_dir, *base, *POINT)
    engines(each={"full": 0.05, "sparse": 0.01})
    vortex(runs_dir, *base, "--throughput", "4x32", "--pairs", "2", "--id", second)
    board = board_of(read(runs_dir))
    rows = {r.id: r for r in board.rows}
    assert "2 x 32 tokens" in board.engine and "4 x 32" not in board.engine
    assert rows[first].engine_speedup.value == rows[second].engine_speedup.value
    kept = {f.workload.partition(" tokens")[0] for f in rows[second].engine}
    assert kept == {"2 x 32", "4 x 32"}


def test_an_export_carries_what_the_engine_measured(
    runs_dir: Path, model: Path, engines: Making, tmp_path: Path
) -> None:
    engines()
    first = front_of(runs_dir)[0]
    vortex(runs_dir, "export", "--id", first, "-o", tmp_path / "before")
    vortex(runs_dir, "serve-eval", "latest", "--weights", model, *POINT, "--id", first)
    assert vortex(runs_dir, "export", "--id", first, "-o", tmp_path / "after").exit_code == 0
    before, after = ((tmp_path / n / "README.md").read_text() for n in ("before", "after"))
    assert "not been served" in before and "not been served" not in after
    assert "decode\\_speedup 2 ±" in after and "measured in fake 1 on clock" in after
    metrics = json.loads((tmp_path / "after" / "metrics.json").read_text())
    assert "engine_speedup" not in metrics["metrics"], "that would name the wrong device"
    (speedup,) = (f for f in metrics["engine"] if f["name"] == "engine_decode_speedup")
    assert (speedup["origin"], speedup["device"], speedup["place"]) == (
        "measured", "clock", "fake 1",
    )  # fmt: skip
    evidence = json.loads((tmp_path / "after" / "evidence.json").read_text())
    assert evidence["measured_in"] == ["fake 1 on clock, model none"]


def test_random_weights_are_said_and_give_no_accuracy(
    runs_dir: Path, model: Path, problems: Path, engines: Making
) -> None:
    engines()
    first = front_of(runs_dir)[0]
    done = vortex(runs_dir, "serve-eval", "latest", "--model", model, *POINT, "--id", first,
                  "--problems", problems)  # fmt: skip
    assert done.exit_code == 0, done.output
    (result,) = engine_results(read(runs_dir))[first]
    assert {f.place for f in result.figures} == {"fake 1, random weights"}
    assert not any("mean@" in f.name for f in result.figures)


def test_tokens_that_are_not_full_attention_s_are_a_verdict(
    runs_dir: Path, model: Path, engines: Making
) -> None:
    engines(reply=lambda r, mode, n: "ab" if mode == "full" else "xy")
    first = front_of(runs_dir)[0]
    done = vortex(runs_dir, "serve-eval", "latest", "--weights", model, *POINT, "--id", first)
    assert done.exit_code == 1 and "NOT MEASURED: with every page selected" in done.stderr
    (result,) = engine_results(read(runs_dir))[first]
    assert result.status == Status.MISMATCH and not result.figures
    assert first not in front_of(runs_dir)
    assert "every page selected" in vortex(runs_dir, "show", first).stdout


def test_a_load_that_was_not_measured_is_no_verdict_and_is_tried_again(
    runs_dir: Path, model: Path, engines: Making
) -> None:
    front = front_of(runs_dir)
    base = ("serve-eval", "latest", "--model", model, *POINT, "--id", front[0])
    engines(tokens=lambda asked: 1)
    done = vortex(runs_dir, *base)
    assert done.exit_code == 1 and "tokens were asked for, 1 came" in done.stderr
    assert front_of(runs_dir) == front and not engine_results(read(runs_dir))
    started = engines()
    assert vortex(runs_dir, *base).exit_code == 0 and len(started) == 1


def test_answers_of_our_own_executor_are_recorded_as_no_engine_s(
    runs_dir: Path, problems: Path, tmp_path: Path
) -> None:
    gguf_to_folder(str(small_gguf(tmp_path / "m.gguf", "llama")), tmp_path / "model")
    first = front_of(runs_dir)[0]
    done = vortex(runs_dir, "serve-eval", "latest", "--local", "--weights", tmp_path / "model",
                  "--problems", problems, "--max-new", 4, "--id", first)  # fmt: skip
    assert done.exit_code == 0, done.output
    (result,) = engine_results(read(runs_dir))[first]
    assert all(f.name.startswith("local_") and "own executor" in f.place for f in result.figures)
    assert any(f.name == "local_mean@1_difference" for f in result.figures)
    assert not any("per_second" in f.name for f in result.figures)
    assert "engine speed-up" not in vortex(runs_dir, "leaderboard").stdout
    vortex(runs_dir, "export", "--id", first, "-o", tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Answers of our own executor" in readme and "not been served" in readme


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["latest", "--url", "http://127.0.0.1:9/v1"], "E850"),
        (["{program}", "--id", "3"], "E850"),
        (["{program}", "--again"], "E850"),
        (["latest", "--id", "999"], "E610"),
        (["latest", "--id", "1"], "E610"),  # a control
        (["nothing", "--id", "5"], "E606"),
        (["nothing"], "E801"),
        (["latest"], "E906"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(
    words: list[str], expected: str, runs_dir: Path, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import vortex as vx\n")
    given = [w.format(program=tmp_path / "mine.py") for w in words]
    more = [] if expected == "E906" else POINT
    assert code(vortex(runs_dir, "serve-eval", *given, "--model", model, *more)) == expected


def test_a_run_without_a_front_says_so(tmp_path: Path, model: Path) -> None:
    new_store(tmp_path / "runs").close()
    done = vortex(tmp_path / "runs", "serve-eval", "latest", "--model", model, *POINT)
    assert code(done) == "E609"


def test_what_lies_at_the_path_goes_before_a_run_of_that_name(
    runs_dir: Path, model: Path, tmp_path: Path, engines: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines()
    first = front_of(runs_dir)[0]
    name = read(runs_dir).name
    monkeypatch.chdir(tmp_path)
    assert vortex(runs_dir, "export", "--id", first, "-o", name).exit_code == 0
    assert vortex(runs_dir, "serve-eval", name, "--model", model, *POINT).exit_code == 0
    assert not engine_results(read(runs_dir)) and (tmp_path / "serve-eval" / "report.md").is_file()
    base = ("--model", model, *POINT, "--id", first)
    assert vortex(runs_dir, "serve-eval", runs_dir / name, *base).exit_code == 0
    assert engine_results(read(runs_dir))
    assert (runs_dir / name / "engine" / str(first) / "report.md").is_file()


def test_a_program_that_no_engine_can_serve_is_passed_over_and_said(
    runs_dir: Path, model: Path, engines: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vortex.triton import launches

    started = engines()
    lossy = compile_text(PROGRAM, {"budget": 512}).candidate_hash
    monkeypatch.setattr(launches, "unservable", lambda candidate, shape: (
        "'score' has no kernel" if candidate.candidate_hash == lossy else ""))  # fmt: skip
    done = vortex(runs_dir, "serve-eval", "latest", "--model", model, *POINT, "--json")
    assert done.exit_code == 1
    assert "candidate 3: no engine can serve it yet: 'score' has no kernel" in done.stderr
    states = [(c["id"], c["state"]) for c in json.loads(done.stdout)["candidates"]]
    assert states == [(3, "unservable"), (4, "measured"), (5, "measured")]
    assert len(started) == 2 and front_of(runs_dir) == [3, 4, 5]


def test_another_backend_of_full_attention_is_another_setting(
    runs_dir: Path, model: Path, engines: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = engines()
    base = ("serve-eval", "latest", "--model", model, *POINT, "--id", 3)
    for inner in ("", "", "triton", "triton"):
        monkeypatch.setenv("SGLANG_VORTEX_INNER", inner)
        assert vortex(runs_dir, *base).exit_code == 0
    assert len(started) == 2


def test_a_candidate_of_which_one_load_was_not_measured_is_measured_again(
    runs_dir: Path, model: Path, engines: Making
) -> None:
    base = ("serve-eval", "latest", "--model", model, "--throughput", "2x32,3x32", "--pairs", "2",
            "--id", 3)  # fmt: skip
    first_load = 20  # calls of an engine
    engines(cached=lambda call: 0 if call <= first_load else 100 * call)
    done = vortex(runs_dir, *base)
    assert done.exit_code == 1 and "NOT MEASURED: 3 x 32: caches served" in done.stderr
    (partial,) = engine_results(read(runs_dir))[3]
    assert {f.workload.partition(" tokens")[0] for f in partial.figures} == {"2 x 32"}
    assert 3 in front_of(runs_dir)
    started = engines()
    assert vortex(runs_dir, *base).exit_code == 0
    assert vortex(runs_dir, *base).exit_code == 0 and len(started) == 1
    loads = {f.workload.partition(" tokens")[0] for f in board_of(read(runs_dir)).rows[0].engine}
    assert loads == {"2 x 32", "3 x 32"}
