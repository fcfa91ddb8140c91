"""Tuning learns from the records alone, and beats random knobs on a known objective."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from agent.proposers.base import Elite, SearchContext
from agent.proposers.tune import Tune
from vortex import compile_text, parse
from vortex.knobs import KnobValue

TEXT = '''import vortex as vx


class Blend(vx.Algorithm):
    """Three weights to find; the budget trades loss for time."""

    page_size = vx.choice(16, 32, 64)
    budget = vx.integer(512, 16384, log=True, default=4096)
    a = vx.real(0.01, 10.0, log=True, default=5.0)
    b = vx.real(0.01, 10.0, log=True, default=5.0)

    def summarize(self, k, v):
        return vx.Summary(center=k.mean("token"), peak=k.norm("dim").max("token"))

    def score(self, q, page):
        match = vx.dot(q, page.center, "dim").max("head")
        return match + self.a * page.peak + self.b / (vx.page_age + 1.0)

    def select(self, score):
        return vx.top_k(score, tokens=self.budget) | vx.sinks(1) | vx.recent(2)
'''
BUDGET = 30
KNOBS = parse(TEXT).knobs
STRUCTURE = compile_text(TEXT).structure_hash
Knobs = Mapping[str, KnobValue]


def objective(knobs: Knobs) -> tuple[float, float]:
    """(loss, seconds): best near a = 0.1, b = 1, page 16; a larger budget loses less."""
    off = abs(math.log10(float(knobs["a"])) + 1) + abs(math.log10(float(knobs["b"])))
    page = {16: 0.0, 32: 0.3, 64: 0.6}[int(knobs["page_size"])]
    tokens = int(knobs["budget"])
    return off / 2 + page + 0.5 * (1 - tokens / 16384), tokens / 16384


def hypervolume(points: list[tuple[float, float]]) -> float:
    """Area that the points dominate below loss 2 and one second."""
    area, level = 0.0, 2.0
    for loss, seconds in sorted(points, key=lambda p: p[1]):
        if loss < level:
            area += (level - loss) * (1.0 - seconds)
            level = loss
    return area


def elites_of(records: list[Knobs]) -> tuple[Elite, ...]:
    """What the records say, with the plain front."""
    points = [objective(k) for k in records]
    return tuple(
        Elite(
            i, TEXT, knobs, *points[i], all(p[0] >= points[i][0] or p[1] >= points[i][1]
                                            for p in points), STRUCTURE,
        )
        for i, knobs in enumerate(records)
    )  # fmt: skip


def search(draw: Callable[[list[Knobs]], Knobs]) -> float:
    """The hypervolume after as many evaluations as there are."""
    records: list[Knobs] = [{n: knob.default for n, knob in KNOBS.items()}]
    while len(records) < BUDGET:
        records.append(draw(records))
    return hypervolume([objective(k) for k in records])


def tuned(seed: int) -> float:
    tried = {compile_text(TEXT).candidate_hash}

    def draw(records: list[Knobs]) -> Knobs:
        context = SearchContext(elites_of(records), frozenset(tried), seed * 1000 + len(records))
        (proposal,) = Tune().propose(context, 1)
        candidate = compile_text(proposal.text, proposal.knobs)
        assert candidate.candidate_hash not in tried
        tried.add(candidate.candidate_hash)
        return candidate.knobs

    return search(draw)


def random_knobs(seed: int) -> float:
    rng = random.Random(seed)
    return search(lambda records: {n: knob.sample(rng) for n, knob in KNOBS.items()})


def test_tuning_beats_random_knobs() -> None:
    learned = [tuned(seed) for seed in range(5)]
    blind = [random_knobs(seed) for seed in range(40)]
    assert sum(learned) / len(learned) > sum(blind) / len(blind) * 1.05
    assert min(learned) > sorted(blind)[len(blind) // 4]


def test_records_are_the_only_state() -> None:
    rng = random.Random(0)
    records = [{n: knob.sample(rng) for n, knob in KNOBS.items()} for _ in range(12)]
    used = Tune()
    used.propose(SearchContext(elites_of(records[:6]), frozenset(), 1), 2)
    context = SearchContext(elites_of(records), frozenset(), 2)
    assert used.propose(context, 2) == Tune().propose(context, 2)


def test_a_structure_without_free_knobs_gives_nothing() -> None:
    text = TEXT.replace("vx.choice(16, 32, 64)", "16")
    for name in ("budget", "a", "b"):
        head, _, tail = text.partition(f"    {name} = ")
        text = head + f"    {name} = 1024\n" + tail.partition("\n")[2]
    known = compile_text(text)
    elite = Elite(1, text, dict(known.knobs), 0.5, 1e-3, True, known.structure_hash)
    assert Tune().propose(SearchContext((elite,), frozenset(), 0), 3) == []
