"""Racing keeps both ends of the trade-off, and lets through only what earned it."""

from __future__ import annotations

from agent.standing import Standing, Standings, promotable
from evals.result import Stage, StageResult, Status
from runs.records import CandidateRecord, RunConfig

CONFIG = RunConfig(rungs=(3, 6), keep=0.34)


def judged(number: int, loss: float, seconds: float, rungs: int = 1) -> Standing:
    record = CandidateRecord(
        id=number, name=f"c{number}", text="", knobs={}, structure_hash="s", candidate_hash="h",
        proposer="evolve", parents=(), note="", control=False,
    )  # fmt: skip
    stages = tuple(
        StageResult(stage=Stage.ACCURACY, rung=i, status=Status.OK) for i in range(rungs)
    )
    losses = {f"search-{i:03d}": loss for i in range(CONFIG.rungs[rungs - 1])}
    return Standing(record, stages, (), rungs, losses, seconds)


def standings(*members: Standing) -> Standings:
    return Standings(CONFIG, {m.record.id: m for m in members}, None)


def promoted(now: Standings) -> list[int]:
    found: list[int] = []
    while (next_one := promotable(now, 1, frozenset(found))) is not None:
        found.append(next_one.record.id)
    return found


def test_one_candidate_alone_is_not_promoted() -> None:
    assert promoted(standings(judged(1, 0.1, 1.0))) == []


def test_the_least_lossy_and_the_fastest_go_on_and_the_dominated_do_not() -> None:
    now = standings(
        judged(1, 0.1, 3.0), judged(2, 0.5, 2.0), judged(3, 0.9, 1.0),
        judged(4, 0.95, 3.5), judged(5, 0.96, 3.6), judged(6, 0.97, 3.7),
    )  # fmt: skip
    assert promoted(now) == [1, 3, 2]


def test_who_went_on_is_not_promoted_again() -> None:
    now = standings(judged(1, 0.1, 3.0, rungs=2), judged(2, 0.5, 2.0), judged(3, 0.9, 4.0))
    assert 1 not in promoted(now)
