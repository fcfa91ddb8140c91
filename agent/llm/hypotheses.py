"""Hypotheses held against what was measured: confirmed, refuted or unclear, by the error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.llm.figures import estimated, measured
from agent.llm.quoting import one_line
from agent.llm.submission import Expected, Submission
from agent.standing import Standing, Standings
from evals.result import Status
from runs.archive import paired
from runs.quality import estimate

Verdict = Literal["confirmed", "refuted", "unclear", "failed", "waiting"]

_CERTAIN, _FEWEST = 1.64, 3  # standard errors, contexts: as the archive's
_SAME_LOSS = 0.05  # of the loss gap
_SAME_TIME = 0.02  # of the step


@dataclass(frozen=True, slots=True)
class Judged:
    """A hypothesis and what became of it.

    Attributes:
        verdict: ``failed``: it never ran to the end; ``waiting``: it has not run yet.
        detail: one line with the numbers and their errors.
    """

    candidate: int
    hypothesis: str
    compared_to: int | None
    expected_loss: Expected
    expected_time: Expected
    verdict: Verdict
    detail: str


def judge(now: Standings, submissions: Mapping[int, Submission]) -> list[Judged]:
    """Every submission by its candidate's number, in their order.

    A part that was not stated is not judged. Confirmed if all parts are, refuted if one is and none
    is confirmed; parts that disagree are unclear together, and each is told.
    """
    return [_judged(now, i, submissions[i]) for i in sorted(submissions)]


def _judged(now: Standings, candidate: int, said: Submission) -> Judged:
    verdict, detail = _verdict(now, now.by_id.get(candidate), said)
    return Judged(
        candidate, one_line(said.hypothesis, 300), said.compared_to, said.expected_loss,
        said.expected_time, verdict, detail,
    )  # fmt: skip


def _verdict(now: Standings, mine: Standing | None, said: Submission) -> tuple[Verdict, str]:
    if mine is None or mine.status in (None, Status.INFRA_ERROR):
        return "waiting", "not evaluated yet"
    if mine.status != Status.OK:
        why = next((s.message for s in mine.stages if s.status != Status.OK), "")
        return "failed", one_line(f"{mine.status}: {why}" if why else str(mine.status), 200)
    if not mine.losses:
        return "waiting", "its loss is not known yet"
    theirs = now.by_id.get(said.compared_to) if said.compared_to is not None else None
    if theirs is None:
        return "unclear", "compared with no candidate"
    parts = [p for p in (_loss(mine, theirs, said), _time(mine, theirs, said)) if p is not None]
    if not parts:
        return "unclear", "nothing was predicted"
    own = f"its loss gap {estimated(estimate(mine.losses))}"
    detail = "; ".join([own, *(text for _, text in parts), *_budgets(mine, theirs)])
    found: set[Verdict] = {verdict for verdict, _ in parts}
    if {"confirmed", "refuted"} <= found:
        return "unclear", detail
    order: tuple[Verdict, ...] = ("waiting", "refuted", "unclear", "confirmed")
    return next(v for v in order if v in found), detail


def _budgets(mine: Standing, theirs: Standing) -> list[str]:
    """Where budgets differ, a difference may be theirs and not the idea's."""
    pair = [s.record.knobs.get("budget") for s in (mine, theirs)]
    if None in pair or pair[0] == pair[1]:
        return []
    return [f"budgets differ: {pair[0]} against {pair[1]}"]


def _unknown(theirs: Standing, what: str) -> tuple[Verdict, str]:
    """What cannot be compared yet, or never will."""
    waits = theirs.status in (None, Status.OK, Status.INFRA_ERROR)
    return ("waiting" if waits else "unclear"), what


def _loss(mine: Standing, theirs: Standing, said: Submission) -> tuple[Verdict, str] | None:
    """The paired difference of the loss gaps, and what it says about the expectation."""
    if said.expected_loss == "unstated":
        return None
    gap = paired(mine.losses, theirs.losses)
    if gap.n < _FEWEST:
        return _unknown(theirs, f"loss gap: {gap.n} contexts in common")
    low, high = gap.value - _CERTAIN * gap.error, gap.value + _CERTAIN * gap.error
    verdict = {
        "lower": _side(high < 0, low >= 0),
        "higher": _side(low > 0, high <= 0),
        "same": _side(low > -_SAME_LOSS and high < _SAME_LOSS,
                      low > _SAME_LOSS or high < -_SAME_LOSS),
    }[said.expected_loss]  # fmt: skip
    shown = measured(gap.value, gap.error, sign=True)
    return verdict, (
        f"loss gap {shown} over {gap.n} contexts (expected {said.expected_loss}: {verdict})"
    )


def _time(mine: Standing, theirs: Standing, said: Submission) -> tuple[Verdict, str] | None:
    """The ratio of the step times; it has no error, so it is never unclear once known."""
    if said.expected_time == "unstated":
        return None
    if not (math.isfinite(mine.seconds) and math.isfinite(theirs.seconds) and theirs.seconds > 0):
        return _unknown(theirs, "step time not known")
    ratio = mine.seconds / theirs.seconds
    found = "lower" if ratio < 1 - _SAME_TIME else "higher" if ratio > 1 + _SAME_TIME else "same"
    verdict: Verdict = "confirmed" if found == said.expected_time else "refuted"
    return verdict, f"step time x{ratio:.3f} (expected {said.expected_time}: {verdict})"


def _side(confirmed: bool, refuted: bool) -> Verdict:
    return "confirmed" if confirmed else "refuted" if refuted else "unclear"
