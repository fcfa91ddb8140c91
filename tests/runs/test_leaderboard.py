"""Every view of a run shows the same numbers, says their origin, and is safe to look at."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from runs.board import COLUMNS, Cell, ProposerRow, columns, crashes, shown
from runs.leaderboard import facts, render_csv, render_json, render_markdown
from runs.terminal import render_terminal
from tests.runs.synthetic import HOSTILE, board, row

BOARD = board(row(1, on_front=True), row(2, loss_gap=Cell(None)), row(3, control=True, name="Full"))


def test_a_number_is_shown_with_its_error_and_a_missing_one_as_a_dash() -> None:
    assert shown(Cell(0.125, 0.0125, 24), ".3f") == "0.125 ± 0.013"
    assert shown(Cell(2.5), ".2f") == "2.50"
    assert shown(Cell(None), ".2f") == "–"


def test_above_each_table_stand_models_workload_and_both_budgets() -> None:
    said = "\n".join(facts(BOARD))
    for part in ("glm-4.7-flash", "STAND-IN", "smollm2-135m", "h200", "32,768", "2,048", "256"):
        assert part in said
    assert "STAND-IN" not in "\n".join(facts(board(standin_note="")))


def test_every_row_says_how_many_contexts_its_loss_was_measured_on() -> None:
    raced = board(row(1), row(2, loss_gap=Cell(0.5, 0.1, 3)), row(3, loss_gap=Cell(None)))
    lines = render_markdown(raced).splitlines()
    heads, *rows = [[c.strip() for c in x.split("|")] for x in lines if x.startswith("| ")]
    at = heads.index("contexts (measured)")
    assert [r[at] for r in rows if r[1].isdigit()] == ["24", "3", "–"]
    table = [*csv.DictReader(io.StringIO(render_csv(raced)))]
    assert [r["measured_loss_gap_n"] for r in table] == ["24", "3", "0"]


def test_controls_out_of_order_are_a_warning() -> None:
    assert any("WARNING" in f for f in facts(board(controls_problem="random beats full")))
    assert not any("WARNING" in f for f in facts(BOARD))


def test_the_terminal_shows_candidates_and_controls_in_blocks_of_their_own() -> None:
    text = render_terminal(BOARD, color=False)
    candidates, controls = text.split("controls", 1)
    assert "*   1 Program1" in candidates and "Full" not in candidates
    assert "Full" in controls
    assert "0.125 ± 0.013" in candidates and "2.000" in candidates and "page=16" in candidates
    assert text.count("(measured)") > 0 and text.count("(predicted)") > 0


def test_a_run_on_a_gpu_shows_what_it_measured_there_in_place_of_the_cpu() -> None:
    timed = row(1, gpu_attention=Cell(7.06, 0.01, 15), gpu_speedup=Cell(5.45, 0.01, 15),
                gpu_step_ms=Cell(5.546, None, 15))  # fmt: skip
    text = render_terminal(board(timed, gpu="a GPU (full attention by X)"), color=False)
    assert "7.06 ± 0.01" in text and "5.45 ± 0.01" in text and "5.546" in text
    assert "CPU speed-up" not in text and "a GPU (full attention by X)" in text
    assert timed.seconds == pytest.approx(5.546e-3)


def test_a_step_whose_rest_is_priced_is_called_predicted() -> None:
    priced = board(row(1), gpu="a GPU", gpu_step_origin="predicted")
    origins = {heading: origin for heading, _, _, origin in columns(priced)}
    assert (origins["GPU attention"], origins["GPU speed-up"]) == ("measured", "predicted")


def test_no_heading_is_measured_and_predicted() -> None:
    names = [(heading, origin) for heading, _, _, origin in COLUMNS]
    assert len({heading for heading, _ in names}) == len(names)
    assert {origin for _, origin in names} == {"measured", "predicted"}


def test_colour_is_for_those_who_want_it() -> None:
    assert "\x1b" not in render_terminal(BOARD, color=False)
    assert "\x1b" in render_terminal(BOARD, color=True)


def test_only_the_best_are_shown_but_all_controls() -> None:
    text = render_terminal(BOARD, color=False, top=1)
    assert "Program1" in text and "Program2" not in text and "Full" in text


def test_names_cannot_drive_the_terminal() -> None:
    hostile = board(row(1, name=HOSTILE, knobs={"budget": "\x1b[2J\n"}), standin_note=HOSTILE)
    text = render_terminal(hostile, color=False)
    assert "\x1b" not in text
    assert "[a](b)" in "\n".join(facts(hostile))


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert "[bold]x[/bold]" in render_terminal(board(row(1, name="[bold]x[/bold]")), color=False)


def test_csv_parses_back_to_the_numbers() -> None:
    first, second, third = csv.DictReader(io.StringIO(render_csv(BOARD)))
    assert float(first["measured_loss_gap"]) == 0.125
    assert float(first["measured_loss_gap_se"]) == 0.0125
    assert int(first["measured_loss_gap_n"]) == 24
    assert float(first["predicted_step_ms"]) == 2.0
    assert second["measured_loss_gap"] == ""
    assert json.loads(first["knobs"])["budget"] == 2048
    assert [r["control"] for r in (first, second, third)] == ["0", "0", "1"]


def test_csv_keeps_a_row_a_row_whatever_the_name() -> None:
    text = render_csv(board(row(1, name='a,"b"\nc'), row(2)))
    found = list(csv.DictReader(io.StringIO(text)))
    assert [r["id"] for r in found] == ["1", "2"]
    assert found[0]["name"] == 'a,"b" c'


def test_json_parses_back_to_the_numbers_with_their_origin() -> None:
    data = json.loads(render_json(BOARD))
    assert data["rows"][0]["loss_gap"] == {"value": 0.125, "error": 0.0125, "n": 24}
    assert data["rows"][1]["loss_gap"]["value"] is None
    assert data["origins"]["cpu_speedup"] == "measured"
    assert data["origins"]["step_speedup"] == "predicted"


def test_json_holds_only_numbers_that_json_knows() -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    odd = row(1, step_seconds=math.inf, loss_gap=Cell(0.5, math.nan, 1))
    data = json.loads(render_json(board(odd)), parse_constant=refuse)
    assert data["rows"][0]["step_seconds"] is None
    assert data["rows"][0]["loss_gap"] == {"value": 0.5, "error": None, "n": 1}


def test_markdown_cells_stay_cells() -> None:
    text = render_markdown(board(row(1, name=HOSTILE), row(2)))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    plain = [line.replace("\\|", "") for line in lines]
    assert len({line.count("|") for line in plain}) == 1
    assert "<script" not in text and "\x1b" not in text


def test_one_candidate_is_no_plural() -> None:
    assert ": 1 candidate judged for" in facts(board(row(1)))[0]
    assert ": 2 candidates judged for" in facts(board(row(1), row(2)))[0]


def test_who_proposed_is_shown_below_every_table_with_the_share_now() -> None:
    sources = (ProposerRow("evolve", 40, 38, 3, 0.625), ProposerRow(HOSTILE, 8, 2, 0, 0.375, 0.25),
               ProposerRow("seed", 7, 7, 1))  # fmt: skip
    whole = board(row(1), proposers=sources)
    text = render_terminal(whole, color=False)
    tail = text.split("who proposed", 1)[1]
    assert "38 (95%)" in tail and "62%" in tail and "$0.25" in tail and "\x1b" not in text
    markdown = render_markdown(whole)
    lines = markdown[markdown.index("who proposed") :].replace("\\|", "").splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "<script" not in markdown
    data = json.loads(render_json(whole))["proposers"]
    assert data[0]["share"] == 0.625 and data[2]["share"] is None
    assert "who proposed" not in render_terminal(BOARD, color=False)
    csv_rows = list(csv.DictReader(io.StringIO(render_csv(whole))))
    assert len(csv_rows) == 1, "CSV is one table: candidates"


def test_what_candidates_crashed_with_stands_above_every_table_once_for_each_message() -> None:
    killed = [row(i, status="crashed", message=f"note of {i}\ndevice kernel image is invalid")
              for i in range(1, 6)]  # fmt: skip
    other = row(6, status="crashed", message="the worker ended by signal SIGKILL")
    shown_board = board(*killed, other, row(7))
    said = [
        "5 candidates crashed: device kernel image is invalid",
        "1 candidate crashed: the worker ended by signal SIGKILL",
    ]
    assert crashes(shown_board) == said and set(said) <= set(facts(shown_board))
    assert not crashes(board(row(1), row(2, status="slow", message="no faster")))


def test_a_table_that_is_cut_says_of_how_many() -> None:
    cut = render_terminal(BOARD, color=False, top=1)
    assert "candidates (* on the front, 1 of 2; --top for more)" in cut
    assert "--top" not in render_markdown(BOARD, top=2)
