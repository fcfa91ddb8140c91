"""Turns are planned from the state and a generator alone, in all modes, with far inspirations."""

from __future__ import annotations

import functools
import random
from collections import Counter

from agent.llm.brief import Brief, Mode, plan
from agent.llm.hypotheses import judge
from agent.llm.submission import Submission
from evals.result import Status
from tests.agent.llm.state import PROGRAM, candidate, run, seeded, text_of

BROKEN = candidate(11, PROGRAM, status=Status.TIMEOUT, proposer="openai:m", message="too long")
NOW = seeded(BROKEN)
JUDGED = judge(NOW, {11: Submission(PROGRAM, {}, "Spread matters.", 5, "lower", "same")})


@functools.cache
def plans(count: int = 240) -> tuple[Brief, ...]:
    return tuple(again(count))


def again(count: int) -> list[Brief]:
    return [plan(NOW, JUDGED, random.Random(f"turn/{i}"), number=i) for i in range(count)]


def test_the_same_state_and_seed_give_the_same_brief() -> None:
    assert again(40) == again(40)


def test_all_modes_come_and_new_ideas_are_at_least_a_fifth() -> None:
    counts = Counter(b.mode for b in plans())
    assert set(counts) == set(Mode)
    assert counts[Mode.NEW] / 240 >= 0.2 and counts[Mode.IMPROVE] > counts[Mode.EXPLAIN]


def test_parents_are_of_the_front_or_near_it_and_are_not_their_own_inspiration() -> None:
    front = {s.record.id for s in NOW.front()}
    for brief in plans():
        assert brief.parent not in brief.others and len(set(brief.others)) == len(brief.others)
        assert all(not NOW.by_id[i].record.control for i in brief.others)
        match brief.mode:
            case Mode.NEW:
                assert brief.parent is None and len(brief.others) == 3
            case Mode.IMPROVE:
                assert brief.parent in front and len(brief.others) in (2, 3)
            case Mode.COMBINE:
                assert brief.parent in front and len(brief.others) == 1
            case Mode.EXPLAIN:
                assert brief.parent == 11 and brief.others == (5,)


def test_an_inspiration_differs_in_trade_off_and_structure() -> None:
    """The fastest parent is shown the other end of the front, not its neighbour."""
    quick = NOW.front()[0].record.id
    found = {b.others[0] for b in plans() if b.mode == Mode.IMPROVE and b.parent == quick}
    neighbour = NOW.front()[1].record.id
    assert found and neighbour not in found


def test_a_close_second_may_be_a_parent_and_a_far_one_may_not() -> None:
    close = candidate(20, PROGRAM, loss=2.1, seconds=2.41e-3)
    far = candidate(21, text_of("second_order"), loss=8.0, seconds=2.4e-3)
    now = seeded(close, far)
    assert 20 not in {s.record.id for s in now.front()}
    parents = {plan(now, (), random.Random(i)).parent for i in range(150)}
    assert 20 in parents and 21 not in parents


def test_without_a_front_every_turn_is_a_new_idea() -> None:
    now = run(BROKEN)
    briefs = [plan(now, JUDGED, random.Random(i)) for i in range(30)]
    assert briefs == [Brief(Mode.NEW, None, (), 0)] * 30


def test_without_failures_nothing_is_explained() -> None:
    assert Mode.EXPLAIN not in {plan(NOW, (), random.Random(i)).mode for i in range(60)}
