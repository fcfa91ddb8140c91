"""The leaderboard fits its terminal: what has no room is left out and named, numbers are whole."""

from __future__ import annotations

import pytest

from runs.board import Board, Cell, ProposerRow, columns
from runs.terminal import render_terminal
from tests.runs.synthetic import board, row

LONG = "openai:a-model-with-a-long-name@http://127.0.0.1:8766/v1"
SOURCES = (ProposerRow("evolve", 40, 38, 3, 0.625), ProposerRow(LONG, 8, 2, 0, 0.375, 0.25))
PLAIN = board(
    row(1, on_front=True, proposer=LONG, title="BlockCentroid budget=2774 page=64 weight=0.5"),
    row(2), row(3, control=True, name="Full"), proposers=SOURCES,
)  # fmt: skip
MEASURED = {"gpu_attention": Cell(7.06, 0.01, 15), "gpu_speedup": Cell(5.45, 0.01, 15),
            "gpu_step_ms": Cell(5.546, None, 15), "engine_speedup": Cell(2.9, 0.1, 4)}  # fmt: skip
ON_GPU = board(row(1, **MEASURED), row(2), proposers=SOURCES, gpu="a GPU", engine="an engine")


@pytest.mark.parametrize("whole", [PLAIN, ON_GPU])
@pytest.mark.parametrize("width", [60, 80, 100, 132, 200, 400])
def test_no_line_is_longer_than_the_terminal_and_what_is_left_out_is_said(
    width: int, whole: Board
) -> None:
    text = render_terminal(whole, color=False, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "0.125 ± 0.013" in text and "loss gap" in text and "62%" in text
    tables, _, rest = text.split("who proposed")[0].partition("left out, for want of room: ")
    said, _, repair = " ".join(rest.split()).partition(";")
    left_out = set(said.split(", ")) if said else set()
    every = {h for h, *_ in columns(whole)}
    assert left_out <= every | {"from", "knobs"}
    head = tables.split("candidates (")[1].split("*   1")[0].split("    1 Prog")[0]
    assert head.count("(measured)") + head.count("(predicted)") == len(every - left_out)
    assert all(h in head for h in every - left_out)
    assert bool(said) == (width < 400) and repair.strip() in ("", "--wide or --json shows all")


def test_speed_stands_beside_loss_in_eighty_columns_and_empty_columns_make_room() -> None:
    narrow = render_terminal(PLAIN, color=False, width=80)
    head = narrow.split("candidates (")[1].split("who proposed")[0].split("left out")[0]
    assert "speed-up" in head and "step ms" in head and "sealed gap" not in head
    sealed = board(row(1, sealed_gap=Cell(0.25, 0.0125, 12)))
    assert "0.250 ± 0.013" in render_terminal(sealed, color=False, width=80)
    assert "2.90 ± 0.10" in render_terminal(ON_GPU, color=False, width=80)


def test_names_are_cut_last_and_get_the_room_that_is_left() -> None:
    assert "BlockCentroid budget=27…" in render_terminal(PLAIN, color=False, width=60)
    assert "BlockCentroid budget=2774 page=64 weigh…" in render_terminal(PLAIN, color=False)


def test_without_a_terminal_everything_is_there_and_no_line_is_broken() -> None:
    noted = board(row(1), standin_note="accuracy is that of another model, " * 9)
    text = render_terminal(noted, color=False)
    assert "left out" not in text and all(h in text for h, *_ in columns(noted))
    assert max(map(len, text.splitlines())) > 224
