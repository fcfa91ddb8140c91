"""Kernel times: the documented formulae by hand, and the points that were measured."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vortex.cost import full_attention
from vortex.devices import device
from vortex.geometry import geometry
from vortex.kernel_cost import (
    Attend,
    Score,
    attend_seconds,
    score_seconds,
    select_seconds,
    split_count,
)
from vortex.workload import Workload

H200 = device("h200")
# Round figures, to count with: 10 units, 1e9 bytes per second, microseconds.
TOY = replace(
    H200, bandwidth=1e9, flops=1e15, multiprocessors=10, launch_floor=1e-6, attend_latency=2e-6,
    program_rate=128e6, latent_whole_rate=160e6, merge_latency=7e-6,
    gather_bandwidth=1e9, vector_rate=1e9, query_rate=1e9, pass_latency=1e-6,
    page_seconds=1e-9, select_rate=1e9, spill=2.0,
)  # fmt: skip
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_scoring_takes_its_bytes_or_its_operations_and_its_queries() -> None:
    shape = Score(rows=4, pages=320, bytes=8000, operations=5000, block=32, queries=50)
    programs = 4 * 10
    assert score_seconds(TOY, shape) == pytest.approx(1e-6 + 8e-6 + programs * 50e-9)
    heavy = replace(shape, operations=9000)
    assert score_seconds(TOY, heavy) == pytest.approx(1e-6 + 9e-6 + programs * 50e-9)


def test_few_programs_take_their_queries_side_by_side() -> None:
    shape = Score(rows=1, pages=64, bytes=0, operations=0, block=32, queries=50)
    assert score_seconds(TOY, shape) == pytest.approx(1e-6 + 10 * 50e-9)


def test_selection_passes_over_rows_and_past_the_registers_pays_more() -> None:
    assert select_seconds(TOY, 4, 1023) == pytest.approx(10e-6 + 1023e-9 + 4 * 1023e-9)
    held = 4095 + 2.0 * (4095 - 2048)
    assert select_seconds(TOY, 4, 4095) == pytest.approx(12e-6 + held * 1e-9 + 4 * held * 1e-9)


def test_lists_are_split_until_the_device_is_full() -> None:
    lists = Attend(rows=8, tokens=1024, bytes_each=512, latent=False, whole=False)
    assert split_count(132, lists) == 16  # a tile of 64 tokens each, of 33 wanted
    assert split_count(132, replace(lists, rows=64)) == 4
    assert split_count(132, replace(lists, rows=512)) == 1
    assert split_count(132, replace(lists, rows=512, whole=True)) == 4
    assert split_count(132, replace(lists, rows=32, latent=True, tokens=2048)) == 4


def test_each_wave_takes_its_bytes_or_its_programs_pace() -> None:
    # 25 lists, unsplit: MLA has one program on each of 10 units, so two waves and 5 programs more.
    shape = Attend(rows=25, tokens=128, bytes_each=10, latent=True, whole=False)
    assert split_count(10, shape) == 1
    wave, pace = 10 * 128 * 10 / 1e9, 128 * 10 / 128e6
    assert wave > pace > wave / 2
    assert attend_seconds(TOY, shape) == pytest.approx(3e-6 + 2 * wave + pace)
    slow = replace(TOY, program_rate=64e6)
    assert attend_seconds(slow, shape) == pytest.approx(3e-6 + 3 * 2 * pace)
    fast = replace(TOY, program_rate=1e9)
    assert attend_seconds(fast, shape) == pytest.approx(3e-6 + 25 * 128 * 10 / 1e9)


def test_a_program_takes_a_whole_tile_at_least() -> None:
    shape = Attend(rows=1, tokens=10, bytes_each=10, latent=False, whole=False)
    assert attend_seconds(TOY, shape) == pytest.approx(3e-6 + 64 * 10 / 128e6)


def test_gqa_has_several_programs_on_a_unit() -> None:
    # 24 rows in 4 splits of a tile: 96 programs, of which 10 units hold 3 each.
    shape = Attend(rows=24, tokens=256, bytes_each=512, latent=False, whole=True)
    wave = 30 * 64 * 512 / 1e9
    rest = 6 * 64 * 512 / 1e9
    fast = replace(TOY, program_rate=1e12)
    assert attend_seconds(fast, shape) == pytest.approx(3e-6 + 3 * wave + rest)


def test_mla_merges_one_split_after_the_other() -> None:
    shape = Attend(rows=5, tokens=128, bytes_each=1, latent=True, whole=False)
    assert split_count(10, shape) == 2
    slow, pace = replace(TOY, program_rate=1e6), 64 * 1 / 1e6
    assert attend_seconds(slow, shape) == pytest.approx(3e-6 + pace + 2 * 7e-6)


def test_mla_over_everything_has_a_pace_of_its_own() -> None:
    shape = Attend(rows=5, tokens=256, bytes_each=1, latent=True, whole=True)
    assert split_count(10, shape) == 4
    slow, waves = replace(TOY, latent_whole_rate=2e6), 2 * 64 * 1 / 2e6
    assert attend_seconds(slow, shape) == pytest.approx(3e-6 + waves + 4 * 7e-6)


def test_full_attention_on_mla_is_flash_mla_s() -> None:
    shape = Attend(rows=5, tokens=256, bytes_each=1, latent=True, whole=True, fastest=True)
    slow, waves = replace(TOY, flash_mla_rate=2e6), 2 * 64 * 1 / 2e6
    assert attend_seconds(slow, shape) == pytest.approx(3e-6 + waves)
    measured = json.loads((RESULTS / "flash_mla_h200.json").read_text())["points"]
    glm, near = geometry("glm-4.7-flash"), 0
    for point in measured:
        kernel = full_attention(glm, Workload(point["batch"], point["context"]))
        predicted = attend_seconds(H200, kernel) * 1e6
        near += abs(predicted / statistics.fmean(point["microseconds"]) - 1) <= 0.1
    assert (near, len(measured)) == (8, 9)
    ours = replace(kernel, fastest=False)
    assert attend_seconds(H200, ours) > 1.4 * attend_seconds(H200, kernel)
    assert not full_attention(geometry("qwen3-1.7b"), Workload(8, 32768)).fastest


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2048), st.integers(64, 300_000), st.integers(0, 100_000), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_more_tokens_never_take_less_time(
    rows: int, tokens: int, more: int, latent: bool, whole: bool
) -> None:
    shape = Attend(rows, max(tokens, 256) if whole else tokens, 512, latent, whole)
    longer = replace(shape, tokens=shape.tokens + more)
    assert attend_seconds(H200, shape) <= attend_seconds(H200, longer) * (1 + 1e-9)


@pytest.mark.parametrize("stage", ["step", "full"])
def test_three_of_four_held_out_points_are_predicted_within_15_percent(stage: str) -> None:
    pytest.importorskip("triton")
    from benchmarks.gpu_cost import errors, halves, points_of

    found = points_of(RESULTS / "gpu_points_h200.json")
    assert len(found) >= 48
    _, held = halves(found)
    sizes = errors(held, H200, stage)
    assert sum(abs(e) <= 0.15 for e in sizes) >= 0.75 * len(sizes)


def test_every_measured_point_had_right_outputs() -> None:
    found = json.loads((RESULTS / "gpu_points_h200.json").read_text())["points"]
    assert all(max(p["errors"].values()) < 0.01 for p in found.values())
    assert all(math.isfinite(t) and t > 0 for p in found.values() for t, _ in
               p["microseconds"].values())  # fmt: skip
