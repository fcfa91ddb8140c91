"""The launch plan of a program: what has a kernel, and what has none and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vortex.compile import compile_text
from vortex.geometry import geometry
from vortex.triton.launches import launch_plan

ROOT = Path(__file__).resolve().parents[2] / "search_spaces" / "block_topk"


def plan(path: str, model: str = "qwen3-1.7b", pages: str = "") -> tuple[str, ...]:
    text = (ROOT / path).read_text()
    text = text.replace("vx.choice(16, 32)", pages) if pages else text
    return launch_plan(compile_text(text, reserved=True), geometry(model))


@pytest.mark.parametrize("model", ["qwen3-1.7b", "glm-4.7-flash"])
def test_a_seed_appends_routes_and_attends(model: str) -> None:
    assert len(plan("seeds/quest.py", model)) == 3
    assert plan("seeds/quest.py", model)[1] == "score and select"


def test_full_attention_is_one_launch() -> None:
    assert plan("controls/full.py") == ("attend to every page",)


def test_a_window_ranks_nothing() -> None:
    assert plan("seeds/streaming_llm.py") == (
        "list the reserved pages", "attend to the chosen pages",
    )  # fmt: skip


def test_what_has_no_kernel_says_why() -> None:
    assert plan("library/h2o.py")[-1] == "update the states"
    lines = plan("library/less_is_more.py", pages="128")
    assert any("no kernel to score" in line and "two wide axes" in line for line in lines)


def test_steps_that_do_not_rank_are_told_apart() -> None:
    assert any("3 of 4 steps" in line for line in plan("library/hshare.py"))
