"""The documents say what is there: every error code is listed, and every listed code exists."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from agent.cli import main
from agent.presentation import board_of
from runs.board import COLUMNS, cell_of, shown
from runs.records import RunConfig
from runs.store import Store
from search_spaces.block_topk import library
from vortex import compile_text
from vortex.cost import price
from vortex.devices import device
from vortex.errors import ExitCode
from vortex.geometry import Workload, geometry
from vortex.handbook import reference
from vortex.reference import selected_pages

ROOT = Path(__file__).resolve().parent.parent
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def codes_in_source() -> set[str]:
    packages = ("vortex", "search_spaces", "evals", "runs", "agent")
    files = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    return {c for f in files for c in re.findall(r'"(E[1-9]\d\d)"', f.read_text(encoding="utf-8"))}


def rows(pattern: str) -> set[str]:
    return set(re.findall(rf"^\| ({pattern}) \| \S", ERRORS, re.MULTILINE))


def test_every_error_code_is_documented_and_every_documented_code_exists() -> None:
    assert rows(r"E\d{3}") == codes_in_source()


def test_every_exit_code_is_documented() -> None:
    codes = {str(value) for name, value in vars(ExitCode).items() if name.isupper()}
    assert rows(r"\d+") == codes


def test_the_language_reference_is_the_op_table_s() -> None:
    assert (ROOT / "docs" / "language.md").read_text(encoding="utf-8") == reference()


TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(import vortex.*?)```", TUTORIAL, re.DOTALL)


@pytest.mark.parametrize("text", PROGRAMS)
def test_every_program_of_the_tutorial_chooses_pages(text: str) -> None:
    candidate = compile_text(text)
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 4000, 16, generator=g) for _ in range(2))
    q = torch.randn(2, 3, 16, generator=g)
    found = selected_pages(candidate, q, k, v, scale=0.25, context=4000, workload_context=32768)
    assert all(0 < len(pages) < 60 for pages in found)


def test_the_tutorial_has_its_programs() -> None:
    names = [re.findall(r"class (\w+)", text)[0] for text in PROGRAMS]
    assert names == ["Window", "Mean", "Quest", "Fp8Quest", "NarrowQuest", "Parts"]


def test_what_the_tutorial_says_a_program_costs_is_what_it_costs() -> None:
    config, costs = RunConfig(), {}
    workload = Workload(config.batch, config.context)
    for candidate in map(compile_text, PROGRAMS):
        cost = price(candidate, geometry(config.model), workload, device(config.price_for))
        costs[candidate.program.name] = f"{cost.sparse.seconds * 1e3:.3f}"
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) ms", TUTORIAL, re.MULTILINE)
    assert len(rows) == 3 and all(costs[name] == shown for name, shown in rows)


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_the_readme_shows_of_check_is_what_check_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert CliRunner().invoke(main, ["check", str(path)]).stdout == said


def _table(text: str, start: str) -> list[list[str]]:
    """Cells of the table whose first line starts so."""
    block = text[text.index(start) :].split("\n\n", maxsplit=1)[0]
    return [[c.strip() for c in line.strip("| ").split("|")] for line in block.splitlines()]


def test_the_readme_s_rows_of_serving_are_those_that_were_measured() -> None:
    lines = (ROOT / "benchmarks/results/sglang_models_h200.jsonl").read_text().splitlines()
    measured = {
        (r["rows"], round(r["context"] / 1000, 1), f"{r['ratio']:.2f} ± {r['stderr']:.2f}")
        for r in map(json.loads, lines) if "ratio" in r
    }  # fmt: skip
    _, _, *rows = _table(README, "| shape | tokens attended")
    assert len(rows) == 5
    for _, _, load, told, ideal in rows:
        many, long = re.findall(r"^(\d+) x ([\d.]+)K", load)[0]
        assert (int(many), float(long), told.split(",")[0]) in measured and float(ideal) > 1


def test_the_errors_of_the_cost_model_are_those_of_the_measured_points() -> None:
    pytest.importorskip("triton")
    from benchmarks.gpu_cost import points_of, table

    found = points_of(ROOT / "benchmarks/results/gpu_points_h200.json")
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    whole = _table(text, "| points | stage | within 15%")
    assert whole == _table(table(found, device("h200")), "| points")
    stages = {"routing and attention": "step", "full attention": "full"}
    _, _, *short = _table(text, "| held out | stage | within 15%")
    assert len(short) == 4
    for kind, stage, *cells in short:
        assert [f"held out, {kind}", stages[stage], *cells] in whole


def test_the_experiment_s_times_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/latent_tiles_h200.json").read_text())
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    _, _, *rows = _table(text, "| GLM-4.7-Flash's attention, 2,048 attended")
    assert len(rows) == 4
    for load, *told in rows:
        batch, context = load.replace(",", "").split(" x ")
        name = f"mla-{int(context) // 1024}k-b{batch}-p64"
        plain, copied = (found[k]["cases"][name]["microseconds"] for k in ("plain", "copied"))
        numbers = [float(n.replace(",", "")) for n in told]
        for i, stage in enumerate(("attend", "step", "full")):
            for number, times in zip(numbers[2 * i : 2 * i + 2], (plain, copied), strict=True):
                assert abs(number - times[stage][0]) <= (0.5 if stage == "full" else 0.051)
        assert abs(numbers[6] - found["copied"]["cases"][name]["flash_mla"][0]) <= 0.5


def test_the_front_in_the_engine_is_the_one_that_was_measured() -> None:
    lines = (ROOT / "benchmarks/results/tutorial_h200.jsonl").read_text().splitlines()
    measured = {r["candidate"]: r for r in map(json.loads, lines) if r["what"] == "engine"}
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    _, _, *rows = _table(text, "| candidate | tokens attended")
    assert len(rows) == len(measured)
    for name, _, _, rate, ratio, goodput, needles in rows:
        found = measured[int(re.findall(r"#(\d+)", name)[0])]
        assert name.endswith("(t)") == found["beside_other_work"]
        by = {(f["name"], f["mode"]): f for f in found["figures"]}
        assert rate == f"{by['decode_tokens_per_second', 'sparse']['value']:,.0f}"
        for told, key, form in (
            (ratio, ("decode_speedup", "sparse / full"), "{value:.2f} ± {stderr:.2f}"),
            (needles, ("mean@1_difference", "sparse - full"), "{value:+.2f} ± {stderr:.2f}"),
        ):
            assert told == form.format(**by[key])
        both = [by["goodput", mode]["value"] for mode in ("sparse", "full")]
        assert goodput == f"{both[0] / both[1]:.2f}"


def test_a_real_model_s_scores_in_the_engine_are_those_that_were_recorded() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    _, _, *rows = _table(text, "| attention | tokens attended | in the engine")
    folder = ROOT / "benchmarks/results/real_model"
    lines = (folder / "agreement.jsonl").read_text().splitlines()
    found = {r["program"]: r for r in map(json.loads, lines)}
    assert len(rows) == len(found) == 4
    for name, _, *cells in rows:
        row = found["full attention" if name == "full" else name]
        pairs = [("", *row["engine"]), ("", *row["local"]), ("+", *row["difference"])]
        for side in ("engine", "local") if name != "full" else ():
            figures = json.loads((folder / side / f"{name}.json").read_text())["figures"]
            (metric,) = [f["metric"] for f in figures if f["where"] == "all"
                         and f["metric"]["name"] == "mean@1_difference"]  # fmt: skip
            pairs.append(("+", metric["value"], metric["stderr"]))
        told = [f"{value:{sign}.3f} ± {error:.3f}" for sign, value, error in pairs]
        assert [c for c in cells if c] == told


def test_the_readme_s_rows_are_those_of_the_recorded_run(tmp_path: Path) -> None:
    # A copy: reading a database in WAL mode writes beside it.
    shutil.copy(ROOT / "docs/runs/agent-smollm2/run.db", tmp_path)
    with contextlib.closing(Store.open_to_read(tmp_path)) as store:
        board = board_of(store)
    by_id, form = {r.id: r for r in board.rows}, {f"{h} ({o})": (a, f) for h, a, f, o in COLUMNS}
    heads, _, *rows = _table(README, "| id | name")
    assert heads[:3] == ["id", "name", "from"] and len(rows) == 7
    for number, name, _, *cells in rows:
        row = by_id[int(number.removesuffix("\\*"))]
        assert (name, number.endswith("*")) == (row.name, row.on_front)
        assert cells == [shown(cell_of(row, form[h][0]), form[h][1]) for h in heads[3:]]


def test_every_algorithm_has_its_row() -> None:
    table = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert all(f"| [{program.name}](" in table for program in library())


def command_lines() -> list[tuple[str, str]]:
    """Lines of shell blocks that call our command, with the document that has them."""
    found = []
    for path in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"):
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        blocks += re.findall(r"(?:^    \S.*\n)+", text, re.MULTILINE)
        lines = re.findall(r"^ *(?:\w+=\S+ +)*vortex-search .*$", "".join(blocks), re.MULTILINE)
        for part in (p for line in lines for p in line.split("&&")):
            if "vortex-search " in part:
                found.append((path.name, part.split("vortex-search ", 1)[1]))
    return found


@pytest.mark.parametrize(("document", "line"), command_lines())
def test_commands_that_documents_show_are_read_by_the_command_line(
    document: str, line: str
) -> None:
    """Options exist and their values parse; nothing is run."""
    words = shlex.split(re.sub(r"[\[(].*?[\])]|\.\.\.", "", line), comments=True)
    words = [w for w in words if w not in ("&", ">", "2>&1")]
    name, command = words[0], main.get_command(click.Context(main), words[0])
    assert command is not None, f"{document}: no command {name}"
    rest = words[1:]
    if isinstance(command, click.Group):
        command, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
        assert command is not None
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(name, rest, parent=click.Context(main))


def test_the_way_from_search_to_server_is_shown_whole() -> None:
    shown = [line.split()[0] for document, line in command_lines()
             if document == "from-search-to-server.md"]  # fmt: skip
    assert [*dict.fromkeys(shown)] == [
        "models", "start", "leaderboard", "seal", "export", "verify", "serve-eval",
    ]  # fmt: skip
