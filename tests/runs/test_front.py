"""The front keeps what nothing surely beats, and its order of arrival does not matter."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.archive import Entry, dominates, front, paired
from tests.runs.synthetic import losses

CONTEXTS = 6
LOSS = st.floats(0, 2, allow_nan=False, width=32)
SECONDS = st.floats(1e-4, 1e-1, allow_nan=False) | st.sampled_from([1e-3, 2e-3])
PLACES = st.lists(
    st.tuples(st.lists(LOSS, min_size=CONTEXTS, max_size=CONTEXTS), SECONDS), min_size=1, max_size=9
).map(lambda found: [Entry(i, losses(v), s) for i, (v, s) in enumerate(found)])


def entry(identity: int, values: list[float], seconds: float) -> Entry:
    return Entry(identity, losses(values), seconds)


def test_a_paired_difference_is_taken_over_shared_contexts() -> None:
    a = {"x": 1.0, "y": 2.0, "z": 9.0}
    b = {"x": 0.0, "y": 3.0, "w": 7.0}
    found = paired(a, b)
    assert (found.value, found.n) == (0.0, 2)
    assert found.error == pytest.approx(math.sqrt(2 / 2))
    assert paired(a, {}).n == 0 and math.isnan(paired(a, {}).value)
    assert math.isinf(paired({"x": 1.0}, {"x": 0.0}).error)


def test_pairing_sees_what_the_spread_between_contexts_hides() -> None:
    spread = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    better = entry(1, spread, 1e-3)
    worse = entry(2, [v + 0.1 + 0.01 * (i % 2) for i, v in enumerate(spread)], 1e-3)
    assert dominates(better, worse) and not dominates(worse, better)


def test_a_difference_within_its_error_dominates_nothing() -> None:
    a = entry(1, [0.1, 0.5, 0.3, 0.4], 1e-3)
    b = entry(2, [0.4, 0.3, 0.5, 0.2], 1e-3)
    assert not dominates(a, b) and not dominates(b, a)


def test_what_is_as_good_and_clearly_faster_dominates() -> None:
    values = [0.1, 0.2, 0.3]
    assert dominates(entry(1, values, 0.9e-3), entry(2, values, 1e-3))
    assert not dominates(entry(1, values, 0.9999e-3), entry(2, values, 1e-3))


def test_what_is_better_but_slower_dominates_nothing() -> None:
    good, fast = entry(1, [0.0] * 5, 2e-3), entry(2, [1.0] * 5, 1e-3)
    assert not dominates(good, fast) and not dominates(fast, good)
    assert [e.id for e in front([good, fast])] == [2, 1]


def test_two_contexts_are_too_few_to_judge() -> None:
    assert not dominates(entry(1, [0.0, 0.0], 1e-3), entry(2, [1.0, 1.1], 2e-3))


def test_the_front_of_nothing_is_nothing() -> None:
    assert front([]) == []


@given(PLACES)
def test_nothing_dominates_itself_nor_what_dominates_it(entries: list[Entry]) -> None:
    for a in entries:
        assert not dominates(a, a)
        assert not any(dominates(a, b) and dominates(b, a) for b in entries)


@given(PLACES, st.randoms(use_true_random=False))
def test_a_front_is_never_empty_nor_a_matter_of_order(
    entries: list[Entry], rng: random.Random
) -> None:
    found = front(entries)
    assert found
    shuffled = list(entries)
    rng.shuffle(shuffled)
    assert {e.id for e in front(shuffled)} == {e.id for e in found}


@given(PLACES)
def test_no_member_of_a_front_dominates_another(entries: list[Entry]) -> None:
    found = front(entries)
    assert not any(dominates(a, b) for a in found for b in found)


@given(PLACES)
def test_who_is_left_out_is_dominated_by_someone(entries: list[Entry]) -> None:
    members = {e.id for e in front(entries)}
    for left in entries:
        if left.id not in members:
            assert any(dominates(o, left) for o in entries)


@given(st.lists(st.tuples(LOSS, SECONDS), min_size=1, max_size=9))
def test_without_noise_a_member_dominates_who_is_left_out(
    places: list[tuple[float, float]],
) -> None:
    # Equal losses in all contexts: differences have no error, so dominance is nearly transitive;
    # the tolerance on time is the exception, so times here are a factor of 2 apart or equal.
    entries = [
        entry(i, [v] * CONTEXTS, 2.0 ** round(math.log2(s))) for i, (v, s) in enumerate(places)
    ]
    found = front(entries)
    members = {e.id for e in found}
    for left in entries:
        if left.id not in members:
            assert any(dominates(m, left) for m in found)
