"""A hypothesis is held against the measurement, by the error bars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.llm.hypotheses import Judged, judge
from agent.llm.submission import Expected, Submission
from agent.standing import Standing, Standings
from evals.result import Status
from tests.agent.llm.state import PROGRAM, candidate, run, text_of

BASE = candidate(4, text_of("quest"), seconds=1e-3, proposer="seed")


def with_losses(standing: Standing, gaps: list[float], seconds: float = 1e-3) -> Standing:
    losses = {f"search-{i:03d}": gap for i, gap in enumerate(gaps)}
    return replace(standing, losses=losses, seconds=seconds)


def judged(
    gaps: list[float], seconds: float, loss: Expected, time: Expected, compared: int | None = 4
) -> Judged:
    """A candidate beside one that loses 0.5 everywhere in 1 ms."""
    now = run(BASE, candidate(5, PROGRAM))
    members = dict(now.by_id)
    members[4] = with_losses(members[4], [0.5] * 6)
    members[5] = with_losses(members[5], gaps, seconds)
    said = Submission(PROGRAM, {}, "Spread matters.", compared, loss, time)
    return judge(replace(now, by_id=members), {5: said})[0]


LOWER = [0.30, 0.32, 0.28, 0.31, 0.29, 0.30]
HIGHER = [0.70, 0.72, 0.68, 0.71, 0.69, 0.70]
NOISY = [0.1, 0.9, 0.4, 0.8, 0.2, 0.7]
CLOSE = [0.50, 0.51, 0.49, 0.505, 0.495, 0.50]


@pytest.mark.parametrize(
    ("gaps", "expected", "verdict"),
    [
        (LOWER, "lower", "confirmed"), (HIGHER, "lower", "refuted"), (NOISY, "lower", "unclear"),
        (HIGHER, "higher", "confirmed"), (LOWER, "higher", "refuted"), (NOISY, "higher", "unclear"),
        (CLOSE, "same", "confirmed"), (LOWER, "same", "refuted"), (NOISY, "same", "unclear"),
        ([0.5] * 6, "same", "confirmed"), ([0.5] * 6, "lower", "refuted"),
    ],
)  # fmt: skip
def test_loss_is_judged_by_the_paired_difference(
    gaps: list[float], expected: Expected, verdict: str
) -> None:
    found = judged(gaps, 1e-3, expected, "unstated")
    assert found.verdict == verdict
    assert "over 6 contexts" in found.detail and f"expected {expected}: {verdict}" in found.detail


@pytest.mark.parametrize(
    ("seconds", "expected", "verdict"),
    [
        (0.97e-3, "lower", "confirmed"), (0.985e-3, "lower", "refuted"),
        (1.015e-3, "same", "confirmed"), (1.03e-3, "same", "refuted"),
        (1.03e-3, "higher", "confirmed"), (0.9e-3, "higher", "refuted"),
    ],
)  # fmt: skip
def test_time_is_judged_to_two_percent(seconds: float, expected: Expected, verdict: str) -> None:
    assert judged(LOWER, seconds, "unstated", expected).verdict == verdict


def test_parts_that_disagree_are_unclear_together_and_each_is_told() -> None:
    both = judged(LOWER, 0.9e-3, "lower", "higher")
    assert both.verdict == "unclear"
    assert "expected lower: confirmed" in both.detail and "higher: refuted" in both.detail


def test_one_refuted_part_refutes_and_one_unclear_part_leaves_it_unclear() -> None:
    assert judged(LOWER, 0.9e-3, "lower", "lower").verdict == "confirmed"
    assert judged(HIGHER, 0.9e-3, "lower", "higher").verdict == "refuted"
    assert judged(NOISY, 0.9e-3, "lower", "higher").verdict == "refuted"
    assert judged(NOISY, 0.9e-3, "lower", "lower").verdict == "unclear"


def test_what_cannot_be_judged_says_why() -> None:
    assert judged(LOWER, 1e-3, "unstated", "unstated").detail == "nothing was predicted"
    assert judged(LOWER, 1e-3, "lower", "same", compared=None).verdict == "unclear"
    assert judged(LOWER, 1e-3, "lower", "same", compared=77).verdict == "unclear"
    assert judged(LOWER[:2], 1e-3, "lower", "unstated").verdict == "waiting"  # more may come


def verdict_of(*members: Standing, compared: int = 4) -> Judged:
    now: Standings = run(BASE, *members)
    said = Submission(PROGRAM, {}, "Spread matters.", compared, "lower", "same")
    return judge(now, {5: said})[0]


def test_a_candidate_that_waits_or_failed_is_told_apart() -> None:
    assert verdict_of().verdict == "waiting"
    assert verdict_of(candidate(5, PROGRAM, waiting=True)).verdict == "waiting"
    assert verdict_of(candidate(5, PROGRAM, status=Status.INFRA_ERROR)).verdict == "waiting"
    failed = verdict_of(candidate(5, PROGRAM, status=Status.TIMEOUT, message="too\nlong\x1b[31m"))
    assert failed.verdict == "failed"
    assert failed.detail.startswith("timeout: too long") and "\x1b" not in failed.detail


def test_a_comparison_that_will_never_be_measured_does_not_wait_for_ever() -> None:
    broken = candidate(6, text_of("sub_centroids"), status=Status.CRASHED)
    mine = candidate(5, PROGRAM)
    assert verdict_of(mine, broken, compared=6).verdict in ("unclear", "refuted")
    waiting = candidate(6, text_of("sub_centroids"), waiting=True)
    assert verdict_of(mine, waiting, compared=6).verdict == "waiting"


def test_hypotheses_come_in_the_order_of_their_candidates() -> None:
    said = Submission(PROGRAM, {}, "x", 4)
    assert [j.candidate for j in judge(run(BASE), {9: said, 5: said, 7: said})] == [5, 7, 9]
