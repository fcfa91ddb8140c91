"""The short accuracy check: what is asked, and what a difference must be to count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evals.engine.engine import Mode, Request
from evals.engine.needles import COUNT, Needles, ask_needles, prompt_length
from tests.evals.engine.fake import FakeEngine


def words(text: str) -> list[int]:
    return [0] * len(text.split())


def asked(tmp_path: Path, **shares: float) -> tuple[Needles, FakeEngine]:
    """An engine that finds the number in this share of prompts, by mode."""
    seen: list[str] = []

    def reply(request: Request, mode: Mode, call: int) -> str:
        prompt = str(request.prompt)
        if prompt not in seen:
            seen.append(prompt)
        found = re.findall(r"registry numbers of \S+ is (\d+)", prompt)
        return f" {found[0]}." if seen.index(prompt) < COUNT * shares[mode] else "unknown"

    engine = FakeEngine(reply=reply)
    return ask_needles(engine, "hash", 700, words, tmp_path / "log"), engine


def test_both_modes_answer_the_same_problems_and_the_difference_has_its_error(
    tmp_path: Path,
) -> None:
    found, engine = asked(tmp_path, full=1.0, sparse=0.5)
    by_mode = {m: [r.prompt for mode, rs in engine.calls for r in rs if mode == m]
               for m in ("full", "sparse")}  # fmt: skip
    assert by_mode["full"] == by_mode["sparse"] and len(set(by_mode["full"])) == COUNT
    assert all(600 < len(words(str(p))) <= 700 for p in by_mode["full"])
    assert (found.full.value, found.sparse.value, found.difference.value) == (1.0, 0.5, -0.5)
    assert found.difference.error == pytest.approx((0.25 / 15) ** 0.5)


@pytest.mark.parametrize(
    ("full", "sparse", "worse"),
    [(1.0, 0.0, True), (1.0, 0.5, True), (0.5, 0.0, True),  # even where half is answered
     (1.0, 0.75, False), (1.0, 1.0, False), (0.5, 1.0, False)],
)  # fmt: skip
def test_only_a_loss_of_more_than_a_fifth_by_two_errors_fails(
    tmp_path: Path, full: float, sparse: float, worse: bool
) -> None:
    found, _ = asked(tmp_path, full=full, sparse=sparse)
    assert found.worse == worse and found.telling


def test_a_model_that_answers_less_than_half_by_itself_tells_nothing(tmp_path: Path) -> None:
    found, _ = asked(tmp_path, full=0.4, sparse=0.0)
    assert not found.telling and not found.worse


def test_a_model_that_chats_is_asked_in_its_format(tmp_path: Path) -> None:
    engine = FakeEngine(reply=lambda request, mode, call: "")
    ask_needles(engine, "hash", 700, words, tmp_path / "log", shown=lambda text: f"<user>{text}")
    assert all(str(r.prompt).startswith("<user>") for _, rs in engine.calls for r in rs)


def test_prompts_are_longer_than_the_budget_or_there_are_none() -> None:
    assert prompt_length(2048, 100, 40_960) == 4 * 2048
    assert prompt_length(64, 100, 40_960) == 1024
    assert 2048 < prompt_length(2048, 100, 4096) < 4096  # within the model
    assert prompt_length(4096, 100, 4096) == prompt_length(8192, 100, 4096) == 0
    assert prompt_length(0, 3000, 40_960) == 3000  # no budget is sure
