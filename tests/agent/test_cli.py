"""Bad input ends in one message and its exit code; good input gives data on stdout.

A process of Python takes seconds to begin, so commands run in this one; those run as a process of
their own whose ending, or the process itself, is what is tested.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.loop import Search
from agent.proposers.evolve import Evolve
from runs.records import RunConfig
from runs.store import Store

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "search_spaces/block_topk/seeds/quest.py"


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *words], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


def vortex(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, where an exception that would be a traceback is raised."""
    with contextlib.chdir(ROOT):
        done = CliRunner(env=environment).invoke(main, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of the fake evaluator, one candidate of it hostile."""
    folder = tmp_path_factory.mktemp("runs")
    config = RunConfig(evaluations=12, rungs=(3, 4), workers=1, throughput=False)
    store = Store.create(folder, config, {"processor": "<script>alert(1)</script>"})
    hostile = SEED.read_text().replace("class Quest", "class Script").replace("hi=", "  hi=")
    store.add(text=hostile, knobs={"budget": 600}, proposer="user",
              note="</script><script>alert(2)</script>\x1b[31m|`")  # fmt: skip
    Search(store, (Evolve(),), lambda p: None, lambda: False,
           handler="tests.fake_evaluator:FakeEvaluator").run()  # fmt: skip
    store.close()
    return folder


def test_check_shows_cost_and_hash() -> None:
    done = process("check", str(SEED), "--json", "--knob", "budget=2048")
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and facts["ok"] and facts["bytes_per_page"] == 2 * 64 * 2
    assert facts["attended_tokens"] == 2048


SPLIT = """import vortex as vx


class Split(vx.Algorithm):
    page_size = vx.choice(16, 8)

    def summarize(self, k, v):
        return vx.Summary(best=k.split("token", into=16, name="sub").mean("token"))

    def score(self, q, page):
        return vx.dot(q, page.best, "dim").max("head").max("sub")

    def select(self, score):
        return vx.top_k(score, tokens=512)
"""
WINDOW = """    def select(self):
        return vx.sinks(1) | vx.recent(tokens=512)
"""
BAD_TEXTS = {
    "syntax": "def (",
    "a megabyte": "#" * 1_000_000,
    "nested": "(" * 200_000 + ")" * 200_000,
    "shape": SEED.read_text().replace('.max("head")', ""),
    "unknown op": SEED.read_text().replace("k.min", "k.minimal"),
    "binary": "\x00\x01",
}


@pytest.mark.parametrize("command", ["check", "evaluate"])
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_programs_end_in_a_message(name: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD_TEXTS[name])
    done = vortex(command, str(path))
    assert done.returncode == 2 and "error[E1" in done.stderr and "Traceback" not in done.stderr
    assert "bad.py" in done.stderr


@pytest.mark.parametrize(("name", "command"), [("nested", "check"), ("a megabyte", "evaluate")])
def test_bad_programs_end_a_process_with_its_code(name: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD_TEXTS[name])
    done = process(command, str(path))
    assert done.returncode == 2 and "error[E1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_errors_of_a_program_as_json_end_with_the_same_code(command: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD_TEXTS["shape"])
    done = vortex(command, str(path), "--json")
    assert done.returncode == 2
    assert [e["code"] for e in json.loads(done.stdout)["errors"]] == ["E101"]


def test_check_tries_every_value_of_every_choice(tmp_path: Path) -> None:
    path = tmp_path / "split.py"
    path.write_text(SPLIT)
    done = vortex("check", str(path))
    assert done.returncode == 2 and "with page_size = 8" in done.stderr
    assert f"{path}:8:" in done.stderr and "^" in done.stderr


def test_a_program_without_fields_names_no_type_that_they_are_stored_as(tmp_path: Path) -> None:
    path = tmp_path / "window.py"
    path.write_text(SPLIT[: SPLIT.index("    def summarize")] + WINDOW)
    shown = vortex("check", str(path)).stdout
    assert "fields     none\n" in shown and "priced for smollm2-135m" in shown


def test_check_says_whether_an_engine_can_serve_a_program(tmp_path: Path) -> None:
    shown = vortex("check", str(SEED)).stdout
    assert shown.splitlines()[-1] == "  serving    every part has a kernel"
    path = tmp_path / "long_pages.py"
    library = SEED.parents[1] / "library/less_is_more.py"
    path.write_text(library.read_text().replace("vx.choice(16, 32)", "128"))
    facts = json.loads(vortex("check", str(path), "--json").stdout)
    assert facts["ok"] and not facts["servable"]
    assert "two wide axes" in facts["not_servable_because"]
    assert "no engine can serve it yet: " in vortex("check", str(path)).stdout


def test_price_counts_states_per_request(tmp_path: Path) -> None:
    h2o = str(SEED.parents[1] / "library/h2o.py")
    shown = vortex("price", h2o, "--model", "qwen3-1.7b").stdout
    assert "fields of 0.0 bytes per token" in shown and "1.8 MB per request" in shown
    assert json.loads(vortex("price", h2o, "--json").stdout)["bytes_per_request"] > 0
    assert "per request" not in vortex("price", str(SEED)).stdout


def test_the_package_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "agent", "--version"], cwd=ROOT, timeout=120,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith("vortex-search")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", str(SEED), "--knob", "budget=1"], "E202"),
        (["check", str(SEED), "--knob", "bugdet=1024"], "E201"),
        (["check", "no-such-file.py"], "E192"),
        (["check", str(SEED), "--model", "qwen3-17b"], "E401"),
        (["evaluate", str(SEED), "--contexts", "0"], "E303"),
        (["evaluate", str(SEED), "--contexts", "-1"], "E303"),
        (["evaluate", str(SEED), "--knob", "budget=1"], "E202"),
        (["minimise", str(SEED), "--contexts", "0"], "E303"),
        (["start", "--model", "no-such-model"], "E401"),
        (["start", "--model", "docs"], "E404"),
        (["start", "--contexts", "2"], "E303"),
        (["start", "--batch", "-1"], "E303"),
        (["start", "--device", "abacus"], "E303"),
        (["start", "--price-for", "abacus"], "E402"),
        (["start", "--seeds", "docs"], "E301"),
        (["start", "--config", "LICENSE"], "E303"),
        (["models", "fetch", "gpt-5"], "E406"),
        (["leaderboard", "--runs-dir", "docs"], "E606"),
        (["export", "--runs-dir", "docs", "-o", "x"], "E611"),
    ],
)
def test_bad_arguments_end_in_a_message(words: list[str], code: str, tmp_path: Path) -> None:
    extra = ["--runs-dir", str(tmp_path)] if words[0] == "start" else []
    done = vortex(*words, *extra)
    assert f"error[{code}]" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (2, 3)


def test_output_that_nobody_takes_is_no_traceback() -> None:
    command = f"{sys.executable} -m agent.cli check {SEED} --json"
    for ending, said, code in (("> /dev/full", "error[E604]", "3"), ("| true", "", "")):
        done = subprocess.run(
            ["bash", "-c", f"{command} {ending}; echo ${{PIPESTATUS[0]}}"], cwd=ROOT, timeout=120,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr.startswith(said) and "Traceback" not in done.stderr, ending
        assert "Exception" not in done.stderr
        assert not code or done.stdout.strip() == code


def test_an_unknown_option_is_a_usage_error() -> None:
    done = process("start", "--nonsense")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_leaderboard_reads_back(runs_dir: Path) -> None:
    data = json.loads(vortex("leaderboard", "--json", "--runs-dir", str(runs_dir)).stdout)
    table = list(csv.DictReader(io.StringIO(
        vortex("leaderboard", "--csv", "--runs-dir", str(runs_dir)).stdout)))  # fmt: skip
    assert {int(r["id"]) for r in table} == {r["id"] for r in data["rows"]}
    assert {r["name"] for r in table if r["control"] == "1"} == {"Full", "Oracle", "RandomPages"}
    kinds = [c.partition("_")[0] for c in table[0] if c.startswith(("measured", "predicted"))]
    assert set(kinds) == {"measured", "predicted"}
    text = vortex("leaderboard", "--runs-dir", str(runs_dir), NO_COLOR="1").stdout
    counts = data["statuses"]
    assert sum(counts.values()) == sum(not r["control"] for r in data["rows"])
    assert "(measured)" in text and "(predicted)" in text and "\x1b" not in text
    assert "up to 4 contexts" in text
    assert {r["loss_gap"]["n"] for r in data["rows"]} == {3, 4}, "racing stopped some"
    assert "controls" in vortex("leaderboard", "--markdown", "--runs-dir", str(runs_dir)).stdout


def test_untrusted_text_is_neutralised(runs_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert vortex("report", "-o", str(out), "--runs-dir", str(runs_dir)).returncode == 0
    page = out.read_text()
    assert "<script>alert" not in page and "\x1b" not in page
    assert page.count("</script>") == 2
    assert (
        "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    )
    for row in json.loads(vortex("leaderboard", "--json", "--runs-dir", str(runs_dir)).stdout)[
        "rows"
    ]:
        shown = vortex("show", str(row["id"]), "--runs-dir", str(runs_dir)).stdout
        assert "\x1b" not in shown


def test_export_holds_together_and_is_not_overwritten(runs_dir: Path, tmp_path: Path) -> None:
    import hashlib

    out = tmp_path / "winner"
    words = ("export", "--best", "-o", str(out), "--runs-dir", str(runs_dir))
    assert vortex(*words).returncode == 0
    sums = json.loads((out / "manifest.json").read_text())["sha256"]
    for name, digest in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert {m["origin"] for m in json.loads((out / "metrics.json").read_text())["metrics"].values()}
    assert vortex("check", str(out / "program.py")).returncode == 0
    again = vortex(*words)
    assert again.returncode == 2 and "E607" in again.stderr
    assert vortex(*words, "--force").returncode == 0


def test_compare_runs_and_unknown_candidates(runs_dir: Path) -> None:
    done = vortex("compare", "4", "5", "--json", "--runs-dir", str(runs_dir))
    assert json.loads(done.stdout)["loss gap"]["n"] >= 3
    assert vortex("runs", "--runs-dir", str(runs_dir)).stdout.count("judged") == 1
    missing = vortex("show", "999", "--runs-dir", str(runs_dir))
    assert missing.returncode == 2 and "E610" in missing.stderr


def test_two_processes_cannot_resume_one_run(runs_dir: Path) -> None:
    from runs.naming import find_run

    store = Store.open_to_write(find_run(runs_dir, None))
    done = process("resume", "--runs-dir", str(runs_dir))
    store.close()
    assert done.returncode == 3 and "E603" in done.stderr
