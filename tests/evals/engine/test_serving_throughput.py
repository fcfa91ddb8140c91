"""Speed in an engine: what is computed from known times, in which order, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from evals.engine.engine import Completion, Mode, sides_of
from evals.engine.serving_throughput import (
    Plan,
    Point,
    PointResult,
    Raw,
    agreement,
    drawn,
    is_good,
    measure_point,
)
from tests.evals.engine.fake import FakeEngine

POINT = Point(4, 100)
PLAN = Plan(vocab=500, few=4, many=24, pairs=4)


def measured(engine: FakeEngine, plan: Plan = PLAN) -> PointResult:
    return measure_point(sides_of(engine), POINT, plan)


def test_the_decode_rate_is_what_more_tokens_took_longer() -> None:
    found = measured(FakeEngine())
    full, sparse = found.modes["full"], found.modes["sparse"]
    assert full.decode and sparse.decode and not found.problem
    assert full.decode.value == pytest.approx(4 / 0.02)
    assert sparse.decode.value == pytest.approx(4 / 0.01)
    assert full.decode.n == 4 and full.decode.error == pytest.approx(0, abs=1e-9)
    assert found.ratios["decode_speedup"].value == pytest.approx(2.0)
    assert found.ratios["first_token_ratio"].value == pytest.approx(0.42 / 0.4)
    assert found.ratios["gap_ratio"].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("sparse", "steady"),
    [((200.0, 204.0, 198.0, 201.0), True), ((42.0, 93.0, 90.0, 233.0), False)],
)  # fmt: skip
def test_decode_rates_that_differ_from_pair_to_pair_are_named(
    sparse: tuple[float, ...], steady: bool
) -> None:
    raw: dict[Mode, Raw] = {
        "full": Raw((43.0, 44.0, 43.0, 44.0), (), ()),
        "sparse": Raw(sparse, (), ()),
    }
    found = PointResult(POINT, raw=raw).unsteady
    assert (found == "") == steady and ("±" in found) != steady


def test_modes_take_turns_so_that_a_drift_cancels() -> None:
    engine = FakeEngine(drift=0.01, each={"full": 0.02, "sparse": 0.02})
    speedup = measured(engine).ratios["decode_speedup"]
    modes = [m for m, group in itertools.groupby(m for m, _ in engine.calls)]
    assert modes[:8] == ["full", "sparse", "full", "sparse", "full", "sparse", "full", "sparse"]
    assert speedup.error is not None
    assert speedup.value == pytest.approx(1.0, abs=0.02)
    # The same pairs, always in the same order, would differ by the drift of half a pair.
    pairs = [m for m, _ in engine.calls[2:18]]
    assert pairs == ["full"] * 2 + ["sparse"] * 4 + ["full"] * 4 + ["sparse"] * 4 + ["full"] * 2


def test_times_to_tokens_are_quantiles_over_requests() -> None:
    found = measured(FakeEngine()).modes["full"]
    assert found.first and found.gap and found.gap_p95 and found.alone and found.goodput
    assert found.first.value == pytest.approx(0.4) and found.first.n == 16
    assert found.gap.value == found.gap_p95.value == pytest.approx(0.02)
    assert found.gap.samples == 16 * 23
    assert found.alone.value == pytest.approx(0.4) and found.alone.n == 4
    # Two waves of four requests, each 0.4 + 23 * 0.02 s.
    assert found.goodput.value == pytest.approx(8 / (2 * 0.86))


def test_goodput_counts_requests_within_both_limits() -> None:
    found = measured(FakeEngine(), Plan(500, few=4, many=24, gap_limit=0.015))
    full, sparse = found.modes["full"], found.modes["sparse"]
    assert full.goodput and sparse.goodput and full.good and sparse.good
    assert (full.goodput.value, full.good.value) == (0, 0)
    assert sparse.goodput.value > 0 and sparse.good.value == 1
    slow = Completion("", None, 3, "length", 0.0, ((2.0, 1), (2.01, 2), (2.02, 3)))
    assert is_good(slow, Plan(500, first_limit=3.0)) and not is_good(slow, Plan(500, first_limit=1))


def test_requests_of_an_open_load_come_at_the_same_times_in_both_modes() -> None:
    engine = FakeEngine()
    measured(engine, Plan(500, few=4, many=24, rate=2.0))
    loads = [(m, [r.after for r in rs]) for m, rs in engine.calls if len(rs) == 8]
    assert [m for m, _ in loads] == ["full", "sparse", "sparse", "full"]
    assert loads[0][1] == loads[1][1] != loads[2][1] == loads[3][1]
    assert loads[0][1] == sorted(loads[0][1]) and loads[0][1][-1] > 1


def test_prompts_are_distinct_but_for_decoding_the_same_in_both_modes() -> None:
    engine = FakeEngine()
    measured(engine)
    decode = [[r.prompt for r in rs] for _, rs in engine.calls[:18]]
    assert all(prompts == decode[0] for prompts in decode) and len(set(decode[0])) == 4
    others = [r.prompt for _, rs in engine.calls[18:] for r in rs]
    assert len(set(others)) == len(others) and not set(others) & set(decode[0])
    assert all(3 <= t < 500 for prompt in drawn(2, 50, 500, "x") for t in prompt)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (FakeEngine(tokens=lambda asked: asked - 1), "tokens were asked for"),
        (FakeEngine(finish="stop"), "('stop')"),
        (FakeEngine(each={"full": 0.0, "sparse": 0.01}), "took no longer"),
        (FakeEngine(cached=lambda call: 100 * (call % 2)), "caches served"),
    ],
)  # fmt: skip
def test_no_speed_is_reported_for_outputs_that_are_not_what_was_asked(
    engine: FakeEngine, said: str
) -> None:
    found = measured(engine)
    assert said in found.problem
    assert not found.modes and not found.ratios


def test_a_prompt_that_was_cut_is_no_measurement() -> None:
    class Cuts(FakeEngine):
        def generate(self, requests, *, stream=True, at_once=None):  # type: ignore[no-untyped-def]
            short = [type(r)(r.prompt[:-20], r.sampling, r.after) for r in requests]
            return super().generate(short, stream=stream, at_once=at_once)

    assert "were sent, 80 read" in measured(Cuts()).problem


def test_engines_one_after_the_other_are_compared_and_marked() -> None:
    full = measure_point(sides_of(FakeEngine(modes=("full",))), POINT, PLAN)
    sparse = measure_point(sides_of(FakeEngine(modes=("sparse",))), POINT, PLAN)
    assert not full.ratios and full.in_turn
    both = full.beside(sparse)
    assert both.ratios["decode_speedup"].value == pytest.approx(2.0) and not both.in_turn
    broken = both.beside(PointResult(POINT, problem="it broke"))
    assert broken.problem == "it broke" and not broken.ratios


def test_agreement_is_held_against_full_attention_s_own() -> None:
    prompts = drawn(8, 20, 500, "a")
    same = agreement(sides_of(FakeEngine()), prompts, 10)
    assert (same.equal, same.prefix, same.itself, same.problem) == (8, 1.0, 1.0, "")
    other = FakeEngine(reply=lambda request, mode, call: "aaaaabbbbb" if mode == "full" else "aax")
    wrong = agreement(sides_of(other), prompts, 10)
    assert wrong.equal == 0 and wrong.prefix == pytest.approx(0.2) and "20%" in wrong.problem
    # Full attention that differs from itself as much proves nothing against sparse decoding.
    restless = FakeEngine(reply=lambda request, mode, call: "aa" + str(call) * 8)
    assert agreement(sides_of(restless), prompts, 10).problem == ""


def test_gaps_share_the_wait_of_tokens_that_came_together() -> None:
    c = Completion("", None, 6, "stop", 1.0, ((0.5, 1), (0.8, 4), (0.8, 4), (1.0, 6)))
    assert c.gaps == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1])
    assert (c.first, c.done) == (0.5, 2.0)
